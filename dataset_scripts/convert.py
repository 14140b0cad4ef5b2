"""Writes any source as JSON Lines, the form of a user's own records."""

from __future__ import annotations

import json
import os
from pathlib import Path

import datasets

from .corpus import DataReport
from .options import SourceOptions
from .splitting import Reading


def convert(source: str, options: SourceOptions, path: str | Path) -> DataReport:
    """Reads a source and writes its records, not split, as JSON Lines.

    Pictures keep the names that they have in the picture folder. Those that a source holds itself
    (the sample, Parquet) are written to a folder beside the file, `<name>_pictures`.

    Args:
        source: Name of the source, a key of `SOURCES`.
        options: The caller's choices.
        path: The file to write; it appears when all of it is written.

    Returns:
        The report of the reading: records in, out, and left out by reason.

    Raises:
        FileExistsError: If the file exists.
        RecordError: If a record is faulty and the options say to stop there.
    """
    target = Path(path).expanduser()
    if target.exists():
        raise FileExistsError(f"{target}: exists already; expected a new file")
    corpus = Reading(source, options).corpus
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    folder = target.with_name(f"{target.stem}_pictures")
    with part.open("w", encoding="utf-8") as file:
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
            if record.image in corpus.pictures:
                picture = folder / str(record.image)
                if not picture.exists():
                    picture.parent.mkdir(parents=True, exist_ok=True)
                    picture.write_bytes(corpus.pictures[str(record.image)])
    part.replace(target)
    report = corpus.report
    report.records_out = len(corpus.records)
    report.check()
    return report
