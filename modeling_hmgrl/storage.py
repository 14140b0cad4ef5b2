"""Storage on disk: atomically written JSON, saved tensors and their checks, keys of values."""

import hashlib
import json
import math
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
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


_FLOATS = ("F64", "F32", "F16", "BF16")  # types of weights, by the names of safetensors
_LISTED = 3  # names in an error


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
    # not with the name of the file, which may be as long as the file system allows
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
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
        tensors: Names of the tensors, which have two dimensions.
        rows: For each tensor the field of the JSON content with as many entries as it has rows.
        hash_field: Metadata field of the hash.
        noun: What the tensors are, for error messages.
        writer: Method that writes the files, for error messages.
    """

    tensors_file: str
    content_file: str
    tensors: tuple[str, ...]
    rows: tuple[str, ...]
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

    def load(
        self, folder: str | Path, model_key: str, width: int
    ) -> tuple[list[Tensor], dict[str, Any]]:
        """Reads and checks both files.

        Args:
            folder: The folder.
            model_key: Key of the model that the content must name.
            width: Number of columns of each tensor.

        Returns:
            The tensors, in the order of :attr:`tensors`, and the JSON content.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If the files are damaged, of different saves, or of another model, or a
                tensor is not finite or has another shape or type.
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
        source = str(folder / self.tensors_file)
        for name, tensor, field in zip(self.tensors, tensors, self.rows, strict=True):
            rows = len(content[field]) if isinstance(content.get(field), list | dict) else 0
            shape = tuple(tensor.shape)
            if not tensor.is_floating_point() or shape != (rows, width):
                raise ValueError(
                    f"{source}: {name} is {tensor.dtype} of shape {shape}, expected floating-point "
                    f"numbers of shape {(rows, width)}, a row for each of {field!r} of "
                    f"{self.content_file}; {again}"
                )
        check_finite(source, dict(zip(self.tensors, tensors, strict=True)))
        return tensors, content


def _json_hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_types(files: Iterable[str | Path], expected: Mapping[str, Tensor], prefix: str) -> None:
    """Checks the types of the tensors in safetensors files, of which only the headers are read.

    transformers would convert any type, such as integers, to that of the model.

    Args:
        files: The files; those of other formats are ignored.
        expected: Tensors of the model by name, which may be on the meta device.
        prefix: Prefix of names that the files may have in addition to the model, or lack.

    Raises:
        ValueError: If a file is damaged or a tensor has another type; the message names them.
    """
    for file in map(Path, files):
        if file.suffix != ".safetensors":
            continue
        try:
            with safe_open(file, framework="pt") as content:
                types = {name: content.get_slice(name).get_dtype() for name in content.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{file}: the weights are damaged ({error})") from error
        wrong = []
        for name, found in types.items():
            names = (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}."))
            known = next((expected[one] for one in names if one in expected), None)
            # The names of some encoders differ in files; their weights are never integers.
            is_float = name.endswith((".weight", ".bias"))
            is_float = is_float if known is None else known.is_floating_point()
            if (known is not None or is_float) and is_float != (found in _FLOATS):
                wrong.append(f"{name} ({found})")
        if wrong:
            raise ValueError(
                f"{file}: {_summary(wrong, len(types))} of another type, expected floating-point "
                "weights and integer counters"
            )


def check_complete(
    source: str,
    missing: Collection[str],
    mismatched: Collection[tuple[str, Any, Any]],
    total: int,
) -> None:
    """Checks that a checkpoint held all weights of a model, in their shapes.

    Args:
        source: Name of the checkpoint in errors.
        missing: Names of the weights that it lacks.
        mismatched: Name, shape in the checkpoint and shape in the model of each other weight.
        total: Number of weights of the model.

    Raises:
        ValueError: Naming the first weights and their number.
    """
    if missing:
        raise ValueError(
            f"{source}: {_summary(sorted(missing), total)} missing, expected all weights of the "
            "model"
        )
    if mismatched:
        shapes = [
            f"{name} ({_shape(found)} instead of {_shape(wanted)})"
            for name, found, wanted in sorted(mismatched, key=lambda one: one[0])
        ]
        raise ValueError(
            f"{source}: {_summary(shapes, total)} of another shape, expected those of the "
            "configuration"
        )


def check_finite(source: str, tensors: Mapping[str, Tensor]) -> None:
    """Checks that tensors contain neither NaN nor infinite values; those without data are skipped.

    Args:
        source: Name of the checkpoint in errors.
        tensors: Tensors by name.

    Raises:
        ValueError: Naming the first such tensors and their number.
    """
    if bad := [name for name, value in tensors.items() if not is_finite(value)]:
        raise ValueError(
            f"{source}: {_summary(sorted(bad), len(tensors))} not finite (NaN or infinite values), "
            "expected finite numbers"
        )


@torch.no_grad()
def is_finite(value: Tensor) -> bool:
    """Whether a tensor has neither NaN nor infinite values; in one pass, without a copy."""
    value = getattr(value, "to_local", lambda: value)()  # the part of a sharded tensor
    if type(value) not in (Tensor, torch.nn.Parameter):  # a quantized one, whose parts are hidden
        return True
    if value.is_meta or not value.is_floating_point() or not value.numel():
        return True
    if value.element_size() == 1:  # 8-bit floating-point types have no reductions
        value = value.float()
    low, high = torch.aminmax(value)  # NaN if any value is
    return bool(torch.isfinite(low) & torch.isfinite(high))


def untied(model: Any, missing: set[str]) -> set[str]:
    """Removes missing weights that are the same as another one that is present."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    present = {name for pair in tied.items() if not missing.issuperset(pair) for name in pair}
    return missing - present


def check_shards(folder: Path) -> None:
    """Rejects an index of shards that names files outside of the folder.

    Raises:
        ValueError: Naming the file of the index and the first such name.
    """
    for index in folder.glob("*.index.json"):
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{index}: expected JSON with a weight_map of file names") from error
        for name in sorted(map(str, names)):
            if name != Path(name).name or "\\" in name:
                raise ValueError(f"{index}: got {name!r}, expected a file of the same folder")


def _summary(names: list[str], total: int) -> str:
    shown = ", ".join(names[:_LISTED])
    more = ", …" if len(names) > _LISTED else ""
    verb = "is" if len(names) == 1 else "are"
    return f"{len(names):,} of {total:,} weights ({shown}{more}) {verb}"


def _shape(shape: Any) -> str:
    return " x ".join(map(str, shape)) or "a scalar"
