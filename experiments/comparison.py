"""Means, standard deviations and paired tests over cells of the grid."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

COLUMNS = (
    ("seen acc", ("seen", "accuracy")),
    ("seen F1", ("seen", "f1")),
    ("unseen acc", ("unseen", "accuracy")),
    ("unseen F1", ("unseen", "f1")),
    ("overall acc", ("overall", "accuracy")),
    ("overall F1", ("overall", "f1")),
)
"""Columns of the paper's tables, and their keys in a report."""


def values(reports: Sequence[dict[str, Any]], path: tuple[str, str]) -> np.ndarray:
    """Returns one test score of each report, in percent."""
    return np.array([100 * report["test"][path[0]][path[1]] for report in reports])


def mean_and_deviation(numbers: np.ndarray) -> str:
    """Formats the mean with the sample standard deviation in parentheses, or a single number."""
    if len(numbers) < 2:
        return f"{numbers.mean():.1f}"
    return f"{numbers.mean():.1f} ({numbers.std(ddof=1):.1f})"


def paired_test(ours: np.ndarray, theirs: np.ndarray, limit: int = 1 << 16) -> dict[str, float]:
    """Two-sided sign-flip permutation test of paired differences.

    Under the null hypothesis the sign of each difference is random. All sign patterns are
    enumerated if there are at most ``limit``; otherwise that many are sampled.

    Args:
        ours: Scores, shape (N,).
        theirs: Scores on the same splits, shape (N,).
        limit: Maximum number of sign patterns.

    Returns:
        ``difference`` (mean), ``low`` and ``high`` (95 % interval by Student's t), ``wins``, ``n``
        and ``p``.
    """
    difference = np.asarray(ours, float) - np.asarray(theirs, float)
    n = len(difference)
    observed = abs(difference.mean())
    if 2**n <= limit:
        signs = np.array(list(itertools.product((1, -1), repeat=n)))
    else:
        signs = np.random.default_rng(0).choice((1, -1), size=(limit, n))
        signs[0] = 1  # the observed pattern is always included
    means = np.abs((signs * difference).mean(1))
    half = _t_quantile(n - 1) * difference.std(ddof=1) / math.sqrt(n) if n > 1 else math.inf
    return {
        "difference": float(difference.mean()),
        "low": float(difference.mean() - half),
        "high": float(difference.mean() + half),
        "wins": int((difference > 0).sum()),
        "n": n,
        "p": float((means >= observed - 1e-12).mean()),
    }


# 97.5 % quantiles of Student's t by degrees of freedom
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
      2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)  # fmt: skip


def _t_quantile(freedom: int) -> float:
    return _T[min(freedom, len(_T)) - 1]


def table(rows: dict[str, Sequence[dict[str, Any]]], extra: bool = True) -> str:
    """Markdown table of methods, mean (standard deviation) in percent.

    Args:
        rows: Reports of each method.
        extra: Whether to add AUSUC and the overall F1 with the best gamma on test.
    """
    head = ["method", *(name for name, _ in COLUMNS)] + (["AUSUC", "oracle γ F1"] if extra else [])
    lines = [head]
    for method, reports in rows.items():
        cells = [mean_and_deviation(values(reports, path)) for _, path in COLUMNS]
        if extra:
            cells.append(mean_and_deviation(np.array([100 * r["test"]["ausuc"] for r in reports])))
            oracle = [100 * r["oracle"]["f1"] for r in reports if "oracle" in r]
            cells.append(mean_and_deviation(np.array(oracle)) if oracle else "")
        lines.append([method, *cells])
    shown = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([shown[0], "|" + "---|" * len(head), *shown[1:]])
