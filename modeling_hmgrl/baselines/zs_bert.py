"""ZS-BERT: attribute vectors of sentences against frozen encodings of relation descriptions.

Source: Chen and Li 2021, "ZS-BERT: Towards zero-shot relation extraction with attribute
representation learning". The attribute vector is a = tanh(Dense(tanh([h_CLS; h_E1; h_E2]))); the
relations' descriptions are encoded by an encoder that is never trained; a margin loss against the
hardest other relation of the batch draws a towards its relation, and a classification over the seen
relations stands beside it. Departures: the labels are an argument, so the classification is over
the scores and not a layer of its own; the frozen encoder is the shared text encoder as it was at
the start (Sentence-BERT in the original).
"""

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .. import lorentz
from ..configuration_hmgrl import SHARED_PAPER_SETTINGS, ZeroShotTypingConfig
from ..encoders import Encoders
from ..outputs import EncoderStates, SampleEncoding, TrainingStep
from ..scoring import Comparison, make_projection
from .base import Method, entity_of, margin_loss


class ZSBERTConfig(ZeroShotTypingConfig):
    """Configuration of :class:`ZSBERTForZeroShotTyping`.

    Args:
        margin: Margin against the hardest other relation, on the scale of cosines or dot products.
        weight_margin: Weight of the margin loss; the classification has ``weight_classification``.
    """

    model_type = "hmgrl-zs-bert"

    task: Literal["typing", "relation"] = "relation"
    margin: float | int = 0.3
    weight_margin: float | int = 1.0

    @classmethod
    def paper_settings(cls, task: str) -> dict[str, Any]:
        """As published: margin 7.5 on dot products, classification with weight 0.4."""
        del task
        return SHARED_PAPER_SETTINGS | {
            "classification_loss": "cross_entropy",
            "weight_classification": 0.4,
            "margin": 7.5,
        }

    @property
    def block_factors(self) -> list[float]:
        """[h_CLS; head; tail]: the mentions, with the same share each."""
        return [0.0, *[1 / self.num_spans] * self.num_spans]

    @property
    def first_mention(self) -> int:
        """h_CLS stands before the mentions."""
        return 1


class ZSBERTForZeroShotTyping(Method):
    """ZS-BERT: attribute vectors in the space of a frozen encoder; text alone."""

    config: ZSBERTConfig
    uses_images = False
    tasks = ("relation",)
    _keep_in_fp32_modules_strict = ["scorer", "attribute"]  # noqa: RUF012 - the form it asks for

    def make_scorer(self, config: ZSBERTConfig) -> Comparison:
        """Attribute vector and description are compared as they are."""
        return Comparison(config)

    def build(self, config: ZSBERTConfig) -> None:
        """Makes the frozen encoder and the attribute layer."""
        frozen = copy.deepcopy(config)
        frozen.freeze_text = True
        self.description = Encoders(frozen, copy.deepcopy(self.backbone.text_model))
        self.attribute = make_projection(config, config.text_width)
        self.dropout = nn.Dropout(config.dropout)

    def add_markers(self, processor: Any) -> None:
        """Grows both encoders' token embeddings, so that they are loaded alike."""
        super().add_markers(processor)
        size = len(processor.tokenizer)
        self.description.resize_token_embeddings(size, mean_resizing=False)

    def encode_labels(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Encodes descriptions with the encoder that is never trained."""
        with torch.no_grad():
            if self.config.label_parts:
                return self.encode_parts(input_ids, attention_mask, self.description)
            return self.description.encode_labels(input_ids, attention_mask)

    def represent(self, states: EncoderStates) -> SampleEncoding:
        """The attribute vector."""
        mentions = self.encoders.mentions(states.text, states.span_positions)
        joined = torch.tanh(torch.cat([states.text[:, 0], entity_of(mentions)], dim=-1))
        return SampleEncoding(torch.tanh(self.attribute(self.dropout(joined))))

    def prepare_labels(self, candidate_embeddings: Tensor) -> Tensor:
        """Places descriptions, (K, d)."""
        return self.scorer.place(lorentz.wide(candidate_embeddings), self.curvature())

    def score(self, encoded: SampleEncoding, label_vectors: Tensor) -> Tensor:
        """Compares attribute vectors with descriptions, (B, K)."""
        c = self.curvature()
        samples = self.scorer.place(encoded.representation, c)
        return self.scorer.compare(samples, label_vectors, c)

    def more_losses(self, step: TrainingStep) -> dict[str, Tensor]:
        """The margin loss."""
        likeness = step.logits / self.scorer.scale
        return {"margin": margin_loss(likeness, step.labels, self.config.margin)}
