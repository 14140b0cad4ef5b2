"""Proto: label embedding of mentions alone.

Source: Ma et al. 2016, "Label embedding for zero-shot fine-grained named entity typing", as HMGRL
(arXiv 2603.16259) compares itself with it: the score is (W1 e) . (W2 l) with the mention states e
and the encoding l of the label's name. Ma et al. embed mentions by hand-made features and learn the
two maps by a ranking loss; here the shared text encoder takes the place of the features.
"""

from ..configuration_hmgrl import ZeroShotTypingConfig
from ..outputs import EncoderStates, SampleEncoding
from .base import Method, entity_of


class ProtoConfig(ZeroShotTypingConfig):
    """Configuration of :class:`ProtoForZeroShotTyping`."""

    model_type = "hmgrl-proto"

    @property
    def block_factors(self) -> list[float]:
        """The mentions, with the same share each."""
        return [1 / self.num_spans] * self.num_spans


class ProtoForZeroShotTyping(Method):
    """Proto: the mentions' states against the labels; text alone."""

    config: ProtoConfig
    uses_images = False

    def represent(self, states: EncoderStates) -> SampleEncoding:
        """The mentions side by side."""
        return SampleEncoding(entity_of(self.encoders.mentions(states.text, states.span_positions)))
