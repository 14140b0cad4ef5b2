"""A run that was killed goes on as if nothing had happened, to the bit."""

import errno
import json
import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from test_trainer import make_trainer

from modeling_hmgrl.training.checkpointing import last_checkpoint

SCRIPT = Path(__file__).parents[1] / "helpers" / "run_tiny.py"


def run(folder, *options, expected=0, **arguments):
    command = [sys.executable, str(SCRIPT), str(folder), *options]
    command += ["--arguments", json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == expected, done.stderr[-3000:]
    return done


def outcome(folder):
    report = json.loads((folder / "report.json").read_text())
    kept = {name: report[name] for name in ("history", "validation", "test", "gamma")}
    return kept, (folder / "model.safetensors").read_bytes()


CASES = {
    # 6 steps make an epoch; killed in the middle of the second and in the middle of its checkpoint.
    "from the epoch": ("step", 9, {}),
    "in an averaged checkpoint": ("write", 8, {"save_steps": 4, "ema_decay": 0.8}),
    "accumulated": (
        "step", 5, {"save_steps": 2, "gradient_accumulation_steps": 2, "balanced": False},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_killed_and_resumed_is_equal_to_the_bit(case, tmp_path):
    where, step, arguments = CASES[case]
    run(tmp_path / "whole", **arguments)
    kill = ["--kill-step", str(step), "--kill-where", where]
    run(tmp_path / "cut", *kill, expected=-signal.SIGKILL, **arguments)
    folder = last_checkpoint(tmp_path / "cut")
    place = json.loads((folder / "trainer.json").read_text())
    assert 0 < place["step"] < step
    assert (place["batch"] > 0) == (case == "accumulated")
    assert not (tmp_path / "cut" / "report.json").exists()
    run(tmp_path / "cut", resume=True, **arguments)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_a_finished_run_goes_on_to_more_epochs_and_keeps_as_many_as_asked(tmp_path):
    run(tmp_path / "run", epochs=3, schedule="constant", save_steps=1, save_total_limit=4)
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == [f"step-{step:08d}" for step in range(15, 19)]
    run(tmp_path / "run", epochs=4, schedule="constant", resume=True)
    history = json.loads((tmp_path / "run" / "report.json").read_text())["history"]
    assert [epoch["step"] for epoch in history] == [6, 12, 18, 24]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000024"]


def test_another_run_is_not_resumed(tmp_path):
    run(tmp_path / "run", max_steps=2)
    done = run(tmp_path / "run", expected=1, resume=True, batch_size=16, learning_rate=1e-3)
    message = done.stderr.splitlines()[-1]
    assert "cannot be resumed" in message
    assert "learning_rate: was 0.003, is 0.001" in message
    assert "batch_size: was 8, is 16" in message


def test_without_a_checkpoint_a_run_that_is_to_resume_starts(tmp_path):
    run(tmp_path / "run", resume=True, max_steps=2, save_epochs=0)
    assert last_checkpoint(tmp_path / "run") is None
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_run_folder_says_what_is_being_done(tmp_path):
    run(tmp_path / "run", max_steps=1)
    said = json.loads((tmp_path / "run" / "run.json").read_text())
    assert said["arguments"]["max_steps"] == 1
    assert said["command"].startswith("run_tiny.py ")
    assert said["versions"]["torch"]
    assert "git_revision" in said


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path):
    trainer = make_trainer(tmp_path, epochs=3)
    save, calls = trainer.accelerator.save_state, []

    def full(folder):
        calls.append(folder)
        save(folder)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    trainer.accelerator.save_state = full
    with pytest.raises(
        OSError, match=r"cannot be written .*No space left .*step-00000003"
    ) as caught:
        trainer.train()
    assert "GB free" in str(caught.value)
    assert last_checkpoint(tmp_path / "run").name == "step-00000003"
    names = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert names == ["step-00000003"]
    load_file(tmp_path / "run" / "model.safetensors")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OSError, match="run"):
        make_trainer(tmp_path)


def test_the_best_weights_are_replaced_whole(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, epochs=1)
    trainer.save(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder" / "model.safetensors").exists()
    trainer.save(tmp_path / "run")
    before = {
        path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()
    }

    def half(folder, **_):
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trainer.model, "save_pretrained", half)
    with pytest.raises(OSError, match="No space left"):
        trainer.save(tmp_path / "run")
    after = {
        path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()
    }
    assert after == before
    assert not list((tmp_path / "run").glob(".*.partial"))


AVERAGED = {"max_steps": 2, "ema_decay": 0.8, "save_steps": 1}


@pytest.fixture(scope="module")
def averaged_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("averaged")
    make_trainer(folder, **AVERAGED).train()
    return folder / "run"


@pytest.mark.parametrize(
    ("file", "spoil", "message"),
    [
        ("model", "NaN", r"is not finite"),
        ("model", "missing", "cannot be resumed .*Missing key"),
        ("model", "shape", "cannot be resumed .*size mismatch"),
        ("average", "missing", "averaged weights: 1 of"),
        ("average", "NaN", r"is not finite"),
    ],
)
def test_a_spoilt_checkpoint_is_not_gone_on_with(file, spoil, message, averaged_run, tmp_path):
    folder = shutil.copytree(averaged_run, tmp_path / "run")
    path = last_checkpoint(folder) / f"{file}.safetensors"
    state = load_file(path)
    name = next(name for name, value in state.items() if value.ndim == 2)
    if spoil == "missing":
        del state[name]
    else:
        state[name] = state[name][:1].clone() if spoil == "shape" else state[name].fill_(math.nan)
    save_file(state, path)
    trainer = make_trainer(tmp_path, **AVERAGED, resume=True)
    with pytest.raises(ValueError, match=message):
        trainer.train()
