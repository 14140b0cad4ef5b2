"""MZET: an attentive memory of seen types that transfers knowledge to unseen ones.

Source: Zhang et al. 2020, "MZET: Memory augmented zero-shot fine-grained named entity typing". A
mention is represented by its characters, its words and its context, and attends over a memory whose
slots are the seen types. A type is represented by a mixture of slots, weighted by their similarity
to it, which transfers knowledge from seen to unseen types.

The slots are saved with the weights: each training step writes the encodings of the seen labels
into them, so that any labels can be scored later. The characters of the tokens are in a table that
:meth:`MZETForZeroShotTyping.add_markers` fills.
"""

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .. import lorentz
from ..configuration_hmgrl import ZeroShotTypingConfig
from ..layers import Fp32Linear
from ..outputs import EncoderStates, SampleEncoding
from .base import ContextMethod, entity_of

_CHARACTERS = 16  # characters of a token; further ones are ignored
_ALPHABET = 256  # size of the table of embeddings; characters with higher codes share its rows
# What marks a token as the beginning, the continuation or the end of a word.
_WORD_MARK = re.compile("^(##|[Ġ▁])|</w>$")


class MZETConfig(ZeroShotTypingConfig):
    """Configuration of :class:`MZETForZeroShotTyping`.

    Args:
        memory_slots: Capacity of the memory, in seen types.
        memory_temperature: Temperature of the softmax over the similarities of types and slots.
        character_size: Width of a character's embedding.
    """

    model_type = "hmgrl-mzet"

    memory_slots: int = 64
    memory_temperature: float | int = 0.1
    character_size: int = 16

    @property
    def block_factors(self) -> list[float]:
        """Weights of words, characters, context and memory output."""
        return [1.0, 0.0, 0.5, 0.5]


