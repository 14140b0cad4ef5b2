"""Rows of a user's own records, from JSON Lines, CSV, Parquet or a `datasets.Dataset`.

Every format yields for each row a place and a mapping of fields, or an error. Images stored in a
table are not kept in memory: a row's `image` becomes a name derived from the content, by which
`Table.images` loads the image again, one batch of rows at a time.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import datasets
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

from ..files import raw_lines, read_lines, reject_repeated_keys
from ..parquet_files import batch_rows, check_parquet, open_parquet
from ..schema import FIELDS, Place, RecordError, show

SUFFIXES = (".jsonl", ".csv", ".parquet")

# Sufficient for a long document in one line, and a limit for files without line ends.
MAX_LINE_BYTES = 4 * 1024 * 1024

# Number of rows of a table with images that are in memory at a time.
_BATCH_ROWS = 64

# Larger image files are not read.
MAX_IMAGE_BYTES = 64 * 1024 * 1024

Rows = Iterator[tuple[Place, "Mapping[str, Any] | RecordError"]]


class Batches(Protocol):
    """Opens the rows of a table in Arrow."""

    def __call__(self, first: int, column: str | None = None) -> Iterator[pa.Table]:
        """Yields the rows from `first` on: all columns, one column, or a field of one ("a.b")."""


@dataclass
class Table:
    """The rows of a file or data set, and the images stored in it.

    Attributes:
        name: Name in errors and reports.
        rows: Returns an iterator over the rows.
        image_names: Returns an iterator over the names of image files, not validated.
        images: Content of stored images, by the name in the field `image`. Contains the images of
            the rows read so far.
    """

    name: str
    rows: Callable[[], Rows]
    image_names: Callable[[], Iterator[tuple[Place, object]]]
    images: Mapping[str, bytes] = field(default_factory=dict)


def open_table(path: Path, purpose: str = "Reading") -> Table:
    """Opens a file according to its suffix.

    Raises:
        ValueError: If the suffix is not one of `SUFFIXES`, or a Parquet file is invalid.
    """
    kind = path.suffix.lower()
    if kind == ".jsonl":
        return _line_table(path.name, lambda: _json_rows(path, purpose))
    if kind == ".csv":
        return _line_table(path.name, lambda: _csv_rows(path, purpose))
    if kind == ".parquet":
        features, others, length, batches = _parquet(path)
        return _arrow_table(path.name, features, others, length, batches, purpose)
    raise ValueError(
        f"{path}: expected a file whose name ends in {', '.join(SUFFIXES)}; archives must be "
        "unpacked first"
    )


def open_dataset(dataset: datasets.Dataset, purpose: str = "Reading") -> Table:
    """Opens a data set from memory or from another loader."""
    arrow = dataset.with_format("arrow")

    def batches(first: int, column: str | None = None) -> Iterator[pa.Table]:
        if column == "image.path":  # selecting rows would copy the bytes of the images as well
            paths = pc.struct_field(dataset.data.column("image"), "path")
            if dataset._indices is not None:
                paths = paths.take(dataset._indices.column(0))
            for batch in pa.table({"image": paths}).to_batches(max_chunksize=_BATCH_ROWS):
                yield pa.Table.from_batches([batch])
            return
        columns = arrow if column is None else arrow.select_columns(column)
        for start in range(first, len(columns), _BATCH_ROWS):
            yield columns[start : start + _BATCH_ROWS]

    others = [name for name in dataset.column_names if name not in FIELDS]
    features, length = dataset.features, len(dataset)
    return _arrow_table("dataset", features, others, length, batches, purpose, local=True)


def _line_table(name: str, rows: Callable[[], Rows]) -> Table:
    def image_names() -> Iterator[tuple[Place, object]]:
        for place, values in rows():
            if isinstance(values, Mapping):
                yield place, values.get("image")

    return Table(name, rows, image_names)


def _json_rows(path: Path, purpose: str) -> Rows:
    for place, line in read_lines(path, MAX_LINE_BYTES, purpose):
        if isinstance(line, RecordError):
            yield place, line
            continue
        try:
            yield place, json.loads(line, object_pairs_hook=reject_repeated_keys)
        except json.JSONDecodeError as error:
            found = f"{error.msg} at character {error.pos} of {show(line)}"
            yield place, RecordError(place, "(line)", "one JSON object", found, "not JSON")
        except (ValueError, RecursionError) as error:
            yield place, RecordError(place, "(line)", "one JSON object", str(error), "not JSON")


def _csv_rows(path: Path, purpose: str) -> Rows:
    """Yields the rows of a CSV file with a header; `spans`, `occurrence` and lists are JSON."""
    row_bytes = 0

    def lines() -> Iterator[str]:
        nonlocal row_bytes
        for place, raw, start, length in raw_lines(path, MAX_LINE_BYTES, purpose):
            if length > MAX_LINE_BYTES:
                expected = f"a line of at most {MAX_LINE_BYTES} bytes"
                raise RecordError(place, "(line)", expected, f"{length} bytes", "too long")
            row_bytes += length
            if row_bytes > MAX_LINE_BYTES:
                expected = f"a row of at most {MAX_LINE_BYTES} bytes, each quote closed"
                raise RecordError(place, "(line)", expected, f"{row_bytes} bytes", "too long")
            # Bytes that are not UTF-8 are reported later, with the cell that contains them.
            yield raw.decode("utf-8-sig" if start == 0 else "utf-8", "surrogateescape")

    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader(lines(), strict=True)
    first = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(header, Place(path.name, 1))
        first = reader.line_num + 1
        row_bytes = 0
        for cells in reader:
            row_bytes = 0
            place, first = Place(path.name, first), reader.line_num + 1
            if cells:  # blank lines have no cells
                yield place, _csv_record(header, cells, place)
    except csv.Error as error:
        # An unclosed quote extends to the end of the file; the error is reported where it begins.
        found = f"{error} in line {reader.line_num}"
        raise RecordError(Place(path.name, first), "(line)", "CSV", found, "not CSV") from None


def _check_header(header: list[str], place: Place) -> None:
    expected = (
        "a header with text, label, spans or mention, and optionally occurrence, id, image, split"
    )
    missing = [name for name in ("text", "label") if name not in header]
    if missing or not {"spans", "mention"} & set(header):
        raise RecordError(place, "(header)", expected, show(header), "columns missing")
    if len(set(header)) < len(header):
        raise RecordError(place, "(header)", "each column once", show(header), "column repeated")


def _csv_record(header: list[str], cells: list[str], place: Place) -> dict[str, Any] | RecordError:
    if len(cells) != len(header):
        expected, found = f"{len(header)} cells as in the header", f"{len(cells)}: {show(cells)}"
        return RecordError(place, "(line)", expected, found, "wrong number of cells")
    values: dict[str, str | None] = {}
    for name, cell in zip(header, cells, strict=True):
        if bad := [char for char in cell if "\udc80" <= char <= "\udcff"]:
            found = f"byte 0x{ord(bad[0]) - 0xDC00:02x} in {show(cell)}"
            return RecordError(place, name, "UTF-8", found, "not UTF-8")
        # CSV represents a missing value by an empty cell.
        values[name] = cell if cell or name not in FIELDS else None
    parsed: dict[str, Any] = {}
    for name, expected in (
        ("spans", "[[start, end]] in JSON"),
        ("mention", "a list in JSON"),
        ("occurrence", "a number, or a list of numbers, in JSON"),
    ):
        written = values.get(name)
        if written is None or (name == "mention" and not written.startswith('["')):
            continue
        try:
            parsed[name] = json.loads(written)
        except (ValueError, RecursionError):
            return RecordError(place, name, expected, show(written), "not JSON")
    return values | parsed


def _parquet(path: Path) -> tuple[datasets.Features, list[str], int, Batches]:
    """Opens a Parquet file.

    Returns:
        Its columns, the names of those that are not read, its number of rows, and a reader of rows.
    """
    try:
        with open_parquet(path) as file:
            schema = file.schema_arrow
            metadata = file.metadata
            sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        check_parquet(path, FIELDS)
        if len(set(schema.names)) < len(schema.names):
            raise ValueError(f"columns repeated: {show(schema.names)}")
        used = [schema.field(name) for name in schema.names if name in FIELDS]
        features = datasets.Features.from_arrow_schema(pa.schema(used, schema.metadata))
        # Without any column the number of rows would be lost.
        read = [field.name for field in used] or schema.names[:1]
        rows = batch_rows(metadata, _BATCH_ROWS, read)
    except Exception as error:  # invalid metadata make `datasets` raise errors of any type
        found = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: expected a Parquet file, got: {found}") from None

    def batches(first: int, column: str | None = None) -> Iterator[pa.Table]:
        columns = read if column is None else [column]
        with open_parquet(path) as file:
            group, skipped = 0, 0
            while group < len(sizes) and skipped + sizes[group] <= first:
                skipped += sizes[group]
                group += 1
            groups = range(group, len(sizes))
            try:
                for batch in file.iter_batches(rows, list(groups), columns):
                    if skipped + len(batch) > first:
                        yield pa.Table.from_batches([batch]).slice(max(0, first - skipped))
                    skipped += len(batch)
            except (pa.ArrowException, OSError) as error:
                found = f"{error} after row {skipped}"
                raise ValueError(f"{path}: expected a Parquet file, got: {found}") from None

    others = [name for name in schema.names if name not in FIELDS]
    return features, others, sum(sizes), batches


def _arrow_table(
    name: str,
    features: datasets.Features,
    others: list[str],
    length: int,
    batches: Batches,
    purpose: str,
    local: bool = False,
) -> Table:
    """Returns a table of Arrow columns, with names for a `ClassLabel` and bytes for an `Image`.

    Images given by an absolute path are read only if the table is `local`, i.e. was made on this
    machine.
    """
    images = _ImageColumn(batches)
    # Of other columns only the names are used: their values may have no Python type.
    unknown = dict.fromkeys(others)

    def rows() -> Rows:
        number = 0
        with datasets.utils.tqdm(total=length, desc=f"{purpose} {name}", unit=" rows") as progress:
            for table in batches(0):
                unread = [column for column in table.column_names if column not in FIELDS]
                for values in _rows_of(table.drop_columns(unread)):
                    number += 1
                    place = Place(name, number, "row")
                    if isinstance(values, dict):
                        record = _arrow_record(values, features, images, place, local)
                        yield place, record if isinstance(record, RecordError) else record | unknown
                    else:
                        column, found = values
                        yield place, RecordError(place, column, "UTF-8", found, "not UTF-8")
                progress.update(len(table))

    def image_names() -> Iterator[tuple[Place, object]]:
        kind = features.arrow_schema.field("image").type if "image" in features else pa.null()
        if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
            column = "image.path"
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            column = "image"
        else:
            return
        number = 0
        for table in batches(0, column):
            for values in _rows_of(table):
                number += 1
                value = values["image"] if isinstance(values, dict) else None
                yield (
                    Place(name, number, "row"),
                    value["path"] if isinstance(value, dict) else value,
                )

    return Table(name, rows, image_names, images)


def _rows_of(table: pa.Table) -> Iterator[dict[str, Any] | tuple[str, str]]:
    """Yields the rows; for a row that is not UTF-8, the column and a description instead.

    Arrow does not validate strings until they are converted to Python objects.
    """
    try:
        # to_pylist() of a table without columns would return no rows.
        yield from table.to_pylist() if table.column_names else [{}] * len(table)
        return
    except UnicodeDecodeError:
        pass
    for row in range(len(table)):
        values: dict[str, Any] = {}
        for name in table.column_names:
            try:
                values[name] = table.column(name)[row].as_py()
            except UnicodeDecodeError as error:
                yield name, f"byte 0x{error.object[error.start]:02x} in {show(error.object)}"
                break
        else:
            yield values


def _arrow_record(
    values: dict[str, Any],
    features: datasets.Features,
    images: _ImageColumn,
    place: Place,
    local: bool,
) -> dict[str, Any] | RecordError:
    assert place.line is not None
    row = place.line - 1
    label = values.get("label")
    kind = features.get("label")
    if isinstance(kind, datasets.ClassLabel) and label is not None:
        if not 0 <= label < kind.num_classes:
            expected = f"the index of one of {kind.num_classes} names"
            return RecordError(place, "label", expected, show(label), "unknown")
        values["label"] = kind.int2str(label)
    image = values.get("image")
    if isinstance(image, dict) and set(image) <= {"bytes", "path"}:
        content, path = image.get("bytes"), image.get("path")
        if content is None and local and isinstance(path, str) and Path(path).is_absolute():
            image = _read_image(Path(path)) or images.add_absent(path, row)
        else:
            image = path if content is None else content
    if isinstance(image, bytes):
        image = images.add(image, row)
    values["image"] = image
    return values


def _read_image(path: Path) -> bytes:
    """Returns the content of an image file written by a loader of `datasets`, or empty bytes."""
    if path.is_file() and path.stat().st_size <= MAX_IMAGE_BYTES:
        return path.read_bytes()
    return b""


class _ImageColumn(Mapping[str, bytes]):
    """Images in a column of a table, by a name derived from their content.

    Access in the order of the rows reads each batch once; any other order is possible, but slower.

    Args:
        batches: Returns an iterator over the rows of the table from any row on.
    """

    def __init__(self, batches: Batches) -> None:
        self._open = batches
        self._row_of: dict[str, int] = {}
        self._first = 0
        self._images: list[Any] = []
        self._following: Iterator[pa.Table] | None = None

    def add(self, content: bytes, row: int) -> str:
        """Returns the name of an image, and stores the first row that contains it."""
        name = f"sha256/{hashlib.sha256(content).hexdigest()}"
        self._row_of.setdefault(name, row)
        return name

    def add_absent(self, path: str, row: int) -> str:
        """Returns the name of an image file that does not exist; it has no content."""
        name = f"absent/{path.lstrip('/')}"
        self._row_of.setdefault(name, row)
        return name

    def __getitem__(self, name: str) -> bytes:
        row = self._row_of[name]
        ahead = row - self._first - len(self._images)
        if self._following is None or row < self._first or ahead >= _BATCH_ROWS:
            self._first, self._images, self._following = row, [], self._open(row, "image")
        while row >= self._first + len(self._images):
            self._first += len(self._images)
            self._images = next(self._following).column("image").to_pylist()
        image = self._images[row - self._first]
        if isinstance(image, dict):
            content = image.get("bytes")
            image = _read_image(Path(image["path"])) if content is None else content
        assert isinstance(image, bytes)
        return image

    def __contains__(self, name: object) -> bool:
        return name in self._row_of

    def __iter__(self) -> Iterator[str]:
        return iter(self._row_of)

    def __len__(self) -> int:
        return len(self._row_of)
