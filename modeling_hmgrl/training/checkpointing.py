"""Atomic checkpoints of a run, from which it is resumed exactly.

A checkpoint contains what accelerate saves (weights, optimizer, schedule and random states of each
process, in the format of the engine) and `trainer.json` with the trainer's own state. It is written
to a temporary folder and renamed when complete; only then are older ones deleted, by the order in
which they were saved. A run that is killed at any time therefore leaves a complete checkpoint.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..storage import check_finite, write_json
from .run_identity import differences

FOLDER = "checkpoints"
_STATE = "trainer.json"
_AVERAGES = "average.safetensors"
_PARTIAL, _REPLACED = ".partial", ".replaced"
_NAME = re.compile(rf"step-\d{{8,}}({re.escape(_PARTIAL)}|{re.escape(_REPLACED)})?")
_MAX_REASON = 500  # characters of an error that may name all weights


@dataclass
class TrainerState:
    """Progress of a run.

    Attributes:
        step: Number of completed optimizer steps.
        epoch: Number of completed epochs.
        batch: Number of completed batches of the current epoch.
        waited: Number of epochs since the best one.
        best: Validation scores of the best epoch.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    waited: int = 0
    best: dict[str, Any] | None = None


def save_checkpoint(
    accelerator: Accelerator,
    output_dir: Path,
    state: dict[str, Any],
    limit: int,
    averages: dict[str, Tensor] | None = None,
) -> None:
    """Saves a checkpoint; must be called by all processes.

    Args:
        accelerator: The accelerator that prepared the run.
        output_dir: Folder of the run.
        state: The trainer's own state, JSON-serialisable, with its "step".
        limit: Number of checkpoints to keep, including this one; 0 for all.
        averages: Averaged weights, if there are any.

    Raises:
        OSError: If it cannot be written. The previous checkpoint remains.
    """
    folder = output_dir / FOLDER / f"step-{state['step']:08d}"
    partial = folder.with_name(folder.name + _PARTIAL)
    if accelerator.is_main_process:
        for stale in folder.parent.glob(f"step-*{_PARTIAL}"):  # of a run that was killed
            if is_checkpoint(stale):
                shutil.rmtree(stale, ignore_errors=True)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(partial))
        if accelerator.is_main_process:
            if averages is not None:
                save_file(averages, partial / _AVERAGES)
            order = 1 + max(map(_order, _complete(output_dir)), default=0)
            write_json(partial / _STATE, state | {"order": order})
    # torch and safetensors raise their own errors on a full disk.
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        free = shutil.disk_usage(output_dir).free / 1e9
        last = last_checkpoint(output_dir)
        raise OSError(
            f"{partial}: the checkpoint cannot be written ({free:.1f} GB free): {error}; the last "
            f"complete one is {'none' if last is None else last}"
        ) from error
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return
    if folder.exists():  # it remains complete, under another name, until the new one is in place
        replaced = folder.with_name(folder.name + _REPLACED)
        shutil.rmtree(replaced, ignore_errors=True)
        folder.replace(replaced)
    partial.replace(folder)
    others = [path for path in _complete(output_dir) if path != folder]
    replaced_ones = [path for path in others if path.suffix == _REPLACED]
    older = [path for path in others if path.suffix != _REPLACED]
    surplus = older[: max(0, len(older) + 1 - limit)] if limit else []
    for old in (*replaced_ones, *surplus):
        shutil.rmtree(old, ignore_errors=True)


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder has the name of a checkpoint, which may be incomplete."""
    return bool(_NAME.fullmatch(folder.name))


def _complete(output_dir: Path) -> list[Path]:
    """Complete checkpoints in the order in which they were saved."""
    found = [path.parent for path in (output_dir / FOLDER).glob(f"step-*/{_STATE}")]
    complete = [path for path in found if is_checkpoint(path) and path.suffix != _PARTIAL]
    return sorted(complete, key=lambda path: (_order(path), path.name))


def _order(folder: Path) -> int:
    """Number of a checkpoint in the order of saving; 0 if it is damaged or has none."""
    try:
        order = json.loads((folder / _STATE).read_text(encoding="utf-8"))["order"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return order if isinstance(order, int) else 0


def last_checkpoint(output_dir: Path) -> Path | None:
    """The last complete checkpoint of a run, or None."""
    complete = _complete(output_dir)
    return complete[-1] if complete else None


def load_checkpoint(
    accelerator: Accelerator, folder: Path, now: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Restores weights, optimizer, schedule and random states.

    Args:
        accelerator: The accelerator that prepared the run.
        folder: A complete checkpoint of the same run. It must be trusted, as some of its files are
            pickled.
        now: Properties that must be the same as when the checkpoint was saved, by name.

    Returns:
        The trainer's own state, and the averaged weights, if there are any.

    Raises:
        ValueError: If one of these properties has changed, or weights are missing, of another
            shape, or not finite.
    """
    state: dict[str, Any] = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    if changed := differences(state["fixed"], now):
        raise ValueError(
            f"{folder}: cannot be resumed, as this run differs from the one that saved it: "
            f"{'; '.join(changed)}; expected the same run, or another output_dir"
        )
    averages: dict[str, Tensor] = {}
    try:
        for file in sorted(folder.glob("*.safetensors")):
            tensors = load_file(file)
            check_finite(str(file), tensors)
            if file.name == _AVERAGES:
                averages = tensors
        accelerator.load_state(str(folder))
    except (RuntimeError, SafetensorError) as error:  # which names missing or mismatched weights
        reason = " ".join(str(error).split())[:_MAX_REASON]
        raise ValueError(f"{folder}: cannot be resumed ({reason})") from error
    return state, averages
