"""What a run leaves behind about itself: versions, command, scores."""

import platform
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from ..hub import is_hub_name, public_name
from ..storage import write_json

_PACKAGES = (
    "hmgrl", "torch", "transformers", "datasets", "accelerate", "evaluate", "huggingface_hub",
    "safetensors", "geoopt", "numpy",
)  # fmt: skip
# Fields of a configuration that stand elsewhere in a report, or are found by training.
_NO_SETTINGS = (
    "text_config", "vision_config", "task", "calibration_gamma", "probability_temperature",
    "seen_labels", "generator_labels", "label_texts",
)  # fmt: skip
PARTS = ("seen", "unseen", "overall")

# Arguments that may be others when a run goes on; all others decide what it computes.
FREE_ARGUMENTS = frozenset(
    {
        "output_dir", "epochs", "max_steps", "eval_batch_size", "patience", "log_steps", "tracker",
        "feature_dir", "progress", "resume", "save_steps", "save_epochs", "save_total_limit",
    }
)  # fmt: skip


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


def git_revision() -> str | None:
    """Revision of the working tree that this package was loaded from, if it is one.

    Returns:
        The commit, with "+" if files differ from it; None outside of a repository.
    """
    folder = Path(__file__).parents[1]  # the whole package

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        tracked = git("ls-files", "--error-unmatch", "__init__.py")
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
            name: public_name(part.name_or_path or part.model_type).removeprefix("./")
            if part is not None
            else None
            for name, part in encoders.items()
        },
        "base_models": [
            part.name_or_path
            for part in encoders.values()
            if part is not None and is_hub_name(part.name_or_path)
        ],
        "settings": {
            name: getattr(config, name) for name in config.field_names() if name not in _NO_SETTINGS
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "arguments": arguments.to_dict(),
        "versions": versions(),
        "git_revision": git_revision(),
        "command": command(),
        **more,
    }


def public_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """Copy of a report that tells nothing of the machine and of single records.

    Left out are the run's folders, and the records that the data report quotes (texts and files of
    a user's own data; their counts stay). Of paths in the command the last part is kept.

    Args:
        report: Content of a run's ``report.json``.
    """
    public = dict(report)
    arguments = dict(report.get("arguments", {}))
    public["arguments"] = {n: v for n, v in arguments.items() if not n.endswith("_dir")}
    data = dict(report.get("data", {}))
    for kind in ("left_out", "notes"):
        if kind in data:
            data[kind] = {name: {"count": one["count"]} for name, one in data[kind].items()}
    public["data"] = data
    names = report.get("base_models", [])
    labels = report.get("labels", {})
    kept = {
        *names,
        *labels.get("seen", ()),
        *labels.get("unseen", ()),
        data.get("hub", {}).get("id"),
    }
    public["command"] = public_command(report.get("command", ""), kept)
    return public


def public_command(line: str, kept: Collection[Any] = ()) -> str:
    """Shortens the paths of a command line to their last part.

    Args:
        line: The command line.
        kept: Words with a slash that are no paths, such as names on the Hub and labels.
    """

    def short(word: str) -> str:
        name, equals, value = word.partition("=")
        if equals and name.startswith("-"):
            return f"{name}={short(value)}"
        is_path = word not in kept and ("/" in word or "\\" in word) and "://" not in word
        return re.split(r"[/\\]", word.rstrip("/\\"))[-1] if is_path else word

    words = shlex.split(line)
    # The word behind this option is the address of a repository.
    before = ["", *words[:-1]]
    return shlex.join(
        word if last in ("--push-to-hub", "--repo") else short(word)
        for last, word in zip(before, words, strict=True)
    )


def score_table(rows: Mapping[str, dict[str, Any] | Sequence[dict[str, Any]]]) -> str:
    """Formats scores as a Markdown table, in percent.

    Args:
        rows: For each method its scores, as of :func:`metrics.evaluate_scores`; or those of
            several runs, shown as mean ± sample standard deviation.

    Returns:
        The table: accuracy and weighted F1 of seen, unseen and overall, AUSUC, gamma.
    """
    head = ["method", *(f"{part} {name}" for part in PARTS for name in ("acc", "F1"))]
    lines = [[*head, "AUSUC", "gamma"]]
    for method, given in rows.items():
        runs = [given] if isinstance(given, dict) else given
        figures = [[s[p][k] for s in runs] for p in PARTS for k in ("accuracy", "f1")]
        figures.append([scores["ausuc"] for scores in runs])
        cells = [spread([100 * value for value in values], 1) for values in figures]
        lines.append([method, *cells, spread([scores["gamma"] for scores in runs], 3)])
    return markdown_table(lines)


def spread(values: Sequence[float], digits: int) -> str:
    """Formats a figure, or the mean ± sample standard deviation of several."""
    text = f"{statistics.fmean(values):.{digits}f}"
    return f"{text} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else text


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Formats rows of cells, the first of them the heading, as a Markdown table."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = [[c.ljust(w) for c, w in zip(line, widths, strict=True)] for line in lines]
    formatted = [f"| {' | '.join(line)} |" for line in padded]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([formatted[0], rule, *formatted[1:]])
