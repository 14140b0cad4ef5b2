"""Metrics of generalized zero-shot classification, in NumPy, and a wrapper for `evaluate`.

Every sample is predicted over all labels, seen and unseen. The samples of seen labels and those of
unseen labels are then evaluated separately, and *overall* is the harmonic mean of the two (HMGRL,
section on metrics; Xian et al. 2018). Training and reports use `evaluate_scores` alone.

`GZSMetric` is an `evaluate.Metric`; `evaluate` is imported when the name is first accessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .calibration import ausuc, calibrated, predict
from .class_counts import (
    BoolArray,
    ClassCounts,
    IntArray,
    check_labels,
    check_mask,
    check_scores,
    count_classes,
    harmonic_mean,
    part_values,
)
from .temperature_scaling import calibration_error

__all__ = ["GZSMetric", "evaluate_scores", "gzs_scores"]

GZSMetric: Any  # defined by __getattr__ below


def gzs_scores(
    predictions: ArrayLike,
    labels: ArrayLike,
    seen_mask: ArrayLike,
    label_names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Evaluates predictions over seen and unseen labels.

    "seen" covers the samples of seen labels, "unseen" those of unseen labels:

    - "accuracy": share of samples that are predicted correctly;
    - "f1": F1 of each class averaged by support, as scikit-learn's
      ``precision_recall_fscore_support(average="weighted", zero_division=0)`` on those samples;
    - "macro_accuracy": mean recall over the classes that have samples (Xian et al. 2018);

    and "overall" holds their harmonic means. The metrics of a part without samples are 0, and so
    are the overall ones.

    A row of the per-class table is counted within the part of its class, as F1 is: the mean of
    "f1" over the seen rows, weighted by "support", is the seen F1.

    Args:
        predictions: (N,) integers in [0, K), predicted labels, N ≥ 1.
        labels: (N,) integers in [0, K), true labels.
        seen_mask: (K,) boolean, true for seen labels.
        label_names: K names for the table; without them the numbers are the names. A name that is
            given twice is one label, the first.

    Returns:
        ``{"seen": …, "unseen": …, "overall": …, "per_class": […]}`` of plain Python values: the
        first three with keys "accuracy", "f1", "macro_accuracy"; the last a list of dicts with keys
        "name", "seen", "support", "precision", "recall", "f1", in the order of the labels.

    Raises:
        ValueError: If a shape or a dtype is not as described, a label is out of range, or a name
            that is given twice is both seen and unseen.

    Examples:
        >>> scores = gzs_scores(
        ...     predictions=[0, 1, 2, 0], labels=[0, 1, 2, 2], seen_mask=[True, True, False]
        ... )
        >>> scores["seen"]["accuracy"], scores["unseen"]["accuracy"]
        (1.0, 0.5)
        >>> round(scores["overall"]["accuracy"], 3)
        0.667
    """
    seen = check_mask(seen_mask)
    true = check_labels(labels, "labels", len(seen), None)
    predicted = check_labels(predictions, "predictions", len(seen), len(true))
    first = _first_columns(label_names, seen)
    counts = count_classes(first[predicted], first[true], seen)

    result: dict[str, Any] = {"seen": {}, "unseen": {}, "overall": {}}
    for metric in ("accuracy", "f1", "macro_accuracy"):
        seen_value, unseen_value = part_values(counts, seen, metric)
        result["seen"][metric] = seen_value
        result["unseen"][metric] = unseen_value
        result["overall"][metric] = float(harmonic_mean(seen_value, unseen_value))
    names = [str(k) for k in range(len(seen))] if label_names is None else label_names
    result["per_class"] = [_class_row(names[k], k, seen, counts) for k in np.unique(first)]
    return result


