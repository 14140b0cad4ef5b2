"""The folder of a run: one process writes to it, and an earlier run in it is not lost silently."""

import json
import shutil
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from accelerate import Accelerator

from ..reports.run_report import RUN_FILE
from ..storage import write_json
from .checkpointing import FOLDER, is_checkpoint, last_checkpoint
from .locks import locked
from .training_arguments import HMGRLTrainingArguments

REPORT_NAME = "report.json"
LOCK_NAME = ".lock"
LOGS = "logs"
TRACKED = "training"  # name of the run for trackers, and of its folder of logs
# Beginning and ending of the folder in which a model is saved before its files are moved.
_STAGED, _PARTIAL = ".model-", ".partial"
_FILES = "files"  # field of run.json
_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")


@contextmanager
def run_folder(accelerator: Accelerator, arguments: HMGRLTrainingArguments) -> Iterator[None]:
    """Reserves the folder of a run within the context; must be called by all of its processes.

    Args:
        accelerator: The accelerator of the run.
        arguments: Arguments of the run.

    Raises:
        BlockingIOError: If another run is using the folder.
        FileExistsError: See :func:`checked_folder`.
    """
    folder = Path(arguments.output_dir)
    with ExitStack() as stack:
        if accelerator.is_main_process:
            stack.enter_context(checked_folder(arguments))
            if arguments.overwrite_output_dir and _is_of_run(folder):
                remove_run(folder)
            for stale in folder.glob(f"{_STAGED}*{_PARTIAL}"):  # of a run killed while saving
                _remove(stale)
        accelerator.wait_for_everyone()  # until the folder is ready
        yield


@contextmanager
def checked_folder(arguments: HMGRLTrainingArguments) -> Iterator[None]:
    """Locks the folder of a run within the context, and checks that the run may write to it.

    Args:
        arguments: Arguments of the run.

    Raises:
        BlockingIOError: If another run is using the folder.
        FileExistsError: If it contains checkpoints, a report or a model, and the arguments request
            neither to resume nor to overwrite; if a finished run cannot be resumed, as it has no
            checkpoint; or if it contains a model that is not of a run.
    """
    folder = Path(arguments.output_dir)
    with locked(folder / LOCK_NAME, f"output_dir {folder}"):
        found = _find_run(folder)
        if found is not None and not _is_of_run(folder):
            raise FileExistsError(
                f"output_dir {folder}: contains {found}, which is not of a run, as there is no "
                f"{RUN_FILE}; expected another folder"
            )
        if found is not None and not arguments.overwrite_output_dir:
            _check_resumable(folder, found, arguments.resume)
        yield


def _check_resumable(folder: Path, found: str, resume: bool) -> None:
    overwrite = "overwrite_output_dir (--overwrite-output-dir) to remove that run"
    if not resume:
        raise FileExistsError(
            f"output_dir {folder}: contains {found} of an earlier run; expected another folder, "
            f"resume (--resume) to continue that run, or {overwrite}"
        )
    is_unfinished = (folder / RUN_FILE).is_file() and not (folder / REPORT_NAME).exists()
    if last_checkpoint(folder) is None and not is_unfinished:
        raise FileExistsError(
            f"output_dir {folder}: contains {found} but no checkpoint, so that it cannot be "
            f"resumed; expected another folder, or {overwrite}"
        )


def _is_of_run(folder: Path) -> bool:
    """Whether a run wrote to the folder; many programs write models, reports and logs."""
    return (folder / RUN_FILE).is_file() or last_checkpoint(folder) is not None


def _find_run(folder: Path) -> str | None:
    """Name of something that a run leaves, if the folder contains it."""
    if last_checkpoint(folder) is not None:
        return f"{FOLDER}/"
    patterns = (REPORT_NAME, *_WEIGHTS)
    return next((path.name for name in patterns for path in folder.glob(name)), None)


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder, whose files replace those of a folder at the end.

    If the folder is that of a run, its `run.json` lists these files from then on.

    Args:
        folder: The folder, created if it does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=_STAGED, suffix=_PARTIAL, dir=folder) as partial:
        yield Path(partial)
        paths = sorted(Path(partial).iterdir())
        content = _read_json(folder / RUN_FILE)
        files = sorted({*_names_in(content), *(path.name for path in paths)})
        if content and files != content.get(_FILES):
            write_json(folder / RUN_FILE, content | {_FILES: files})
        for path in paths:
            path.replace(folder / path.name)


def noted_files(folder: Path) -> list[str]:
    """Names of the files that a run has noted in `run.json`."""
    return _names_in(_read_json(folder / RUN_FILE))


def _names_in(content: dict[str, Any]) -> list[str]:
    names = content.get(_FILES)
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def finished_report(
    folder: Path, history: list[Any], splits: Collection[str], extra: dict[str, Any]
) -> dict[str, Any] | None:
    """Returns the report of a run with this history, splits and further fields, if there is one."""
    report = _read_json(folder / REPORT_NAME)
    is_complete = report.get("history") == history and all(split in report for split in splits)
    return report if is_complete and all(report.get(k) == extra[k] for k in extra) else None


def _read_json(path: Path) -> dict[str, Any]:
    """Returns the content of a JSON file; empty if there is none or it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def remove_run(folder: Path) -> None:
    """Removes what a run wrote to its folder; all other files remain.

    These are its checkpoints, its logs, the report, and the files of the model. Of a symbolic link,
    the link alone is removed.

    Args:
        folder: The folder of a run.
    """
    for parent in (folder / FOLDER, folder / LOGS):
        if parent.is_symlink():
            parent.unlink()
    for path in sorted((folder / FOLDER).glob("step-*")):
        if is_checkpoint(path):
            _remove(path)
    _remove(folder / LOGS / TRACKED)
    for name in noted_files(folder):
        path = folder / name
        if name == Path(name).name and (path.is_file() or path.is_symlink()):
            path.unlink()
    for pattern in (*_WEIGHTS, REPORT_NAME, RUN_FILE):
        for path in folder.glob(pattern):
            path.unlink()
    for parent in (folder / FOLDER, folder / LOGS):
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()


def _remove(path: Path) -> None:
    """Removes a file or folder, if it exists; of a symbolic link, the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
