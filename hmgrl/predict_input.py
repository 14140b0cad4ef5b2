"""Lines of JSON, in and out: read one by one in bounded memory, checked, answered."""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from dataset_scripts.files import without_repeats
from dataset_scripts.images import picture_path
from dataset_scripts.schema import Place, RecordError, show
from dataset_scripts.sources.tables import MAX_LINE_BYTES

ANSWERS = ("prediction", "error")
"""Fields that an answer adds to a record."""

_BOM = b"\xef\xbb\xbf"
_MAX_ERROR = 500
_INPUT = re.compile(r"inputs\[\d+\](?:\.(\w+))?")


class LineReader:
    """Reads lines that are not blank, and knows how far it came.

    Args:
        stream: Where the bytes come from.
        name: Name of the file, for errors.

    Attributes:
        lines: Lines read so far, blank ones too.
        blank: Blank ones among them.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self.name, self.lines, self.blank = name, 0, 0
        self._stream, self._hash = stream, hashlib.sha256()

    @property
    def digest(self) -> str:
        """Hash of all lines read so far."""
        return self._hash.hexdigest()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Yields number and bytes of the lines that are not blank, from where it stands.

        A line longer than `MAX_LINE_BYTES` is cut to one byte more.
        """
        while raw := self._next():
            if raw.strip():
                yield self.lines, raw
            else:
                self.blank += 1

    def _next(self) -> bytes:
        raw = part = self._stream.readline(MAX_LINE_BYTES + 1)
        self._hash.update(raw)
        while len(part) > MAX_LINE_BYTES and not part.endswith(b"\n"):
            part = self._stream.readline(MAX_LINE_BYTES + 1)
            self._hash.update(part)
        if raw:
            self.lines += 1
        return raw.removeprefix(_BOM) if self.lines == 1 else raw

    def skip(self, lines: int, digest: str) -> None:
        """Passes over lines that were answered before.

        Args:
            lines: Their number.
            digest: Their hash.

        Raises:
            ValueError: If they are not the same lines any more.
        """
        while self.lines < lines and (raw := self._next()):
            self.blank += not raw.strip()
        if self.lines < lines or self.digest != digest:
            raise ValueError(
                f"{self.name}: its first {lines:,} lines are not those that were answered, "
                "expected the same input; --overwrite begins anew"
            )


@dataclass(frozen=True)
class Chunk:
    """Lines that are answered together.

    Attributes:
        index: Number of the chunk in the input.
        rows: Line number and bytes of each; none if the chunk is another process's.
        lines: Lines of the input up to its end.
        digest: Hash of all of them.
    """

    index: int
    rows: list[tuple[int, bytes]]
    lines: int
    digest: str


def chunks(
    reader: LineReader, size: int, first: int = 0, mine: Callable[[int], bool] = lambda _: True
) -> Iterator[Chunk]:
    """Cuts the lines that follow into chunks.

    Args:
        reader: The lines.
        size: Lines of a chunk; the last has fewer.
        first: Number of the first chunk.
        mine: Whether the chunk of a number is wanted.
    """
    rows, index = iter(reader), first
    while True:
        wanted = mine(index)
        part, count = [], 0
        for row in islice(rows, size):
            count += 1
            if wanted:
                part.append(row)
        if not count:
            return
        if wanted:
            yield Chunk(index, part, reader.lines, reader.digest)
        index += 1


def count_lines(path: Path) -> int:
    """Counts the lines of a file that are not blank."""
    with path.open("rb") as stream:
        return sum(1 for _ in LineReader(stream, path.name))


def text_of(raw: bytes, place: Place) -> str:
    """Decodes a line.

    Raises:
        RecordError: If it is too long, or no UTF-8.
    """
    if len(raw) > MAX_LINE_BYTES:
        expected = f"a line of at most {MAX_LINE_BYTES} bytes"
        raise RecordError(place, "(line)", expected, "a longer one", "too long")
    try:
        return raw.decode("utf-8").rstrip(" \t\r\n")
    except UnicodeDecodeError as error:
        found = f"byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the line"
        raise RecordError(place, "(line)", "UTF-8", found, "not UTF-8") from None


def record_of(text: str, place: Place) -> dict[str, Any]:
    """Parses a line.

    Raises:
        ValueError: If it is no JSON object, names a field twice, or has a field of an answer.
    """
    try:
        record = json.loads(text, object_pairs_hook=without_repeats, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{place}, column {error.pos + 1}: expected one JSON object, got: {error.msg}"
        ) from None
    except (ValueError, RecursionError) as error:  # a field twice, a number or nesting too large
        raise ValueError(f"{place}: expected one JSON object, got: {error}") from None
    if not isinstance(record, dict):
        raise RecordError(place, "(record)", "a JSON object", show(record), "not an object")
    for name in ANSWERS:
        if name in record:
            expected = "no such field, as the answer stands there"
            raise RecordError(place, name, expected, show(record[name]), "of an answer")
    return record


def _no_constant(name: str) -> None:
    raise ValueError(f"{name}, which JSON does not know")


def query_of(
    record: Mapping[str, Any],
    place: Place,
    fields: Collection[str],
    image_dir: Path | None,
    image_hosts: Collection[str],
) -> dict[str, Any]:
    """Takes from a record what the pipeline reads.

    Args:
        record: The record.
        place: Where it was read.
        fields: Names of the fields that are read.
        image_dir: Folder of the pictures, or None.
        image_hosts: Hosts from which pictures are fetched.

    Returns:
        The fields; the picture as a path inside its folder, or an address.

    Raises:
        RecordError: If there is no picture folder, or the picture is not inside it.
    """
    query = {name: value for name, value in record.items() if name in fields}
    image = query.get("image")
    if image is None or (image_hosts and isinstance(image, str) and "://" in image):
        return query
    if image_dir is None:
        expected = "a picture folder (--image-dir) for pictures that are named"
        raise RecordError(place, "image", expected, "none", "no picture folder")
    return query | {"image": str(picture_path(image, image_dir, place))}


def placed(error: str, place: Place) -> str:
    """Names line and field in an error of the pipeline, which counts its inputs.

    Args:
        error: The error, such as "inputs[3].spans: got ...".
        place: Where the input was read.
    """
    if match := _INPUT.match(error):
        field = f", field {match[1]!r}" if match[1] else ""
        error = f"{place}{field}{error[match.end() :]}"
    elif not error.startswith(str(place)):
        error = f"{place}: {error}"
    return error if len(error) <= _MAX_ERROR else error[: _MAX_ERROR - 1] + "…"


def answered(text: str, answer: Mapping[str, Any]) -> bytes:
    """Adds an answer to a line; what stood there stays as it was, to the byte.

    Args:
        text: The line, one JSON object.
        answer: What is added.

    Returns:
        The line with its end.
    """
    body = text[:-1].rstrip()
    return encoded(answer, f"{body}{'' if body.lstrip() == '{' else ', '}")


def encoded(values: Mapping[str, Any], start: str = "{") -> bytes:
    """Returns a JSON object as a line, whose opening brace may be replaced by other text."""
    # Half a surrogate pair (a label's text may hold one) has no UTF-8, but JSON knows this escape.
    line = start + json.dumps(values, ensure_ascii=False, allow_nan=False)[1:] + "\n"
    return line.encode("utf-8", "backslashreplace")


def rounded(prediction: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a prediction with six significant digits, what float32 is worth."""
    numbers = {
        name: [float(f"{value:.6g}") for value in prediction[name]]
        for name in ("scores", "probabilities")
    }
    return {**prediction, **numbers}
