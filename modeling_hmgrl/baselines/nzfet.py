"""NZFET: context attention conditioned on the type.

Source: Ren et al. 2020, "Neural zero-shot fine-grained entity typing". Each label attends over the
context tokens with a query computed from its encoding, and [mention; context for that label] is
scored against it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import lorentz
from ..configuration_hmgrl import ZeroShotTypingConfig
from ..outputs import EncoderStates, SampleEncoding
from .base import ContextMethod, entity_of, masked_softmax

_LABEL_CHUNK = 256  # labels whose contexts are computed at once, limits memory to (B, 256, d)


class NZFETConfig(ZeroShotTypingConfig):
    """Configuration of :class:`NZFETForZeroShotTyping`."""

    model_type = "hmgrl-nzfet"

    @property
    def block_factors(self) -> list[float]:
        """Weights of mention and context."""
        return [1.0, 1.0]


@dataclass
class NZFETEncoding(SampleEncoding):
    """Samples of NZFET; ``representation`` is the mention.

    Attributes:
        text: Text states, shape (B, n, d).
        context: Mask of the context tokens, bool, shape (B, n).
    """

    text: Tensor = None  # type: ignore[assignment]
    context: Tensor = None  # type: ignore[assignment]


class NZFETForZeroShotTyping(ContextMethod):
    """NZFET: mention and label-specific context against the label; text only.

    Examples:
        >>> import torch
        >>> from transformers import BertConfig
        >>> text_config = BertConfig(
        ...     vocab_size=30, hidden_size=8, num_attention_heads=2, num_hidden_layers=1
        ... )
        >>> config = NZFETConfig(text_config=text_config)
        >>> model = NZFETForZeroShotTyping(config).eval()
        >>> output = model(
        ...     input_ids=torch.randint(30, (2, 6)),
        ...     span_positions=torch.tensor([[[1, 3]], [[2, 4]]]),
        ...     candidate_input_ids=torch.randint(30, (5, 3)),
        ... )
        >>> output.logits.shape
        torch.Size([2, 5])
    """

    config: NZFETConfig

    def represent(self, states: EncoderStates) -> NZFETEncoding:
        """Returns the mention and the text states; the context depends on the label."""
        return NZFETEncoding(
            representation=entity_of(self.encoders.mentions(states.text, states.span_positions)),
            text=states.text,
            context=self.context_of(states),
        )

    def prepare_labels(self, candidate_embeddings: Tensor) -> Tensor:
        """Computes [query; label vector] of each label, shape (K, d + d_p)."""
        labels = lorentz.wide(candidate_embeddings)
        placed = self.scorer.to_score_space(self.scorer.project_labels(labels), self.curvature())
        return torch.cat([self.query(labels), placed], dim=-1)

    def contexts(self, encoded: NZFETEncoding, queries: Tensor) -> Tensor:
        """Contexts of samples for labels with queries (K, d), shape (B, K, d)."""
        logits = torch.einsum("bnd,kd->bkn", self.key(encoded.text), queries)
        mask = encoded.context.unsqueeze(1).expand_as(logits)
        return masked_softmax(logits / queries.shape[-1] ** 0.5, mask) @ encoded.text

    def score(self, encoded: NZFETEncoding, label_vectors: Tensor) -> Tensor:
        """Scores [mention; context for the label] against each label, (B, K)."""
        width, c = encoded.text.shape[-1], self.curvature()
        columns = []
        for chunk in label_vectors.split(_LABEL_CHUNK):
            queries, labels = chunk[:, :width], chunk[:, width:]
            contexts = self.contexts(encoded, queries)
            mentions = encoded.representation.unsqueeze(1).expand_as(contexts)
            samples = self.scorer.project_samples(torch.cat([mentions, contexts], dim=-1))
            placed = self.scorer.to_score_space(samples, c)
            columns.append(self.scorer.compare_pairs(placed, labels, c))
        return torch.cat(columns, dim=1)
