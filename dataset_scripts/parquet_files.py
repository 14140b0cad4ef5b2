"""Bounds on what a Parquet file of unknown origin expands to.

Compression, dictionaries and repetition let a file of a kilobyte hold a billion rows or a gigabyte
of text. The bound is relative to the size of the file, and is checked before any value is kept.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
from pyarrow import parquet

MAX_COLUMNS = 1_000

# Real data expand less: the documents of CP-MNER, repeated for each of their mentions, 30-fold.
_SMALL_BYTES = 32 * 1024 * 1024
_LARGEST_RATIO = 100

# What a record takes in memory besides its text.
_ROW_BYTES = 500
_VALUE_BYTES = 8

# Bound on the memory of the rows that are decoded at once.
_BATCH_BYTES = 32 * 1024 * 1024


def check_parquet(path: Path, columns: Collection[str] | None = None) -> None:
    """Checks that a file does not expand out of proportion to its size.

    The sizes that the file declares are compared first, then the values are decoded in small parts,
    and counted, because dictionaries are declared once and used for each row. A file that has not
    changed since is not decoded again.

    Args:
        path: The file.
        columns: Names of the columns that will be read; None for all.

    Raises:
        ValueError: If it has too many columns, expands too much or is damaged.
        OSError: If it cannot be read.
    """
    state = path.stat()
    names = None if columns is None else tuple(columns)
    _check_once(path.absolute(), state.st_size, state.st_mtime_ns, names)


@lru_cache(maxsize=1024)
def _check_once(path: Path, size: int, modified: int, columns: tuple[str, ...] | None) -> None:
    """Checks a file of this size and time of modification; errors are not remembered."""
    del modified
    limit = _SMALL_BYTES + _LARGEST_RATIO * size
    with open_parquet(path) as file:
        metadata = file.metadata
        if metadata.num_columns > MAX_COLUMNS:
            raise ValueError(f"{metadata.num_columns} columns, expected at most {MAX_COLUMNS}")
        declared = metadata.num_rows * _ROW_BYTES
        for chunk in _chunks(metadata, columns):
            declared += max(chunk.total_uncompressed_size, chunk.num_values * _VALUE_BYTES)
        _check(declared, limit, f"{metadata.num_rows} rows")
        decoded, rows = metadata.num_rows * _ROW_BYTES, 0
        # For counting, more rows than a reader takes at a time make less work.
        names = None if columns is None else list(columns)
        batches = file.iter_batches(batch_rows(metadata, 8192, columns), columns=names)
        try:
            for batch in batches:
                rows += len(batch)
                decoded += sum(map(_dense_bytes, batch.columns))
                _check(decoded, limit, "its values")
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{error} after row {rows}") from None


def open_parquet(path: Path) -> Any:
    """Opens a file for reading page by page, in bounded memory."""
    return parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)


def batch_rows(metadata: Any, most: int, columns: Collection[str] | None = None) -> int:
    """Returns the number of rows to decode at once, such that they fit in a small memory.

    A value is at most as large as the part of the file, decompressed, that contains it.

    Args:
        metadata: Metadata of the file.
        most: Maximum number of rows.
        columns: Names of the columns that are read; None for all.
    """
    sizes = [chunk.total_uncompressed_size for chunk in _chunks(metadata, columns)]
    return max(1, min(most, _BATCH_BYTES // max([1, *sizes])))


def _chunks(metadata: Any, columns: Collection[str] | None) -> list[Any]:
    """Returns the metadata of the parts of a file, one for each group of rows and column."""
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    chunks = (group.column(index) for group in groups for index in range(group.num_columns))
    return [
        chunk
        for chunk in chunks
        if columns is None or chunk.path_in_schema.split(".")[0] in columns
    ]


def _check(size: int, limit: int, what: str) -> None:
    if size > limit:
        raise ValueError(
            f"{what} take {size} bytes in memory or more, expected at most {limit} for a file of "
            "this size"
        )


def _dense_bytes(array: pa.Array) -> int:
    """Returns the size of an array whose dictionaries are replaced by their values."""
    kind = array.type
    if pa.types.is_struct(kind):
        return sum(map(_dense_bytes, array.flatten()))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return len(array) * _VALUE_BYTES + _dense_bytes(array.flatten())
    if not pa.types.is_dictionary(kind):
        return int(array.nbytes)
    if pa.types.is_string(kind.value_type) or pa.types.is_binary(kind.value_type):
        return pc.sum(pc.binary_length(array.dictionary).take(array.indices)).as_py() or 0
    return len(array) * _VALUE_BYTES + int(array.dictionary.nbytes)
