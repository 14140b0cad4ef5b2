"""Reader of the embedded sample: entity typing with openly licensed images.

The sample is part of the package, so that every command can be tried without other data. Its
content and its sources are described in `sample_data/README.md`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pyarrow import parquet  # type: ignore[import-untyped]

from ..corpus import Corpus, DataReport
from ..options import SourceOptions
from ..schema import Place, Record, RecordError, check_record

FOLDER = Path(__file__).parents[1] / "sample_data"
ROWS = "sample.parquet"


def text_files(options: SourceOptions) -> list[Path]:
    """Returns the file of the sample, which contains the images.

    Raises:
        ValueError: If the options specify other files or another task.
        FileNotFoundError: If the package was installed without the sample.
    """
    if options.data_dir is not None or options.image_dir is not None:
        raise ValueError("data_dir, image_dir: expected none, the sample is part of the package")
    if options.task not in (None, "typing"):
        raise ValueError(f"task: expected 'typing' for the sample, got {options.task!r}")
    path = FOLDER / ROWS
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the embedded sample is missing")
    return [path]


def image_files(options: SourceOptions) -> Iterable[Path]:  # noqa: ARG001
    """Returns nothing: the images are part of the file."""
    return []


def read(options: SourceOptions) -> Corpus:
    """Reads the sample.

    Args:
        options: Handling of invalid records.

    Returns:
        The records in the order of the file, with their images in memory.
    """
    [path] = text_files(options)
    report = DataReport("sample")
    records: list[Record] = []
    images: dict[str, bytes] = {}
    for number, row in enumerate(parquet.read_table(path).to_pylist(), 1):
        place = Place(path.name, number)
        report.records_in += 1
        image, content = row["picture"], row["image"]
        if content is not None:
            images[image] = content["bytes"]
        try:
            values = {**row, "image": image if content is not None else None}
            records.append(check_record(values, place, task="typing"))
        except RecordError as error:
            options.handle(error, report)
    return Corpus("typing", records, report, images=images)
