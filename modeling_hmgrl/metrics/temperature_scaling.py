"""Temperature scaling of probabilities and their expected calibration error.

Calibrated stacking (:mod:`calibration`) determines the predicted label. Its probability is that of
softmax(scores / T), with the temperature T that maximises the likelihood of the true labels of the
validation set (Guo et al. 2017, "On calibration of modern neural networks"). T changes no
prediction.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .class_counts import FloatArray, IntArray, check_labels, check_scores

__all__ = ["best_temperature", "calibration_error", "probabilities"]

# Limits of T where the likelihood has no maximum: it tends to 0 if all predictions are correct,
# and to infinity if the scores are less informative than a constant.
_LOWEST, _HIGHEST = 1e-3, 1e3


def probabilities(scores: ArrayLike, temperature: float = 1.0) -> FloatArray:
    """Softmax of scores over their last axis.

    Args:
        scores: (..., K) calibrated scores.
        temperature: Divisor of the scores, above 0.

    Returns:
        (..., K) float64; each row sums to 1.

    Raises:
        ValueError: If the temperature is not a positive number.

    Examples:
        >>> probabilities([[0.0, np.log(3)]])
        array([[0.25, 0.75]])
    """
    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature: got {temperature}, expected a positive number")
    scaled = np.asarray(scores, dtype=np.float64) / temperature
    exponential = np.exp(scaled - scaled.max(-1, keepdims=True))
    return exponential / exponential.sum(-1, keepdims=True)


def best_temperature(scores: ArrayLike, labels: ArrayLike) -> float:
    """Finds the temperature that maximises the likelihood of the true labels.

    The negative log-likelihood is convex in 1/T. The root of its derivative, the mean difference
    between the expected score and that of the true label, is found by bisection.

    Args:
        scores: (N, K) calibrated scores of a validation set, N at least 1; minus infinity excludes
            a label that is not the true one.
        labels: (N,) integers, the true column of each sample.

    Returns:
        T, clipped to [0.001, 1000].

    Raises:
        ValueError: If a shape or a dtype is not as described, a score is NaN, or the score of a
            true label or the best score of a sample is infinite.

    Examples:
        >>> scores = np.log([[3.0, 1.0]] * 4)  # a probability of 0.75 at temperature 1
        >>> round(best_temperature(scores, [0, 0, 0, 1]), 3)
        1.0
        >>> round(best_temperature(2 * scores, [0, 0, 0, 1]), 3)
        2.0
    """
    array, true = _checked(scores, labels)
    true_scores = array[np.arange(len(array)), true][:, None]
    if not np.isfinite(true_scores).all():
        raise ValueError("scores: that of a true label is infinite, expected a finite number")
    # Differences, as an offset that all scores of a sample share would add rounding errors; 0 where
    # the probability is 0.
    above = np.where(np.isfinite(array), array, true_scores) - true_scores

    def slope(log_temperature: float) -> float:
        weights = probabilities(array, float(np.exp(log_temperature)))
        return float((weights * above).sum(1).mean())

    low, high = float(np.log(_LOWEST)), float(np.log(_HIGHEST))
    if slope(low) <= 0:  # the maximum lies at or below the lowest temperature
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
    """Computes the expected calibration error of the probabilities (Guo et al. 2017, eq. 5).

    Args:
        scores: (N, K) calibrated scores, N at least 1.
        labels: (N,) integers, the true column of each sample.
        temperature: Divisor of the scores.
        bins: Number of bins of equal width, (low, high], to which samples are assigned by the
            probability of their predicted label.

    Returns:
        Mean over samples of abs(accuracy - confidence) of their bin, in [0, 1].

    Raises:
        ValueError: If a shape or a dtype is not as described, a score is NaN, the best score of a
            sample is infinite, or ``bins`` is below 1.

    Examples:
        >>> scores = np.log([[3.0, 1.0]] * 4)  # confidence 0.75
        >>> round(calibration_error(scores, [0, 0, 0, 1]), 3)
        0.0
        >>> round(calibration_error(scores, [0, 0, 1, 1]), 3)
        0.25
    """
    array, true = _checked(scores, labels)
    if bins < 1:
        raise ValueError(f"bins: got {bins}, expected 1 or more")
    confidence = probabilities(array, temperature).max(1)
    correct = array.argmax(1) == true
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(array))


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, IntArray]:
    shape = np.shape(scores)
    array, _ = check_scores(scores, np.zeros(shape[1] if len(shape) == 2 else 1, dtype=bool))
    true = check_labels(labels, "labels", array.shape[1], len(array))
    if np.isnan(array).any():
        raise ValueError("scores: contain NaN, expected numbers")
    if not np.isfinite(array.max(1)).all():
        raise ValueError("scores: the best of a row is infinite, expected finite numbers")
    return array.astype(np.float64), true
