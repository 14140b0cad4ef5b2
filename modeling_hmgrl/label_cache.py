"""Label vectors, computed once for each text and kept: in memory, and on disk if asked for."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from .features import encoder_key
from .reporting import write_json

VECTORS_NAME = "label_vectors.safetensors"
TEXTS_NAME = "labels.json"


class LabelCache:
    """Vectors of label texts by one model.

    Vectors are dropped by themselves when the model's weights change.

    Args:
        model: What answers ``encode_labels``, ``prepare_labels`` and ``device``.
        processor: A :class:`HMGRLProcessor`.
        batch_size: Label texts encoded at once.
    """

    def __init__(self, model: Any, processor: Any, batch_size: int = 256) -> None:
        self.model, self.processor, self.batch_size = model, processor, batch_size
        self._rows: dict[str, int] = {}
        self._vectors: Tensor | None = None  # with room for more below the first len(_rows) rows
        self._version = self._weights_version()
        self._last: tuple[tuple[str, ...], Tensor] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, text: str) -> bool:
        return text in self._rows

    def clear(self) -> None:
        """Forgets all vectors."""
        self._rows, self._vectors, self._last = {}, None, None

    def vectors(self, texts: Sequence[str], show_progress: bool = False) -> Tensor:
        """Returns the vectors of label texts; those not known yet are computed.

        Args:
            texts: K label texts; some may be the same.
            show_progress: Whether to show a progress bar.

        Returns:
            Label vectors as of ``prepare_labels``, shape (K, d_p), on the model's device.

        Raises:
            ValueError: If there are none, or one is blank.
        """
        if not texts:
            raise ValueError("labels: got none, expected at least one")
        version = self._weights_version()
        if version != self._version:
            self.clear()
            self._version = version
        asked = tuple(texts)
        if self._last is not None and self._last[0] == asked:
            return self._last[1]
        self._add(asked, show_progress)
        rows = [self._rows[text] for text in asked]
        stored: Any = self._vectors
        if rows == list(range(rows[0], rows[0] + len(rows))):
            found = stored[rows[0] : rows[0] + len(rows)]  # as it lies, without a copy
        else:
            found = stored[torch.tensor(rows, device=stored.device)]
        self._last = (asked, found)
        return found

    def save(self, folder: str | Path) -> None:
        """Writes texts and vectors.

        Args:
            folder: Folder, made if it does not exist.

        Raises:
            ValueError: If there are none.
        """
        if self._vectors is None:
            raise ValueError("label cache: holds no labels, expected some to save")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{VECTORS_NAME}.partial"
        save_file({"vectors": self._vectors[: len(self)].cpu().contiguous()}, partial)
        partial.replace(folder / VECTORS_NAME)
        write_json(folder / TEXTS_NAME, {"model": self.key(), "texts": list(self._rows)})

    def load(self, folder: str | Path) -> None:
        """Takes up what :meth:`save` wrote, in place of what is held.

        Args:
            folder: The folder.

        Raises:
            FileNotFoundError: If there is nothing.
            ValueError: If the vectors are of another model, or the files do not go together.
        """
        folder = Path(folder)
        if not (folder / TEXTS_NAME).is_file() or not (folder / VECTORS_NAME).is_file():
            raise FileNotFoundError(
                f"{folder}: expected {TEXTS_NAME} and {VECTORS_NAME}, as LabelCache.save writes"
            )
        content = json.loads((folder / TEXTS_NAME).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("model") != self.key():
            raise ValueError(
                f"{folder}: these vectors are of other weights or settings, expected those of this "
                "model; compute them again"
            )
        vectors = load_file(folder / VECTORS_NAME)["vectors"]
        rows = {text: row for row, text in enumerate(content["texts"])}
        if len(rows) != len(vectors):
            raise ValueError(
                f"{folder}: {TEXTS_NAME} holds {len(rows)} texts, {VECTORS_NAME} {len(vectors)} "
                "vectors; expected as many"
            )
        self.clear()
        self._rows, self._vectors = rows, vectors.to(self.model.device)

    def key(self) -> str:
        """Hash of all that the vectors depend on."""
        preprocessing = {
            "tokenizer": self.processor.tokenizer.backend_tokenizer.to_str(),
            "label_max_length": self.processor.label_max_length,
        }
        if hasattr(self.model, "weights_key"):  # a model that is no module of torch
            return self.model.weights_key(preprocessing)
        return encoder_key(self.model, preprocessing)

    def _weights_version(self) -> Any:
        """Changes with every change of the weights in place."""
        parameters: Any = getattr(self.model, "parameters", list)()
        return tuple((id(p), 0 if p.is_inference() else p._version) for p in parameters)

    @torch.inference_mode()
    def _add(self, texts: tuple[str, ...], show_progress: bool) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self._rows]
        if not new:
            return
        # Padding costs least among texts of like length; rows stay in the order they were given.
        order = sorted(range(len(new)), key=lambda index: len(new[index]))
        held, total = len(self), len(self) + len(new)
        bar = tqdm(total=len(new), desc="Encoding labels", leave=False, disable=not show_progress)
        device = self.model.device
        for start in range(0, len(new), self.batch_size):
            part = order[start : start + self.batch_size]
            encoded = self.processor.encode_labels([new[index] for index in part])
            encodings = self.model.encode_labels(
                encoded["label_input_ids"].to(device), encoded["label_attention_mask"].to(device)
            )
            vectors = self.model.prepare_labels(encodings)
            self._reserve(total, vectors)
            self._vectors[[held + index for index in part]] = vectors  # type: ignore[index]
            bar.update(len(part))
        bar.close()
        self._rows |= {text: held + index for index, text in enumerate(new)}

    def _reserve(self, total: int, like: Tensor) -> None:
        """Makes room for rows; room grows by doubling, so that adding one by one is not square."""
        if self._vectors is not None and len(self._vectors) >= total:
            return
        size = max(total, 0 if self._vectors is None else 2 * len(self._vectors))
        grown = like.new_empty(size, like.shape[1])
        if self._vectors is not None:
            grown[: len(self)] = self._vectors[: len(self)]
        self._vectors = grown


__all__ = ["LabelCache"]
