"""Options of a data source, shared by all readers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

import datasets

from .corpus import DataReport
from .files import load_json
from .label_texts import LabelText
from .leakage import GroupBy
from .protocol import WIKIDIVERSE_PARTITIONS, ClassPartition, even_counts, random_partition
from .schema import RecordError, Task

OnError = Literal["raise", "skip"]
Joiner = Literal["auto", "space", "none"]

# An earlier name of a value, which is still accepted.
ON_ERROR_NAMES = {"report": "skip"}

# A file of descriptions is read into memory as a whole.
_MAX_DESCRIPTION_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class SourceOptions:
    """Options of a data source.

    Attributes:
        data_dir: Folder or file of the texts, unless the source is embedded.
        dataset: The caller's own `datasets.Dataset`, for `"records"`, instead of `data_dir`.
        image_dir: Folder of the images.
        seed: Seed of the protocol.
        task: `"typing"` or `"relation"`, or None to infer it from the records.
        counts: Sizes of the three groups of labels; None makes them as equal as possible.
        seen: Labels with training samples. The three lists must be given together.
        validation_unseen: Labels that occur in validation only.
        test_unseen: Labels that occur in test only.
        rotation: One of the three fixed partitions of WikiDiverse's types, instead of a random one.
        group_by: Keep records that share a sentence (`"text"`), an image (`"image"`) or either
            (`"both"`) in one split; `"none"` is the paper's protocol.
        label_text: Represent labels by their names (`"raw"`), in words (`"verbalised"`), by clauses
            in parts (`"parts"`) or by descriptions (`"described"`); `"auto"` divides relations
            whose names define head, relation and tail, and takes words for all other labels.
        label_descriptions: Description of each label, or a JSON file of such an object.
        joiner: Separator between the tokens of tagged files: a space, nothing (for text tagged by
            character), or `"auto"`, which infers it from the tokens.
        on_error: Stop at the first invalid record, or skip and count invalid records.

    Raises:
        TypeError: If the seed is not an integer, or the data set or the descriptions have the wrong
            type.
        ValueError: If options contradict each other or are unknown.
        NotADirectoryError: If the image folder does not exist.
        FileNotFoundError: If the file of descriptions does not exist.
    """

    data_dir: str | None = None
    dataset: datasets.Dataset | None = None
    image_dir: str | None = None
    seed: int = 0
    task: Task | None = None
    counts: Sequence[int] | None = None
    seen: Sequence[str] | None = None
    validation_unseen: Sequence[str] | None = None
    test_unseen: Sequence[str] | None = None
    rotation: int | None = None
    group_by: GroupBy = "none"
    label_text: LabelText = "auto"
    label_descriptions: Mapping[str, str] | str | None = None
    joiner: Joiner = "auto"
    on_error: OnError = "raise"

    def __post_init__(self) -> None:
        if isinstance(self.on_error, str):
            on_error = ON_ERROR_NAMES.get(self.on_error, self.on_error)
            object.__setattr__(self, "on_error", on_error)
        allowed: dict[str, tuple[Any, ...]] = {
            "task": (None, "typing", "relation"),
            "rotation": (None, *WIKIDIVERSE_PARTITIONS),
            "group_by": get_args(GroupBy),
            "label_text": get_args(LabelText),
            "joiner": get_args(Joiner),
            "on_error": get_args(OnError),
        }
        for name, values in allowed.items():
            value = getattr(self, name)
            if value not in values:
                raise ValueError(f"{name}: expected one of {values}, got {value!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed: expected an integer, got {self.seed!r}")
        for name in ("data_dir", "image_dir"):
            path = getattr(self, name)
            if path is not None:
                # Built rows contain paths, which must not depend on the working directory.
                object.__setattr__(self, name, str(Path(path).expanduser().resolve()))
        if self.image_dir is not None and not Path(self.image_dir).is_dir():
            raise NotADirectoryError(f"image_dir: no such folder: {self.image_dir}")
        if self.label_descriptions is not None:
            object.__setattr__(self, "label_descriptions", _descriptions(self.label_descriptions))
            if self.label_text != "described":
                raise ValueError(
                    "label_descriptions: expected only with label_text='described', got "
                    f"{self.label_text!r}"
                )
        self._check_dataset()
        self._check_division()

    def _check_dataset(self) -> None:
        if self.dataset is not None:
            if not isinstance(self.dataset, datasets.Dataset):
                found = type(self.dataset).__name__
                raise TypeError(f"dataset: expected a datasets.Dataset (one split), got {found}")
            if self.data_dir is not None:
                raise ValueError("data_dir: expected none together with dataset")

    def _check_division(self) -> None:
        if self.counts is not None:
            object.__setattr__(self, "counts", tuple(int(count) for count in self.counts))
        lists = (self.seen, self.validation_unseen, self.test_unseen)
        if any(lists) and not all(lists):
            raise ValueError(
                "seen, validation_unseen and test_unseen: expected all three label lists or none"
            )
        ways = {"counts": self.counts, "label lists": any(lists) or None, "rotation": self.rotation}
        if len(given := [name for name, value in ways.items() if value is not None]) > 1:
            raise ValueError(f"expected at most one of {' and '.join(given)} to group the labels")

    def key(self) -> dict[str, Any]:
        """Returns the options as JSON values, for the cache key."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.dataset is not None:
            values["dataset"] = self.dataset._fingerprint  # changes with every transform
        return values

    @property
    def image_root(self) -> Path | None:
        """The image folder, or None."""
        return None if self.image_dir is None else Path(self.image_dir)

    @property
    def descriptions(self) -> Mapping[str, str]:
        """The caller's descriptions; a file is read when the options are created."""
        given = self.label_descriptions
        return given if isinstance(given, Mapping) else {}

    @property
    def given_partition(self) -> ClassPartition | None:
        """The partition of the three label lists or of the rotation, or None."""
        if self.rotation is not None:
            return WIKIDIVERSE_PARTITIONS[self.rotation]
        if self.seen and self.validation_unseen and self.test_unseen:
            return ClassPartition(
                tuple(self.seen), tuple(self.validation_unseen), tuple(self.test_unseen)
            )
        return None

    def partition(self, labels: Collection[str]) -> ClassPartition:
        """Returns the given partition, or draws one for the labels of the data.

        Raises:
            ValueError: If there are too few labels, or the counts do not match their number.
        """
        if (given := self.given_partition) is not None:
            return given
        counts = even_counts(len(labels)) if self.counts is None else self.counts
        return random_partition(sorted(labels), counts, self.seed)

    def handle(self, error: RecordError, report: DataReport) -> None:
        """Raises the error of an invalid record, or counts it.

        Raises:
            RecordError: The error, if `on_error` is `"raise"`.
        """
        if self.on_error == "raise":
            raise error
        report.leave_out(error.reason, error.place, error.detail)


