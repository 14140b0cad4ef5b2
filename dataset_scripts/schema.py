"""The one record that both tasks share, its checks, and the report on what was left out.

    {"id", "text", "image" (or null), "spans": [[start, end], …], "label"}

Spans are character offsets into `text`, end exclusive. One span makes a typing record, two make a
relation record, head first. A check that fails raises `RecordError`, which names the file, the
line and the field and says what was expected; `DataReport` counts every record that a reader left
out, so that nothing disappears without a trace.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, NamedTuple

from .protocol import SPLITS, ClassPartition, Split

Task = Literal["typing", "relation"]
Span = tuple[int, int]

SPANS_OF_TASK: dict[Task, int] = {"typing": 1, "relation": 2}
FIELDS = ("id", "text", "image", "spans", "label", "split")

# A report is read by people: a handful of examples shows the kind of fault, the count its extent.
MAX_EXAMPLES = 5
_MAX_SHOWN = 80


class Place(NamedTuple):
    """Where a record was read: the file's name and the line, counted from 1."""

    file: str
    line: int | None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}, line {self.line}"


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


@dataclass(frozen=True)
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


@dataclass
class Finding:
    """How often something was found, with the first few examples."""

    count: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)

    def add(self, place: Place, detail: str) -> None:
        """Counts one more, and keeps it as an example while there are few."""
        self.count += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append({"file": place.file, "line": place.line, "detail": detail})


@dataclass
class DataReport:
    """What a source held and what became of it.

    Attributes:
        source: Name of the source, e.g. `"mnre"`.
        settings: What decides the result: seed, protocol version, label text, ….
        records_in: Records met in the files.
        records_out: Records in one of the three splits.
        left_out: Records in none, by reason.
        notes: Oddities of records that were kept, by kind.
        images: Pictures of the kept records: `found`, `missing`, `unreadable`, `none` (the record
            names no picture) count records and add up to `records_out`; `distinct` counts the
            names.
        splits: Number of records by split and label.
    """

    source: str
    settings: dict[str, Any] = field(default_factory=dict)
    records_in: int = 0
    records_out: int = 0
    left_out: dict[str, Finding] = field(default_factory=dict)
    notes: dict[str, Finding] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    splits: dict[str, dict[str, int]] = field(default_factory=dict)

    def leave_out(self, reason: str, place: Place, detail: str) -> None:
        """Counts a record that is in no split."""
        self.left_out.setdefault(reason, Finding()).add(place, detail)

    def note(self, kind: str, place: Place, detail: str) -> None:
        """Counts an oddity of a record that is kept."""
        self.notes.setdefault(kind, Finding()).add(place, detail)

    def check(self) -> None:
        """Makes sure that no record is unaccounted for.

        Raises:
            RuntimeError: If records in is not records out plus records left out.
        """
        left_out = sum(finding.count for finding in self.left_out.values())
        if self.records_in != self.records_out + left_out:
            raise RuntimeError(
                f"{self.source}: {self.records_in} records in, but {self.records_out} out and "
                f"{left_out} left out; a reader lost or invented records"
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain dicts, lists, strings and numbers."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataReport:
        """Returns the report that `to_dict` turned into `values`."""
        left_out = {name: Finding(**value) for name, value in values["left_out"].items()}
        notes = {name: Finding(**value) for name, value in values["notes"].items()}
        return cls(**{**values, "left_out": left_out, "notes": notes})

    def summary(self) -> str:
        """Returns a few lines for a log."""
        left_out = sum(finding.count for finding in self.left_out.values())
        lines = [
            f"{self.source}: {self.records_in} records in, {self.records_out} out, "
            f"{left_out} left out"
        ]
        for heading, findings in (("left out", self.left_out), ("note", self.notes)):
            lines += [f"  {heading}: {name}: {f.count}" for name, f in sorted(findings.items())]
        lines += [f"  {split}: {sum(n.values())} records" for split, n in self.splits.items()]
        lines.append("  pictures: " + ", ".join(f"{n} {name}" for name, n in self.images.items()))
        return "\n".join(lines)


@dataclass
class Corpus:
    """What a reader hands over: checked records, and all that is needed to split and show them.

    Attributes:
        task: The task of all records.
        records: The records in the order of the files.
        partition: The groups of labels. Records of other labels are left out when splitting.
        label_texts: Text shown to the encoder for each label of the partition.
        report: Report so far: records in, those left out while reading, notes.
        image_root: Folder in which picture names are looked up, or None.
        pictures: Pictures held in memory, by name.
    """

    task: Task
    records: list[Record]
    partition: ClassPartition
    label_texts: dict[str, str]
    report: DataReport
    image_root: Path | None = None
    pictures: Mapping[str, bytes] = field(default_factory=dict)


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
            absent. Other fields are ignored here.
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
    spans = check_spans(require(values, "spans", place, "the mentions"), text, place, task)
    label = check_string(require(values, "label", place, "a label name"), "label", place)
    if labels is not None and label not in labels:
        raise RecordError(place, "label", f"one of {sorted(labels)}", show(label), "unknown")
    split = values.get("split")
    if split is not None and split not in SPLITS:
        raise RecordError(place, "split", f"one of {list(SPLITS)}", show(split), "unknown")
    image = check_image_name(values.get("image"), place)
    return Record(name, text, spans, label, image, split, place)
