"""Model card of a run, filled from its report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from ..configuration_hmgrl import ZeroShotTypingConfig
from ..hub import TASK
from . import card_sections as sections
from .citations import model_class, paper_of, registering_module
from .hub_results import model_index
from .run_report import FREE_ARGUMENTS, public_report

TEMPLATE = Path(__file__).with_name("model_card.md")

_TASKS = {
    "typing": "generalized zero-shot multimodal entity typing",
    "relation": "generalized zero-shot multimodal relation extraction",
}
_SUMMARIES = {
    "typing": "Types a mention in a sentence",
    "relation": "Names the relation between two mentions in a sentence",
}
_EXAMPLES = {
    "typing": '"She bought a croissant on her way to the office",\n    mention="croissant"',
    "relation": '"Ada Lovelace was born in London",\n    mention=["Ada Lovelace", "London"]',
}
_LABELS = {
    "typing": '["baked goods", "public transport", "legal document"]',
    "relation": '["place of birth", "employer", "spouse"]',
}
# Settings in the summary table: those of all methods, and a selection of those of HMGRL.
_SHARED_SETTINGS = ("score_function", "classification_loss")
_HMGRL_SETTINGS = ("attention", "hvib_layer", "hmcvae_layer")
# Arguments that may differ between repetitions of a run.
_FREE = (FREE_ARGUMENTS | {"seed"}) - {"epochs", "max_steps", "patience"}


def make_card(
    report: Mapping[str, Any],
    config: Any,
    repo_id: str,
    reports: Sequence[Mapping[str, Any]] = (),
) -> ModelCard:
    """Fills the template of the card from a report.

    Args:
        report: Content of the run's ``report.json``.
        config: The model's configuration, of any method that is registered with AutoModel.
        repo_id: Repository that the usage examples load.
        reports: Reports of repetitions with other seeds or splits, for mean and standard deviation.

    Returns:
        The card.

    Raises:
        ValueError: If a report is not of a repetition of the run, or the configuration's method is
            not registered.
    """
    report = public_report(report)
    paper, method = paper_of(config), model_class(config)
    on_unseen = trains_on_unseen(config)
    runs = [report, *_repetitions(report, [public_report(other) for other in reports], on_unseen)]
    protocol_name, protocol = sections.protocol_of(report, on_unseen)
    labels, task = report["labels"], report["task"]
    encoders = [f"{kind} {name}" for kind, name in report["encoders"].items() if name]
    hub = report["data"].get("hub")
    title = repo_id.rsplit("/", 1)[-1]
    card_data = ModelCardData(
        library_name="transformers",
        # No pipeline_tag: the Hub has no such task, and for the nearest one,
        # zero-shot-classification, its page would show code that cannot load this model.
        tags=list(
            dict.fromkeys(
                ("hmgrl", config.model_type, TASK, "generalized-zero-shot", "multimodal", task)
            )
        ),
        license="other",
        license_name="encoders-and-data",
        license_link=f"https://huggingface.co/{repo_id}#licence",
        base_model=report.get("base_models") or None,
        datasets=[hub["id"]] if hub else None,
        metrics=["f1", "accuracy"],
        model_name=title,
        eval_results=model_index(report, protocol_name, _TASKS[task]),
    )
    image = ", optionally with an image" if config.vision_config is not None else ""
    images = "used in training" if report["images_used"] else "not used in training"
    if config.vision_config is None:
        images = "none: the model takes text only"
    return ModelCard.from_template(
        card_data,
        template_path=str(TEMPLATE),
        title=title,
        repo_id=repo_id,
        summary=f"{_SUMMARIES[task]}{image}, with candidate labels that are given by name in each "
        f"call. It was trained on samples of {len(labels['seen'])} labels; other labels are "
        "represented by their names or descriptions alone.",
        task=_TASKS[task],
        encoders=", ".join(encoders),
        images=images,
        method=f"{paper.name} ({paper.citation})",
        method_class=method.__name__,
        module=registering_module(config),
        own=config.model_type == "hmgrl",
        carries_code=getattr(method, "_auto_class", None) is not None,
        settings=", ".join(f"{name} {getattr(config, name)}" for name in _settings(config)),
        protocol_name=protocol_name,
        example=_EXAMPLES[task],
        labels=_LABELS[task],
        usage=sections.usage(report, config, on_unseen),
        results=sections.results(report, config, runs),
        protocol=protocol,
        label_table=sections.label_table(report),
        data=sections.data(report),
        limitations=sections.limitations(report, config, runs),
        command=report["command"],
        departures=sections.departures(config, paper),
        procedure=sections.procedure(report),
    )


def trains_on_unseen(config: Any) -> bool:
    """Whether a method's training uses the names of labels without samples."""
    return getattr(model_class(config), "uses_generator_labels", True)


def _settings(config: Any) -> list[str]:
    """Names of the settings in the summary table."""
    shared = [*_SHARED_SETTINGS, *(["label_parts"] if config.label_parts else [])]
    if config.model_type == "hmgrl":
        return [*shared, *_HMGRL_SETTINGS]
    known = set(ZeroShotTypingConfig.field_names())
    own = [name for name in config.field_names() if name not in known]
    return [*shared, *(n for n in own if not n.startswith("weight_") and not n.endswith("_id"))]


def _repetitions(
    report: Mapping[str, Any], reports: Sequence[Mapping[str, Any]], on_unseen: bool
) -> list[Mapping[str, Any]]:
    """The other runs without duplicates; raises a ValueError if one is not a repetition."""
    found: list[Mapping[str, Any]] = []
    common = _common(report, on_unseen)
    for index, other in enumerate(reports):
        its = _common(other, on_unseen)
        for name in {**common, **its}:
            if its.get(name) != common.get(name):
                raise ValueError(
                    f"reports[{index}].{name}: got {its.get(name)!r}, expected "
                    f"{common.get(name)!r} as in the run itself; repetitions differ in seed and "
                    "split alone"
                )
        if other != report and other not in found:
            found.append(other)
    return found


def _common(report: Mapping[str, Any], on_unseen: bool) -> dict[str, Any]:
    """Properties that repetitions of a run have in common."""
    names = ("method", "task", "encoders", "settings", "images_used")
    arguments = {name: v for name, v in report["arguments"].items() if name not in _FREE}
    return {
        **{name: report.get(name) for name in names},
        "data.source": report["data"].get("source"),
        "data.settings.label_text": report["data"].get("settings", {}).get("label_text"),
        "protocol": sections.protocol_of(report, on_unseen)[0],
        **{f"arguments.{name}": value for name, value in arguments.items()},
    }


def read_report(folder: str | Path) -> dict[str, Any]:
    """Reads the report of a finished run.

    Args:
        folder: Folder of the run.

    Raises:
        FileNotFoundError: If the folder holds no finished run.
        ValueError: If its report is not valid JSON.
    """
    path = Path(folder) / "report.json"
    if not path.exists():
        raise FileNotFoundError(f"{folder}: holds no report.json, expected a finished run")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, got: {error}") from None
