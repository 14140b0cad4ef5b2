"""ZS-BERT: attribute vectors of sentences against frozen encodings of relation descriptions.

Source: Chen and Li 2021, "ZS-BERT: Towards zero-shot relation extraction with attribute
representation learning". The attribute vector is a = tanh(Dense(tanh([h_CLS; h_E1; h_E2]))). A
frozen encoder encodes the relations' descriptions. The losses are a margin loss of a against the
hardest other relation of the batch and a classification over the seen relations.

Departures: as labels are an argument, the classification is over the scores and not by a layer of
its own; the frozen encoder is a copy of the initial shared text encoder (Sentence-BERT in the
original).
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
        margin: Margin to the hardest other relation, on the scale of cosines or dot products.
        weight_margin: Weight of the margin loss; that of the classification is
            ``weight_classification``.
    """

    model_type = "hmgrl-zs-bert"

    task: Literal["typing", "relation"] = "relation"
    margin: float | int = 0.3
    weight_margin: float | int = 1.0

    @classmethod
    def paper_settings(cls, task: str) -> dict[str, Any]:
        """Published settings: margin 7.5 on dot products, classification with weight 0.4."""
        del task
        return SHARED_PAPER_SETTINGS | {
            "classification_loss": "cross_entropy",
            "weight_classification": 0.4,
            "margin": 7.5,
        }

    @property
    def block_factors(self) -> list[float]:
        """[h_CLS; head; tail]: equal weights for the mentions."""
        return [0.0, *[1 / self.num_spans] * self.num_spans]

    @property
    def first_mention(self) -> int:
        """Index of the first mention, after h_CLS."""
        return 1


class ZSBERTForZeroShotTyping(Method):
    """ZS-BERT: attribute vectors in the space of a frozen encoder; text only.

    Examples:
        >>> import torch
        >>> from transformers import BertConfig
        >>> text_config = BertConfig(
        ...     vocab_size=30, hidden_size=8, num_attention_heads=2, num_hidden_layers=1
        ... )
        >>> config = ZSBERTConfig(text_config=text_config)
        >>> model = ZSBERTForZeroShotTyping(config).eval()
        >>> output = model(
        ...     input_ids=torch.randint(30, (2, 6)),
        ...     span_positions=torch.tensor([[[1, 2], [3, 4]], [[1, 2], [3, 4]]]),
        ...     candidate_input_ids=torch.randint(30, (5, 3)),
        ... )
        >>> output.logits.shape
        torch.Size([2, 5])
    """

    config: ZSBERTConfig
    uses_images = False
    tasks = ("relation",)
    _keep_in_fp32_modules_strict = ["scorer", "attribute"]  # noqa: RUF012 - as in transformers

    def make_scorer(self, config: ZSBERTConfig) -> Comparison:
        """Compares attribute vectors and descriptions without projections."""
        return Comparison(config, config.label_width)

    def build(self, config: ZSBERTConfig) -> None:
        """Creates the frozen encoder and the attribute layer."""
        frozen = copy.deepcopy(config)
        frozen.freeze_text = True
        self.description = Encoders(frozen, copy.deepcopy(self.backbone.text_model))
        self.attribute = make_projection(config, config.text_width)
        self.dropout = nn.Dropout(config.dropout)

    def add_markers(self, processor: Any) -> None:
        """Extends the token embeddings of both encoders, so that their shapes agree on loading."""
        super().add_markers(processor)
        self.description.resize_token_embeddings(processor.vocabulary_size, mean_resizing=False)

    def encode_labels(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Encodes descriptions with the frozen encoder."""
        with torch.no_grad():
            if self.config.label_parts:
                return self.encode_parts(input_ids, attention_mask, self.description)
            return self.description.encode_labels(input_ids, attention_mask)

    def represent(self, states: EncoderStates) -> SampleEncoding:
        """Computes the attribute vector."""
        mentions = self.encoders.mentions(states.text, states.span_positions)
        whole = self.encoders.whole_text(states)
        joined = torch.tanh(torch.cat([whole, entity_of(mentions)], dim=-1))
        return SampleEncoding(torch.tanh(self.attribute(self.dropout(joined))))

    def prepare_labels(self, candidate_embeddings: Tensor) -> Tensor:
        """Maps descriptions to the space of the scores, (K, d)."""
        return self.scorer.to_score_space(lorentz.wide(candidate_embeddings), self.curvature())

    def score(self, encoded: SampleEncoding, label_vectors: Tensor) -> Tensor:
        """Compares attribute vectors with descriptions, (B, K)."""
        c = self.curvature()
        samples = self.scorer.to_score_space(encoded.representation, c)
        return self.scorer.compare(samples, label_vectors, c)

    def more_losses(self, step: TrainingStep) -> dict[str, Tensor]:
        """The margin loss."""
        similarity = step.logits / self.scorer.scale
        return {"margin": margin_loss(similarity, step.labels, self.config.margin)}
