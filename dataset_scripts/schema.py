"""The record schema of both tasks, and its validation.

    {"id", "text", "image" (or null), "spans": [[start, end], …], "label"}

Spans are character offsets into `text`, end exclusive. A typing record has one span, a relation
record two, of head and tail; they may overlap. `mention` may replace `spans`: the text of the
mention, or of head and tail; `occurrence` selects one of several occurrences. If both are given,
they must agree. A failed check raises `RecordError`, which reports the file, the line, the field
and what was expected.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Literal, NamedTuple

from .protocol import SPLITS, Split

Task = Literal["typing", "relation"]
Span = tuple[int, int]

SPANS_OF_TASK: dict[Task, int] = {"typing": 1, "relation": 2}
FIELDS = ("id", "text", "image", "spans", "mention", "occurrence", "label", "split")

_MAX_SHOWN = 80

# Bounds on the length of a mention times the number of its occurrences, and on this number.
_MAX_COMPARED_CHARACTERS = 10_000_000
_MAX_OCCURRENCES = 200_000


class Place(NamedTuple):
    """The location of a record: file name and line, counted from 1.

    `unit` is the name of what is counted in files without lines, e.g. `"row"`.
    """

    file: str
    line: int | None
    unit: str = "line"

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}, {self.unit} {self.line}"


class RecordError(ValueError):
    """An invalid record.

    Attributes:
        place: File and line.
        field: Name of the field, e.g. `"spans"`.
        expected: What was expected.
        found: What was found instead.
        reason: Short description of the kind of error, by which errors are counted.
    """

    def __init__(self, place: Place, field: str, expected: str, found: str, reason: str) -> None:
        self.place = place
        self.field = field
        self.expected = expected
        self.found = found
        self.reason = f"{field}: {reason}"
        super().__init__(f"{place}, field {field!r}: expected {expected}, got {found}")

    @property
    def detail(self) -> str:
        """What was expected and what was found, without the place."""
        return f"expected {self.expected}, got {self.found}"


UNKNOWN_PLACE = Place("", None)


@dataclass(frozen=True, slots=True)
class Record:
    """A validated sample.

    Attributes:
        id: Identifier, unique within the source.
        text: The sentence.
        spans: One span (typing), or the spans of head and tail (relation).
        label: Name of the type or relation.
        image: Name of the image in the source, or None.
        split: The split specified by the source, or None if the protocol assigns it.
        place: File and line of the record.
    """

    id: str
    text: str
    spans: tuple[Span, ...]
    label: str
    image: str | None = None
    split: Split | None = None
    place: Place = UNKNOWN_PLACE

    @property
    def task(self) -> Task:
        """The task, determined by the number of spans."""
        return "typing" if len(self.spans) == 1 else "relation"

    @property
    def overlap(self) -> str | None:
        """Description of head and tail if they overlap, which is valid, else None."""
        if len(self.spans) == 1:
            return None
        (a, b), (c, d) = self.spans
        if max(a, c) >= min(b, d):
            return None
        return f"{self.text[a:b]!r} and {self.text[c:d]!r}"


def show(value: object) -> str:
    """Formats a value for an error message: its type and its representation, truncated if long."""
    if isinstance(value, (str, bytes, list, tuple)):
        value = value[: 4 * _MAX_SHOWN]  # the representation of the rest would not be shown
    try:
        text = repr(value)
    except ValueError:  # an integer with too many digits
        text = "with too many digits"
    if len(text) > _MAX_SHOWN:
        text = text[: _MAX_SHOWN - 1] + "…"
    return f"{type(value).__name__} {text}"


def require(values: Mapping[str, Any], name: str, place: Place, expected: str) -> Any:
    """Returns the value of a field.

    Raises:
        RecordError: If the field is missing.
    """
    if name not in values:
        raise RecordError(place, name, expected, "no such field", "missing")
    return values[name]


def check_string(value: object, name: str, place: Place) -> str:
    """Returns `value` if it is a string that can be stored.

    Raises:
        RecordError: If it is not a string, is blank, or contains a NUL character or a lone
            surrogate, which JSON can represent but UTF-8 cannot.
    """
    expected = "a non-empty string"
    if not isinstance(value, str):
        raise RecordError(place, name, expected, show(value), "wrong type")
    if not value.strip():
        raise RecordError(place, name, expected, show(value), "empty")
    if "\0" in value:
        raise RecordError(
            place, name, "a string without NUL", f"NUL at character {value.index(chr(0))}", "NUL"
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"a lone surrogate at character {error.start}"
        raise RecordError(place, name, "valid Unicode", found, "not valid Unicode") from None
    return value


def check_image_name(value: object, place: Place, name: str = "image") -> str | None:
    """Returns the name of an image: a path inside the image folder, or None.

    Raises:
        RecordError: If it is not a string, or is a URL, an absolute path or a path that leaves the
            folder.
    """
    if value is None:
        return None
    text = check_string(value, name, place)
    expected = "a path relative to the image folder and inside it"
    if "://" in text:
        raise RecordError(place, name, expected + " (URLs are not fetched)", show(text), "URL")
    # Both kinds of path are checked, because the file may come from another operating system.
    windows = PureWindowsPath(text)
    if PurePosixPath(text).is_absolute() or windows.drive or windows.root:
        raise RecordError(place, name, expected, show(text), "absolute path")
    if ".." in windows.parts:
        raise RecordError(place, name, expected, show(text), "leaves its folder")
    return text


def check_spans(
    value: object, text: str, place: Place, task: Task | None = None
) -> tuple[Span, ...]:
    """Validates and returns the spans of a record.

    Args:
        value: List of one or two `[start, end]` pairs.
        text: The sentence.
        place: File and line of the record.
        task: The task that determines the number of spans, or None for either.

    Raises:
        RecordError: If the number is wrong, a span is not a pair of integers, is reversed, empty,
            out of range or blank, or if both spans are equal.
    """
    number = "1 or 2 spans" if task is None else f"{SPANS_OF_TASK[task]} span(s) ({task})"
    expected = f"a list of {number}, each [start, end]"
    if not isinstance(value, (list, tuple)):
        raise RecordError(place, "spans", expected, show(value), "wrong type")
    allowed = (1, 2) if task is None else (SPANS_OF_TASK[task],)
    if len(value) not in allowed:
        raise RecordError(place, "spans", expected, f"{len(value)} span(s)", "wrong number")
    spans: list[Span] = []
    for span in value:
        # bool is a subclass of int, but not a valid offset.
        if (
            not isinstance(span, (list, tuple))
            or len(span) != 2
            or not all(isinstance(offset, int) and not isinstance(offset, bool) for offset in span)
        ):
            expected = "[start, end] of two integers"
            raise RecordError(place, "spans", expected, show(span), "wrong type")
        start, end = span
        if start >= end:
            reason = "empty" if start == end else "reversed"
            raise RecordError(place, "spans", "start < end", show(span), reason)
        if start < 0 or end > len(text):
            expected = f"offsets within the text's {len(text)} characters"
            raise RecordError(place, "spans", expected, show(span), "out of range")
        if not text[start:end].strip():
            raise RecordError(place, "spans", "a mention", "only white space", "white space")
        spans.append((start, end))
    if len(set(spans)) != len(spans):
        raise RecordError(place, "spans", "two different spans", show(value), "duplicated")
    return tuple(spans)


def name_difference(found: str, name: str) -> str:
    """Describes briefly how a mention's name differs from the text of its span."""
    if "".join(found.split()) == "".join(name.split()):
        return "white space"
    if unicodedata.normalize("NFKC", found) == unicodedata.normalize("NFKC", name):
        return "Unicode form"
    if found.casefold() == name.casefold():
        return "case"
    return "other text"