class MZETForZeroShotTyping(ContextMethod):
    """MZET: words, characters and context of a mention, a memory of seen types; text only.

    Examples:
        >>> import torch
        >>> from transformers import BertConfig
        >>> text_config = BertConfig(
        ...     vocab_size=30, hidden_size=8, num_attention_heads=2, num_hidden_layers=1
        ... )
        >>> config = MZETConfig(text_config=text_config)
        >>> model = MZETForZeroShotTyping(config).eval()
        >>> output = model(
        ...     input_ids=torch.randint(30, (2, 6)),
        ...     span_positions=torch.tensor([[[1, 3]], [[2, 4]]]),
        ...     candidate_input_ids=torch.randint(30, (5, 3)),
        ... )
        >>> output.logits.shape
        torch.Size([2, 5])
    """

    config: MZETConfig
    memory: Tensor
    filled: Tensor
    characters: Tensor
    _keep_in_fp32_modules_strict = [  # noqa: RUF012 - as in transformers
        "scorer", "query", "key", "character_embedding", "character_filter", "character_map",
        "memory_query", "memory",
    ]  # fmt: skip

    def build(self, config: MZETConfig) -> None:
        """Creates the character features and the memory."""
        super().build(config)
        width, size = config.text_width, config.character_size
        self.character_embedding = nn.Embedding(_ALPHABET, size)
        self.character_filter = nn.Conv1d(size, 2 * size, kernel_size=3, padding=1)
        self.character_map = Fp32Linear(2 * size, width)
        self.memory_query = Fp32Linear(width, width)
        vocabulary = config.text_config.vocab_size  # type: ignore[union-attr]
        self.register_buffer("memory", torch.empty(config.memory_slots, width))
        self.register_buffer("filled", torch.empty(1, dtype=torch.long))
        table = torch.empty(vocabulary, _CHARACTERS, dtype=torch.uint8)
        self.register_buffer("characters", table)

    def init_parameters(self) -> None:
        """Initialises memory and character table to 0, the filter to the default of torch."""
        for buffer in (self.memory, self.filled, self.characters):
            init.zeros_(buffer)
        bound = (3 * self.config.character_size) ** -0.5
        init.uniform_(self.character_filter.weight, -bound, bound)
        init.zeros_(self.character_filter.bias)

    def add_markers(self, processor: Any) -> None:
        """Adds the markers and fills the table of the tokens' characters."""
        super().add_markers(processor)
        tokens = [""] * processor.vocabulary_size
        for token, index in processor.tokenizer.get_vocab().items():
            tokens[index] = token
        table = torch.zeros(len(tokens), _CHARACTERS, dtype=torch.uint8)
        for row, token in enumerate(tokens):
            codes = [1 + ord(c) % (_ALPHABET - 1) for c in _WORD_MARK.sub("", token)[:_CHARACTERS]]
            table[row, : len(codes)] = torch.tensor(codes, dtype=torch.uint8)
        self.characters = table.to(self.memory.device)

    def character_features(self, input_ids: Tensor, inside: Tensor) -> Tensor:
        """Computes features of the mention's characters.

        Args:
            input_ids: Token ids, shape (B, n).
            inside: Mask of the mention's tokens, shape (B, n).

        Returns:
            Shape (B, d).
        """
        codes = self.characters[input_ids].long()
        embedded = self.character_embedding(codes).flatten(0, 1).transpose(1, 2)
        found = self.character_filter(embedded).amax(-1).view(*input_ids.shape, -1)
        weights = inside.to(found.dtype).unsqueeze(1)
        mean = (weights @ found).squeeze(1) / weights.sum(-1).clamp(min=1)
        return torch.tanh(self.character_map(mean))

    def read(self, mention: Tensor) -> Tensor:
        """Attention of mentions (B, d) over the memory's slots, (B, d); 0 if it is empty."""
        count = int(self.filled)
        if not count:
            return torch.zeros_like(mention)
        slots = self.memory[:count].to(mention.dtype)
        logits = self.memory_query(mention) @ slots.T / mention.shape[-1] ** 0.5
        return logits.softmax(-1) @ slots

    def write(self, encodings: Tensor) -> None:
        """Writes the encodings of the seen types into the slots.

        Args:
            encodings: Shape (S, d).

        Raises:
            ValueError: If there are more types than slots.
        """
        if len(encodings) > len(self.memory):
            raise ValueError(
                f"memory_slots: got {len(self.memory)}, expected at least the {len(encodings)} "
                "seen labels"
            )
        with torch.no_grad():
            memory = self.memory.clone()  # a backward pass may still need the previous content
            memory[: len(encodings)] = encodings.to(memory.dtype)
            self.memory = memory
            self.filled.fill_(len(encodings))

    def associate(self, labels: Tensor) -> Tensor:
        """Replaces types (K, d) by mixtures of similar slots, if the memory holds any; (K, d)."""
        count = int(self.filled)
        if not count:
            return labels
        slots = self.memory[:count].to(labels.dtype)
        similarity = F.normalize(labels, dim=-1) @ F.normalize(slots, dim=-1).T
        return (similarity / self.config.memory_temperature).softmax(-1) @ slots

    def represent(self, states: EncoderStates) -> SampleEncoding:
        """Computes [words; characters; context; memory output]."""
        text, spans = states.text, states.span_positions
        mention = entity_of(self.encoders.mentions(text, spans))
        inside = self.encoders.inside(spans, text.shape[1])[:, 0]
        characters = self.character_features(states.input_ids, inside)
        pooled, weights = self.pool_context(states, mention)
        parts = [mention, characters, pooled, self.read(mention)]
        return SampleEncoding(torch.cat(parts, dim=-1), weights)

    def prepare_labels(self, candidate_embeddings: Tensor) -> Tensor:
        """Label vectors of the types, represented as mixtures of slots, (K, d_p)."""
        return super().prepare_labels(self.associate(lorentz.wide(candidate_embeddings)))

    def observe_labels(self, candidate_embeddings: Tensor, seen_mask: Tensor | None) -> None:
        """Writes the encodings of the seen types into the memory."""
        seen = candidate_embeddings if seen_mask is None else candidate_embeddings[seen_mask.bool()]
        self.write(seen)
