"""What a caller may choose about a source; shared by all readers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .protocol import ClassPartition, even_counts, random_partition
from .schema import DataReport, RecordError, Task

LabelText = Literal["raw", "verbalised"]
OnError = Literal["raise", "report"]


@dataclass(frozen=True)
class SourceOptions:
    """The choices.

    Attributes:
        data_dir: Folder or file that holds the text, where the source is not built in.
        image_dir: Folder of the pictures.
        seed: Seed of the protocol.
        task: `"typing"` or `"relation"`, or None to find out.
        counts: Sizes of the three groups of labels; None makes them as equal as possible.
        seen: Labels with training samples. The three lists are given together or not at all.
        validation_unseen: Labels first met in validation.
        test_unseen: Labels first met in test.
        label_text: Show label names to the encoder as they are, or as a clause of English.
        on_error: Stop at the first faulty record, or leave it out and count it.

    Raises:
        TypeError: If the seed is no whole number.
        ValueError: If choices contradict each other or are unknown.
        NotADirectoryError: If the picture folder does not exist.
    """

    data_dir: str | None = None
    image_dir: str | None = None
    seed: int = 0
    task: Task | None = None
    counts: Sequence[int] | None = None
    seen: Sequence[str] | None = None
    validation_unseen: Sequence[str] | None = None
    test_unseen: Sequence[str] | None = None
    label_text: LabelText = "raw"
    on_error: OnError = "raise"

    def __post_init__(self) -> None:
        allowed: dict[str, tuple[str | None, ...]] = {
            "task": (None, "typing", "relation"),
            "label_text": ("raw", "verbalised"),
            "on_error": ("raise", "report"),
        }
        for name, values in allowed.items():
            value = getattr(self, name)
            if value not in values:
                raise ValueError(f"{name}: expected one of {values}, got {value!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed: expected a whole number, got {self.seed!r}")
        for name in ("data_dir", "image_dir"):
            path = getattr(self, name)
            if path is not None:
                # Built rows hold paths; they must not depend on where the process stands.
                object.__setattr__(self, name, str(Path(path).expanduser().resolve()))
        if self.image_dir is not None and not Path(self.image_dir).is_dir():
            raise NotADirectoryError(f"image_dir: no such folder: {self.image_dir}")
        if self.counts is not None:
            object.__setattr__(self, "counts", tuple(int(count) for count in self.counts))
        lists = (self.seen, self.validation_unseen, self.test_unseen)
        if any(lists) and not all(lists):
            raise ValueError(
                "seen, validation_unseen and test_unseen: expected all three label lists or none"
            )
        if all(lists) and self.counts is not None:
            raise ValueError("counts: not wanted where the three label lists are given")

    @property
    def given_partition(self) -> ClassPartition | None:
        """The partition made of the three label lists, if they are given."""
        if self.seen and self.validation_unseen and self.test_unseen:
            return ClassPartition(
                tuple(self.seen), tuple(self.validation_unseen), tuple(self.test_unseen)
            )
        return None

    def partition(self, labels: Collection[str]) -> ClassPartition:
        """Returns the given partition, or draws one over the labels of the data.

        Raises:
            ValueError: If there are too few labels, or the counts do not fit.
        """
        if (given := self.given_partition) is not None:
            return given
        counts = even_counts(len(labels)) if self.counts is None else self.counts
        return random_partition(sorted(labels), counts, self.seed)

    def handle(self, error: RecordError, report: DataReport) -> None:
        """Raises the error of a faulty record, or counts it.

        Raises:
            RecordError: The error, if `on_error` is `"raise"`.
        """
        if self.on_error == "raise":
            raise error
        report.leave_out(error.reason, error.place, error.detail)
