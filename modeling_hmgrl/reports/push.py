"""Push of a training run to the Hub."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi
from huggingface_hub.utils import validate_repo_id

from ..storage import write_json
from . import card_sections as sections
from .hub_results import RESULTS_FILE, results_yaml
from .model_card import make_card, read_report, trains_on_unseen
from .run_report import public_report


def push_run(
    folder: str | Path,
    repo_id: str,
    private: bool | None = None,
    token: str | None = None,
    runs: Sequence[str | Path] = (),
    dataset: str | None = None,
) -> str:
    """Pushes a run's model, processor, code, scores and card to the Hub, in one commit.

    Model and processor are loaded first, which verifies that they can be. Nothing else of the
    folder is uploaded: no logs, no checkpoints for resuming, no paths, no records that the report
    quotes.

    Args:
        folder: Folder of the run.
        repo_id: Repository, "user/name"; created if it does not exist.
        private: Whether a new repository is private.
        token: Token of the Hub; the stored one if None.
        runs: Folders of repetitions with other seeds or splits, for mean and standard deviation.
        dataset: Name of the run's data set on the Hub, if it is there.

    Returns:
        URL of the commit.

    Raises:
        FileNotFoundError: If a folder holds no finished run.
        ValueError: If the repository's name is malformed, the report is of another model, or a run
            is not a repetition.
        OSError: If the Hub cannot be reached or rejects the push, or the model cannot be loaded.
    """
    from transformers import AutoModel, AutoProcessor  # noqa: PLC0415 - only for a push

    from .. import baselines  # noqa: F401, PLC0415 - registers the methods with AutoModel

    folder = Path(folder)
    report = public_report(read_report(folder))
    if dataset is not None:
        report["data"]["hub"] = {**report["data"].get("hub", {}), "id": dataset}
    others = [Path(run) for run in runs if Path(run).resolve() != folder.resolve()]
    reports = [public_report(read_report(run)) for run in others]
    validate_repo_id(repo_id)
    if "/" not in repo_id:
        raise ValueError(f"repo_id: got {repo_id!r}, expected 'user/name'")
    model = AutoModel.from_pretrained(folder)
    if report["gamma"] != model.config.calibration_gamma:
        raise ValueError(
            f"{folder}: report.json has gamma {report['gamma']}, the model "
            f"{model.config.calibration_gamma}; expected the model of the report, not that of a "
            "later, unfinished run"
        )
    card = make_card(report, model.config, repo_id, reports)
    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    protocol, _ = sections.protocol_of(report, trains_on_unseen(model.config))
    source = f"{api.endpoint}/{repo_id}/blob/main/report.json"
    with TemporaryDirectory() as staging:
        model.save_pretrained(staging)
        AutoProcessor.from_pretrained(folder).save_pretrained(staging)
        card.save(Path(staging) / "README.md")
        write_json(Path(staging) / "report.json", report)
        if entries := results_yaml(report, protocol, source):
            (Path(staging) / RESULTS_FILE).parent.mkdir()
            (Path(staging) / RESULTS_FILE).write_text(entries, encoding="utf-8")
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=staging,
            delete_patterns=_stale(api.list_repo_files(repo_id)),
            commit_message=f"{report['method']}, {report['task']}, seed {report['seed']}",
        )
    return commit.commit_url


def _stale(files: Sequence[str]) -> list[str]:
    """Files of an earlier push that could be loaded instead of the new ones."""
    endings = (".safetensors", ".safetensors.index.json", ".bin", ".py")
    return [RESULTS_FILE, *(name for name in files if "/" not in name and name.endswith(endings))]
