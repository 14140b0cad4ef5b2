"""Class counts of predictions, and the metrics computed from them.

A class is counted within its own part, seen or unseen. `calibration` and `gzs_scores` use this
module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Metric = Literal["f1", "accuracy", "macro_accuracy"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class ClassCounts:
    """Counts from which the metrics are computed, each of shape (K,).

    A class is counted within its own part, as in the confusion matrix of that part.

    Attributes:
        support: Samples whose true label is the class.
        predicted: Samples of the class's own part that are predicted as the class.
        correct: Samples of the class that are predicted as the class.
    """

    support: IntArray
    predicted: IntArray
    correct: IntArray


def harmonic_mean(a: Any, b: Any) -> Any:
    """Harmonic mean of two non-negative numbers or arrays; 0 where both are 0.

    Examples:
        >>> float(harmonic_mean(0.5, 1.0))
        0.6666666666666666
    """
    total = np.asarray(a + b)
    return 2 * a * b / np.where(total > 0, total, 1.0)


def count_classes(predictions: IntArray, labels: IntArray, seen: BoolArray) -> ClassCounts:
    """Counts support, predictions and correct predictions of every class within its part.

    Args:
        predictions: (N,) predicted columns, in [0, K).
        labels: (N,) true columns, in [0, K).
        seen: (K,) boolean.

    Returns:
        The counts, each (K,).

    Examples:
        >>> counts = count_classes(
        ...     predictions=np.array([0, 1, 2, 0]),
        ...     labels=np.array([0, 0, 2, 2]),
        ...     seen=np.array([True, True, False]),
        ... )
        >>> counts.support, counts.predicted, counts.correct
        (array([2, 0, 2]), array([1, 1, 1]), array([1, 0, 1]))
    """
    in_part = seen[predictions] == seen[labels]
    return ClassCounts(
        support=np.bincount(labels, minlength=len(seen)),
        predicted=np.bincount(predictions[in_part], minlength=len(seen)),
        correct=np.bincount(labels[predictions == labels], minlength=len(seen)),
    )


def part_values(counts: ClassCounts, seen: BoolArray, metric: Metric) -> tuple[float, float]:
    """Computes the metric on the samples of seen labels and on those of unseen labels.

    - "accuracy": share of samples that are predicted correctly.
    - "f1": F1 of each class, averaged with the classes' support as weights.
    - "macro_accuracy": mean recall over the classes that have samples (Xian et al. 2018).

    Args:
        counts: What `count_classes` returns.
        seen: (K,) boolean.
        metric: One of the above.

    Returns:
        Both values; 0 for a part without samples.

    Examples:
        >>> seen = np.array([True, True, False])
        >>> counts = count_classes(np.array([0, 1, 2, 0]), np.array([0, 0, 2, 2]), seen)
        >>> part_values(counts, seen, "accuracy")
        (0.5, 0.5)
    """
    present = counts.support > 0
    values = []
    for part in (seen & present, ~seen & present):
        support = counts.support[part]
        terms = class_terms(metric, counts.correct[part], counts.predicted[part], support)
        values.append(float(terms.sum()) / divisor(metric, support))
    return values[0], values[1]


def class_terms(metric: Metric, correct: Any, predicted: Any, support: Any) -> Any:
    """Contribution of each class to the metric, before the division by `divisor`."""
    if metric == "f1":
        return support * (2 * correct / (support + predicted))
    return correct / support if metric == "macro_accuracy" else correct


def divisor(metric: Metric, support: IntArray) -> int:
    """Number of classes or samples of a part, at least 1; `support` omits empty classes."""
    return max(1, len(support) if metric == "macro_accuracy" else int(support.sum()))


def check_mask(seen_mask: ArrayLike) -> BoolArray:
    """Returns the mask as an array; raises a ValueError if it is invalid."""
    seen = np.asarray(seen_mask)
    if seen.ndim != 1 or seen.dtype != np.bool_ or not len(seen):
        raise ValueError(
            "seen_mask must be boolean of shape (K,), with one entry per label, K ≥ 1; "
            f"got {seen.dtype} of shape {seen.shape}"
        )
    return seen


def check_scores(scores: ArrayLike, seen_mask: ArrayLike) -> tuple[NDArray[Any], BoolArray]:
    """Returns scores and mask as arrays; raises a ValueError if their shapes do not match."""
    seen = check_mask(seen_mask)
    array = np.asarray(scores)
    if array.dtype.kind not in "fiu" or array.ndim != 2:
        raise ValueError(
            f"scores must be numbers of shape (N, K); got {array.dtype} of shape {array.shape}"
        )
    if array.shape[1] != len(seen):
        raise ValueError(
            f"scores has {array.shape[1]} columns, but seen_mask has {len(seen)} entries"
        )
    return array, seen


def check_labels(labels: ArrayLike, name: str, classes: int, samples: int | None) -> IntArray:
    """Returns columns as int64; raises a ValueError under the given name if they are invalid."""
    array = np.asarray(labels)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise ValueError(
            f"{name} must be integers of shape (N,); got {array.dtype} of shape {array.shape}"
        )
    if not len(array):
        raise ValueError(f"{name} is empty, expected at least one sample")
    if samples is not None and len(array) != samples:
        raise ValueError(f"{name} has {len(array)} entries, but there are {samples} samples")
    bad = (array < 0) | (array >= classes)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"{name} must be in [0, {classes}), one of the columns; entry {row} is {array[row]}"
        )
    return array.astype(np.int64)


def check_metric(metric: str, allowed: tuple[str, ...] = get_args(Metric)) -> None:
    """Raises a ValueError if the metric is not one of those allowed."""
    if metric not in allowed:
        raise ValueError(f"metric must be one of {', '.join(allowed)}; got {metric!r}")
