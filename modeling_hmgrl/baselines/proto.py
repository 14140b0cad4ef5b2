"""Proto: label embeddings compared with mentions.

Source: Ma et al. 2016, "Label embedding for zero-shot fine-grained named entity typing", in the
form of the baseline of HMGRL (arXiv 2603.16259): the score is (W1 e) . (W2 l) with the mention
states e and the encoding l of the label's name. Ma et al. represent mentions by hand-crafted
features and learn the two maps by a ranking loss; here the shared text encoder replaces the
features.
"""

from ..configuration_hmgrl import ZeroShotTypingConfig
from ..outputs import EncoderStates, SampleEncoding
from .base import Method, entity_of


class ProtoConfig(ZeroShotTypingConfig):
    """Configuration of :class:`ProtoForZeroShotTyping`."""

    model_type = "hmgrl-proto"

    @property
    def block_factors(self) -> list[float]:
        """Equal weights for the mentions."""
        return [1 / self.num_spans] * self.num_spans


class ProtoForZeroShotTyping(Method):
    """Proto: mention states against labels; text only.

    Examples:
        >>> import torch
        >>> from transformers import BertConfig
        >>> text_config = BertConfig(
        ...     vocab_size=30, hidden_size=8, num_attention_heads=2, num_hidden_layers=1
        ... )
        >>> config = ProtoConfig(text_config=text_config)
        >>> model = ProtoForZeroShotTyping(config).eval()
        >>> output = model(
        ...     input_ids=torch.randint(30, (2, 6)),
        ...     span_positions=torch.tensor([[[1, 3]], [[2, 4]]]),
        ...     candidate_input_ids=torch.randint(30, (5, 3)),
        ... )
        >>> output.logits.shape
        torch.Size([2, 5])
    """

    config: ProtoConfig
    uses_images = False

    def represent(self, states: EncoderStates) -> SampleEncoding:
        """Concatenates the mentions."""
        return SampleEncoding(entity_of(self.encoders.mentions(states.text, states.span_positions)))
