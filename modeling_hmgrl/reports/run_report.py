"""Report of a run: scores, settings, command and versions."""

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
# Fields of a configuration that a report contains elsewhere, or that training determines.
_NO_SETTINGS = (
    "text_config", "vision_config", "task", "calibration_gamma", "probability_temperature",
    "seen_labels", "generator_labels", "label_texts",
)  # fmt: skip
PARTS = ("seen", "unseen", "overall")
RUN_FILE = "run.json"

# Arguments that may change when a run is resumed; all others determine its results. The number of
# steps is compared where the schedule depends on it.
FREE_ARGUMENTS = frozenset(
    {
        "output_dir", "epochs", "max_steps", "eval_batch_size", "patience", "log_steps", "tracker",
        "feature_dir", "progress", "resume", "overwrite_output_dir", "save_steps", "save_epochs",
        "save_total_limit",
    }
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect the results."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def command() -> str:
    """Command line of this process, with the name of its program instead of the path."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def git_revision() -> str | None:
    """Revision of the repository from which this package was imported.

    Returns:
        The commit, with "+" if files differ from it; None outside a repository.
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


def write_run_files(folder: Path, arguments: Any, files: Sequence[str] = ()) -> None:
    """Writes command, arguments and versions of a run to `run.json`, before it begins.

    Args:
        folder: Folder of the run.
        arguments: Its arguments.
        files: Names of the files of the model that the run has written to the folder so far.
    """
    run = {"command": command(), "arguments": arguments.to_dict(), "versions": versions()}
    run |= {"git_revision": git_revision(), "files": list(files)}
    write_json(folder / RUN_FILE, run)


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
        **more: Further fields of the report.

    Returns:
        JSON-serialisable dict, the content of ``report.json``.
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
    """Returns a copy of a report without information on the machine and on single records.

    The run's folders are omitted, as are the records that the data report quotes (texts and files
    of the user's data; their counts remain). Paths in the command are shortened to their last
    component.

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
    """Shortens the paths of a command line to their last component.

    Args:
        line: The command line.
        kept: Words with a slash that are not paths, such as names on the Hub and labels.

    Examples:
        >>> public_command("hmgrl train --data-dir /home/user/data --output-dir=runs/0")
        'hmgrl train --data-dir data --output-dir=0'
    """

    def short(word: str) -> str:
        name, equals, value = word.partition("=")
        if equals and name.startswith("-"):
            return f"{name}={short(value)}"
        is_path = word not in kept and ("/" in word or "\\" in word) and "://" not in word
        return re.split(r"[/\\]", word.rstrip("/\\"))[-1] if is_path else word

    words = shlex.split(line)
    # The value of these options is a repository, not a path.
    before = ["", *words[:-1]]
    return shlex.join(
        word if last in ("--push-to-hub", "--repo") else short(word)
        for last, word in zip(before, words, strict=True)
    )


def epoch_line(epoch: int, step: int, scores: Mapping[str, Any]) -> str:
    """Formats the validation scores of an epoch as one line, in percent."""
    parts = [
        f"{name} {100 * scores[name]['accuracy']:.1f}/{100 * scores[name]['f1']:.1f}"
        for name in PARTS
    ]
    return (
        f"epoch {epoch}, step {step}: validation accuracy/F1 {', '.join(parts)}, "
        f"AUSUC {100 * scores['ausuc']:.1f}, gamma {scores['gamma']:.3f}"
    )


def score_table(rows: Mapping[str, dict[str, Any] | Sequence[dict[str, Any]]]) -> str:
    """Formats scores as a Markdown table, in percent.

    Args:
        rows: Scores of each method, as returned by :func:`metrics.evaluate_scores`, or those of
            several runs, shown as mean ± sample standard deviation.

    Returns:
        Table of accuracy and weighted F1 of seen, unseen and overall, AUSUC and gamma.
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
    """Formats a value, or the mean ± sample standard deviation of several.

    Examples:
        >>> spread([71.0], 1), spread([71.0, 73.0], 1)
        ('71.0', '72.0 ± 1.4')
    """
    text = f"{statistics.fmean(values):.{digits}f}"
    return f"{text} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else text


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Formats rows of cells, of which the first is the header, as a Markdown table.

    Examples:
        >>> print(markdown_table([["method", "F1"], ["hmgrl", "71.0"]]))
        | method | F1   |
        |--------|------|
        | hmgrl  | 71.0 |
    """
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = [[c.ljust(w) for c, w in zip(line, widths, strict=True)] for line in lines]
    formatted = [f"| {' | '.join(line)} |" for line in padded]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([formatted[0], rule, *formatted[1:]])
