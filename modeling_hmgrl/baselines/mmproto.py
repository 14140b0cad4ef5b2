"""MMProto: Proto with the picture beside the mentions.

Source: Wan et al. 2021, as HMGRL (arXiv 2603.16259) compares itself with it: the mean of the image
tokens stands beside the mention states. A sample without a picture has 0 in its place.
"""

from typing import Any

import torch
from torch import Tensor

from ..configuration_hmgrl import ZeroShotTypingConfig
from ..outputs import SampleEncoding
from .method import Method, entity_of, image_mean


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

    def represent(
        self,
        input_ids: Tensor,
        text: Tensor,
        image: Tensor | None,
        span_positions: Any,
        attention_mask: Tensor | None,
        image_mask: Tensor | None,
        noise: dict[str, Tensor] | None,
    ) -> SampleEncoding:
        """Mentions and picture; arguments as of :meth:`ZeroShotTypingModel.represent`."""
        del input_ids, attention_mask, noise
        entity = entity_of(self.encoders.mentions(text, span_positions))
        picture = text.new_zeros(len(text), text.shape[-1])
        if image is not None and image_mask is not None:
            picture = image_mean(image, image_mask)
        return SampleEncoding(torch.cat([entity, picture], dim=-1))
