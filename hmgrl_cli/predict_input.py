"""Reads and checks JSON Lines in bounded memory, and formats the lines of the output."""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from dataset_scripts.files import reject_repeated_keys
from dataset_scripts.images import image_path
from dataset_scripts.schema import Place, RecordError, show
from dataset_scripts.sources.tables import MAX_LINE_BYTES

OUTPUT_FIELDS = ("prediction", "error")
"""Fields of which the output adds one to each record."""

_BOM = b"\xef\xbb\xbf"
_MAX_ERROR = 500
_INPUT = re.compile(r"inputs\[\d+\](?:\.(\w+))?")


class LineReader:
    """Iterates over the non-blank lines of a stream and tracks its position.

    Args:
        stream: Binary stream to read.
        name: Name of the file in error messages.

    Attributes:
        lines: Number of lines read so far, including blank ones.
        blank: Number of blank lines among them.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self.name, self.lines, self.blank = name, 0, 0
        self._stream, self._hash = stream, hashlib.sha256()

    @property
    def digest(self) -> str:
        """SHA-256 of all lines read so far."""
        return self._hash.hexdigest()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Yields the number and the bytes of each non-blank line from the current position on.

        A line longer than `MAX_LINE_BYTES` is truncated to one byte more than that.
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
        """Skips lines that an earlier run has processed.

        Args:
            lines: Number of these lines.
            digest: Their hash, as :attr:`digest`.

        Raises:
            ValueError: If the lines have changed since.
        """
        while self.lines < lines and (raw := self._next()):
            self.blank += not raw.strip()
        if self.lines < lines or self.digest != digest:
            raise ValueError(
                f"{self.name}: the first {lines:,} lines differ from those already processed; "
                "expected the same input, or --overwrite to start over"
            )


@dataclass(frozen=True)
class Chunk:
    """Lines that are processed together.

    Attributes:
        index: Index of the chunk in the input.
        rows: Number and bytes of each non-blank line.
        lines: Number of input lines up to the end of the chunk.
        digest: Hash of all of these.
    """

    index: int
    rows: list[tuple[int, bytes]]
    lines: int
    digest: str


def iterate_chunks(
    reader: LineReader,
    size: int,
    first: int = 0,
    is_assigned: Callable[[int], bool] = lambda _: True,
) -> Iterator[Chunk]:
    """Divides the remaining lines into chunks and yields those assigned to this process.

    Args:
        reader: The lines.
        size: Number of lines in a chunk; the last one may have fewer.
        first: Index of the first chunk.
        is_assigned: Whether the chunk of an index is assigned to this process.
    """
    rows, index = iter(reader), first
    while True:
        wanted = is_assigned(index)
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
    """Counts the non-blank lines of a file."""
    with path.open("rb") as stream:
        return sum(1 for _ in LineReader(stream, path.name))


def decode_line(raw: bytes, place: Place) -> str:
    """Decodes a line.

    Raises:
        RecordError: If it is too long or not UTF-8.
    """
    if len(raw) > MAX_LINE_BYTES:
        expected = f"a line of at most {MAX_LINE_BYTES} bytes"
        raise RecordError(place, "(line)", expected, "a longer one", "too long")
    try:
        return raw.decode("utf-8").rstrip(" \t\r\n")
    except UnicodeDecodeError as error:
        found = f"byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the line"
        raise RecordError(place, "(line)", "UTF-8", found, "not UTF-8") from None


def parse_record(text: str, place: Place) -> dict[str, Any]:
    """Parses a line.

    Raises:
        ValueError: If it is not a JSON object, repeats a field, or has a field of the output.
    """
    try:
        record = json.loads(
            text, object_pairs_hook=reject_repeated_keys, parse_constant=_no_constant
        )
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{place}, column {error.pos + 1}: expected one JSON object, got: {error.msg}"
        ) from None
    except (ValueError, RecursionError) as error:  # repeated field, number or nesting too large
        raise ValueError(f"{place}: expected one JSON object, got: {error}") from None
    if not isinstance(record, dict):
        raise RecordError(place, "(record)", "a JSON object", show(record), "not an object")
    for name in OUTPUT_FIELDS:
        if name in record:
            expected = "no such field, since the output adds it"
            raise RecordError(place, name, expected, show(record[name]), "field of the output")
    return record


def _no_constant(name: str) -> None:
    raise ValueError(f"{name}, which is not valid JSON")


def make_input(
    record: Mapping[str, Any],
    place: Place,
    fields: Collection[str],
    image_dir: Path | None,
    image_hosts: Collection[str],
) -> dict[str, Any]:
    """Selects the fields of a record that the pipeline reads.

    Args:
        record: The record.
        place: File and line of the record.
        fields: Names of the fields that the pipeline reads.
        image_dir: Folder of the images, or None.
        image_hosts: Hosts from which images may be fetched.

    Returns:
        The fields; the image as a path inside its folder, or as a URL.

    Raises:
        RecordError: If there is no image folder, or the image is not inside it.
    """
    values = {name: value for name, value in record.items() if name in fields}
    image = values.get("image")
    if image is None or (image_hosts and isinstance(image, str) and "://" in image):
        return values
    if image_dir is None:
        expected = "an image folder (--image-dir) for records that name an image"
        raise RecordError(place, "image", expected, "none", "no image folder")
    return values | {"image": str(image_path(image, image_dir, place))}


def locate_error(error: str, place: Place) -> str:
    """Replaces the input's index in an error of the pipeline by file, line and field.

    Args:
        error: The error, such as "inputs[3].spans: got ...".
        place: File and line of the input.
    """
    if match := _INPUT.match(error):
        field = f", field {match[1]!r}" if match[1] else ""
        error = f"{place}{field}{error[match.end() :]}"
    elif not error.startswith(str(place)):
        error = f"{place}: {error}"
    return error if len(error) <= _MAX_ERROR else error[: _MAX_ERROR - 1] + "…"


def add_fields(text: str, values: Mapping[str, Any]) -> bytes:
    """Appends fields to a JSON object and leaves its other bytes unchanged.

    Args:
        text: The line, one JSON object.
        values: The fields to append.

    Returns:
        The line, including its line end.
    """
    body = text[:-1].rstrip()
    return encode_line(values, f"{body}{'' if body.lstrip() == '{' else ', '}")


def encode_line(values: Mapping[str, Any], start: str = "{") -> bytes:
    """Encodes a JSON object as a line; ``start`` may replace its opening brace."""
    # A lone surrogate (a label's text may contain one) has no UTF-8 encoding, but a JSON escape.
    line = start + json.dumps(values, ensure_ascii=False, allow_nan=False)[1:] + "\n"
    return line.encode("utf-8", "backslashreplace")


def round_prediction(prediction: Mapping[str, Any]) -> dict[str, Any]:
    """Rounds scores and probabilities to six significant digits, the precision of float32."""
    numbers = {
        name: [float(f"{value:.6g}") for value in prediction[name]]
        for name in ("scores", "probabilities")
    }
    return {**prediction, **numbers}
