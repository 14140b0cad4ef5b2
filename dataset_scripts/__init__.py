"""Reads data sets into a common record schema and splits them for generalized zero-shot learning.

The entry point is `load_gzs`. The package depends on neither models nor tensors.
"""

from .builder import GZSBuilder, GZSData, load_gzs, load_gzs_seeds
from .corpus import DataReport
from .options import SourceOptions
from .protocol import (
    PROTOCOL_VERSION,
    SPLITS,
    WIKIDIVERSE_PARTITIONS,
    ClassPartition,
    even_counts,
    random_partition,
    split_groups,
    split_samples,
)
from .schema import Record, RecordError, Task
from .splitting import SOURCES

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
    "load_gzs_seeds",
    "random_partition",
    "split_groups",
    "split_samples",
]
