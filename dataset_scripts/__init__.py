"""Real files → one record schema → generalized zero-shot splits.

`load_gzs` is the way in. This package knows data only: no model, no tensor.
"""

from .base import SOURCES, GZSBuilder, GZSData, load_gzs
from .options import SourceOptions
from .protocol import (
    PROTOCOL_VERSION,
    SPLITS,
    WIKIDIVERSE_PARTITIONS,
    ClassPartition,
    even_counts,
    random_partition,
    split_samples,
)
from .schema import DataReport, Record, RecordError, Task

__all__ = [
    "PROTOCOL_VERSION",
    "SOURCES",
    "SPLITS",
    "WIKIDIVERSE_PARTITIONS",
    "ClassPartition",
    "DataReport",
    "GZSBuilder",
    "GZSData",
    "Record",
    "RecordError",
    "SourceOptions",
    "Task",
    "even_counts",
    "load_gzs",
    "random_partition",
    "split_samples",
]
