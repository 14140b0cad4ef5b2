"""Scores of a run in the formats of the Hub: `.eval_results/*.yaml` and the model index.

An entry of `.eval_results` requires a data set of the Hub, which should be registered there as a
benchmark, and one of the tasks of its `eval.yaml`; it has no field for the name of a metric
(https://huggingface.co/docs/hub/eval-results). Entries are therefore written only if the run's data
are a data set of the Hub. Other scores are written to the card's model index, an older format that
requires no benchmark and names data set and metric
(https://github.com/huggingface/hub-docs/blob/main/modelcard.md).
"""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml
from huggingface_hub.utils import yaml_dump

RESULTS_FILE = ".eval_results/hmgrl.yaml"

_METRICS = {
    "overall_f1": ("overall", "f1"),
    "overall_accuracy": ("overall", "accuracy"),
    "seen_f1": ("seen", "f1"),
    "seen_accuracy": ("seen", "accuracy"),
    "unseen_f1": ("unseen", "f1"),
    "unseen_accuracy": ("unseen", "accuracy"),
    "ausuc": ("ausuc", None),
}


def metric_values(scores: Mapping[str, Any]) -> dict[str, float]:
    """Returns the metrics of a split by name, in percent, rounded to two digits."""
    return {
        name: round(100 * (scores[part] if key is None else scores[part][key]), 2)
        for name, (part, key) in _METRICS.items()
    }


def task_ids(hub: Mapping[str, Any]) -> list[str]:
    """Returns the tasks that a benchmark must define for the entries, one for each metric.

    Args:
        hub: The data set on the Hub: its ``id`` and optionally its ``config`` and ``revision``.
    """
    prefix = f"{hub['config']}_" if hub.get("config") else ""
    return [f"{prefix}{name}" for name in _METRICS]


def results_yaml(report: Mapping[str, Any], protocol: str, source: str) -> str | None:
    """Returns the content of :data:`RESULTS_FILE`: one entry for each metric of the test.

    Args:
        report: Content of a run's ``report.json``; its ``data["hub"]`` is the data set on the Hub.
        protocol: Name of the protocol, for the notes.
        source: URL of the report on the Hub.

    Returns:
        YAML; None if no test was run or the data are not on the Hub.
    """
    hub = report["data"].get("hub")
    if not hub or "test" not in report:
        return None
    scores = report["test"]
    notes = (
        f"percent, over seen and unseen labels together; {protocol}; seed {report['seed']}; "
        f"gamma {scores['gamma']:.4g}"
    )
    entries = [
        EvalResultEntry(
            dataset_id=hub["id"],
            task_id=task,
            value=value,
            dataset_revision=hub.get("revision"),
            date=report.get("date"),
            source_url=source,
            source_name="report.json",
            notes=notes,
        )
        for task, value in zip(task_ids(hub), metric_values(scores).values(), strict=True)
    ]
    return yaml_dump(eval_result_entries_to_yaml(entries))


def model_index(report: Mapping[str, Any], protocol: str, task: str) -> list[EvalResult] | None:
    """Returns results for the card's model index if the data are not on the Hub.

    Args:
        report: Content of a run's ``report.json``.
        protocol: Name of the protocol.
        task: Name of the task.

    Returns:
        One result for each metric of the test; None if no test was run or :func:`results_yaml`
        contains the results.
    """
    if report["data"].get("hub") or "test" not in report:
        return None
    data, gamma = report["data"], round(report["test"]["gamma"], 4)
    return [
        EvalResult(
            task_type="zero-shot-classification",
            task_name=task,
            dataset_type=data.get("source", "own"),
            dataset_name=data.get("source", "own data"),
            dataset_split="test",
            metric_type=name.rsplit("_", 1)[-1],
            metric_name=f"{name.replace('_', ' ')} ({protocol}, percent)",
            metric_value=value,
            metric_args={"seed": report["seed"], "gamma": gamma},
        )
        for name, value in metric_values(report["test"]).items()
    ]
