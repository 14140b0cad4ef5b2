"""DBZFET: mention and context against the description of a type.

Source: Obeidat et al. 2019, "Description-based zero-shot fine-grained entity typing". A type is
represented by its description instead of its name, a mention by the mean of its tokens, and the
context by attention pooling of the other tokens with the mention as query. Both are compared with
the description by a bilinear form, here the product of two projections. Descriptions are the
labels' texts (``--label-text described``); a label without one is represented by its name.
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
        """Weights of mention and context."""
        return [1.0, 1.0]


class DBZFETForZeroShotTyping(ContextMethod):
    """DBZFET: mention and attention-pooled context against descriptions; text only.

    Examples:
        >>> import torch
        >>> from transformers import BertConfig
        >>> text_config = BertConfig(
        ...     vocab_size=30, hidden_size=8, num_attention_heads=2, num_hidden_layers=1
        ... )
        >>> config = DBZFETConfig(text_config=text_config)
        >>> model = DBZFETForZeroShotTyping(config).eval()
        >>> output = model(
        ...     input_ids=torch.randint(30, (2, 6)),
        ...     span_positions=torch.tensor([[[1, 3]], [[2, 4]]]),
        ...     candidate_input_ids=torch.randint(30, (5, 3)),
        ... )
        >>> output.logits.shape
        torch.Size([2, 5])
    """

    config: DBZFETConfig

    def represent(self, states: EncoderStates) -> SampleEncoding:
        """Computes [mention; context]."""
        mention = entity_of(self.encoders.mentions(states.text, states.span_positions))
        pooled, weights = self.pool_context(states, mention)
        return SampleEncoding(torch.cat([mention, pooled], dim=-1), weights)
