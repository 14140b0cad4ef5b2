"""DBZFET: mention and context against the description of a type.

Source: Obeidat et al. 2019, "Description-based zero-shot fine-grained entity typing". A type is
known by its description and not by its name; a mention is the mean of its tokens, its context an
attentive pooling of the others with the mention as query; both are matched with the description by
a bilinear form, here the product of two projections. Give descriptions as the labels' texts
(``--label-text described``); a label without one stands with its name.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..configuration_hmgrl import ZeroShotTypingConfig
from ..outputs import SampleEncoding
from ..starts import ConstantLinear
from .method import Method, entity_of, masked_softmax


class DBZFETConfig(ZeroShotTypingConfig):
    """Configuration of :class:`DBZFETForZeroShotTyping`."""

    model_type = "hmgrl-dbzfet"

    @property
    def block_factors(self) -> list[float]:
        """Mention and context."""
        return [1.0, 1.0]


class DBZFETForZeroShotTyping(Method):
    """DBZFET: mention and attentively pooled context against descriptions; text alone."""

    config: DBZFETConfig
    uses_images = False
    tasks = ("typing",)
    _keep_in_fp32_modules_strict = ["scorer", "query", "key"]  # noqa: RUF012 - the form it asks for

    def build(self, config: DBZFETConfig) -> None:
        """Makes the attention."""
        self.query = ConstantLinear(config.text_width, config.text_width)  # starts uniform
        self.key = nn.Linear(config.text_width, config.text_width, bias=False)

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
        """[mention; context]; arguments as of :meth:`ZeroShotTypingModel.represent`."""
        del input_ids, image, image_mask, noise
        mention = entity_of(self.encoders.mentions(text, span_positions))
        logits = (self.key(text) @ self.query(mention).unsqueeze(-1)).squeeze(-1)
        mask = attention_mask if self.config.mask_padding else None
        context = self.encoders.outside(span_positions, mask, text)
        weights = masked_softmax(logits / text.shape[-1] ** 0.5, context)
        pooled = (weights.unsqueeze(1) @ text).squeeze(1)
        return SampleEncoding(torch.cat([mention, pooled], dim=-1), weights)
