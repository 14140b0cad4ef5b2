"""Loads a trained model from a folder or the Hub."""

import json
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError
from transformers import AutoConfig
from transformers.utils import logging

from dataset_scripts.files import without_repeats
from dataset_scripts.schema import show
from modeling_hmgrl import HMGRLProcessor, ZeroShotTypingPipeline
from modeling_hmgrl.baselines import METHODS

from .arguments import UsageError


def load_model(
    name: str, revision: str | None = None, show_progress: bool = True
) -> tuple[Any, HMGRLProcessor]:
    """Loads a model of any method and its processor; code beside the weights is never run.

    Args:
        name: Folder of a training run, or name on the Hub.
        revision: Branch, tag or commit on the Hub.
        show_progress: Whether the libraries show progress bars, from here on.

    Returns:
        The model in evaluation mode, and its processor.

    Raises:
        OSError: If there is no such model, or it cannot be reached.
        ValueError: If it is a model of another kind, or its weights are damaged or not all there.
    """
    if not show_progress:
        logging.disable_progress_bar()
        disable_progress_bars()
    try:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        place = "folder" if Path(name).is_dir() else "local folder, nor found on the Hub"
        raise OSError(f"--model {name}: no {place} with a model ({error})") from error
    methods = {method.config_class: method for method in METHODS.values()}
    method: Any = methods.get(type(config))
    if method is None:
        known = ", ".join(repr(kind.model_type) for kind in methods)
        raise ValueError(
            f"--model {name}: a model of the type {config.model_type!r}, expected one of {known}"
        )
    try:
        model, found = method.from_pretrained(name, revision=revision, output_loading_info=True)
    except SafetensorError as error:
        raise ValueError(f"--model {name}: its weights are damaged ({error})") from error
    if missing := sorted(found["missing_keys"]):  # the library would make them up
        raise ValueError(
            f"--model {name}: {len(missing)} weights are not in its files, such as {missing[0]}"
        )
    return model.eval(), HMGRLProcessor.from_pretrained(name, revision=revision)


def method_name(config: Any) -> str:
    """Name of a model's method, as ``--method`` takes it, by its config."""
    return next(name for name, method in METHODS.items() if method.config_class is type(config))


def load_pipeline(
    name: str, revision: str | None = None, device: Any = None, show_progress: bool = True
) -> ZeroShotTypingPipeline:
    """Loads a model as a pipeline.

    Args:
        name: As for :func:`load_model`, likewise the revision.
        revision: Branch, tag or commit on the Hub.
        device: Device; an accelerator if None and there is one.
        show_progress: Whether the libraries show progress bars, from here on.

    Raises:
        UsageError: If there is no such device.
        OSError: As :func:`load_model`.
        ValueError: As :func:`load_model`.
    """
    if device is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:  # unknown, absent, or not compiled in
            raise UsageError(f"--device {device}: {str(error).splitlines()[0]}") from error
    model, processor = load_model(name, revision, show_progress)
    return ZeroShotTypingPipeline(model, processor, device=device)


def read_labels(path: Path) -> list[str] | dict[str, str]:
    """Reads labels to choose from.

    Args:
        path: A file whose name ends in .json, with a list of labels or an object of label:
            description; or a text file with a label a line, blank lines aside.

    Raises:
        ValueError: If it holds something else, or no label.
        OSError: If it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() != ".json":
            found: Any = [line.strip() for line in text.split("\n") if line.strip()]
        else:
            found = json.loads(text, object_pairs_hook=without_repeats)
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, a label twice
        raise ValueError(f"--labels-file {path}: {error}") from error
    if not isinstance(found, list | dict) or not found:
        raise ValueError(
            f"--labels-file {path}: got {show(found)}, expected at least one label: a JSON list, a "
            "JSON object of label: description, or a text file with a label a line"
        )
    return found


def commit_of(name: str, revision: str | None = None) -> str | None:
    """Returns the commit of a model on the Hub, None for a folder."""
    if Path(name).is_dir():
        return None
    return Path(hf_hub_download(name, "config.json", revision=revision)).parent.name


def run_report(name: str, revision: str | None = None) -> dict[str, Any] | None:
    """Reads the report that training left beside a model.

    Args:
        name: Folder of a training run, or name on the Hub.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The report, or None if there is none.

    Raises:
        ValueError: If it is no JSON object.
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
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON ({error})") from error
    if not isinstance(report, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(report).__name__}")
    return report
