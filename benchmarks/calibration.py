"""Benchmarks time and peak memory of the exact γ search: `python -m benchmarks.calibration`.

Scores are random with a weak signal, so that nearly every sample has a different threshold.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import numpy as np

from modeling_hmgrl.metrics.calibration import ausuc, best_gamma, predict
from modeling_hmgrl.metrics.gzs_scores import evaluate_scores

SIZES = [(5_000, 22), (1_000_000, 100)]


def measure(work: Callable[[], object]) -> tuple[float, float]:
    """Returns the seconds (best of three) and the peak of allocated memory in MB."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return min(seconds), peak / 1e6


def run(samples: int, classes: int) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=samples)
    seen = np.arange(classes) < classes // 2
    scores = rng.standard_normal((samples, classes), dtype=np.float32)
    scores[np.arange(samples), labels] += 2
    scores[:, seen] += 0.7
    gamma = best_gamma(scores, labels, seen).gamma
    jobs: dict[str, Callable[[], object]] = {
        "best_gamma f1": lambda: best_gamma(scores, labels, seen, "f1"),
        "best_gamma accuracy": lambda: best_gamma(scores, labels, seen, "accuracy"),
        "ausuc": lambda: ausuc(scores, labels, seen),
        "predict": lambda: predict(scores, seen, gamma),
        "evaluate_scores": lambda: evaluate_scores(scores, labels, seen, gamma),
    }
    print(f"{samples:,} samples x {classes} labels, scores {scores.nbytes / 1e6:.1f} MB")
    for name, job in jobs.items():
        seconds, peak = measure(job)
        print(f"    {name:20}{1000 * seconds:9.1f} ms{peak:9.1f} MB in addition to the scores")


if __name__ == "__main__":
    for size in SIZES:
        run(*size)
