"""The one record that both tasks share, and its checks.

    {"id", "text", "image" (or null), "spans": [[start, end], …], "label"}

Spans are character offsets into `text`, end exclusive. One span makes a typing record, two make a
relation record, head first; they may overlap. `mention` may stand in place of `spans`: the text of
the mention, or of head and tail. A check that fails raises `RecordError`, which names the file, the
line and the field and says what was expected.
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
FIELDS = ("id", "text", "image", "spans", "mention", "label", "split")

_MAX_SHOWN = 80


class Place(NamedTuple):
    """Where a record was read: the file's name and the line, counted from 1.

    A file that has no lines counts something else, which `unit` names.
    """

    file: str
    line: int | None
    unit: str = "line"

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}, {self.unit} {self.line}"


class RecordError(ValueError):
    """A record that cannot be used.

    Attributes:
        place: File and line.
        field: Name of the field, e.g. `"spans"`.
        expected: What was expected there.
        found: What was there instead.
        reason: Short text that is the same for all errors of a kind, by which they are counted.
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


NOWHERE = Place("", None)


@dataclass(frozen=True, slots=True)
class Record:
    """One checked sample.

    Attributes:
        id: Unique name within its source.
        text: The sentence.
        spans: One span (typing) or head and tail (relation).
        label: Name of the type or relation.
        image: Name of the picture as the source gives it, or None.
        split: The split that the source asks for, or None where the protocol decides.
        place: Where it was read.
    """

    id: str
    text: str
    spans: tuple[Span, ...]
    label: str
    image: str | None = None
    split: Split | None = None
    place: Place = NOWHERE

    @property
    def task(self) -> Task:
        """The task that the number of spans stands for."""
        return "typing" if len(self.spans) == 1 else "relation"

    @property
    def overlap(self) -> str | None:
        """Head and tail in words if they share characters, which is no fault, else None."""
        if len(self.spans) == 1:
            return None
        (a, b), (c, d) = self.spans
        if max(a, c) >= min(b, d):
            return None
        return f"{self.text[a:b]!r} and {self.text[c:d]!r}"


def show(value: object) -> str:
    """Returns a value as an error message shows it: its type, and its start if it is long."""
    text = repr(value)
    if len(text) > _MAX_SHOWN:
        text = text[: _MAX_SHOWN - 1] + "…"
    return f"{type(value).__name__} {text}"


def require(values: Mapping[str, Any], name: str, place: Place, expected: str) -> Any:
    """Returns the value of a field.

    Raises:
        RecordError: If the field is absent.
    """
    if name not in values:
        raise RecordError(place, name, expected, "no such field", "missing")
    return values[name]


def check_string(value: object, name: str, place: Place) -> str:
    """Returns `value` if it is a string that can be stored.

    Raises:
        RecordError: If it is not a string, is empty or only white space, or holds a NUL character
            or half of a surrogate pair, which JSON can write but UTF-8 cannot.
    """
    expected = "a string that is not empty"
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
        found = f"half a surrogate pair at character {error.start}"
        raise RecordError(place, name, "valid Unicode", found, "not valid Unicode") from None
    return value


def check_image_name(value: object, place: Place, name: str = "image") -> str | None:
    """Returns the name of a picture: a path below the picture folder, or None.

    Raises:
        RecordError: If it is not a string, or is a URL, an absolute path or one that climbs out.
    """
    if value is None:
        return None
    text = check_string(value, name, place)
    expected = "a path relative to the picture folder and inside it"
    if "://" in text:
        raise RecordError(place, name, expected + " (nothing is fetched)", show(text), "URL")
    # Both kinds of path are checked everywhere: the file may have been written on another system.
    windows = PureWindowsPath(text)
    if PurePosixPath(text).is_absolute() or windows.drive or windows.root:
        raise RecordError(place, name, expected, show(text), "absolute path")
    if ".." in windows.parts:
        raise RecordError(place, name, expected, show(text), "leaves its folder")
    return text


def check_spans(
    value: object, text: str, place: Place, task: Task | None = None
) -> tuple[Span, ...]:
    """Returns the spans of a record.

    Args:
        value: List of one or two `[start, end]` pairs.
        text: The sentence into which they point.
        place: Where the record was read.
        task: The task that decides their number, or None for either.

    Raises:
        RecordError: If the number is wrong, a span is no pair of whole numbers, is reversed, empty,
            out of range or only white space, or if both spans are the same.
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
        # bool is a kind of int in Python, but true is no offset.
        if (
            not isinstance(span, (list, tuple))
            or len(span) != 2
            or not all(isinstance(offset, int) and not isinstance(offset, bool) for offset in span)
        ):
            expected = "[start, end] of two whole numbers"
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


def difference(found: str, name: str) -> str:
    """Returns in a word why a mention's name is not the text of its span."""
    if "".join(found.split()) == "".join(name.split()):
        return "white space"
    if unicodedata.normalize("NFKC", found) == unicodedata.normalize("NFKC", name):
        return "Unicode form"
    if found.casefold() == name.casefold():
        return "case"
    return "other text"


def find_mentions(value: object, text: str, place: Place) -> list[Span]:
    """Returns the spans of mentions given by their text.

    Args:
        value: The mention, or a list of mentions.
        text: The sentence.
        place: Where the record was read.

    Raises:
        RecordError: If a mention is no string, or does not occur exactly once in the text.
    """
    spans = []
    for given in value if isinstance(value, (list, tuple)) else [value]:
        mention = check_string(given, "mention", place)
        starts, at = [], text.find(mention)
        while at >= 0:
            starts.append(at)
            at = text.find(mention, at + 1)
        if len(starts) != 1:
            expected = "a mention that occurs once in the text, or its spans"
            times = f"at {show(starts)}" if starts else "nowhere in the text"
            reason = "occurs several times" if starts else "not in the text"
            raise RecordError(place, "mention", expected, f"{show(mention)} {times}", reason)
        spans.append((starts[0], starts[0] + len(mention)))
    return spans


def _spans_of(
    values: Mapping[str, Any], text: str, place: Place, task: Task | None
) -> tuple[Span, ...]:
    """Returns the spans of a record that gives them, or its mentions, or both."""
    given, mention = values.get("spans"), values.get("mention")
    if given is None and mention is None:
        expected = "the mentions, by spans or by mention"
        raise RecordError(place, "spans", expected, "no such field", "missing")
    if given is None:
        return check_spans(find_mentions(mention, text, place), text, place, task)
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
    """Turns one object of a source into a record.

    Args:
        values: Mapping with the fields named in the module's docstring; `image` and `split` may be
            absent or None. Other fields are ignored here.
        place: Where it was read.
        task: The task that decides the number of spans, or None for either.
        labels: The allowed labels, or None for any.
        default_id: The id of a record that has none; None makes `id` a required field.

    Returns:
        The checked record.

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
