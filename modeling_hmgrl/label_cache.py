"""Label vectors, computed once for each text and kept: in memory, and on disk if asked for."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from .storage import encoder_key, write_json

VECTORS_NAME = "label_vectors.safetensors"
TEXTS_NAME = "labels.json"

# Numbers of each parameter that are looked at to see whether it changed.
_SAMPLES = 8


class LabelCache:
    """Vectors of label texts by one model.

    Vectors are dropped by themselves when the model's weights change: by an optimizer, by
    ``load_state_dict``, by a move to another device or type. Only what is written to a few numbers
    through ``parameter.data`` may go unnoticed; call :meth:`clear` then.

    Threads may share it.

    Args:
        model: What answers ``encode_labels``, ``prepare_labels`` and ``device``.
        processor: A :class:`HMGRLProcessor`.
        batch_size: Label texts encoded at once.
        max_texts: Bound on what is kept. Where new texts would pass it, those from before are
            dropped.
    """

    def __init__(
        self, model: Any, processor: Any, batch_size: int = 256, max_texts: int = 1_000_000
    ) -> None:
        self.model, self.processor, self.batch_size = model, processor, batch_size
        self.max_texts = max_texts
        self._lock = RLock()
        self._rows: dict[str, int] = {}
        self._vectors: Tensor | None = None  # with room for more below the first len(_rows) rows
        self._weights = _Weights(self._parameters())
        self._last: tuple[tuple[str, ...], Tensor] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, text: str) -> bool:
        return text in self._rows

    def clear(self) -> None:
        """Forgets all vectors."""
        with self._lock:
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
        asked = tuple(texts)
        if not asked:
            raise ValueError("labels: got none, expected at least one")
        with self._lock:
            self._drop_if_changed()
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
        with self._lock:
            self._drop_if_changed()
            if self._vectors is None:
                raise ValueError("label cache: holds no labels, expected some to save")
            content = {"model": self.key(), "texts": list(self._rows)}
            vectors = self._vectors[: len(self)].cpu().contiguous()
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{VECTORS_NAME}.partial"
        save_file({"vectors": vectors}, partial, metadata={"labels": _hash(content)})
        partial.replace(folder / VECTORS_NAME)
        write_json(folder / TEXTS_NAME, content)

    def load(self, folder: str | Path) -> None:
        """Takes up what :meth:`save` wrote, in place of what is held.

        Args:
            folder: The folder.

        Raises:
            FileNotFoundError: If there is nothing.
            ValueError: If the vectors are of another model or other settings, or the files are
                damaged or do not go together.
        """
        folder = Path(folder)
        if not (folder / TEXTS_NAME).is_file() or not (folder / VECTORS_NAME).is_file():
            raise FileNotFoundError(
                f"{folder}: expected {TEXTS_NAME} and {VECTORS_NAME}, as LabelCache.save writes"
            )
        try:
            content = json.loads((folder / TEXTS_NAME).read_text(encoding="utf-8"))
            with safe_open(folder / VECTORS_NAME, framework="pt") as file:
                mark = (file.metadata() or {}).get("labels")
                vectors = file.get_tensor("vectors")
        except (ValueError, RecursionError, SafetensorError) as error:
            raise ValueError(
                f"{folder}: damaged ({error}), expected {TEXTS_NAME} and {VECTORS_NAME} as "
                "LabelCache.save writes; compute the vectors again"
            ) from error
        if mark != _hash(content):
            raise ValueError(
                f"{folder}: {TEXTS_NAME} and {VECTORS_NAME} do not go together, expected both of "
                "one LabelCache.save; compute the vectors again"
            )
        with self._lock:
            if content["model"] != self.key():
                raise ValueError(
                    f"{folder}: these vectors are of other weights or settings, expected those of "
                    "this model; compute them again"
                )
            self.clear()
            self._weights = _Weights(self._parameters())
            self._rows = {text: row for row, text in enumerate(content["texts"])}
            self._vectors = vectors.to(self.model.device)

    def key(self) -> str:
        """Hash of all that the vectors depend on."""
        tokenizer = json.loads(self.processor.tokenizer.backend_tokenizer.to_str())
        preprocessing = {
            # without what the last call left set in it
            "tokenizer": {k: tokenizer[k] for k in tokenizer if k not in ("truncation", "padding")},
            "label_max_length": self.processor.label_max_length,
            "pad_to_max_length": self.processor.pad_to_max_length,
        }
        if hasattr(self.model, "weights_key"):  # a model that is no module of torch
            return self.model.weights_key(preprocessing)
        return encoder_key(self.model, preprocessing)

    def _parameters(self) -> list[Tensor]:
        return list(getattr(self.model, "parameters", list)())

    def _drop_if_changed(self) -> None:
        parameters = self._parameters()
        if not self._weights.are_still(parameters):
            self.clear()
            self._weights = _Weights(parameters)

    @torch.inference_mode()
    def _add(self, texts: tuple[str, ...], show_progress: bool) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self._rows]
        if not new:
            return
        if self._rows and len(self) + len(new) > self.max_texts:
            self.clear()
            new = list(dict.fromkeys(texts))
        # Padding costs least among texts of like length; rows stay in the order they were given.
        order = sorted(range(len(new)), key=lambda index: len(new[index]))
        held, total = len(self), len(self) + len(new)
        device, disable = self.model.device, not show_progress
        with tqdm(total=len(new), desc="Encoding labels", leave=False, disable=disable) as bar:
            for start in range(0, len(new), self.batch_size):
                part = order[start : start + self.batch_size]
                encoded = self.processor.encode_labels([new[index] for index in part])
                encodings = self.model.encode_labels(
                    encoded["candidate_input_ids"].to(device),
                    encoded["candidate_attention_mask"].to(device),
                )
                vectors = self.model.prepare_labels(encodings)
                self._reserve(total, vectors)
                self._vectors[[held + index for index in part]] = vectors  # type: ignore[index]
                bar.update(len(part))
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


class _Weights:
    """Weights as they were: where they lie, how often torch saw them change, and samples of them.

    Samples, because fused optimizers change weights without torch's count of changes; a step
    changes them throughout.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.places = self._places(parameters)
        views: dict[torch.device, list[Tensor]] = {}
        for p in parameters:
            if p.numel():
                size = min(p.numel(), _SAMPLES)
                # over the memory as it lies, whatever the order of the dimensions
                view = p.detach().as_strided((size,), (p.numel() // size,))
                views.setdefault(p.device, []).append(view)
        self.views = list(views.values())
        self.samples = [torch.cat(part) for part in self.views]

    def are_still(self, parameters: Sequence[Tensor]) -> bool:
        """Whether they are what they were."""
        return self._places(parameters) == self.places and all(
            torch.equal(torch.cat(part), sample)
            for part, sample in zip(self.views, self.samples, strict=True)
        )

    @staticmethod
    def _places(parameters: Sequence[Tensor]) -> list[Any]:
        return [
            (id(p), p.data_ptr(), p.dtype, 0 if p.is_inference() else p._version)
            for p in parameters
        ]


def _hash(content: Any) -> str:
    """Hash of texts and model, which the vectors' file carries so that both go together."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


__all__ = ["LabelCache"]
