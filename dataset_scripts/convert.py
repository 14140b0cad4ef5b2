"""Converts any source to JSON Lines, the format of a user's own records."""

from __future__ import annotations

import json
from pathlib import Path

import datasets

from .corpus import DataReport
from .files import atomic_path, write_atomically
from .options import SourceOptions
from .splitting import SourceReader


def convert(source: str, options: SourceOptions, path: str | Path) -> DataReport:
    """Reads a source and writes its records, without splits, as JSON Lines.

    Images keep their names in the image folder. Images that the source itself contains (the
    sample, Parquet) are written to a folder beside the file, `<name>_images`; each replaces a file
    of its name with other content, such as a truncated one.

    Args:
        source: Name of the source, a key of `SOURCES`.
        options: Options of the source.
        path: The file to write; it is created only once it is complete.

    Returns:
        The report on the records read, written and left out.

    Raises:
        FileExistsError: If the file exists.
        RecordError: If a record is invalid and `options.on_error` is `"raise"`.
    """
    target = Path(path).expanduser()
    if target.exists():
        raise FileExistsError(f"{target}: exists already; expected a new file")
    corpus = SourceReader(source, options).corpus
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.with_name(f"{target.stem}_images")
    written: set[str] = set()
    with atomic_path(target) as part, part.open("w", encoding="utf-8") as file:
        for record in datasets.utils.tqdm(corpus.records, desc="Writing", unit=" records"):
            values = {
                "id": record.id,
                "text": record.text,
                "image": record.image,
                "spans": record.spans,
                "label": record.label,
            }
            if record.split is not None:
                values["split"] = record.split
            file.write(json.dumps(values, ensure_ascii=False) + "\n")
            if record.image in corpus.images and str(record.image) not in written:
                written.add(str(record.image))
                _write_image(folder / str(record.image), corpus.images[str(record.image)])
    report = corpus.report
    report.records_out = len(corpus.records)
    report.check()
    return report


def _write_image(path: Path, content: bytes) -> None:
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
