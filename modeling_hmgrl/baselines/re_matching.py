"""RE-Matching: entities with entities, purified context with context.

Source: Zhao et al. 2023, "RE-Matching: A fine-grained semantic matching method for zero-shot
relation extraction". A relation's description is split into head entity, tail entity and context;
a sample matches by a weighted sum of the three likenesses. From the context goes its projection
onto features that say nothing of the relation; these are learnt adversarially, by turning round the
gradient of a classification made from them.

A description in three parts separated by ";" ("person; is a member of; organization": head,
context, tail) is split there; any other one stands as a whole for all three.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .. import lorentz, losses
from ..configuration_hmgrl import SHARED_PAPER_SETTINGS, ZeroShotTypingConfig
from ..layers import Fp32Linear, blocks
from ..outputs import EncoderStates, SampleEncoding, TrainingStep
from ..scoring import Comparison
from .base import Method, entity_of, margin_loss, reversed_gradient


class REMatchingConfig(ZeroShotTypingConfig):
    """Configuration of :class:`REMatchingForZeroShotTyping`.

    Args:
        entity_share: Weight of each entity in the match; the context has the rest.
        margin: Margin against the hardest other relation, on the scale of cosines.
        weight_margin: Weight of the margin loss.
        weight_irrelevant: Weight of the adversarial classification.
    """

    model_type = "hmgrl-re-matching"

    task: Literal["typing", "relation"] = "relation"
    entity_share: float | int = 0.33
    margin: float | int = 0.1
    weight_margin: float | int = 1.0
    weight_irrelevant: float | int = 0.1

    @classmethod
    def paper_settings(cls, task: str) -> dict[str, Any]:
        """As published: cosines, no classification of its own."""
        del task
        return SHARED_PAPER_SETTINGS | {
            "score_function": "cosine",
            "weight_classification": 0.0,
            "weight_irrelevant": 1.0,
        }

    @property
    def block_factors(self) -> list[float]:
        """Head, tail, context."""
        return [1.0, 1.0, 1.0]


@dataclass
class REMatchingEncoding(SampleEncoding):
    """Samples of RE-Matching; ``representation`` is [head; tail; purified context].

    Attributes:
        irrelevant: Features that are to say nothing of the relation, shape (B, d).
    """

    irrelevant: Tensor = None  # type: ignore[assignment]


class REMatchingForZeroShotTyping(Method):
    """RE-Matching: three likenesses, the context's purified; text alone."""

    config: REMatchingConfig
    uses_images = False
    takes_label_parts = False  # it has them always
    tasks = ("relation",)
    _keep_in_fp32_modules_strict = [  # noqa: RUF012 - the form the base class asks for
        "scorer", "context_score", "irrelevant_projection", "entity_map", "context_map",
        "adversary",
    ]  # fmt: skip

    def make_scorer(self, config: REMatchingConfig) -> Comparison:
        """The parts are compared as they are."""
        return Comparison(config)

    def build(self, config: REMatchingConfig) -> None:
        """Makes the maps of entities and context and the adversary."""
        width = config.text_width
        self.context_score = Fp32Linear(width, 1)
        self.irrelevant_projection = Fp32Linear(width, width)
        start = blocks(width, [1.0]) if config.projection_init == "similarity" else None
        self.entity_map = Fp32Linear(width, width, init_weight=start)
        self.context_map = Fp32Linear(width, width, init_weight=start)
        self.adversary = Fp32Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)

    def encode_labels(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Encodes descriptions by parts, (K, 3d): head, tail, context."""
        return self.encode_parts(input_ids, attention_mask)

    def represent(self, states: EncoderStates) -> REMatchingEncoding:
        """Head, tail, purified context."""
        text = states.text
        mentions = self.encoders.mentions(text, states.span_positions)
        mentions = self.entity_map(self.dropout(mentions))
        logits = self.context_score(text).squeeze(-1)
        if states.text_mask is not None:
            logits = logits.masked_fill(~states.text_mask.bool(), -torch.inf)
        weights = logits.softmax(1)
        pooled = (weights.unsqueeze(1) @ text).squeeze(1)
        irrelevant = self.irrelevant_projection(pooled)
        context = purified(self.context_map(self.dropout(pooled)), irrelevant)
        return REMatchingEncoding(
            representation=torch.cat([entity_of(mentions), context], dim=-1),
            attention=weights,
            irrelevant=irrelevant,
        )

    def _placed(self, parts: Tensor) -> Tensor:
        """Places each of three parts (N, 3d) by itself; they stay side by side, (N, 3 d_p)."""
        placed = [self.scorer.place(part, self.curvature()) for part in parts.chunk(3, dim=-1)]
        return torch.cat(placed, dim=-1)

    def prepare_labels(self, candidate_embeddings: Tensor) -> Tensor:
        """Places descriptions by parts, (K, 3 d_p)."""
        return self._placed(lorentz.wide(candidate_embeddings))

    def score(self, encoded: SampleEncoding, label_vectors: Tensor) -> Tensor:
        """Weighted sum of the scores of head, tail and context, (B, K)."""
        share, c = self.config.entity_share, self.curvature()
        samples = self._placed(encoded.representation).chunk(3, dim=-1)
        # part by part: three points of a hyperboloid side by side are no point of one
        head, tail, context = (
            self.scorer.compare(sample, label, c)
            for sample, label in zip(samples, label_vectors.chunk(3, dim=-1), strict=True)
        )
        return share * (head + tail) + (1 - 2 * share) * context

    def more_losses(self, step: TrainingStep) -> dict[str, Tensor]:
        """The margin loss, and the classification that the irrelevant features must fail."""
        likeness = step.logits / self.scorer.scale
        context = lorentz.wide(step.candidate_embeddings).chunk(3, dim=-1)[2]
        told = self.adversary(reversed_gradient(step.encoded.irrelevant)) @ context.detach().T
        return {
            "margin": margin_loss(likeness, step.labels, self.config.margin),
            "irrelevant": losses.classification_loss(told, step.labels, step.candidates),
        }


def purified(context: Tensor, irrelevant: Tensor) -> Tensor:
    """Takes the projection onto irrelevant features off the context, (B, d)."""
    share = (context * irrelevant).sum(-1, keepdim=True)
    length = irrelevant.square().sum(-1, keepdim=True).clamp(min=1e-12)
    return context - share / length * irrelevant
