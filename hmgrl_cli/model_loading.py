"""Loads trained models, their reports and label files."""

from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from transformers import AutoConfig
from transformers.utils import logging

from dataset_scripts.files import MAX_JSON_BYTES, load_json
from dataset_scripts.schema import show
from modeling_hmgrl import HMGRLProcessor, ZeroShotTypingPipeline
from modeling_hmgrl.baselines import METHODS

from .arguments import UsageError


def load_model(
    name: str, revision: str | None = None, show_progress: bool = True
) -> tuple[Any, HMGRLProcessor]:
    """Loads a model of any method and its processor; code stored with the model is never executed.

    Args:
        name: Folder of a training run, or name of a model on the Hub.
        revision: Branch, tag or commit on the Hub.
        show_progress: Whether the libraries show progress bars; applies to the whole process.

    Returns:
        The model in evaluation mode, and its processor.

    Raises:
        OSError: If the model does not exist or the Hub cannot be reached.
        ValueError: If the model has another type, or its weights are damaged or incomplete.
    """
    if not show_progress:
        logging.disable_progress_bar()
        disable_progress_bars()
    try:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        exists = not isinstance(error, OSError | HFValidationError)
        if Path(name).is_dir():
            exists = (Path(name) / "config.json").is_file()
        if exists:
            raise ValueError(f"--model {name}: the configuration is invalid ({error})") from error
        found = (
            "the folder contains no model"
            if Path(name).is_dir()
            else "neither a local folder nor a model on the Hub"
        )
        raise OSError(f"--model {name}: {found} ({error})") from error
    methods = {method.config_class: method for method in METHODS.values()}
    method: Any = methods.get(type(config))
    if method is None:
        known = ", ".join(repr(kind.model_type) for kind in methods)
        raise ValueError(
            f"--model {name}: got a model of type {config.model_type!r}, expected one of {known}"
        )
    try:
        model = method.from_pretrained(name, revision=revision)
        return model.eval(), HMGRLProcessor.from_pretrained(name, revision=revision)
    except ValueError as error:
        reason = str(error).removeprefix(f"{name}: ")
        raise ValueError(f"--model {name}: {reason}") from error


def method_name(config: Any) -> str:
    """Returns the name of the method, as in ``--method``, that a model's config belongs to."""
    return next(name for name, method in METHODS.items() if method.config_class is type(config))


def load_pipeline(
    name: str, revision: str | None = None, device: Any = None, show_progress: bool = True
) -> ZeroShotTypingPipeline:
    """Loads a model as a pipeline.

    Args:
        name: Folder of a training run, or name of a model on the Hub.
        revision: Branch, tag or commit on the Hub.
        device: Device; None selects an accelerator if there is one.
        show_progress: Whether the libraries show progress bars; applies to the whole process.

    Raises:
        UsageError: If the device is not available.
        OSError: See :func:`load_model`.
        ValueError: See :func:`load_model`.
    """
    if device is not None:
        try:
            torch.empty(0, device=device)
        except (
            RuntimeError,
            AssertionError,
        ) as error:  # unknown, absent, or not compiled in
            raise UsageError(f"--device {device}: {str(error).splitlines()[0]}") from error
    model, processor = load_model(name, revision, show_progress)
    return ZeroShotTypingPipeline(model, processor, device=device)


def read_labels(path: Path) -> list[str] | dict[str, str]:
    """Reads the labels to choose from.

    Args:
        path: A .json file with a list of labels or an object that maps labels to descriptions, or
            a text file with one label per line; blank lines are ignored.

    Raises:
        ValueError: If the file is invalid or contains no label.
        OSError: If the file cannot be read.
    """
    try:
        if path.suffix.lower() == ".json":
            found: Any = load_json(path)
        elif (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise ValueError(f"{size} bytes, expected at most {MAX_JSON_BYTES}")
        else:
            text = path.read_text(encoding="utf-8-sig")
            found = [line.strip() for line in text.split("\n") if line.strip()]
    except ValueError as error:  # too large, not UTF-8, not JSON, or a repeated label
        raise ValueError(f"--labels-file {path}: {error}") from error
    if not isinstance(found, list | dict) or not found:
        raise ValueError(
            f"--labels-file {path}: got {show(found)}, expected at least one label: a JSON list, a "
            "JSON object that maps labels to descriptions, or a text file with one label per line"
        )
    return found


def commit_hash(name: str, revision: str | None = None) -> str | None:
    """Returns the commit hash of a model on the Hub, or None for a local folder."""
    if Path(name).is_dir():
        return None
    return Path(hf_hub_download(name, "config.json", revision=revision)).parent.name


def read_run_report(name: str, revision: str | None = None) -> dict[str, Any] | None:
    """Reads the report that training stored with a model.

    Args:
        name: Folder of a training run, or name of a model on the Hub.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The report, or None if there is none.

    Raises:
        ValueError: If the report is not a JSON object.
        OSError: If the Hub cannot be reached.
    """
    path = Path(name) / "report.json"
    if not Path(name).is_dir():
        try:
            path = Path(hf_hub_download(name, "report.json", revision=revision))
        except EntryNotFoundError:
            return None
    if not path.is_file():
        return None
    try:
        report = load_json(path)
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON ({error})") from error
    if not isinstance(report, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(report).__name__}")
    return report
