"""File access of the readers: validated lines, parts of a data set, JSON and fingerprints."""

from __future__ import annotations

import hashlib
import json
import math
import re
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets

from .schema import Place, RecordError

# Names of the three files in published data sets.
PARTS: Mapping[str, tuple[str, ...]] = {
    "train": ("train",),
    "valid": ("valid", "val", "dev"),
    "test": ("test",),
}

MAX_JSON_BYTES = 16 * 1024 * 1024
"""Maximum size of a JSON file that is read as a whole, such as 100,000 labels with descriptions."""

_BOM = b"\xef\xbb\xbf"


def read_lines(
    path: Path, max_bytes: int, purpose: str = "Reading"
) -> Iterator[tuple[Place, str | RecordError]]:
    """Yields the non-blank lines of a UTF-8 file, or an error for each invalid line.

    A line ends at a line feed only, because text may contain other characters that `splitlines`
    treats as line ends. A line that is too long is skipped without being held in memory.

    Args:
        path: The file. A byte order mark at its start is ignored.
        max_bytes: Maximum length of a line in bytes.
        purpose: First word of the progress bar.

    Yields:
        Place, and either the line without its end or an error for the caller to raise or count.
    """
    for place, raw, start, length in raw_lines(path, max_bytes, purpose):
        if length > max_bytes:
            expected = f"a line of at most {max_bytes} bytes"
            yield place, RecordError(place, "(line)", expected, f"{length} bytes", "too long")
        else:
            yield from _decode(raw, place, start)


def raw_lines(
    path: Path, max_bytes: int, purpose: str = "Reading"
) -> Iterator[tuple[Place, bytes, int, int]]:
    """Yields every line of a file as bytes, with a progress bar.

    Args:
        path: The file.
        max_bytes: Maximum number of bytes of a line that are held in memory; the rest is skipped.
        purpose: First word of the progress bar.

    Yields:
        Place, the line including its end, the offset of its first byte, and its length in the file.
    """
    with (
        path.open("rb") as file,
        datasets.utils.tqdm(
            total=path.stat().st_size, desc=f"{purpose} {path.name}", unit="B", unit_scale=True
        ) as progress,
    ):
        number, start = 0, 0
        while raw := file.readline(max_bytes + 1):
            number += 1
            place = Place(path.name, number)
            length = len(raw)
            if length > max_bytes:
                tail = raw
                while tail and not tail.endswith(b"\n"):
                    tail = file.readline(max_bytes)
                    length += len(tail)
            yield place, raw, start, length
            start += length
            progress.update(length)


def find_files(given: str | None, suffixes: Collection[str]) -> list[Path]:
    """Finds a single file, or the files of a folder that have one of the suffixes.

    Args:
        given: The file or the folder.
        suffixes: Suffixes of the files to find in a folder.

    Returns:
        The file, or the sorted files of the folder, at least one.

    Raises:
        ValueError: If `given` is None.
        FileNotFoundError: If the file or folder does not exist, or no file in it matches.
    """
    kinds = ", ".join(f"*{suffix}" for suffix in suffixes)
    if given is None:
        raise ValueError(f"data_dir: expected a file or a folder of {kinds}, got None")
    path = Path(given)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or folder")
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes)
    if not found:
        raise FileNotFoundError(f"{path}: no {kinds} file in this folder")
    return found


def list_files(folder: Path | None) -> list[Path]:
    """Returns the entries of a folder, or an empty list for None."""
    return [] if folder is None else list(folder.iterdir())


