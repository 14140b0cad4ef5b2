"""Reader of a user's own records: JSON Lines, CSV, Parquet or a `datasets.Dataset`.

    {"id": "a1", "text": "…", "image": "pictures/1.jpg", "spans": [[4, 9]], "label": "person"}

`id`, `image` and `split` may be absent, and `mention` may stand in place of `spans`. If every
record names its split, these are used; otherwise the protocol divides labels and samples. Picture
names are relative to the picture folder (by default that of the file) and must stay inside it;
Parquet files and data sets may hold the pictures themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..corpus import Corpus, DataReport
from ..files import find_files
from ..images import picture_path
from ..options import SourceOptions
from ..protocol import SPLITS, ClassPartition
from ..schema import FIELDS, Record, RecordError, Task, check_record
from .tables import SUFFIXES, Table, open_dataset, open_table


def text_files(options: SourceOptions) -> list[Path]:
    """Returns the one file; none where a data set is given.

    Args:
        options: `data_dir` is the file, or a folder that holds one `*.jsonl`, `*.csv` or
            `*.parquet`.

    Raises:
        ValueError: If nothing is given, or the folder holds several such files.
        FileNotFoundError: If there is no such file.
    """
    if options.dataset is not None:
        return []
    found = find_files(options.data_dir, SUFFIXES)
    if len(found) > 1:
        kinds = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
        names = [file.name for file in found]
        raise ValueError(
            f"{options.data_dir}: expected one file of {kinds}, found {names}; name the file itself"
        )
    return found


def image_files(options: SourceOptions) -> Iterable[Path]:
    """Returns the pictures that the records name, for the cache key.

    Only these: the picture folder may be a home folder with a million other files.
    """
    table, root = _table(options, "Looking for pictures in")
    names: set[str] = set()
    # What is wrong with a row or a file is said by read(), not here.
    with suppress(RecordError):
        for place, name in table.image_names():
            if not isinstance(name, str) or name in names:
                continue
            names.add(name)
            if options.dataset is not None and Path(name).is_absolute():
                yield Path(name)
            elif root is not None:
                with suppress(RecordError):
                    yield picture_path(name, root, place)


def read(options: SourceOptions) -> Corpus:
    """Reads the file or the data set.

    Args:
        options: File, folder or data set, picture folder, task, label lists, what to do with a
            faulty record. Without a task the first good record decides, and all must agree.

    Returns:
        The records in their order. A record without id is known by its line.

    Raises:
        ValueError: If an option does not fit, or given splits do not make a partition.
        RecordError: If a record is faulty and `options.on_error` is `"raise"`; in any case if a
            file is no CSV, since what follows the fault cannot be told apart.
    """
    table, root = _table(options, "Reading")
    given = options.given_partition
    labels = None if given is None else given.labels
    report = DataReport("records")
    records: list[Record] = []
    task: Task | None = options.task
    line_of_id: dict[str, int | None] = {}
    checked_pictures: set[str] = set()
    for place, values in table.rows():
        report.records_in += 1
        try:
            if isinstance(values, RecordError):
                raise values
            record = check_record(values, place, task, labels, f"{place.unit}-{place.line:06d}")
            name = record.image
            if name is not None and name not in table.pictures and name not in checked_pictures:
                if root is None:
                    expected = "a picture folder (image_dir) for pictures that are named"
                    raise RecordError(place, "image", expected, "None", "no picture folder")
                picture_path(name, root, place)
                checked_pictures.add(name)
            if record.id in line_of_id:
                found = f"{record.id!r}, which {place.unit} {line_of_id[record.id]} has too"
                raise RecordError(place, "id", "a unique id", found, "duplicated")
            if records and (record.split is None) != (records[0].split is None):
                expected = "a split in every record or in none"
                found = f"{record.split!r}, while {place.unit} {records[0].place.line} differs"
                raise RecordError(place, "split", expected, found, "not in every record")
        except RecordError as error:
            options.handle(error, report)
            continue
        for name in sorted(set(values) - set(FIELDS)):
            report.note(f"unknown field {name!r}", place, "not used")
        if common := record.overlap:
            report.note("head and tail overlap", place, common)
        task = record.task
        line_of_id[record.id] = place.line
        records.append(record)
    if task is None or not records:
        raise ValueError(f"{table.name}: no usable record in it")
    partition = None if records[0].split is None else _partition(records, options)
    return Corpus(task, records, report, partition, image_root=root, pictures=table.pictures)


def _table(options: SourceOptions, purpose: str) -> tuple[Table, Path | None]:
    """Returns the rows and the picture folder."""
    root = options.image_root
    if options.dataset is not None:
        return open_dataset(options.dataset, purpose), root
    [path] = text_files(options)
    return open_table(path, purpose), path.parent if root is None else root


def _partition(records: list[Record], options: SourceOptions) -> ClassPartition:
    """Returns the partition that the records' own splits make."""
    if options.counts is not None or options.given_partition is not None:
        raise ValueError(
            "counts and label lists: not wanted here, the records themselves name their split"
        )
    labels = {split: {r.label for r in records if r.split == split} for split in SPLITS}
    for split in SPLITS:
        if not labels[split]:
            raise ValueError(f"split: no record is in {split!r}")
    seen = labels["train"]
    validation_unseen, test_unseen = labels["validation"] - seen, labels["test"] - seen
    if both := validation_unseen & test_unseen:
        raise ValueError(
            f"split: the labels {sorted(both)} are in validation and in test but not in train; "
            "expected an unseen label in one of the two, so that nothing tuned on validation has "
            "met it"
        )
    for split, unseen in (("validation", validation_unseen), ("test", test_unseen)):
        if not unseen:
            raise ValueError(
                f"split: every label of {split!r} is also in 'train'; expected at least one that "
                "is not, or no splits, so that the protocol draws unseen labels"
            )
    return ClassPartition(
        tuple(sorted(seen)), tuple(sorted(validation_unseen)), tuple(sorted(test_unseen))
    )
