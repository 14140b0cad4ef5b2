"""What the models return."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class SampleEncoding(ModelOutput):
    """What a method makes of samples; methods add what else they score by.

    Attributes:
        representation: What stands for each sample, shape (B, D).
        attention: Share of each text and image token in it, shape (B, n + m), where there is such.
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
    """Output of :class:`HMGRLForZeroShotTyping` and of every method that answers its contract.

    Attributes:
        loss: Weighted sum of the loss terms; None without ``labels``.
        loss_terms: Each term by name, before its weight: classification, bottleneck, contrastive,
            cvae, unseen, alignment.
        logits: Scores over the given labels, shape (B, K).
        calibrated_logits: Scores with gamma taken off the seen labels (eq. 15), shape (B, K); None
            without ``seen_mask``.
        representation: Representation of each sample, shape (B, D).
        label_embeddings: Encodings of the given labels, shape (K, d).
        attention: Cross-modal attention over [text; image], shape (B, n + m).
    """

    loss: Tensor | None = None
    loss_terms: dict[str, Tensor] | None = None
    logits: Tensor | None = None
    calibrated_logits: Tensor | None = None
    representation: Tensor | None = None
    label_embeddings: Tensor | None = None
    attention: Tensor | None = None