def find_parts(folder: str | None, suffix: str, what: str) -> dict[str, Path]:
    """Finds the files of train, validation and test in a folder by their names.

    Args:
        folder: The folder.
        suffix: Suffix of the files, e.g. `".txt"`.
        what: Name of the data set in error messages.

    Returns:
        Paths by `train`, `valid` and `test`: the files whose name contains that word (or "val",
        "dev") delimited by non-letters, as in `mnre_val.txt`.

    Raises:
        ValueError: If `folder` is None, or several files match a part.
        FileNotFoundError: If no file matches a part.
    """
    wanted = (
        f"{what} requires one *train*{suffix}, one *valid*{suffix} (or val, dev) and one "
        f"*test*{suffix}"
    )
    if folder is None:
        raise ValueError(f"data_dir: expected a folder, got None; {wanted}")
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; {wanted}")
    parts: dict[str, Path] = {}
    for part, names in PARTS.items():
        found = [
            path
            for path in sorted(Path(folder).glob(f"*{suffix}"))
            if set(names) & set(re.split(r"[^a-z]+", path.stem.lower()))
        ]
        if not found:
            raise FileNotFoundError(f"{folder}: no file for {part!r}; {wanted}")
        if len(found) > 1:
            names_found = [path.name for path in found]
            raise ValueError(f"{folder}: {names_found} all match {part!r}; {wanted}")
        parts[part] = found[0]
    return parts


def _decode(raw: bytes, place: Place, start: int) -> Iterator[tuple[Place, str | RecordError]]:
    if start == 0 and raw.startswith(_BOM):
        raw, start = raw[len(_BOM) :], len(_BOM)
    raw = raw.rstrip(b"\r\n")
    if b"\0" in raw:
        found = f"NUL at byte {start + raw.index(0)} of the file"
        yield place, RecordError(place, "(line)", "text without NUL bytes", found, "NUL")
        return
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte 0x{raw[error.start]:02x} at byte {start + error.start} of the file"
        yield place, RecordError(place, "(line)", "UTF-8", found, "not UTF-8")
        return
    if line.strip():
        yield place, line


def reject_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` of `json.loads` that raises a ValueError for repeated fields."""
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"repeated fields {repeated}")
    return values


def load_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Parses a JSON file of unknown origin in bounded memory.

    Args:
        path: An existing file, in UTF-8 with or without a byte order mark.
        max_bytes: Maximum size in bytes.

    Raises:
        ValueError: If the file is too large, not UTF-8 or not JSON, repeats a field, or is nested
            too deeply. The message does not name the file.
    """
    if (size := path.stat().st_size) > max_bytes:
        raise ValueError(f"{size} bytes, expected at most {max_bytes}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        return json.loads(text, object_pairs_hook=reject_repeated_keys)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(folder: str, name: str) -> dict[str, Any] | None:
    """Returns the content of a JSON file, or None if it does not exist."""
    path = Path(folder) / name
    if not path.is_file():
        return None
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def write_json(
    folder: str | Path, name: str, values: Mapping[str, Any], ensure_ascii: bool = True
) -> None:
    """Writes a JSON file atomically.

    Numbers that are not finite, which JSON does not have, become null.

    Args:
        folder: An existing folder.
        name: Name of the file.
        values: Content of the file.
        ensure_ascii: Whether to escape characters other than ASCII.
    """
    text = json.dumps(_finite(values), indent=2, ensure_ascii=ensure_ascii, allow_nan=False)
    # A lone surrogate (a file name may contain one) has no UTF-8 encoding, but a JSON escape.
    write_atomically(Path(folder) / name, text.encode("utf-8", "backslashreplace"))


def _finite(content: Any) -> Any:
    """Replaces numbers that are not finite by None."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return content


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file atomically; see `atomic_path`."""
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


def content_digest(paths: Iterable[Path]) -> str:
    """Returns a fingerprint of the names and contents of files."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        with path.open("rb") as file:
            # Digests have a fixed length, so their concatenation is unambiguous.
            digest.update(hashlib.sha256(path.name.encode("utf-8", "surrogateescape")).digest())
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def listing_digest(paths: Iterable[Path]) -> str:
    """Returns a fingerprint of the names, sizes and modification times of files, also missing ones.

    Reading thousands of images would be too slow, and a replaced image differs in size or time.
    """
    digest = hashlib.sha256()
    for path in sorted(set(paths)):
        try:
            status = path.stat()
            line = f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n"
        except OSError:
            line = f"{path}\0absent\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
