"""What a run leaves behind about itself: versions, command, scores."""

import json
import platform
import shlex
import subprocess
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


def git_revision() -> str | None:
    """Revision of the working tree that this package was loaded from, if it is one.

    Returns:
        The commit, with "+" if files differ from it; None outside of a repository.
    """
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        tracked = git("ls-files", "--error-unmatch", Path(__file__).name)
        changed = git("status", "--porcelain", "--untracked-files=no", "--", str(folder))
        return git("rev-parse", "HEAD") + ("+" if tracked and changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def write_run_files(folder: Path, arguments: Any) -> None:
    """Writes what a run is about to do, before it is done: `run.json`.

    Args:
        folder: Folder of the run.
        arguments: Its arguments.
    """
    run = {"command": command(), "arguments": arguments.to_dict(), "versions": versions()}
    write_json(folder / "run.json", run | {"git_revision": git_revision()})


def describe_run(
    method: str,
    config: Any,
    arguments: Any,
    labels: Any,
    scores: dict[str, Any],
    **more: Any,
) -> dict[str, Any]:
    """Describes a finished run.

    Args:
        method: Name of the method.
        config: The model's configuration.
        arguments: Arguments of the run.
        labels: Its label sets.
        scores: Scores by split.
        **more: What else belongs to it, by name.

    Returns:
        JSON-able dict, the content of ``report.json``.
    """
    encoders = {"text": config.text_config, "vision": config.vision_config}
    return {
        "method": method,
        "task": config.task,
        "seed": arguments.seed,
        "gamma": config.calibration_gamma,
        **scores,
        "labels": {
            "seen": list(labels.seen),
            "validation_unseen": list(labels.validation_unseen),
            "test_unseen": list(labels.test_unseen),
            "unseen": [*labels.validation_unseen, *labels.test_unseen],
            "known_to_generator": list(labels.generator),
            "texts": labels.texts,
        },
        "encoders": {
            name: None if part is None else Path(part.name_or_path or part.model_type).name
            for name, part in encoders.items()
        },
        "arguments": arguments.to_dict(),
        "versions": versions(),
        "git_revision": git_revision(),
        "command": command(),
        **more,
    }


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