def evaluate_scores(
    scores: ArrayLike,
    labels: ArrayLike,
    seen_mask: ArrayLike,
    gamma: float,
    label_names: Sequence[str] | None = None,
    temperature: float | None = None,
) -> dict[str, Any]:
    """Predicts with calibrated stacking (HMGRL eq. 15) and evaluates the predictions.

    Args:
        scores: (N, K) an uncalibrated score for each sample and label, N ≥ 1.
        labels: (N,) integers in [0, K), true labels.
        seen_mask: (K,) boolean, true for seen labels.
        gamma: Number to subtract from the seen scores.
        label_names: As for `gzs_scores`.
        temperature: Number by which calibrated scores are divided for probabilities; None to
            evaluate no probabilities.

    Returns:
        The result of `gzs_scores` with "gamma" and "ausuc", the area under the curve of seen
        against unseen accuracy over all γ (Chao et al. 2016). With a temperature, also
        "temperature" and "calibration_error", the expected calibration error in [0, 1]
        (`temperature_scaling`).

    Raises:
        ValueError: As for `gzs_scores`; also if a score is NaN or γ is not finite.

    Examples:
        >>> result = evaluate_scores(
        ...     scores=[[0.9, 0.3], [0.8, 0.6]], labels=[0, 1], seen_mask=[True, False], gamma=0.5
        ... )
        >>> result["overall"]["f1"], result["ausuc"], result["gamma"]
        (1.0, 1.0, 0.5)
    """
    array, seen = check_scores(scores, seen_mask)
    true = check_labels(labels, "labels", len(seen), len(array))
    first = _first_columns(label_names, seen)
    columns, true_column = np.unique(first), first[true]
    if len(columns) < len(seen):
        array, seen = array[:, columns], seen[columns]
        true_column = np.searchsorted(columns, true_column)
        label_names = None if label_names is None else [label_names[k] for k in columns]

    result = gzs_scores(predict(array, seen, gamma), true_column, seen, label_names)
    result["ausuc"] = ausuc(array, true_column, seen)
    result["gamma"] = float(gamma)
    if temperature is not None:
        stacked = calibrated(array, seen, gamma)
        result["temperature"] = float(temperature)
        result["calibration_error"] = calibration_error(stacked, true_column, temperature)
    return result


def _class_row(name: str, k: int, seen: BoolArray, counts: ClassCounts) -> dict[str, Any]:
    support, predicted = int(counts.support[k]), int(counts.predicted[k])
    correct = int(counts.correct[k])
    return {
        "name": str(name),
        "seen": bool(seen[k]),
        "support": support,
        # 0 / 0 counts as 0: no sample is predicted as the class, or none belongs to it.
        "precision": correct / max(1, predicted),
        "recall": correct / max(1, support),
        "f1": 2 * correct / max(1, support + predicted),
    }


def _first_columns(label_names: Sequence[str] | None, seen: BoolArray) -> IntArray:
    """First column of the same name for each column, (K,)."""
    if label_names is None:
        return np.arange(len(seen))
    if len(label_names) != len(seen):
        raise ValueError(
            f"label_names has {len(label_names)} names, but seen_mask has {len(seen)} entries"
        )
    position: dict[str, int] = {}
    first = np.array([position.setdefault(name, k) for k, name in enumerate(label_names)])
    clash = seen[first] != seen
    if clash.any():
        raise ValueError(
            f"label_names gives {label_names[int(clash.argmax())]!r} both as seen and as unseen"
        )
    return first


def _metric_class() -> Any:
    """Defines `GZSMetric` on first access, so that importing this module omits `evaluate`."""
    import datasets  # noqa: PLC0415
    import evaluate  # noqa: PLC0415

    class GZSMetric(evaluate.Metric):
        """`gzs_scores` as an `evaluate` metric.

        ``compute`` takes ``predictions`` and ``references``, label indices of shape (N,), ``seen``,
        a boolean mask over the labels of shape (K,), and optionally ``label_names``. Predictions
        and references may be added in batches by ``add_batch`` instead. Requires no network.

        Examples:
            >>> metric = GZSMetric()
            >>> metric.add_batch(predictions=[0, 1, 2, 0], references=[0, 1, 2, 2])
            >>> scores = metric.compute(seen=[True, True, False])
            >>> scores["seen"]["accuracy"], scores["unseen"]["accuracy"]
            (1.0, 0.5)
        """

        __qualname__ = "GZSMetric"

        def _info(self) -> Any:
            number = datasets.Value("int64")
            return evaluate.MetricInfo(
                description="Accuracy and weighted F1 on seen and on unseen labels, and their "
                "harmonic mean.",
                citation="",
                inputs_description="\npredictions, references: label indices. seen: boolean mask "
                "over the labels. label_names: optional names.",
                features=datasets.Features({"predictions": number, "references": number}),
                format="numpy",
            )

        def _compute(
            self,
            predictions: ArrayLike,
            references: ArrayLike,
            seen: ArrayLike,
            label_names: Sequence[str] | None = None,
        ) -> dict[str, Any]:
            return gzs_scores(predictions, references, seen, label_names)

    return GZSMetric


def __getattr__(name: str) -> Any:
    if name != "GZSMetric":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = _metric_class()
    return globals()[name]
