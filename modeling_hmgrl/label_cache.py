"""Cache of label vectors, computed once for each label text, in memory and optionally on disk."""

import json
from collections.abc import Sequence
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from torch import Tensor
from transformers.utils.logging import tqdm  # shows nothing if progress bars are disabled

from .storage import TensorStore, encoder_key

VECTORS_NAME = "label_vectors.safetensors"
TEXTS_NAME = "labels.json"

_STORE = TensorStore(
    VECTORS_NAME, TEXTS_NAME, ("vectors",), ("texts",), "labels", "vectors", "LabelCache.save"
)
# Values of each parameter that are compared to detect a change.
_SAMPLED_VALUES = 8


class LabelCache:
    """Cache of the label vectors of one model; several threads may share it.

    The cache is cleared when the weights of the model change: by an optimizer, by
    ``load_state_dict``, or by a move to another device or dtype. An assignment to a few elements of
    ``parameter.data`` may go undetected; call :meth:`clear` after one.

    Args:
        model: Model with ``encode_labels``, ``prepare_labels`` and ``device``.
        processor: A :class:`HMGRLProcessor`.
        batch_size: Number of label texts encoded at once.
        max_texts: Maximum number of texts kept. New texts that would exceed it replace all earlier
            ones.

    Examples:
        >>> from transformers import BertConfig, BertTokenizer
        >>> from modeling_hmgrl import HMGRLConfig, HMGRLForZeroShotTyping
        >>> from modeling_hmgrl import HMGRLProcessor, LabelCache
        >>> words = "[PAD] [UNK] [CLS] [SEP] [MASK] * the fox saw animal tool".split()
        >>> tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
        >>> processor = HMGRLProcessor(None, tokenizer, use_images=False)
        >>> text_config = BertConfig(
        ...     vocab_size=len(words), hidden_size=16, num_attention_heads=2, num_hidden_layers=1
        ... )
        >>> model = HMGRLForZeroShotTyping(HMGRLConfig(text_config=text_config)).eval()
        >>> model.add_markers(processor)
        >>> cache = LabelCache(model, processor)
        >>> vectors = cache.vectors(["animal", "tool", "animal"])
        >>> vectors.shape[0], len(cache), "tool" in cache
        (3, 2, True)
        >>> cache.save("labels")
        >>> cache.clear()
        >>> cache.load("labels")
        >>> len(cache)
        2
    """

    def __init__(
        self, model: Any, processor: Any, batch_size: int = 256, max_texts: int = 1_000_000
    ) -> None:
        self.model, self.processor, self.batch_size = model, processor, batch_size
        self.max_texts = max_texts
        self._lock = RLock()
        self._rows: dict[str, int] = {}
        self._vectors: Tensor | None = None  # len(_rows) rows are in use, further ones are reserved
        self._snapshot = _WeightSnapshot(self._parameters())
        self._last: tuple[tuple[str, ...], Tensor] | None = None
        self._unknown: dict[str, bool] = {}  # of the texts that were asked for
        self._last_unknown: tuple[tuple[str, ...], list[str]] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, text: str) -> bool:
        return text in self._rows

    def clear(self) -> None:
        """Removes all vectors."""
        with self._lock:
            self._rows, self._vectors, self._last = {}, None, None
            self._unknown, self._last_unknown = {}, None

    def vectors(self, texts: Sequence[str], show_progress: bool = False) -> Tensor:
        """Returns the vectors of label texts and computes those that are not cached.

        Args:
            texts: K label texts, which may repeat.
            show_progress: Whether to show a progress bar.

        Returns:
            Label vectors from ``prepare_labels``, shape (K, d_p), on the model's device.

        Raises:
            ValueError: If the list is empty or a text is blank.
        """
        requested = tuple(texts)
        if not requested:
            raise ValueError("labels: got none, expected at least one")
        with self._lock:
            self._clear_if_changed()
            if self._last is not None and self._last[0] == requested:
                return self._last[1]
            self._add(requested, show_progress)
            rows = [self._rows[text] for text in requested]
            stored: Any = self._vectors
            if rows == list(range(rows[0], rows[0] + len(rows))):
                found = stored[rows[0] : rows[0] + len(rows)]  # a view, without a copy
            else:
                found = stored[torch.tensor(rows, device=stored.device)]
            self._last = (requested, found)
            return found

    def unknown(self, texts: Sequence[str]) -> list[str]:
        """The label texts that consist only of tokens unknown to the model."""
        requested = tuple(texts)
        with self._lock:
            if self._last_unknown is None or self._last_unknown[0] != requested:
                new = [text for text in dict.fromkeys(requested) if text not in self._unknown]
                unknown = set(self.processor.unknown_texts(new)) if new else set()
                self._unknown |= {text: text in unknown for text in new}
                found = [text for text in requested if self._unknown[text]]
                self._last_unknown = (requested, found)
            return self._last_unknown[1]

    def save(self, folder: str | Path) -> None:
        """Saves texts and vectors.

        Args:
            folder: Folder, created if it does not exist.

        Raises:
            ValueError: If the cache is empty.
        """
        with self._lock:
            self._clear_if_changed()
            if self._vectors is None:
                raise ValueError("label cache: holds no labels, expected some to save")
            content = {"model": self.key(), "texts": list(self._rows)}
            vectors = self._vectors[: len(self)].cpu().contiguous()
        _STORE.save(folder, {"vectors": vectors}, content)

    def load(self, folder: str | Path) -> None:
        """Loads texts and vectors that :meth:`save` wrote and replaces those in memory.

        Args:
            folder: The folder.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If the vectors are of another model or other settings, or the files are
                damaged or of different saves.
        """
        with self._lock:
            [vectors], content = _STORE.load(folder, self.key(), self.width())
            texts = content.get("texts")
            if not isinstance(texts, list) or len(texts) != len(vectors):
                raise ValueError(f"{Path(folder) / TEXTS_NAME}: expected one text for each vector")
            self.clear()
            self._snapshot = _WeightSnapshot(self._parameters())
            self._rows = {text: row for row, text in enumerate(texts)}
            self._vectors = vectors.to(self.model.device)

    @torch.inference_mode()
    def width(self) -> int:
        """Width d_p of a label vector."""
        encoding = torch.zeros(1, self.model.config.label_width, device=self.model.device)
        return self.model.prepare_labels(encoding).shape[1]

    def key(self) -> str:
        """Computes a hash of everything that determines the vectors."""
        tokenizer = json.loads(self.processor.tokenizer.backend_tokenizer.to_str())
        preprocessing = {
            # The last call sets truncation and padding.
            "tokenizer": {k: tokenizer[k] for k in tokenizer if k not in ("truncation", "padding")},
            "label_max_length": self.processor.label_max_length,
            "pad_to_max_length": self.processor.pad_to_max_length,
        }
        if hasattr(self.model, "weights_key"):  # a model that is not a torch module
            return self.model.weights_key(preprocessing)
        return encoder_key(self.model, preprocessing)

    def _parameters(self) -> list[Tensor]:
        return list(getattr(self.model, "parameters", list)())

    def _clear_if_changed(self) -> None:
        parameters = self._parameters()
        if self._snapshot.differs_from(parameters):
            self.clear()
            self._snapshot = _WeightSnapshot(parameters)

    @torch.inference_mode()
    def _add(self, texts: tuple[str, ...], show_progress: bool) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self._rows]
        if not new:
            return
        if self._rows and len(self) + len(new) > self.max_texts:
            self.clear()
            new = list(dict.fromkeys(texts))
        # Sorting by length reduces padding; rows keep the order of the texts.
        order = sorted(range(len(new)), key=lambda index: len(new[index]))
        offset, total = len(self), len(self) + len(new)
        disable = not show_progress
        with tqdm(total=len(new), desc="Encoding labels", leave=False, disable=disable) as bar:
            for start in range(0, len(new), self.batch_size):
                part = order[start : start + self.batch_size]
                vectors = self._encode([new[index] for index in part])
                self._reserve(total, vectors)
                self._vectors[[offset + index for index in part]] = vectors  # type: ignore[index]
                bar.update(len(part))
        self._rows |= {text: offset + index for index, text in enumerate(new)}

    def _encode(self, texts: list[str]) -> Tensor:
        encoded, device = self.processor.encode_labels(texts), self.model.device
        unknown = self.processor.unknown_rows(encoded["candidate_input_ids"])
        self._unknown |= dict(zip(texts, unknown, strict=True))
        encodings = self.model.encode_labels(
            encoded["candidate_input_ids"].to(device),
            encoded["candidate_attention_mask"].to(device),
        )
        return self.model.prepare_labels(encodings)

    def _reserve(self, total: int, template: Tensor) -> None:
        """Reserves rows; capacity doubles, so that the cost of adding rows is linear in total."""
        if self._vectors is not None and len(self._vectors) >= total:
            return
        size = max(total, 0 if self._vectors is None else 2 * len(self._vectors))
        grown = template.new_empty(size, template.shape[1])
        if self._vectors is not None:
            grown[: len(self)] = self._vectors[: len(self)]
        self._vectors = grown


class _WeightSnapshot:
    """State of weights at one time: identity, memory, version counters and sampled values.

    Values are sampled because fused optimizers change weights without an increment of torch's
    version counter; an optimizer step changes all values.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.versions = self._versions(parameters)
        views: dict[torch.device, list[Tensor]] = {}
        for p in parameters:
            if p.numel():
                size = min(p.numel(), _SAMPLED_VALUES)
                # strided over the memory, independent of the order of the dimensions
                view = p.detach().as_strided((size,), (p.numel() // size,))
                views.setdefault(p.device, []).append(view)
        self.views = list(views.values())
        self.samples = [torch.cat(part) for part in self.views]

    def differs_from(self, parameters: Sequence[Tensor]) -> bool:
        """Whether the weights have changed since the snapshot."""
        return self._versions(parameters) != self.versions or not all(
            torch.equal(torch.cat(part), sample)
            for part, sample in zip(self.views, self.samples, strict=True)
        )

    @staticmethod
    def _versions(parameters: Sequence[Tensor]) -> list[Any]:
        return [
            (id(p), p.data_ptr(), p.dtype, 0 if p.is_inference() else p._version)
            for p in parameters
        ]


__all__ = ["LabelCache"]
