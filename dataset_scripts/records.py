"""Reader of a user's own records: one JSON Lines file, an object a line.

    {"id": "a1", "text": "…", "image": "pictures/1.jpg", "spans": [[4, 9]], "label": "person"}

`id`, `image` and `split` may be absent. If every record names its split, these are used; otherwise
the protocol divides labels and samples. Picture names are relative to the picture folder (by
default that of the file) and must stay inside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .files import picture_path, read_lines
from .options import SourceOptions
from .protocol import SPLITS, ClassPartition
from .schema import (
    FIELDS,
    Corpus,
    DataReport,
    Place,
    Record,
    RecordError,
    Task,
    check_record,
    show,
)

# Room for a long document in one line, and a bound on what a file without line ends can ask for.
MAX_LINE_BYTES = 4 * 1024 * 1024


def text_files(options: SourceOptions) -> list[Path]:
    """Returns the one file.

    Args:
        options: `data_dir` is the file, or a folder that holds one `*.jsonl`.

    Raises:
        ValueError: If nothing is given, or the folder holds several such files.
        FileNotFoundError: If there is no such file.
    """
    if options.data_dir is None:
        raise ValueError("data_dir: expected a .jsonl file or the folder that holds it, got None")
    path = Path(options.data_dir)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or folder")
    found = sorted(path.glob("*.jsonl"))
    if not found:
        raise FileNotFoundError(f"{path}: no *.jsonl file in this folder")
    if len(found) > 1:
        names = [file.name for file in found]
        raise ValueError(f"{path}: expected one *.jsonl file, found {names}; name the file itself")
    return found


def image_files(options: SourceOptions) -> Iterable[Path]:
    """Returns the pictures that the records name, for the cache key.

    Only these: the picture folder may be a home folder with a million other files.
    """
    [path] = text_files(options)
    root = _image_root(options, path)
    names: set[str] = set()
    for place, line in read_lines(path, MAX_LINE_BYTES):
        # What is wrong with a line is said by read(), not here.
        try:
            values = None if isinstance(line, RecordError) else _parse(line, place)
            name = values.get("image") if isinstance(values, dict) else None
            if isinstance(name, str) and name not in names:
                names.add(name)
                yield picture_path(name, root, place)
        except RecordError:
            continue


def read(options: SourceOptions) -> Corpus:
    """Reads the file.

    Args:
        options: File or folder, picture folder, seed, task, counts or label lists, what to do with
            a faulty record. Without a task the first good record decides, and all must agree.

    Returns:
        The records in the order of the file. A record without id is known by its line.

    Raises:
        ValueError: If an option does not fit, or given splits do not make a partition.
        RecordError: If a record is faulty and `options.on_error` is `"raise"`.
    """
    if options.label_text != "raw":
        raise ValueError("label_text: records show their labels as they are; expected 'raw'")
    [path] = text_files(options)
    root = _image_root(options, path)
    given = options.given_partition
    labels = None if given is None else given.labels
    report = DataReport("records")
    records: list[Record] = []
    task: Task | None = options.task
    line_of_id: dict[str, int | None] = {}
    checked_pictures: set[str] = set()
    for place, line in read_lines(path, MAX_LINE_BYTES):
        report.records_in += 1
        try:
            if isinstance(line, RecordError):
                raise line
            values = _parse(line, place)
            record = check_record(values, place, task, labels, f"line-{place.line:06d}")
            if record.image is not None and record.image not in checked_pictures:
                picture_path(record.image, root, place)
                checked_pictures.add(record.image)
            if record.id in line_of_id:
                found = f"{record.id!r}, which line {line_of_id[record.id]} has too"
                raise RecordError(place, "id", "a unique id", found, "duplicated")
            if records and (record.split is None) != (records[0].split is None):
                expected = "a split in every record or in none"
                found = f"{record.split!r}, while line {records[0].place.line} differs"
                raise RecordError(place, "split", expected, found, "not in every record")
        except RecordError as error:
            options.handle(error, report)
            continue
        for name in sorted(set(values) - set(FIELDS)):
            report.note(f"unknown field {name!r}", place, "not used")
        task = record.task
        line_of_id[record.id] = place.line
        records.append(record)
    if task is None or not records:
        raise ValueError(f"{path}: no usable record in this file")
    partition = _partition(records, options)
    texts = {label: label for label in partition.labels}
    return Corpus(task, records, partition, texts, report, image_root=root)


def _image_root(options: SourceOptions, path: Path) -> Path:
    return path.parent if options.image_dir is None else Path(options.image_dir)


def _parse(line: str, place: Place) -> Any:
    """Returns the value that a line writes out."""
    expected = "one JSON object"
    try:
        return json.loads(line, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        found = f"{error.msg} at character {error.pos} of {show(line)}"
        raise RecordError(place, "(line)", expected, found, "not JSON") from None
    except (ValueError, RecursionError) as error:
        raise RecordError(place, "(line)", expected, str(error), "not JSON") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the object of these fields; Python's own reader would keep the last of two."""
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"the field(s) {twice} more than once")
    return values


def _partition(records: list[Record], options: SourceOptions) -> ClassPartition:
    """Returns the partition that the given splits make, or that of the options."""
    if records[0].split is None:
        return options.partition({record.label for record in records})
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
