"""MOVCNet: object-level visual context of mentions.

Source: Zhang et al. 2023, in the form of the baseline of HMGRL (arXiv 2603.16259). The text tokens
attend over regions of the image in a cross-modal transformer layer, and a gate mixes each mention
with its visual context. The original obtains the regions from an object detector; here they are the
patches most similar to the class token, as a run caches the encoder's states and not images.
The mentions of a sample without an image remain unchanged.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ..backbones import prefix_tokens
from ..configuration_hmgrl import ZeroShotTypingConfig
from ..layers import Fp32Linear
from ..lorentz import wide
from ..outputs import EncoderStates, SampleEncoding
from .base import Method, entity_of


class MOVCNetConfig(ZeroShotTypingConfig):
    """Configuration of :class:`MOVCNetForZeroShotTyping`.

    Args:
        num_regions: Number of image regions k.
        num_heads: Heads of the cross-modal layer; must divide the text encoder's width.
    """

    model_type = "hmgrl-movcnet"

    num_regions: int = 16
    num_heads: int = 4

    @property
    def block_factors(self) -> list[float]:
        """Equal weights for the mentions."""
        return [1 / self.num_spans] * self.num_spans


class CrossModalLayer(nn.Module):
    """Transformer layer whose queries are text tokens and whose keys are image regions.

    Args:
        width: Width of the tokens.
        heads: Number of heads.
        dropout: Dropout probability.

    Examples:
        >>> layer = CrossModalLayer(width=8, heads=2, dropout=0.1)
        >>> layer(torch.randn(3, 7, 8), torch.randn(3, 4, 8)).shape
        torch.Size([3, 7, 8])
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
        """Lets tokens (B, n, d) attend over regions (B, k, d); returns (B, n, d)."""
        found, _ = _fp32_call(self.attention, text, regions, regions, need_weights=False)
        text = _fp32_call(self.norms[0], text + found)
        return _fp32_call(self.norms[1], text + self.feed_forward(text))


def _fp32_call(module: nn.Module, *inputs: Tensor, **options: Any) -> Any:
    """Calls a module with its parameters in float32 or wider, as Fp32Linear does."""
    parameters = {name: wide(weight) for name, weight in module.named_parameters()}
    return functional_call(module, parameters, inputs, options)


def regions_of(image: Tensor, count: int, prefix: int = 1) -> Tensor:
    """Selects the patches with the highest cosine similarity to the class token.

    Args:
        image: Image states, shape (B, m, d).
        count: Number of regions; all patches if there are fewer.
        prefix: Number of tokens before the patches, of which the first is the class token. The mean
            of the patches replaces the class token if there is none.

    Returns:
        States of the k regions in order of decreasing similarity, shape (B, k, d).

    Examples:
        >>> image = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [1.0, 1.0]]])
        >>> regions_of(image, 2)
        tensor([[[2., 0.],
                 [1., 1.]]])
    """
    patches = image[:, prefix:]
    whole = image[:, :1] if prefix else image.mean(1, keepdim=True)
    similarity = F.cosine_similarity(patches, whole, dim=-1)
    best = similarity.topk(min(count, patches.shape[1]), dim=1).indices
    return patches.gather(1, best.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))


class MOVCNetForZeroShotTyping(Method):
    """MOVCNet: mentions with gated visual context against labels.

    Examples:
        >>> import torch
        >>> from transformers import BertConfig, ViTConfig
        >>> size = dict(
        ...     hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        ... )
        >>> config = MOVCNetConfig(
        ...     text_config=BertConfig(vocab_size=30, **size),
        ...     vision_config=ViTConfig(image_size=16, patch_size=8, **size),
        ... )
        >>> model = MOVCNetForZeroShotTyping(config).eval()
        >>> output = model(
        ...     input_ids=torch.randint(30, (2, 6)),
        ...     span_positions=torch.tensor([[[1, 3]], [[2, 4]]]),
        ...     pixel_values=torch.randn(2, 3, 16, 16),
        ...     candidate_input_ids=torch.randint(30, (5, 3)),
        ... )
        >>> output.logits.shape
        torch.Size([2, 5])
    """

    config: MOVCNetConfig
    _keep_in_fp32_modules_strict = ["image_projection", "scorer", "cross_modal", "gate"]  # noqa: RUF012 - as in transformers

    def build(self, config: MOVCNetConfig) -> None:
        """Creates the cross-modal layer and the gate."""
        self.cross_modal = CrossModalLayer(config.text_width, config.num_heads, config.dropout)
        self.gate = Fp32Linear(2 * config.text_width, config.text_width)

    def regions(self, image: Tensor) -> Tensor:
        """Selects regions (B, k, d) of image states (B, m, d); see :func:`regions_of`."""
        return regions_of(image, self.config.num_regions, prefix_tokens(self.config.vision_config))

    def represent(self, states: EncoderStates) -> SampleEncoding:
        """Concatenates the gated mentions."""
        image, image_mask, spans = states.image, states.image_mask, states.span_positions
        mentions = self.encoders.mentions(states.text, spans)
        if image is not None and image_mask is not None and image.shape[1] > 1:
            attended = self.cross_modal(states.text, self.regions(image))
            context = self.encoders.mentions(attended, spans)
            gate = torch.sigmoid(self.gate(torch.cat([mentions, context], dim=-1)))
            gate = gate * image_mask.to(gate.dtype)[:, None, None]
            mentions = (1 - gate) * mentions + gate * context
        return SampleEncoding(entity_of(mentions))