def is_whole_word(text: str, start: int, end: int) -> bool:
    """Whether a part of a text neither begins nor ends inside a word."""

    def joins(position: int) -> bool:
        if not 0 < position < len(text):
            return False
        if unicodedata.combining(text[position]):  # an accent belongs to the letter before it
            return True
        return all(char.isalnum() or char == "_" for char in text[position - 1 : position + 1])

    return not (joins(start) or joins(end))


def find_mentions(value: object, text: str, place: Place, occurrence: object = None) -> list[Span]:
    """Returns the spans of mentions given by their text.

    Occurrences that are whole words take precedence: "is" in "This is it" is the second word, and
    only a mention that is nowhere a whole word, as in scripts without spaces, may be part of one.

    Args:
        value: The mention, or a list of mentions.
        text: The sentence.
        place: File and line of the record.
        occurrence: Index among all occurrences, those inside words included, counted from 0; for a
            list of mentions, a list of one number (or None) for each. None if the mention occurs
            once.

    Raises:
        RecordError: If a mention is not a string or does not occur, or occurs several times and
            `occurrence` does not select one.
    """
    mentions = value if isinstance(value, (list, tuple)) else [value]
    numbers = occurrence if isinstance(occurrence, (list, tuple)) else [occurrence] * len(mentions)
    if len(numbers) != len(mentions):
        expected = f"{len(mentions)} number(s), one for each mention"
        raise RecordError(place, "occurrence", expected, show(occurrence), "wrong number")
    spans = []
    for given, number in zip(mentions, numbers, strict=True):
        mention = check_string(given, "mention", place)
        start = _find_mention(mention, text, place, number)
        spans.append((start, start + len(mention)))
    return spans


