"""Where a run stands, on disk: written whole or not at all, taken up again to the bit.

A checkpoint holds what accelerate saves (weights, optimizer, schedule, random states of each
process, in whatever form the engine needs) and `trainer.json` with the trainer's own place. It is
written beside its final name and renamed when complete; the one before goes after that. A run that
is killed at any moment therefore leaves a complete checkpoint, the last or the one before.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..storage import write_json

FOLDER = "checkpoints"
_PLACE = "trainer.json"
_AVERAGES = "average.safetensors"
_PARTIAL = ".partial"


@dataclass
class Place:
    """Where a run stands.

    Attributes:
        step: Optimizer steps done.
        epoch: Epochs done.
        batch: Batches done of the next epoch.
        waited: Epochs since the best one.
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
    place: dict[str, Any],
    limit: int,
    averages: dict[str, Tensor] | None = None,
) -> None:
    """Saves a checkpoint; all processes call it.

    Args:
        accelerator: The accelerator that prepared the run.
        output_dir: Folder of the run.
        place: The trainer's own state, JSON-able, with its "step".
        limit: Checkpoints that are kept, this one included; 0 for all.
        averages: Averaged weights, if there are any.

    Raises:
        OSError: If it cannot be written. The checkpoint before is still there.
    """
    folder = output_dir / FOLDER / f"step-{place['step']:08d}"
    partial = folder.with_name(folder.name + _PARTIAL)
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(partial))
        if accelerator.is_main_process:
            if averages is not None:
                save_file(averages, partial / _AVERAGES)
            write_json(partial / _PLACE, place)
    # The writers of torch and of safetensors say a full disk in their own ways.
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
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    complete = _complete(output_dir)
    for old in complete[:-limit] if limit else []:
        shutil.rmtree(old, ignore_errors=True)


def _complete(output_dir: Path) -> list[Path]:
    """Complete checkpoints, the oldest first."""
    found = (output_dir / FOLDER).glob(f"step-*/{_PLACE}")
    return sorted(path.parent for path in found if path.parent.suffix != _PARTIAL)


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
        folder: A complete checkpoint, of the run itself: parts of it are not safetensors and would
            have to be trusted if they came from elsewhere.
        now: What must be as it was when the checkpoint was made, by name.

    Returns:
        The trainer's own state, and the averaged weights, if there are any.

    Raises:
        ValueError: If something is not as it was.
    """
    place: dict[str, Any] = json.loads((folder / _PLACE).read_text(encoding="utf-8"))
    then = place["fixed"]
    changed = {
        name: (then.get(name), value) for name, value in now.items() if then.get(name) != value
    }
    if changed:
        told = "; ".join(f"{name}: was {was!r}, is {now!r}" for name, (was, now) in changed.items())
        raise ValueError(f"{folder}: cannot go on from here, what decides the run differs: {told}")
    accelerator.load_state(str(folder))
    averages = load_file(folder / _AVERAGES) if (folder / _AVERAGES).exists() else {}
    return place, averages
