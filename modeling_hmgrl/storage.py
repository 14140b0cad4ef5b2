"""Storage on disk: atomically written JSON, saved tensors, and keys of computed values."""

import hashlib
import json
import math
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

# Fields that describe how a model or processor was loaded or how its scores are used; they do not
# influence the output of its encoders.
_EXCLUDED_FIELDS = (
    "_name_or_path", "architectures", "auto_map", "custom_pipelines", "dtype",
    "calibration_gamma", "probability_temperature", "seen_labels", "generator_labels",
    "label_texts", "freeze_text", "freeze_vision",
)  # fmt: skip


def encoder_key(model: Any, preprocessing: Any) -> str:
    """Computes a hash of an encoder's weights, its settings and its preprocessing.

    Args:
        model: The encoder, a model of transformers.
        preprocessing: JSON-serialisable description of the preprocessing.
    """
    described = [preprocessing, settings_of(model.config)]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype}".encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().float().numpy()).data)
    return digest.hexdigest()[:32]


def settings_of(part: Any) -> dict[str, Any]:
    """Settings of a configuration or processor, the same before saving and after loading."""
    return _without_excluded(part.to_dict())


def _without_excluded(values: dict[str, Any]) -> dict[str, Any]:
    """Removes the excluded fields, also from nested settings of encoders."""
    return {
        name: _without_excluded(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if name not in _EXCLUDED_FIELDS
    }


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file atomically, in UTF-8.

    Numbers that are not finite, which JSON does not have, become null. Lone surrogates, as file
    names of another encoding contain them, are escaped.

    Args:
        path: The file; its folder must exist.
        content: JSON-serialisable content.

    Raises:
        OSError: If the file cannot be written; an existing file is unchanged then.
    """
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, text.encode("utf-8", "backslashreplace"))


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file atomically; see :func:`atomic_path`."""
    with atomic_path(path) as partial:
        partial.write_bytes(content)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a unique temporary path beside a file, which replaces the file at the end.

    After an error the temporary file is removed and the file is unchanged. A file that is a
    symbolic link is replaced, not written through.

    Args:
        path: The file; its folder must exist.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _finite(content: Any) -> Any:
    """Replaces numbers that are not finite by None."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content


@dataclass(frozen=True)
class TensorStore:
    """Format of tensors computed by a model: a safetensors file and a JSON file describing it.

    The metadata of the safetensors file contains a hash of the JSON content, so that files of
    different saves are detected. The JSON content contains the key of the model as ``model``.

    Attributes:
        tensors_file: Name of the safetensors file.
        content_file: Name of the JSON file.
        tensors: Names of the tensors.
        hash_field: Metadata field of the hash.
        noun: What the tensors are, for error messages.
        writer: Method that writes the files, for error messages.
    """

    tensors_file: str
    content_file: str
    tensors: tuple[str, ...]
    hash_field: str
    noun: str
    writer: str

    def save(self, folder: str | Path, tensors: dict[str, Tensor], content: dict[str, Any]) -> None:
        """Writes both files, each atomically.

        Args:
            folder: Folder, created if it does not exist.
            tensors: Contiguous tensors by name.
            content: JSON-serialisable content.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / self.tensors_file) as partial:
            save_file(tensors, partial, metadata={self.hash_field: _json_hash(content)})
        write_json(folder / self.content_file, content)

    def load(self, folder: str | Path, model_key: str) -> tuple[list[Tensor], dict[str, Any]]:
        """Reads and checks both files.

        Args:
            folder: The folder.
            model_key: Key of the model that the content must name.

        Returns:
            The tensors, in the order of :attr:`tensors`, and the JSON content.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If the files are damaged, of different saves, or of another model.
        """
        folder = Path(folder)
        names = f"{self.content_file} and {self.tensors_file}"
        again = f"compute the {self.noun} again"
        if not all((folder / name).is_file() for name in (self.content_file, self.tensors_file)):
            raise FileNotFoundError(f"{folder}: expected {names}, as {self.writer} writes them")
        try:
            content = json.loads((folder / self.content_file).read_text(encoding="utf-8"))
            with safe_open(folder / self.tensors_file, framework="pt") as file:
                stored_hash = (file.metadata() or {}).get(self.hash_field)
                tensors = [file.get_tensor(name) for name in self.tensors]
        except (ValueError, RecursionError, SafetensorError) as error:
            raise ValueError(
                f"{folder}: damaged ({error}), expected {names} as {self.writer} writes them; "
                f"{again}"
            ) from error
        if stored_hash != _json_hash(content):
            raise ValueError(
                f"{folder}: {names} do not match, expected both files of one {self.writer}; {again}"
            )
        if not isinstance(content, dict) or "model" not in content:
            raise ValueError(f"{folder / self.content_file}: names no model; {again}")
        if content["model"] != model_key:
            raise ValueError(
                f"{folder}: these {self.noun} are of other weights or settings, expected those of "
                f"this model; {again}"
            )
        return tensors, content


def _json_hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
