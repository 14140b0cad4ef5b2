"""Reader of a user's own records: JSON Lines, CSV, Parquet or a `datasets.Dataset`.

    {"id": "a1", "text": "…", "image": "pictures/1.jpg", "spans": [[4, 9]], "label": "person"}

`id`, `image` and `split` are optional, and `mention`, with `occurrence` if there are several, may
replace `spans`. If every record specifies
its split, these are used; otherwise the protocol splits labels and samples. Image
names are relative to the image folder (by default that of the file) and must stay inside it;
Parquet files and data sets may contain the images themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..corpus import Corpus, DataReport
from ..files import find_files
from ..images import image_path
from ..options import SourceOptions
from ..protocol import SPLITS, ClassPartition
from ..schema import FIELDS, Record, RecordError, Task, check_record
from .tables import SUFFIXES, Table, open_dataset, open_table


def text_files(options: SourceOptions) -> list[Path]:
    """Returns the file, or an empty list if a data set is given.

    Args:
        options: `data_dir` is the file, or a folder that holds one `*.jsonl`, `*.csv` or
            `*.parquet`.

    Raises:
        ValueError: If nothing is given, or the folder contains several such files.
        FileNotFoundError: If the file does not exist.
    """
    if options.dataset is not None:
        return []
    found = find_files(options.data_dir, SUFFIXES)
    if len(found) > 1:
        kinds = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
        names = [file.name for file in found]
        raise ValueError(
            f"{options.data_dir}: expected one file of {kinds}, found {names}; specify one of them"
        )
    return found


def image_files(options: SourceOptions) -> Iterable[Path]:
    """Returns the images that the records name, for the cache key.

    Other files of the image folder are not listed: it may be a home folder with a million of them.
    """
    table, root = _table(options, "Looking for images in")
    names: set[str] = set()
    # Errors of rows and files are reported by read().
    with suppress(RecordError):
        for place, name in table.image_names():
            if not isinstance(name, str) or name in names:
                continue
            names.add(name)
            if options.dataset is not None and Path(name).is_absolute():
                yield Path(name)
            elif root is not None:
                with suppress(RecordError):
                    yield image_path(name, root, place)


def read(options: SourceOptions) -> Corpus:
    """Reads the file or the data set.

    Args:
        options: File, folder or data set, image folder, task, label lists, handling of invalid
            records. Without a task, the first valid record determines it for all.

    Returns:
        The records in their order. Records without an id are identified by their line.

    Raises:
        ValueError: If an option does not apply, or the given splits do not define a partition.
        RecordError: If a record is invalid and `options.on_error` is `"raise"`; always if a file is
            not valid CSV, since the following rows cannot be separated.
    """
    table, root = _table(options, "Reading")
    given = options.given_partition
    labels = None if given is None else given.labels
    report = DataReport("records")
    records: list[Record] = []
    task: Task | None = options.task
    line_of_id: dict[str, int | None] = {}
    checked_images: set[str] = set()
    for place, values in table.rows():
        report.records_in += 1
        try:
            if isinstance(values, RecordError):
                raise values
            record = check_record(values, place, task, labels, f"{place.unit}-{place.line:06d}")
            name = record.image
            if name is not None and name not in table.images and name not in checked_images:
                if root is None:
                    expected = "an image folder (image_dir) for records that name an image"
                    raise RecordError(place, "image", expected, "None", "no image folder")
                image_path(name, root, place)
                checked_images.add(name)
            if record.id in line_of_id:
                found = f"{record.id!r}, also in {place.unit} {line_of_id[record.id]}"
                raise RecordError(place, "id", "a unique id", found, "duplicated")
            if records and (record.split is None) != (records[0].split is None):
                expected = "a split in every record or in none"
                found = f"{record.split!r}, while {place.unit} {records[0].place.line} differs"
                raise RecordError(place, "split", expected, found, "not in every record")
        except RecordError as error:
            options.handle(error, report)
            continue
        for name in sorted(set(values) - set(FIELDS)):
            report.note(f"unknown field {name!r}", place, "ignored")
        if common := record.overlap:
            report.note("head and tail overlap", place, common)
        task = record.task
        line_of_id[record.id] = place.line
        records.append(record)
    if task is None or not records:
        raise ValueError(f"{table.name}: expected at least one valid record, got none")
    partition = None if records[0].split is None else _partition(records, options)
    return Corpus(task, records, report, partition, image_root=root, images=table.images)


def _table(options: SourceOptions, purpose: str) -> tuple[Table, Path | None]:
    """Returns the rows and the image folder."""
    root = options.image_root
    if options.dataset is not None:
        return open_dataset(options.dataset, purpose), root
    [path] = text_files(options)
    return open_table(path, purpose), path.parent if root is None else root


def _partition(records: list[Record], options: SourceOptions) -> ClassPartition:
    """Returns the partition defined by the splits of the records."""
    if options.counts is not None or options.given_partition is not None:
        raise ValueError(
            "counts, label lists: expected none, since the records specify their splits"
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
            "expected each unseen label in only one of them, so that test-unseen labels are not "
            "used for tuning"
        )
    for split, unseen in (("validation", validation_unseen), ("test", test_unseen)):
        if not unseen:
            raise ValueError(
                f"split: every label of {split!r} is also in 'train'; expected at least one that "
                "is not, or no splits, so that the protocol selects unseen labels"
            )
    return ClassPartition(
        tuple(sorted(seen)), tuple(sorted(validation_unseen)), tuple(sorted(test_unseen))
    )
