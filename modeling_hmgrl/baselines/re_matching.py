"""RE-Matching: separate matching of entities and of purified context.

Source: Zhao et al. 2023, "RE-Matching: A fine-grained semantic matching method for zero-shot
relation extraction". A relation's description is split into head entity, tail entity and context;
the score of a sample is a weighted sum of the three similarities. The context is purified: its
projection onto relation-irrelevant features is subtracted. These features are learnt adversarially,
by reversing the gradient of a classification from them.

A description in three parts separated by ";" ("person; is a member of; organization": head,
context, tail) is split there; any other one represents all three as a whole.
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
        entity_share: Weight of each entity in the score; the context has the remaining weight.
        margin: Margin to the hardest other relation, on the scale of cosines.
        weight_margin: Weight of the margin loss.
        weight_irrelevant: Weight of the adversarial classification.
    """

    model_type = "hmgrl-re-matching"
    takes_label_parts = False  # it always compares parts

    task: Literal["typing", "relation"] = "relation"
    entity_share: float | int = 0.33
    margin: float | int = 0.1
    weight_margin: float | int = 1.0
    weight_irrelevant: float | int = 0.1

    @classmethod
    def paper_settings(cls, task: str) -> dict[str, Any]:
        """Published settings: cosines, no classification loss."""
        del task
        return SHARED_PAPER_SETTINGS | {
            "score_function": "cosine",
            "weight_classification": 0.0,
            "weight_irrelevant": 1.0,
        }

    @property
    def label_width(self) -> int:
        """Width of [head; tail; context]."""
        return 3 * self.text_width

    @property
    def block_factors(self) -> list[float]:
        """Weights of head, tail and context."""
        return [1.0, 1.0, 1.0]


@dataclass
class REMatchingEncoding(SampleEncoding):
    """Samples of RE-Matching; ``representation`` is [head; tail; purified context].

    Attributes:
        irrelevant: Features trained to be irrelevant to the relation, shape (B, d).
    """

    irrelevant: Tensor = None  # type: ignore[assignment]


class REMatchingForZeroShotTyping(Method):
    """RE-Matching: similarities of head, tail and purified context; text only.

    Examples:
        >>> import torch
        >>> from transformers import BertConfig
        >>> text_config = BertConfig(
        ...     vocab_size=30, hidden_size=8, num_attention_heads=2, num_hidden_layers=1
        ... )
        >>> config = REMatchingConfig(text_config=text_config)
        >>> model = REMatchingForZeroShotTyping(config).eval()
        >>> output = model(
        ...     input_ids=torch.randint(30, (2, 6)),
        ...     span_positions=torch.tensor([[[1, 2], [3, 4]], [[1, 2], [3, 4]]]),
        ...     candidate_input_ids=torch.randint(30, (5, 3)),
        ... )
        >>> output.logits.shape
        torch.Size([2, 5])
    """

    config: REMatchingConfig
    uses_images = False
    tasks = ("relation",)
    _keep_in_fp32_modules_strict = [  # noqa: RUF012 - as in transformers
        "scorer", "context_score", "irrelevant_projection", "entity_map", "context_map",
        "adversary",
    ]  # fmt: skip

    def make_scorer(self, config: REMatchingConfig) -> Comparison:
        """Compares the parts without projections."""
        return Comparison(config, config.text_width)

    def build(self, config: REMatchingConfig) -> None:
        """Creates the maps of entities and context and the adversary."""
        width = config.text_width
        self.context_score = Fp32Linear(width, 1)
        self.irrelevant_projection = Fp32Linear(width, width)
        initial = blocks(width, [1.0]) if config.projection_init == "similarity" else None
        self.entity_map = Fp32Linear(width, width, init_weight=initial)
        self.context_map = Fp32Linear(width, width, init_weight=initial)
        self.adversary = Fp32Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)

    def encode_labels(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Encodes descriptions by parts, (K, 3d): head, tail, context."""
        return self.encode_parts(input_ids, attention_mask)

    def represent(self, states: EncoderStates) -> REMatchingEncoding:
        """Computes [head; tail; purified context]."""
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

    def _map_parts(self, parts: Tensor) -> Tensor:
        """Maps each of three parts (N, 3d) to the space of the scores, (N, 3 d_p)."""
        mapped = [
            self.scorer.to_score_space(part, self.curvature()) for part in parts.chunk(3, dim=-1)
        ]
        return torch.cat(mapped, dim=-1)

    def prepare_labels(self, candidate_embeddings: Tensor) -> Tensor:
        """Maps the parts of descriptions to the space of the scores, (K, 3 d_p)."""
        return self._map_parts(lorentz.wide(candidate_embeddings))

    def score(self, encoded: SampleEncoding, label_vectors: Tensor) -> Tensor:
        """Weighted sum of the scores of head, tail and context, (B, K)."""
        share, c = self.config.entity_share, self.curvature()
        samples = self._map_parts(encoded.representation).chunk(3, dim=-1)
        # Part by part, as the concatenation of three points of a hyperboloid does not lie on one.
        head, tail, context = (
            self.scorer.compare(sample, label, c)
            for sample, label in zip(samples, label_vectors.chunk(3, dim=-1), strict=True)
        )
        return share * (head + tail) + (1 - 2 * share) * context

    def more_losses(self, step: TrainingStep) -> dict[str, Tensor]:
        """The margin loss and the adversarial classification from the irrelevant features."""
        similarity = step.logits / self.scorer.scale
        context = lorentz.wide(step.candidate_embeddings).chunk(3, dim=-1)[2]
        logits = self.adversary(reversed_gradient(step.encoded.irrelevant)) @ context.detach().T
        return {
            "margin": margin_loss(similarity, step.labels, self.config.margin),
            "irrelevant": losses.classification_loss(logits, step.labels, step.candidates),
        }


def purified(context: Tensor, irrelevant: Tensor) -> Tensor:
    """Subtracts from the context its projection onto irrelevant features.

    Args:
        context: Shape (B, d).
        irrelevant: Shape (B, d).

    Returns:
        Context orthogonal to the irrelevant features, shape (B, d).

    Examples:
        >>> purified(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 3.0]]))
        tensor([[1., 0.]])
    """
    share = (context * irrelevant).sum(-1, keepdim=True)
    length = irrelevant.square().sum(-1, keepdim=True).clamp(min=1e-12)
    return context - share / length * irrelevant
