"""DBZFET: mention and context against the description of a type.

Source: Obeidat et al. 2019, "Description-based zero-shot fine-grained entity typing". A type is
known by its description and not by its name; a mention is the mean of its tokens, its context an
attentive pooling of the others with the mention as query; both are matched with the description by
a bilinear form, here the product of two projections. Give descriptions as the labels' texts
(``--label-text described``); a label without one stands with its name.
"""

import torch

from ..configuration_hmgrl import ZeroShotTypingConfig
from ..outputs import EncoderStates, SampleEncoding
from .base import ContextMethod, entity_of


class DBZFETConfig(ZeroShotTypingConfig):
    """Configuration of :class:`DBZFETForZeroShotTyping`."""

    model_type = "hmgrl-dbzfet"

    @property
    def block_factors(self) -> list[float]:
        """Mention and context."""
        return [1.0, 1.0]


class DBZFETForZeroShotTyping(ContextMethod):
    """DBZFET: mention and attentively pooled context against descriptions; text alone."""

    config: DBZFETConfig

    def represent(self, states: EncoderStates) -> SampleEncoding:
        """[mention; context]."""
        mention = entity_of(self.encoders.mentions(states.text, states.span_positions))
        pooled, weights = self.pool_context(states, mention)
        return SampleEncoding(torch.cat([mention, pooled], dim=-1), weights)
