"""Temperature of probabilities, chosen on validation, and how far they are from the truth.

Calibrated stacking (:mod:`calibration`) decides *which* label wins. How sure of it the model may be
is another question: softmax(scores / T) with the T under which the right labels of the validation
set are most likely (temperature scaling, Guo et al. 2017, "On calibration of modern neural
networks"). T changes no prediction.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .class_counts import FloatArray, IntArray, check_labels, check_scores

__all__ = ["best_temperature", "calibration_error", "probabilities"]

# Where the likelihood has no best T: all labels right (to 0), or scores worse than none (to inf).
_LOWEST, _HIGHEST = 1e-3, 1e3


def probabilities(scores: ArrayLike, temperature: float = 1.0) -> FloatArray:
    """Softmax of scores over their last axis.

    Args:
        scores: (..., K) calibrated scores.
        temperature: What they are divided by, above 0.

    Returns:
        (..., K) float64, each row of sum 1.

    Raises:
        ValueError: If the temperature is not a positive number.
    """
    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature: got {temperature}, expected a positive number")
    scaled = np.asarray(scores, dtype=np.float64) / temperature
    exponential = np.exp(scaled - scaled.max(-1, keepdims=True))
    return exponential / exponential.sum(-1, keepdims=True)


def best_temperature(scores: ArrayLike, labels: ArrayLike) -> float:
    """Finds the temperature with the highest likelihood of the right labels.

    The negative log-likelihood is convex in 1/T; its derivative, the mean of the expected score
    minus the right label's, is bisected.

    Args:
        scores: (N, K) calibrated scores of a validation set, N at least 1; minus infinity may rule
            out labels that are not the right one.
        labels: (N,) integers, the right column of each sample.

    Returns:
        T, kept within [0.001, 1000].

    Raises:
        ValueError: If a shape or a dtype is not as described, a score is NaN, or that of a right
            label or the best of a sample is infinite.
    """
    array, right = _checked(scores, labels)
    of_right = array[np.arange(len(array)), right][:, None]
    if not np.isfinite(of_right).all():
        raise ValueError("scores: that of a right label is infinite, expected a number")
    # Differences, so that what all scores of a sample share leaves no rounding; 0 where the
    # probability is.
    above = np.where(np.isfinite(array), array, of_right) - of_right

    def slope(log_temperature: float) -> float:
        chances = probabilities(array, float(np.exp(log_temperature)))
        return float((chances * above).sum(1).mean())

    low, high = float(np.log(_LOWEST)), float(np.log(_HIGHEST))
    if slope(low) <= 0:  # even the sharpest is not too sharp
        return _LOWEST
    if slope(high) >= 0:
        return _HIGHEST
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return float(np.exp((low + high) / 2))


def calibration_error(
    scores: ArrayLike, labels: ArrayLike, temperature: float = 1.0, bins: int = 15
) -> float:
    """Expected calibration error: how far confidence is from accuracy (Guo et al. 2017, eq. 5).

    Args:
        scores: (N, K) calibrated scores, N at least 1.
        labels: (N,) integers, the right column of each sample.
        temperature: What the scores are divided by.
        bins: Number of bins of equal width, (low, high], into which samples fall by the probability
            of their best label.

    Returns:
        Mean over samples of abs(accuracy - confidence) of their bin, in [0, 1].

    Raises:
        ValueError: If a shape or a dtype is not as described, a score is NaN, the best of a sample
            is infinite, or there is no bin.
    """
    array, right = _checked(scores, labels)
    if bins < 1:
        raise ValueError(f"bins: got {bins}, expected 1 or more")
    confidence = probabilities(array, temperature).max(1)
    hits = array.argmax(1) == right
    where = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(where, hits - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(array))


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, IntArray]:
    shape = np.shape(scores)
    array, _ = check_scores(scores, np.zeros(shape[1] if len(shape) == 2 else 1, dtype=bool))
    right = check_labels(labels, "labels", array.shape[1], len(array))
    if np.isnan(array).any():
        raise ValueError("scores: hold NaN, expected numbers")
    if not np.isfinite(array.max(1)).all():
        raise ValueError("scores: the best of a row is infinite, expected a number in each")
    return array.astype(np.float64), right
