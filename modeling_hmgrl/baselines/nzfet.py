"""NZFET: a context of its own for each type.

Source: Ren et al. 2020, "Neural zero-shot fine-grained entity typing". Attention over the context
is conditioned on the type: each label asks the context tokens with a query made of its encoding,
and [mention; context of that label] is scored against it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import lorentz
from ..configuration_hmgrl import ZeroShotTypingConfig
from ..outputs import EncoderStates, SampleEncoding
from .base import ContextMethod, entity_of, masked_softmax

_LABEL_CHUNK = 256  # labels whose contexts are made at once: (B, 256, d) in memory


class NZFETConfig(ZeroShotTypingConfig):
    """Configuration of :class:`NZFETForZeroShotTyping`."""

    model_type = "hmgrl-nzfet"

    @property
    def block_factors(self) -> list[float]:
        """Mention and context."""
        return [1.0, 1.0]


@dataclass
class NZFETEncoding(SampleEncoding):
    """Samples of NZFET; ``representation`` is the mention.

    Attributes:
        text: Text states, shape (B, n, d).
        context: Tokens that are context, bool, shape (B, n).
    """

    text: Tensor = None  # type: ignore[assignment]
    context: Tensor = None  # type: ignore[assignment]


class NZFETForZeroShotTyping(ContextMethod):
    """NZFET: mention and a context for each label, against the label; text alone."""

    config: NZFETConfig

    def represent(self, states: EncoderStates) -> NZFETEncoding:
        """Mention and tokens."""
        return NZFETEncoding(
            representation=entity_of(self.encoders.mentions(states.text, states.span_positions)),
            text=states.text,
            context=self.context_of(states),
        )

    def prepare_labels(self, candidate_embeddings: Tensor) -> Tensor:
        """[query of the label; placed projection], shape (K, d + d_p)."""
        labels = lorentz.wide(candidate_embeddings)
        placed = self.scorer.place(self.scorer.project_labels(labels), self.curvature())
        return torch.cat([self.query(labels), placed], dim=-1)

    def contexts(self, encoded: NZFETEncoding, queries: Tensor) -> Tensor:
        """The context of each sample for each label, shape (B, K, d), from queries (K, d)."""
        logits = torch.einsum("bnd,kd->bkn", self.key(encoded.text), queries)
        mask = encoded.context.unsqueeze(1).expand_as(logits)
        return masked_softmax(logits / queries.shape[-1] ** 0.5, mask) @ encoded.text

    def score(self, encoded: NZFETEncoding, label_vectors: Tensor) -> Tensor:
        """Each label against [mention; its context], (B, K)."""
        width, c = encoded.text.shape[-1], self.curvature()
        columns = []
        for chunk in label_vectors.split(_LABEL_CHUNK):
            queries, labels = chunk[:, :width], chunk[:, width:]
            contexts = self.contexts(encoded, queries)
            mentions = encoded.representation.unsqueeze(1).expand_as(contexts)
            samples = self.scorer.project_samples(torch.cat([mentions, contexts], dim=-1))
            placed = self.scorer.place(samples, c)
            columns.append(self.scorer.compare_pairs(placed, labels, c))
        return torch.cat(columns, dim=1)
