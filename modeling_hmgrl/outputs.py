"""Outputs of the models, and the data that their parts exchange."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput

Gather = Callable[[Tensor], Tensor]
"""Concatenates a tensor over the processes of a distributed run along its first axis."""


def local(x: Tensor) -> Tensor:
    """Returns ``x``: the :data:`Gather` of a run on one process."""
    return x


@dataclass(frozen=True)
class EncoderStates:
    """Encoder states of a batch.

    Attributes:
        input_ids: Token ids, shape (B, n); None if a graph takes states as inputs.
        text: Text states, shape (B, n, d).
        image: Image states at the text's width, shape (B, m, d), or None; 0 where a sample has no
            image.
        span_positions: Token positions of the markers, shape (B, spans, 2).
        text_mask: Tokens that count, shape (B, n); all if None.
        image_mask: Samples that have an image, shape (B,); None without images.
        noise: Noise by name that replaces random draws; empty except in tests.
    """

    input_ids: Any
    text: Tensor
    image: Tensor | None
    span_positions: Any
    text_mask: Tensor | None = None
    image_mask: Tensor | None = None
    noise: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingStep:
    """Inputs of the losses of a batch.

    Attributes:
        encoded: Samples, as of :meth:`ZeroShotTypingModel.encode`.
        logits: Scores, shape (B, K).
        candidate_embeddings: Label encodings, shape (K, d).
        labels: Index of the true label, shape (B,).
        candidates: Labels with training samples, bool, shape (K,); all if None.
        text_mask: Tokens that count, shape (B, n); all if None.
        image_mask: Samples that have an image, shape (B,); all if None.
        synthetic_embeddings: Encodings of labels to generate samples for, shape (U, d), or None.
        noise: Noise by name that replaces random draws.
        gather: Concatenates a tensor over the processes of a distributed run.
    """

    encoded: Any
    logits: Tensor
    candidate_embeddings: Tensor
    labels: Tensor
    candidates: Tensor | None
    text_mask: Tensor | None
    image_mask: Tensor | None
    synthetic_embeddings: Tensor | None
    noise: dict[str, Tensor]
    gather: Gather = local


@dataclass
class SampleEncoding(ModelOutput):
    """A method's encoding of samples; methods add fields that their scores require.

    Attributes:
        representation: Representation of each sample, shape (B, D).
        attention: Weight of each text and image token in it, shape (B, n + m), or None.
    """

    representation: Tensor = None  # type: ignore[assignment]
    attention: Any = None


@dataclass
class HMGRLModelOutput(ModelOutput):
    """Output of :class:`HMGRLModel`.

    Attributes:
        representation: H = [h_CLS; mentions; pooled fusion], shape (B, (spans + 2) d).
        condition: Mean of the mention states, shape (B, d) (eq. 9).
        attention: Cross-modal attention over [text; image], shape (B, n + m).
        text_states: Sampled text tokens Z_T, shape (B, n, d).
        image_states: Sampled image tokens Z_V, shape (B, m, d), or None.
        text_kl: Divergence of each text token, shape (B, n), or None without a bottleneck.
        image_kl: Divergence of each image token, shape (B, m), or None.
    """

    representation: Tensor = None  # type: ignore[assignment]
    condition: Tensor = None  # type: ignore[assignment]
    attention: Tensor = None  # type: ignore[assignment]
    text_states: Tensor = None  # type: ignore[assignment]
    image_states: Any = None
    text_kl: Any = None
    image_kl: Any = None


@dataclass
class ZeroShotTypingOutput(ModelOutput):
    """Output of :class:`HMGRLForZeroShotTyping` and of all other methods.

    Attributes:
        loss: Weighted sum of the loss terms; None without ``labels``.
        loss_terms: Each term by name, before its weight: classification, bottleneck, contrastive,
            cvae, unseen, alignment.
        logits: Scores over the given labels, shape (B, K).
        calibrated_logits: Scores minus gamma for seen labels (eq. 15), shape (B, K); None without
            ``seen_mask``.
        representation: Representation of each sample, shape (B, D).
        candidate_embeddings: Encodings of the given labels, shape (K, d).
        attention: Cross-modal attention over [text; image], shape (B, n + m).
    """

    loss: Tensor | None = None
    loss_terms: dict[str, Tensor] | None = None
    logits: Tensor | None = None
    calibrated_logits: Tensor | None = None
    representation: Tensor | None = None
    candidate_embeddings: Tensor | None = None
    attention: Tensor | None = None