def make_options(function: str, **choices: Any) -> SourceOptions:
    """Creates the options of a data source from the keyword arguments of a function.

    Args:
        function: Name of the function in errors.
        **choices: The arguments.

    Raises:
        TypeError: If an argument is unknown; the message names the closest known one. See also
            `SourceOptions`.
    """
    known = [field.name for field in fields(SourceOptions)]
    for name in choices:
        if name not in known:
            close = get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}" if close else f"expected one of {', '.join(known)}"
            raise TypeError(f"{name}: unknown argument of {function}; {hint}")
    return SourceOptions(**choices)


def _descriptions(given: object) -> dict[str, str]:
    """Returns the descriptions from an object or a JSON file."""
    where = "label_descriptions"
    if isinstance(given, (str, Path)):
        path = Path(given).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"label_descriptions: no such file: {path}")
        where = str(path)
        try:
            given = load_json(path, _MAX_DESCRIPTION_BYTES)
        except ValueError as error:
            raise ValueError(f"{path}: expected a JSON object in UTF-8, got: {error}") from None
    if not isinstance(given, Mapping) or not all(
        isinstance(text, str) and text.strip() for pair in given.items() for text in pair
    ):
        raise TypeError(
            f"{where}: expected an object that maps label names to descriptions, both non-empty "
            "strings"
        )
    return dict(given)
