"""MMProto: Proto with image features.

Source: Wan et al. 2021, in the form of the baseline of HMGRL (arXiv 2603.16259): the mean of the
image tokens is concatenated to the mention states. It is 0 for a sample without an image.
"""

import torch

from ..configuration_hmgrl import ZeroShotTypingConfig
from ..outputs import EncoderStates, SampleEncoding
from .base import Method, entity_of, image_mean


class MMProtoConfig(ZeroShotTypingConfig):
    """Configuration of :class:`MMProtoForZeroShotTyping`."""

    model_type = "hmgrl-mmproto"

    @property
    def block_factors(self) -> list[float]:
        """Equal weights for the mentions, and one for the image."""
        return [*[1 / self.num_spans] * self.num_spans, 1.0]


class MMProtoForZeroShotTyping(Method):
    """MMProto: mentions and mean image token against labels.

    Examples:
        >>> import torch
        >>> from transformers import BertConfig, ViTConfig
        >>> size = dict(
        ...     hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        ... )
        >>> config = MMProtoConfig(
        ...     text_config=BertConfig(vocab_size=30, **size),
        ...     vision_config=ViTConfig(image_size=16, patch_size=8, **size),
        ... )
        >>> model = MMProtoForZeroShotTyping(config).eval()
        >>> output = model(
        ...     input_ids=torch.randint(30, (2, 6)),
        ...     span_positions=torch.tensor([[[1, 3]], [[2, 4]]]),
        ...     pixel_values=torch.randn(2, 3, 16, 16),
        ...     candidate_input_ids=torch.randint(30, (5, 3)),
        ... )
        >>> output.logits.shape
        torch.Size([2, 5])
    """

    config: MMProtoConfig

    def represent(self, states: EncoderStates) -> SampleEncoding:
        """Concatenates mentions and mean image token."""
        text = states.text
        entity = entity_of(self.encoders.mentions(text, states.span_positions))
        image = text.new_zeros(len(text), text.shape[-1])
        if states.image is not None and states.image_mask is not None:
            image = image_mean(states.image, states.image_mask)
        return SampleEncoding(torch.cat([entity, image], dim=-1))
