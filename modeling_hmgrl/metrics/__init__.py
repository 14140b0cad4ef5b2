"""Metrics, calibration and label sets of generalized zero-shot classification, in NumPy.

This folder does not import the rest of the package.
"""

from typing import Any

from .calibration import best_gamma
from .gzs_scores import evaluate_scores, gzs_scores
from .label_sets import LabelSets
from .temperature_scaling import best_temperature


def __getattr__(name: str) -> Any:
    if name == "GZSMetric":  # builds on `evaluate`, which is slow to import
        from .gzs_scores import GZSMetric  # noqa: PLC0415

        return GZSMetric
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "GZSMetric",
    "LabelSets",
    "best_gamma",
    "best_temperature",
    "evaluate_scores",
    "gzs_scores",
]
