"""Figures of the comparison, in the layout of the paper."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from comparison import values

_PARTS = (("overall F1", ("overall", "f1")), ("overall accuracy", ("overall", "accuracy")))
_COLOURS = ("#0f766e", "#7c3aed")


def _spread(numbers: np.ndarray) -> float:
    return float(numbers.std(ddof=1)) if len(numbers) > 1 else 0.0


def _legend() -> None:
    """Draws the legend above the axes, where it covers no data."""
    plt.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0)


def _save(path: Path) -> None:
    plt.tight_layout()
    plt.savefig(path, dpi=150)
    plt.close()
    print(f"Drawn: {path}")


def draw_bars(reports: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Bars of overall F1 and accuracy for each setting, with standard deviations."""
    positions = np.arange(len(reports))
    plt.figure(figsize=(1.6 * len(reports) + 1.5, 3.6))
    for offset, (name, where), colour in zip((-0.2, 0.2), _PARTS, _COLOURS, strict=True):
        found = [values(rows, where) for rows in reports.values()]
        plt.bar(
            positions + offset, [v.mean() for v in found], 0.38, yerr=[_spread(v) for v in found],
            label=name, color=colour, capsize=3, error_kw={"elinewidth": 1},
        )  # fmt: skip
    plt.xticks(positions, list(reports))
    plt.ylabel("percent")
    _legend()
    _save(path)


def draw_curves(reports: dict[str, list[dict[str, Any]]], axis: str, path: Path) -> None:
    """Curves of overall F1 and accuracy against a width, with standard deviations."""
    plt.figure(figsize=(5, 3.6))
    widths = [int(name) for name in reports]
    for (name, where), colour in zip(_PARTS, _COLOURS, strict=True):
        found = [values(rows, where) for rows in reports.values()]
        plt.errorbar(
            widths, [v.mean() for v in found], [_spread(v) for v in found],
            label=name, color=colour, marker="o", capsize=3,
        )  # fmt: skip
    plt.xscale("log", base=2)
    plt.xticks(widths, [str(width) for width in widths])
    plt.xlabel(axis)
    plt.ylabel("percent")
    _legend()
    _save(path)


def draw_surface(
    reports: dict[str, list[dict[str, Any]]], weights: Sequence[float], metric: str, path: Path
) -> None:
    """Heatmap of the overall score over eta and zeta, with numbers."""
    means = np.array([values(rows, ("overall", metric)).mean() for rows in reports.values()])
    grid = means.reshape(len(weights), len(weights))
    plt.figure(figsize=(5.4, 4.4))
    plt.imshow(grid, cmap="viridis", origin="lower")
    plt.colorbar(label=f"overall {'F1' if metric == 'f1' else metric}, percent")
    middle = (grid.min() + grid.max()) / 2
    for row, column in np.ndindex(grid.shape):
        colour = "black" if grid[row, column] > middle else "white"
        shown = f"{grid[row, column]:.1f}"
        plt.text(column, row, shown, ha="center", va="center", color=colour, fontsize=8)
    ticks = [f"{weight:g}" for weight in weights]
    plt.xticks(range(len(weights)), ticks)
    plt.yticks(range(len(weights)), ticks)
    plt.xlabel("ζ, weight of L_sda")
    plt.ylabel("η, weight of L_u")
    _save(path)
