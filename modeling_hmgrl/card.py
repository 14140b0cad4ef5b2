"""The model card of a run, filled from its report, and the push of both to the Hub."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData

from .reporting import score_table

TEMPLATE = Path(__file__).with_name("model_card.md")

_EXAMPLES = {
    "typing": 'pipe("Ada plays the lute", mention="lute", labels=["food", "instrument"])',
    "relation": 'pipe(\n    "Ada Lovelace was born in London",\n    mention=["Ada Lovelace", '
    '"London"],\n    labels=["place of birth", "employer"],\n)',
}


def make_card(report: dict[str, Any], config: Any, repo_id: str) -> ModelCard:
    """Fills the card's template from a report.

    Args:
        report: Content of a run's ``report.json``.
        config: The model's :class:`HMGRLConfig`.
        repo_id: Repository that the usage example loads.

    Returns:
        The card.
    """
    labels, data = report["labels"], report["data"]
    known = [name for name in labels["test_unseen"] if name in labels["known_to_generator"]]
    if len(known) == len(labels["test_unseen"]):
        protocol = "The names of the test labels were known in training (class-transductive)."
    elif known:
        protocol = f"Of the test labels, these names were known in training: {', '.join(known)}."
    else:
        protocol = "The names of the test labels were not known in training (inductive)."
    encoders = [f"{kind} {name}" for kind, name in report["encoders"].items() if name]
    images = data.get("images", {})
    rows = {report["method"]: report["test"]} if "test" in report else {}
    rows |= {name: scores["test"] for name, scores in report.get("references", {}).items()}
    card_data = ModelCardData(
        library_name="transformers",
        tags=["hmgrl", "zero-shot", "multimodal", report["task"]],
        license="other",
        license_name="see-card",
    )
    return ModelCard.from_template(
        card_data,
        template_path=str(TEMPLATE),
        title=repo_id.rsplit("/", 1)[-1],
        summary="Generalized zero-shot multimodal "
        + ("entity typing." if report["task"] == "typing" else "relation extraction."),
        task=report["task"],
        encoders=", ".join(encoders),
        settings=", ".join(
            f"{name} {getattr(config, name)}"
            for name in ("score_function", "classification_loss", "attention", "hvib_layer")
        ),
        data=f"{data.get('source', 'own data')}, {data.get('records_out', '?')} samples",
        pictures=f"used ({images})" if report["images_used"] else f"not used ({images})",
        results=score_table(rows) if rows else "No test was run.",
        seed=report["seed"],
        protocol=protocol,
        seen=", ".join(labels["seen"]),
        validation_unseen=", ".join(labels["validation_unseen"]),
        test_unseen=", ".join(labels["test_unseen"]),
        repo_id=repo_id,
        example=_EXAMPLES[report["task"]],
        command=report["command"],
        versions=", ".join(f"{name} {version}" for name, version in report["versions"].items()),
    )


def push_run(
    folder: str | Path, repo_id: str, private: bool | None = None, token: str | None = None
) -> str:
    """Pushes a run's model, processor, report and card to the Hub in one commit.

    Args:
        folder: Folder of the run.
        repo_id: Repository, "user/name"; made if it does not exist.
        private: Whether a new repository is private.
        token: Token of the Hub; the stored one if None.

    Returns:
        URL of the commit.

    Raises:
        FileNotFoundError: If the folder holds no finished run.
    """
    from .configuration_hmgrl import HMGRLConfig  # noqa: PLC0415 - only for sharing

    folder = Path(folder)
    if not (folder / "report.json").exists():
        raise FileNotFoundError(f"{folder}: holds no report.json, expected a finished run")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    card = make_card(report, HMGRLConfig.from_pretrained(folder), repo_id)
    card.save(folder / "README.md")
    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repo_id,
        folder_path=str(folder),
        ignore_patterns=["logs/*", "checkpoints/*", "*.partial"],
        commit_message=f"{report['method']}, {report['task']}, seed {report['seed']}",
    )
    return commit.commit_url
