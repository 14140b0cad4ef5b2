"""MOVCNet: object-level visual context beside the mention.

Source: Zhang et al. 2023, as HMGRL (arXiv 2603.16259) compares itself with it. Regions of the
picture and the text's tokens meet in a cross-modal transformer layer, and a gate decides for each
mention how much of what it found there joins it. The original takes its regions from an object
detector; here they are the image tokens that the image encoder's class token is closest to, as its
states are what a run keeps of a picture. A sample without a picture keeps its mentions as they are.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ..configuration_hmgrl import ZeroShotTypingConfig
from ..layers import Fp32Linear
from ..lorentz import wide
from ..outputs import EncoderStates, SampleEncoding
from .base import Method, entity_of


class MOVCNetConfig(ZeroShotTypingConfig):
    """Configuration of :class:`MOVCNetForZeroShotTyping`.

    Args:
        num_regions: Regions k taken of a picture.
        num_heads: Heads of the cross-modal layer; they must divide the text encoder's width.
    """

    model_type = "hmgrl-movcnet"

    num_regions: int = 16
    num_heads: int = 4

    @property
    def block_factors(self) -> list[float]:
        """The mentions, with the same share each."""
        return [1 / self.num_spans] * self.num_spans


class CrossModalLayer(nn.Module):
    """Transformer layer whose queries are text tokens and whose keys are regions.

    Args:
        width: Width of the tokens.
        heads: Number of heads.
        dropout: Dropout.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.feed_forward = nn.Sequential(
            Fp32Linear(width, 2 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            Fp32Linear(2 * width, width),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, text: Tensor, regions: Tensor) -> Tensor:
        """Lets tokens (B, n, d) look at regions (B, k, d); returns (B, n, d)."""
        found, _ = _fp32_call(self.attention, text, regions, regions, need_weights=False)
        text = _fp32_call(self.norms[0], text + found)
        return _fp32_call(self.norms[1], text + self.feed_forward(text))


def _fp32_call(module: nn.Module, *inputs: Tensor, **options: Any) -> Any:
    """Calls a module of torch with its parameters in float32 at least, as Fp32Linear does."""
    parameters = {name: wide(weight) for name, weight in module.named_parameters()}
    return functional_call(module, parameters, inputs, options)


def regions_of(image: Tensor, count: int) -> Tensor:
    """The image tokens that the class token, which stands first, is closest to (by cosine).

    Args:
        image: Image states, shape (B, m, d).
        count: Regions k; all tokens if there are fewer.

    Returns:
        Their states in the order of closeness, shape (B, k, d).
    """
    patches = image[:, 1:]
    closeness = F.cosine_similarity(patches, image[:, :1], dim=-1)
    best = closeness.topk(min(count, patches.shape[1]), dim=1).indices
    return patches.gather(1, best.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))


class MOVCNetForZeroShotTyping(Method):
    """MOVCNet: mentions joined with what they found in the picture's regions."""

    config: MOVCNetConfig
    _keep_in_fp32_modules_strict = ["image_projection", "scorer", "cross_modal", "gate"]  # noqa: RUF012 - the form the base class asks for

    def build(self, config: MOVCNetConfig) -> None:
        """Makes the cross-modal layer and the gate."""
        self.cross_modal = CrossModalLayer(config.text_width, config.num_heads, config.dropout)
        self.gate = Fp32Linear(2 * config.text_width, config.text_width)

    def represent(self, states: EncoderStates) -> SampleEncoding:
        """Gated mentions."""
        image, image_mask, spans = states.image, states.image_mask, states.span_positions
        mentions = self.encoders.mentions(states.text, spans)
        if image is not None and image_mask is not None and image.shape[1] > 1:
            looked = self.cross_modal(states.text, regions_of(image, self.config.num_regions))
            context = self.encoders.mentions(looked, spans)
            gate = torch.sigmoid(self.gate(torch.cat([mentions, context], dim=-1)))
            gate = gate * image_mask.to(gate.dtype)[:, None, None]
            mentions = (1 - gate) * mentions + gate * context
        return SampleEncoding(entity_of(mentions))
