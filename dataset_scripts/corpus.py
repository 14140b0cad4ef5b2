"""What a reader hands over, and the report on what became of each record.

Every record that a reader meets is either kept or counted under a reason, so that nothing
disappears without a trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .protocol import ClassPartition
from .schema import Place, Record, Task

# A report is read by people: a handful of examples shows the kind of fault, the count its extent.
MAX_EXAMPLES = 5


@dataclass
class Finding:
    """How often something was found, with the first few examples."""

    count: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def _details(self) -> list[str]:
        return [example["detail"] for example in self.examples]

    def add(self, place: Place, detail: str) -> None:
        """Counts one more, and keeps it as an example if it is a new one and there are few."""
        self.count += 1
        if len(self.examples) < MAX_EXAMPLES and detail not in self._details:
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
            names no picture) count records and add up to `records_out`; `distinct`,
            `distinct_missing` and `distinct_unreadable` count the pictures themselves.
        splits: Number of records by split and label.
        overlap: For `validation` and `test`, and `validation_seen` and `test_seen` (samples of
            seen labels alone): `samples`, and of these how many share their `text`, their `image`
            or `either` with a training sample.
    """

    source: str
    settings: dict[str, Any] = field(default_factory=dict)
    records_in: int = 0
    records_out: int = 0
    left_out: dict[str, Finding] = field(default_factory=dict)
    notes: dict[str, Finding] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    overlap: dict[str, dict[str, int]] = field(default_factory=dict)

    def leave_out(self, reason: str, place: Place, detail: str) -> None:
        """Counts a record that is in no split."""
        self.left_out.setdefault(reason, Finding()).add(place, detail)

    def note(self, kind: str, place: Place, detail: str) -> None:
        """Counts an oddity of a record that is kept."""
        self.notes.setdefault(kind, Finding()).add(place, detail)

    @property
    def records_left_out(self) -> int:
        """Records in no split."""
        return sum(finding.count for finding in self.left_out.values())

    def check(self) -> None:
        """Makes sure that no record is unaccounted for.

        Raises:
            RuntimeError: If records in is not records out plus records left out.
        """
        if self.records_in != self.records_out + self.records_left_out:
            raise RuntimeError(
                f"{self.source}: {self.records_in} records in, but {self.records_out} out and "
                f"{self.records_left_out} left out; a reader lost or invented records"
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
        lines = [
            f"{self.source}: {self.records_in:,} records in, {self.records_out:,} out, "
            f"{self.records_left_out:,} left out"
        ]
        for heading, findings in (("left out", self.left_out), ("note", self.notes)):
            lines += [f"  {heading}: {name}: {f.count:,}" for name, f in sorted(findings.items())]
        for split, counts in self.splits.items():
            labels = sum(number > 0 for number in counts.values())
            lines.append(f"  {split}: {sum(counts.values()):,} records of {labels} labels")
        states = ("found", "missing", "unreadable", "none")
        if self.images:
            lines.append(
                "  records by picture: " + ", ".join(f"{self.images[n]:,} {n}" for n in states)
            )
            lines.append(
                f"  pictures: {self.images['distinct']:,}, of these "
                f"{self.images['distinct_missing']:,} missing, "
                f"{self.images['distinct_unreadable']:,} unreadable"
            )
        for split in ("validation", "test"):
            if split in self.overlap:
                lines.append(f"  {_overlap_line(self.overlap, split)}")
        return "\n".join(lines)


def _overlap_line(overlap: Mapping[str, Mapping[str, int]], split: str) -> str:
    every, seen = overlap[split], overlap[f"{split}_seen"]
    return (
        f"{split} samples that share with training their sentence: {every['text']:,}, their "
        f"picture: {every['image']:,}, either: {every['either']:,} of {every['samples']:,} "
        f"(seen labels: {seen['either']:,} of {seen['samples']:,})"
    )


@dataclass
class Corpus:
    """What a reader hands over: checked records, and all that is needed to split and show them.

    Attributes:
        task: The task of all records.
        records: The records in the order of the files.
        report: Report so far: records in, those left out while reading, notes.
        partition: The groups of labels, where the records themselves fix them. Records of other
            labels are left out when splitting.
        image_root: Folder in which picture names are looked up, or None.
        pictures: Pictures that are not files of that folder, by name; read one at a time.
    """

    task: Task
    records: list[Record]
    report: DataReport
    partition: ClassPartition | None = None
    image_root: Path | None = None
    pictures: Mapping[str, bytes] = field(default_factory=dict)