def _find_mention(mention: str, text: str, place: Place, occurrence: object) -> int:
    # The bounds limit the time for a long mention that overlaps itself, or a short one.
    limit = min(_MAX_OCCURRENCES, 1 + _MAX_COMPARED_CHARACTERS // len(mention))
    starts: list[int] = []
    at = text.find(mention)
    while at >= 0 and len(starts) < limit:
        starts.append(at)
        at = text.find(mention, at + 1)
    if occurrence is not None and starts:
        number = occurrence if type(occurrence) is int else -1  # bool is a subclass of int
        if 0 <= number < len(starts):
            return starts[number]
        expected = f"a number from 0 to {len(starts) - 1}, as {show(mention)} occurs that often"
        raise RecordError(place, "occurrence", expected, show(occurrence), "out of range")
    found = [at for at in starts if is_whole_word(text, at, at + len(mention))] or starts
    if len(found) != 1 or len(starts) == limit > 1:
        expected = "a mention that occurs once in the text, or its occurrence or spans"
        times = f"at {show(found)}" if found else "not in the text"
        reason = "occurs several times" if found else "not in the text"
        raise RecordError(place, "mention", expected, f"{show(mention)} {times}", reason)
    return found[0]


def _spans_of(
    values: Mapping[str, Any], text: str, place: Place, task: Task | None
) -> tuple[Span, ...]:
    """Returns the spans of a record from its fields `spans` and `mention`, one or both."""
    given, mention = values.get("spans"), values.get("mention")
    if given is None and mention is None:
        expected = "the mentions, as spans or mention"
        raise RecordError(place, "spans", expected, "no such field", "missing")
    if given is None:
        found = find_mentions(mention, text, place, values.get("occurrence"))
        return check_spans(found, text, place, task)
    spans = check_spans(given, text, place, task)
    if mention is not None:
        marked = [text[start:end] for start, end in spans]
        if marked != (list(mention) if isinstance(mention, (list, tuple)) else [mention]):
            expected = f"the text at the spans, {show(marked)}"
            raise RecordError(place, "mention", expected, show(mention), "differs from spans")
    return spans


def check_record(
    values: object,
    place: Place,
    task: Task | None = None,
    labels: Collection[str] | None = None,
    default_id: str | None = None,
) -> Record:
    """Validates an object of a source and converts it to a record.

    Args:
        values: Mapping with the fields described in the module's docstring; `image` and `split` may
            be missing or None. Other fields are ignored.
        place: File and line of the record.
        task: The task that determines the number of spans, or None for either.
        labels: The allowed labels, or None for any.
        default_id: The id of a record without one; None makes `id` a required field.

    Returns:
        The validated record.

    Raises:
        RecordError: If a field is missing or wrong.
    """
    if not isinstance(values, Mapping):
        found = show(values)
        raise RecordError(place, "(record)", "an object with named fields", found, "not an object")
    name = values.get("id")
    if name is None and default_id is not None:
        name = default_id
    elif isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    else:
        name = check_string(require(values, "id", place, "a unique id"), "id", place)
    text = check_string(require(values, "text", place, "the sentence"), "text", place)
    spans = _spans_of(values, text, place, task)
    label = check_string(require(values, "label", place, "a label name"), "label", place)
    if labels is not None and label not in labels:
        raise RecordError(place, "label", f"one of {sorted(labels)}", show(label), "unknown")
    split = values.get("split")
    if split is not None and split not in SPLITS:
        raise RecordError(place, "split", f"one of {list(SPLITS)}", show(split), "unknown")
    image = check_image_name(values.get("image"), place)
    return Record(name, text, spans, label, image, split, place)
