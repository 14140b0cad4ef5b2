"""MMProto: Proto with the picture beside the mentions.

Source: Wan et al. 2021, as HMGRL (arXiv 2603.16259) compares itself with it: the mean of the image
tokens stands beside the mention states. A sample without a picture has 0 in its place.
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
        """The mentions, with the same share each, and the picture."""
        return [*[1 / self.num_spans] * self.num_spans, 1.0]


class MMProtoForZeroShotTyping(Method):
    """MMProto: mentions and mean image token against the labels."""

    config: MMProtoConfig

    def represent(self, states: EncoderStates) -> SampleEncoding:
        """Mentions and picture."""
        text = states.text
        entity = entity_of(self.encoders.mentions(text, states.span_positions))
        picture = text.new_zeros(len(text), text.shape[-1])
        if states.image is not None and states.image_mask is not None:
            picture = image_mean(states.image, states.image_mask)
        return SampleEncoding(torch.cat([entity, picture], dim=-1))
