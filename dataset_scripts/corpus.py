"""The result of a reader, and the report that accounts for every record.

Every record of a source is either kept or counted with a reason, so that no record is lost
silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .protocol import ClassPartition
from .schema import Place, Record, Task

# A few examples show the kind of problem, the count its extent.
MAX_EXAMPLES = 5


@dataclass
class Finding:
    """The number of occurrences of a problem, with the first few examples."""

    count: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def _details(self) -> list[str]:
        return [example["detail"] for example in self.examples]

    def add(self, place: Place, detail: str) -> None:
        """Counts an occurrence, and keeps it as an example if it is new and examples are few."""
        self.count += 1
        if len(self.examples) < MAX_EXAMPLES and detail not in self._details:
            self.examples.append({"file": place.file, "line": place.line, "detail": detail})


@dataclass
class DataReport:
    """Report on the content of a source and its splits.

    Attributes:
        source: Name of the source, e.g. `"mnre"`.
        settings: Settings that determine the result: seed, protocol version, label text, ….
        records_in: Number of records in the files.
        records_out: Number of records in one of the three splits.
        left_out: Records in no split, by reason.
        notes: Irregularities of records that were kept, by kind.
        images: Images of the kept records: `found`, `missing`, `unreadable` and `none` (the record
            names no image) count records and add up to `records_out`; `distinct`,
            `distinct_missing` and `distinct_unreadable` count the images themselves.
        splits: Number of records by split and label.
        overlap: For `validation` and `test`, and `validation_seen` and `test_seen` (samples of
            seen labels only): the number of `samples`, and how many of these share their `text`,
            their `image` or `either` with a training sample.
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
        """Counts an irregularity of a record that is kept."""
        self.notes.setdefault(kind, Finding()).add(place, detail)

    @property
    def records_left_out(self) -> int:
        """Number of records in no split."""
        return sum(finding.count for finding in self.left_out.values())

    def check(self) -> None:
        """Checks that every record is accounted for.

        Raises:
            RuntimeError: If `records_in` differs from the records out plus those left out.
        """
        if self.records_in != self.records_out + self.records_left_out:
            raise RuntimeError(
                f"{self.source}: {self.records_in} records in, but {self.records_out} out and "
                f"{self.records_left_out} left out; expected the reader to account for all"
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as built-in types that JSON supports."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataReport:
        """Restores a report from the result of `to_dict`."""
        left_out = {name: Finding(**value) for name, value in values["left_out"].items()}
        notes = {name: Finding(**value) for name, value in values["notes"].items()}
        return cls(**{**values, "left_out": left_out, "notes": notes})

    def summary(self) -> str:
        """Returns a summary of a few lines."""
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
                "  records by image: " + ", ".join(f"{self.images[n]:,} {n}" for n in states)
            )
            lines.append(
                f"  distinct images: {self.images['distinct']:,}, of these "
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
        f"image: {every['image']:,}, either: {every['either']:,} of {every['samples']:,} "
        f"(seen labels: {seen['either']:,} of {seen['samples']:,})"
    )


@dataclass
class Corpus:
    """The result of a reader: validated records and everything required to split them.

    Attributes:
        task: The task of all records.
        records: The records in the order of the files.
        report: Report so far: records read, records left out, and notes.
        partition: The groups of labels, if the records themselves define them. Records of other
            labels are left out when splitting.
        image_root: Folder that image names are relative to, or None.
        images: Content of images that are not files of that folder, by name; loaded one at a time.
    """

    task: Task
    records: list[Record]
    report: DataReport
    partition: ClassPartition | None = None
    image_root: Path | None = None
    images: Mapping[str, bytes] = field(default_factory=dict)
