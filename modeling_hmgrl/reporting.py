"""What a run leaves behind about itself: versions, command, scores."""

import json
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = (
    "hmgrl", "torch", "transformers", "datasets", "accelerate", "evaluate", "huggingface_hub",
    "safetensors", "geoopt", "numpy",
)  # fmt: skip
PARTS = ("seen", "unseen", "overall")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def command() -> str:
    """The command line of this process, with its program's name instead of its path."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def write_json(path: Path, content: Any) -> None:
    """Writes JSON so that a reader never sees half of it."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def score_table(rows: dict[str, dict[str, Any]]) -> str:
    """Formats scores as a Markdown table, in percent.

    Args:
        rows: For each method its scores, as of :func:`metrics.evaluate_scores`.

    Returns:
        The table: accuracy and weighted F1 of seen, unseen and overall, AUSUC, gamma.
    """
    head = ["method", *(f"{part} {name}" for part in PARTS for name in ("acc", "F1"))]
    lines = [[*head, "AUSUC", "gamma"]]
    for method, scores in rows.items():
        cells = [f"{100 * scores[part][k]:.1f}" for part in PARTS for k in ("accuracy", "f1")]
        lines.append([method, *cells, f"{100 * scores['ausuc']:.1f}", f"{scores['gamma']:.3f}"])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = [[c.ljust(w) for c, w in zip(line, widths, strict=True)] for line in lines]
    formatted = [f"| {' | '.join(line)} |" for line in padded]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([formatted[0], rule, *formatted[1:]])
