"""Calibrated stacking: by how much the scores of seen labels are lowered at inference.

A model whose training samples all have seen labels scores these too high. HMGRL (eq. 15) therefore
predicts

    ŷ = argmax_k s_k − γ·1[k ∈ S],   γ ≥ 0,

the calibrated stacking of Chao et al. 2016, with γ chosen on the validation set.

One number per sample determines its prediction: the best seen label beats the best unseen one if
and only if their *gap* g = max_S s − max_U s exceeds γ. N samples therefore divide the range of γ
into at most N + 1 intervals, within which all predictions are the same. Each interval is evaluated
once, so that the best γ and the seen-unseen curve are exact and not limited by a grid.

Conventions:

- ``scores`` is (N, K), ``seen_mask`` is (K,) and boolean, ``labels`` is (N,) with columns of
  ``scores``. NaN raises an error. −inf excludes a label; every sample requires a finite score among
  the seen and among the unseen labels.
- Gaps are float64, whatever the dtype of the scores.
- Ties go to the lower column, as in ``argmax``. Between a seen and an unseen label, a tie occurs
  only if γ equals a gap exactly, which `best_gamma` avoids.
- The metric of a part (seen or unseen) without samples is 0, and so is the harmonic mean.

Sources: HMGRL, arXiv 2603.16259, eq. 15. Chao et al. 2016, "An empirical study and analysis of
generalized zero-shot learning for object recognition in the wild" (calibrated stacking, AUSUC).
Xian et al. 2018, "Zero-shot learning: a comprehensive evaluation of the good, the bad and the ugly"
(per-class accuracy, harmonic mean).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .class_counts import (
    BoolArray,
    FloatArray,
    IntArray,
    Metric,
    check_labels,
    check_metric,
    check_scores,
    class_terms,
    count_classes,
    divisor,
    harmonic_mean,
    part_values,
)

__all__ = [
    "CalibrationResult",
    "Metric",
    "SeenUnseenCurve",
    "ausuc",
    "best_gamma",
    "calibrated",
    "harmonic_mean",
    "predict",
    "seen_unseen_curve",
]

# Sums of the same per-class values in another order differ by rounding, at most by this much.
_EQUAL = 1e-12
# Scores copied at a time when the columns of one part are searched; limits the memory.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class CalibrationResult:
    """The best γ and its metrics on the samples it was chosen on.

    Attributes:
        gamma: The chosen γ, finite.
        value: Harmonic mean of `seen` and `unseen`.
        seen: The metric on the samples of seen labels.
        unseen: The metric on the samples of unseen labels.
        low: Lower end of the open interval around γ in which no prediction changes (may be −inf).
        high: Its upper end (may be inf). Both ends are 0 if γ = 0 is itself the gap of a sample.
        metric: The metric that was maximised.
    """

    gamma: float
    value: float
    seen: float
    unseen: float
    low: float
    high: float
    metric: Metric


@dataclass(frozen=True)
class SeenUnseenCurve:
    """Seen and unseen accuracy for every γ from −inf to inf.

    Attributes:
        thresholds: (M,) the distinct gaps, ascending.
        seen: (M + 1,) seen accuracy; entry i holds for thresholds[i − 1] < γ < thresholds[i].
            Never rises.
        unseen: (M + 1,) unseen accuracy, likewise. Never falls.
    """

    thresholds: FloatArray
    seen: FloatArray
    unseen: FloatArray


@dataclass(frozen=True)
class _Gaps:
    """Best seen column, best unseen column and gap of each sample, each of shape (N,)."""

    best_seen: IntArray
    best_unseen: IntArray
    gap: FloatArray

    def predictions(self, gamma: float) -> IntArray:
        tie_to_seen = (self.gap == gamma) & (self.best_seen < self.best_unseen)
        return np.where((self.gap > gamma) | tie_to_seen, self.best_seen, self.best_unseen)


def calibrated(scores: ArrayLike, seen_mask: ArrayLike, gamma: float) -> FloatArray:
    """Lowers the scores of the seen labels by γ (HMGRL eq. 15).

    Args:
        scores: (N, K) a score for each sample and label.
        seen_mask: (K,) boolean, true for seen labels.
        gamma: Number to subtract. Finite; may be negative.

    Returns:
        (N, K) float64, so that the subtraction does not round float32 scores into ties.

    Raises:
        ValueError: If a shape, a dtype or γ is not as described.

    Examples:
        >>> calibrated([[0.5, 0.25]], [True, False], gamma=0.5)
        array([[0.  , 0.25]])
    """
    scores, seen = check_scores(scores, seen_mask)
    return scores.astype(np.float64) - np.where(seen, _check_gamma(gamma), 0.0)


def predict(scores: ArrayLike, seen_mask: ArrayLike, gamma: float) -> IntArray:
    """Predicts under calibrated stacking: the argmax of `calibrated`, ties to the lower column.

    The best label of each part is found first, and their gap is then compared with γ. Thus a large
    γ cannot round seen labels into ties, and the predictions are those that `best_gamma` counted.

    Args:
        scores: (N, K) a score for each sample and label.
        seen_mask: (K,) boolean, true for seen labels. If all or none are seen, γ has no effect.
        gamma: Number to subtract from the seen scores. Finite; may be negative.

    Returns:
        (N,) int64 columns.

    Raises:
        ValueError: If a shape, a dtype or γ is not as described, or a score is NaN.

    Examples:
        >>> scores = [[0.9, 0.5], [0.8, 0.7]]
        >>> predict(scores, [True, False], gamma=0.2)
        array([0, 1])
    """
    scores, seen = check_scores(scores, seen_mask)
    return _gaps(scores, seen).predictions(_check_gamma(gamma))


def best_gamma(
    scores: ArrayLike,
    labels: ArrayLike,
    seen_mask: ArrayLike,
    metric: Metric = "f1",
    allow_negative: bool = False,
) -> CalibrationResult:
    """Finds the γ with the highest harmonic mean of the metric on seen and on unseen labels.

    The search is exact: it covers γ = 0 and every interval between two neighbouring gaps. Values
    within 1e-12 of the best count as equal. Among equal ones

    1. γ = 0 is preferred, so that nothing is calibrated without a gain;
    2. otherwise the middle of the widest interval (the lowest if several are equally wide): the γ
       furthest from changing a prediction. It is rounded to float32 if that stays inside the
       interval, so that a float32 model subtracts the same number.

    Unbounded intervals are excluded: there one part is never predicted and the mean is 0.

    Args:
        scores: (N, K) a score for each sample and label, N ≥ 1.
        labels: (N,) integers, the true column of each sample.
        seen_mask: (K,) boolean, true for seen labels.
        metric: "f1" (weighted by support), "accuracy" or "macro_accuracy" (mean over classes).
        allow_negative: Whether γ may be below 0, which favours seen labels.

    Returns:
        γ, its metrics and its interval. γ is 0 if no prediction is ever correct, if all or no
        labels are seen, or if one part has no samples.

    Raises:
        ValueError: If a shape, a dtype or the metric is not as described, a score is NaN or a label
            is out of range.

    Examples:
        >>> scores = [[0.9, 0.3], [0.8, 0.6]]  # the second sample has the unseen label
        >>> best_gamma(scores, [0, 1], [True, False])
        CalibrationResult(gamma=0.400..., value=1.0, seen=1.0, unseen=1.0,
                          low=0.2..., high=0.6..., metric='f1')
    """
    scores, seen = check_scores(scores, seen_mask)
    labels = check_labels(labels, "labels", len(seen), len(scores))
    check_metric(metric)

    gaps = _gaps(scores, seen)
    curve = _sweep(gaps, labels, seen, metric)
    values = harmonic_mean(curve.seen, curve.unseen)
    at_zero = _values_at(0.0, gaps, labels, seen, metric)[0]

    edges = np.concatenate(([-np.inf], curve.thresholds, [np.inf]))
    low, high = edges[:-1] if allow_negative else edges[:-1].clip(min=0), edges[1:]
    with np.errstate(over="ignore", invalid="ignore"):
        width = high - low
        middle = low + width / 2
    # Excludes unbounded intervals, those below 0, and those too narrow to contain another float.
    usable = (low < middle) & (middle < high)

    best = max(values[usable].max(initial=0.0), at_zero)
    if at_zero >= best - _EQUAL:
        gamma = 0.0
        below = np.searchsorted(curve.thresholds, 0.0)
        on_a_gap = edges[below + 1] == 0
        interval = (0.0, 0.0) if on_a_gap else (float(edges[below]), float(edges[below + 1]))
    else:
        i = np.where(usable & (values >= best - _EQUAL), width, -1.0).argmax()
        interval = (float(low[i]), float(high[i]))
        with np.errstate(over="ignore"):
            rounded = float(np.float32(middle[i]))
        gamma = rounded if interval[0] < rounded < interval[1] else float(middle[i])

    value, seen_value, unseen_value = _values_at(gamma, gaps, labels, seen, metric)
    return CalibrationResult(gamma, value, seen_value, unseen_value, *interval, metric)


def seen_unseen_curve(
    scores: ArrayLike,
    labels: ArrayLike,
    seen_mask: ArrayLike,
    metric: Literal["accuracy", "macro_accuracy"] = "accuracy",
) -> SeenUnseenCurve:
    """Computes seen and unseen accuracy for all γ (the seen-unseen curve of Chao et al. 2016).

    Args:
        scores: (N, K) a score for each sample and label, N ≥ 1.
        labels: (N,) integers, the true column of each sample.
        seen_mask: (K,) boolean. If all or none are seen, the curve is a single point.
        metric: "accuracy" over samples, or "macro_accuracy", the mean over classes that Chao et al.
            and Xian et al. use.

    Returns:
        All points, from γ = −inf (no unseen label is predicted) to γ = inf (no seen one).

    Raises:
        ValueError: If a shape, a dtype or the metric is not as described, a score is NaN or a label
            is out of range.

    Examples:
        >>> curve = seen_unseen_curve([[1.0, 0.5], [0.75, 0.5]], [0, 1], [True, False])
        >>> curve.thresholds, curve.seen, curve.unseen
        (array([0.25, 0.5 ]), array([1., 1., 0.]), array([0., 1., 1.]))
    """
    scores, seen = check_scores(scores, seen_mask)
    labels = check_labels(labels, "labels", len(seen), len(scores))
    check_metric(metric, ("accuracy", "macro_accuracy"))
    return _sweep(_gaps(scores, seen), labels, seen, metric)


def ausuc(
    scores: ArrayLike,
    labels: ArrayLike,
    seen_mask: ArrayLike,
    metric: Literal["accuracy", "macro_accuracy"] = "accuracy",
) -> float:
    """Computes the area under the seen-unseen curve (Chao et al. 2016), independent of any γ.

    The area under seen accuracy as a function of unseen accuracy, by the trapezoid rule over all
    points of `seen_unseen_curve`; the curve runs from unseen accuracy 0 to the point where no seen
    label is predicted. Points are joined by straight lines, so that samples with exactly the same
    gap contribute a slope instead of a step.

    Args:
        scores: (N, K) a score for each sample and label, N ≥ 1.
        labels: (N,) integers, the true column of each sample.
        seen_mask: (K,) boolean, true for seen labels.
        metric: "accuracy" or "macro_accuracy", as in `seen_unseen_curve`.

    Returns:
        The area, in [0, 1]; 0 if one part has no labels or no samples.

    Raises:
        ValueError: As for `seen_unseen_curve`.

    Examples:
        >>> ausuc([[1.0, 0.5], [0.75, 0.5]], [0, 1], [True, False])
        1.0
    """
    curve = seen_unseen_curve(scores, labels, seen_mask, metric)
    heights = (curve.seen[1:] + curve.seen[:-1]) / 2
    return float(np.sum(np.diff(curve.unseen) * heights))


def _values_at(
    gamma: float, gaps: _Gaps, labels: IntArray, seen: BoolArray, metric: Metric
) -> tuple[float, float, float]:
    """Harmonic mean, seen and unseen value of the predictions under γ."""
    counts = count_classes(gaps.predictions(gamma), labels, seen)
    seen_value, unseen_value = part_values(counts, seen, metric)
    return float(harmonic_mean(seen_value, unseen_value)), seen_value, unseen_value


def _gaps(scores: NDArray[Any], seen: BoolArray) -> _Gaps:
    """Reduces the scores to the gaps with which γ is compared."""
    if seen.all() or not seen.any():
        # With a single part, γ changes no prediction.
        best, top = _best_of(scores, np.arange(len(seen)))
        _check_finite(top)
        return _Gaps(best, best, np.zeros(len(best)))
    best_seen, top_seen = _best_of(scores, np.flatnonzero(seen))
    best_unseen, top_unseen = _best_of(scores, np.flatnonzero(~seen))
    with np.errstate(over="ignore", invalid="ignore"):
        gap = top_seen - top_unseen
    _check_finite(gap)
    return _Gaps(best_seen, best_unseen, gap)


def _best_of(scores: NDArray[Any], columns: IntArray) -> tuple[IntArray, FloatArray]:
    """Best of the given columns and its score, each (N,); NaN counts as best, as in `argmax`."""
    best = np.empty(len(scores), dtype=np.int64)
    top = np.empty(len(scores), dtype=np.float64)
    step = max(1, _BLOCK // len(columns))
    for start in range(0, len(scores), step):
        block = scores[start : start + step, columns]
        winner = block.argmax(axis=1)
        best[start : start + step] = columns[winner]
        top[start : start + step] = np.take_along_axis(block, winner[:, None], axis=1)[:, 0]
    return best, top


def _sweep(gaps: _Gaps, labels: IntArray, seen: BoolArray, metric: Metric) -> SeenUnseenCurve:
    """Metric of both parts on every interval of γ.

    As γ grows, each prediction changes once, at its gap: from the best seen to the best unseen
    label. A sample of a seen label then leaves a class of its own part, and one of an unseen label
    enters a class of its own part; the class of the other part does not count it. Hence each class
    contributes one step function, and a part is the sum of those of its classes. Time O(N·K), as
    for reading the scores; memory O(N).
    """
    if seen.all() or not seen.any():
        counts = count_classes(gaps.best_seen, labels, seen)
        point = part_values(counts, seen, metric)
        return SeenUnseenCurve(np.empty(0), np.array(point[:1]), np.array(point[1:]))

    thresholds, rank = np.unique(gaps.gap, return_inverse=True)
    intervals = len(thresholds) + 1
    moves_at = rank.reshape(-1) + 1  # first interval in which the sample has an unseen prediction
    owner = np.where(seen[labels], gaps.best_seen, gaps.best_unseen)
    # Samples ordered by class and, within a class, by the interval in which they move.
    order = np.lexsort((moves_at, owner))
    ends = np.cumsum(np.bincount(owner, minlength=len(seen)))
    support = np.bincount(labels, minlength=len(seen))

    sums = {True: np.zeros(intervals), False: np.zeros(intervals)}
    for k in np.flatnonzero(support):
        members = order[ends[k - 1] if k else 0 : ends[k]]
        moved = np.arange(len(members) + 1)
        hits = np.concatenate(([0], np.cumsum(labels[members] == k)))
        if seen[k]:
            steps = class_terms(metric, hits[-1] - hits, len(members) - moved, support[k])
        else:
            steps = class_terms(metric, hits, moved, support[k])
        lengths = np.diff(moves_at[members], prepend=0, append=intervals)
        sums[bool(seen[k])] += np.repeat(steps, lengths)
    for side in sums:
        sums[side] /= divisor(metric, support[(seen == side) & (support > 0)])
    return SeenUnseenCurve(thresholds, seen=sums[True], unseen=sums[False])


def _check_finite(values: FloatArray) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        raise ValueError(
            f"scores must be finite: row {int(bad.argmax())} contains NaN, an infinite best score, "
            "or scores whose difference overflows float64"
        )


def _check_gamma(gamma: float) -> float:
    value = float(gamma)
    if not np.isfinite(value):
        raise ValueError(f"gamma must be finite; got {value}")
    return value
