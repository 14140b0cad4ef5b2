"""What the readers need from a disk: checked lines, checked pictures, and fingerprints of both."""

from __future__ import annotations

import hashlib
import io
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from .schema import Place, RecordError, check_image_name, show

# Pillow only warns between 89 and 179 megapixels; here the size is checked before decoding.
MAX_PIXELS = 89_000_000

# Named one by one because Pillow also opens formats that start a program (EPS) to be decoded.
PICTURE_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")

_BOM = b"\xef\xbb\xbf"


def read_lines(path: Path, max_bytes: int) -> Iterator[tuple[Place, str | RecordError]]:
    """Yields the lines of a UTF-8 file that are not blank, or what is wrong with them.

    A line ends at a line feed and nowhere else: text may hold other characters that Python's
    `splitlines` takes for line ends. A line that is too long is skipped without being held in
    memory.

    Args:
        path: The file. A byte order mark at its start is passed over.
        max_bytes: Longest line that is read.

    Yields:
        Place, and either the line without its end or an error for the caller to raise or count.
    """
    with path.open("rb") as file:
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
                expected = f"a line of at most {max_bytes} bytes"
                yield place, RecordError(place, "(line)", expected, f"{length} bytes", "too long")
            else:
                yield from _decode(raw, place, start)
            start += length


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


def picture_path(name: str, root: Path, place: Place, field: str = "image") -> Path:
    """Returns the path of a picture that lies in `root`, whether it exists or not.

    Raises:
        RecordError: If the name is absolute, climbs out of `root`, or leads out of it by a link.
    """
    check_image_name(name, place, field)
    path = root / name
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a loop of links
        inside = False
    if not inside:
        expected = "a picture inside the picture folder"
        raise RecordError(place, field, expected, f"a link out of it: {show(name)}", "link")
    return path


def picture_problem(source: Path | bytes) -> str | None:
    """Decodes a picture once and says what is wrong with it.

    Args:
        source: A file, or the content of one.

    Returns:
        None if the picture can be used, else the reason. Nothing is raised.
    """
    try:
        with warnings.catch_warnings():
            # Odd metadata is no reason to lose a picture; a size that Pillow warns of is.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with _open(source) as picture:
                width, height = picture.size
                if width * height > MAX_PIXELS:
                    return f"{width}×{height} pixels, more than {MAX_PIXELS}"
                picture.verify()
            # verify() finds broken checksums but not a JPEG that was cut off; decoding does. A
            # JPEG is decoded at an eighth of its size: every byte is still read.
            with _open(source) as picture:
                picture.draft(None, (max(1, width // 8), max(1, height // 8)))
                picture.load()
    except Exception as error:  # a damaged file makes Pillow's decoders raise anything at all
        return f"{type(error).__name__}: {error}"[:200]
    return None


def _open(source: Path | bytes) -> Image.Image:
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    return Image.open(stream, formats=PICTURE_FORMATS)


def find_picture(
    name: str, root: Path | None, pictures: Mapping[str, bytes]
) -> tuple[dict[str, Any] | None, str]:
    """Looks a picture up in memory, then in a folder.

    Args:
        name: Name of the picture.
        root: The picture folder, or None.
        pictures: Pictures held in memory, by name.

    Returns:
        The picture as `datasets.Image` takes it (bytes, or the path of a file) and `""`; None and
        `""` if there is none; None and the reason if it is unreadable.
    """
    if name in pictures:
        problem = picture_problem(pictures[name])
        found = {"bytes": pictures[name], "path": name}
        return (None, problem) if problem else (found, "")
    if root is None:
        return None, ""
    path = root / name
    try:
        if not path.exists():
            return None, ""
        if not path.is_file():  # opening a pipe would wait for ever
            return None, "not a regular file"
    except OSError as error:  # a name longer than the file system allows
        return None, f"{type(error).__name__}: {error.strerror}"
    problem = picture_problem(path)
    return (None, problem) if problem else ({"bytes": None, "path": str(path)}, "")


def read_json(folder: str, name: str) -> dict[str, Any] | None:
    """Returns the content of a JSON file, or None if there is no such file."""
    path = Path(folder) / name
    if not path.is_file():
        return None
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def write_json(folder: str, name: str, values: Mapping[str, Any]) -> None:
    """Writes a JSON file that is never seen half-written."""
    path = Path(folder) / name
    part = path.with_name(f"{name}.{os.getpid()}.part")
    part.write_text(json.dumps(values, indent=2), encoding="utf-8")
    part.replace(path)


def content_digest(paths: Iterable[Path]) -> str:
    """Returns a fingerprint of the names and the content of files."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        with path.open("rb") as file:
            # Digests of fixed length in a row leave no doubt where one file ends.
            digest.update(hashlib.sha256(path.name.encode("utf-8", "surrogateescape")).digest())
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def listing_digest(paths: Iterable[Path]) -> str:
    """Returns a fingerprint of the names, sizes and times of files, absent ones included.

    Reading thousands of pictures would cost more than it protects from: a picture that was
    replaced has another size or time.
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
