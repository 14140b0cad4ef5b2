"""The folder of a run: what is refused, what is removed, who holds it, what must be the same."""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
from test_trainer import make_trainer
from tiny_world import tiny_label_sets, tiny_model, tiny_processor, tiny_records

from modeling_hmgrl import HMGRLTrainer, HMGRLTrainingArguments
from modeling_hmgrl.training import checkpointing
from modeling_hmgrl.training.checkpointing import last_checkpoint
from modeling_hmgrl.training.locks import holder_path, locked
from modeling_hmgrl.training.run_identity import differences

FORK = multiprocessing.get_context("fork")
CONSTANT = {"schedule": "constant", "warmup_ratio": 0.0}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder that contains `run`, a finished run of 2 epochs of 3 steps, and `features`."""
    folder = tmp_path_factory.mktemp("finished")
    make_trainer(folder, epochs=2, **CONSTANT).train()
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def content_of(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def steps_of(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_a_folder_with_a_run_is_refused_and_unchanged(copied):
    run, before = copied / "run", content_of(copied / "run")
    for left in ("checkpoints/", "report.json", "model.safetensors"):
        with pytest.raises(FileExistsError, match=rf"contains {left} of an earlier run") as caught:
            make_trainer(copied, epochs=1).train()
        assert all(
            word in str(caught.value) for word in (str(run), "--resume", "--overwrite-output-dir")
        )
        after = content_of(run)
        assert after == {name: before[name] for name in after}
        shutil.rmtree(run / left) if left.endswith("/") else (run / left).unlink()


def test_overwriting_removes_what_a_run_wrote_and_nothing_else(copied, tmp_path):
    run = copied / "run"
    mine = {"notes.txt": "mine", "logs/mine/a": "b", "checkpoints/mine/a": "b", "vocab.txt": "c"}
    for name, text in mine.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(text)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").touch()
    (run / "checkpoints" / "step-00000099").symlink_to(tmp_path / "elsewhere")
    assert steps_of(run) == ["mine", "step-00000006", "step-00000099"]
    # A file of the earlier model that the new one does not have must not remain.
    noted = json.loads((run / "run.json").read_text())
    noted["files"] += ["model.py", "../copy/notes.txt", "logs"]
    (run / "run.json").write_text(json.dumps(noted))
    (run / "model.py").touch()
    (copied / "notes.txt").write_text("mine")
    report = make_trainer(copied, epochs=1, overwrite_output_dir=True).train()
    assert [epoch["step"] for epoch in report["history"]] == [3]
    assert steps_of(run) == ["mine", "step-00000003"]
    assert {name: (run / name).read_text() for name in mine} == mine
    assert (tmp_path / "elsewhere" / "precious").exists()
    listed = json.loads((run / "run.json").read_text())["files"]
    assert {"config.json", "model.safetensors", "tokenizer.json", "modeling_hmgrl.py"} <= set(
        listed
    )
    assert "vocab.txt" not in listed
    assert not (run / "model.py").exists()
    assert (copied / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite_output_dir": True}])
def test_a_model_that_is_not_of_a_run_is_left_alone(tmp_path, options):
    tiny_model().save_pretrained(tmp_path / "run")
    before = content_of(tmp_path / "run")
    with pytest.raises(FileExistsError, match="safetensors, which is not of a run"):
        make_trainer(tmp_path, **options).train()
    assert content_of(tmp_path / "run") == before


def test_a_report_beside_a_model_does_not_make_it_one_of_a_run(tmp_path):
    tiny_model().save_pretrained(tmp_path / "run")
    (tmp_path / "run" / "report.json").write_text("{}")
    before = content_of(tmp_path / "run")
    with pytest.raises(FileExistsError, match=r"report\.json, which is not of a run"):
        make_trainer(tmp_path, overwrite_output_dir=True).train()
    assert content_of(tmp_path / "run") == before


def test_files_like_those_of_a_run_are_left_alone_where_there_is_none(tmp_path):
    mine = [
        tmp_path / "run" / name for name in ("logs/training/a", ".mine.partial/a", ".a.partial")
    ]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    arguments = {"epochs": 1, "max_steps": 1, "save_epochs": 0, "overwrite_output_dir": True}
    make_trainer(tmp_path, **arguments).train()
    assert [path.read_text() for path in mine] == ["mine"] * 3


@pytest.mark.parametrize("name", ["checkpoints", "logs"])
def test_of_a_linked_folder_the_link_alone_is_removed(copied, name):
    run, elsewhere = copied / "run", copied / "elsewhere"
    inside = elsewhere / ("step-00000006" if name == "checkpoints" else "training") / "precious"
    inside.parent.mkdir(parents=True)
    inside.touch()
    shutil.rmtree(run / name, ignore_errors=True)
    (run / name).symlink_to(elsewhere)
    make_trainer(copied, max_steps=1, save_epochs=0, overwrite_output_dir=True).train()
    assert inside.exists()
    assert not (run / name).is_symlink()


def test_a_finished_run_without_checkpoints_is_not_resumed_from_the_start(copied):
    shutil.rmtree(copied / "run" / "checkpoints")
    before = content_of(copied / "run")
    with pytest.raises(FileExistsError, match=r"contains report\.json but no checkpoint"):
        make_trainer(copied, epochs=2, resume=True).train()
    assert content_of(copied / "run") == before
    (copied / "run" / "report.json").unlink()  # interrupted before the first checkpoint
    assert make_trainer(copied, max_steps=1, resume=True).train()["history"][-1]["step"] == 1


def test_a_finished_run_is_resumed_to_its_report(copied):
    before = content_of(copied / "run")
    trainer = make_trainer(copied, epochs=2, resume=True, **CONSTANT)
    report = trainer.train()
    after = content_of(copied / "run")
    changed = {str(name) for name in after if after[name] != before.get(name)}
    assert changed == {"run.json"}
    assert report == json.loads((copied / "run" / "report.json").read_text())
    assert trainer.model.config.calibration_gamma == report["gamma"]
    report = make_trainer(copied, epochs=3, resume=True, **CONSTANT).train({"note": "longer"})
    assert [epoch["step"] for epoch in report["history"]] == [3, 6, 9]
    with pytest.raises(ValueError, match=r"got 6 steps in all, expected at least the 9"):
        make_trainer(copied, epochs=2, resume=True, **CONSTANT).train()


def resumed(folder, model=None, labels=None, data=None, **arguments):
    data = data or tiny_records(48)
    settings = {"epochs": 2, "batch_size": 16, "learning_rate": 3e-3, "head_learning_rate": 3e-3}
    settings |= {"progress": False, "tracker": "none", "feature_dir": str(folder / "features")}
    trainer = HMGRLTrainer(
        model or tiny_model(),
        tiny_processor(),
        HMGRLTrainingArguments(
            str(folder / "run"), resume=True, **(settings | CONSTANT | arguments)
        ),
        labels or tiny_label_sets(),
        data["train"],
        data["validation"],
        data["test"],
    )
    return trainer.train()


def described(vocabulary="transductive", **texts):
    sets = tiny_label_sets()
    groups = (sets.seen, sets.validation_unseen, sets.test_unseen)
    return type(sets).of(*groups, vocabulary, texts)


def fewer(records):
    return {**records, "train": records["train"].select(range(40))}


def other_image(row):
    return row | {"image": tiny_records(48, seed=3)["train"][0]["image"]}


OTHERS = {
    "argument": (
        {"head_learning_rate": 1e-3, "schedule": "linear"},
        r"head_learning_rate: was 0\.003, is 0\.001",
    ),
    "schedule": ({"schedule": "linear"}, r"steps in all: was absent, is 6"),
    "configuration": (
        lambda: {"model": tiny_model(dropout=0.35)},
        r"configuration\.dropout: was 0\.\d+, is 0\.35",
    ),
    "encoder": (
        lambda: {"model": tiny_model(seed=1)},
        r"encoders\.text\.fingerprint: was '\w+', is '\w+'; encoders\.vision\.fingerprint: was",
    ),
    "label text": (
        lambda: {"labels": described(tool="an implement")},
        r"label texts\.tool: was 'tool', is 'an implement'",
    ),
    "generator": (
        lambda: {"labels": described("inductive")},
        r"generator labels: only then \['drink', 'place'\], only now \[\]",
    ),
    "records": (
        lambda: {"data": tiny_records(48, seed=1)},
        r"data\.train\.digest: was '\w+', is '\w+'; data\.validation\.digest: was",
    ),
    "number of records": (
        lambda: {"data": fewer(tiny_records(48))},
        r"data\.train\.samples: was 48, is 40",
    ),
    "image": (
        lambda: {"data": {**tiny_records(48), "test": tiny_records(48)["test"].map(other_image)}},
        r"cannot be resumed, .*: data\.test\.digest: was '\w+', is '\w+'; expected",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_another_run_is_not_resumed_and_what_differs_is_named(case, copied):
    changes, message = OTHERS[case]
    before = content_of(copied / "run")
    with pytest.raises(ValueError, match=message) as caught:
        resumed(copied, **(changes() if callable(changes) else changes))
    assert "step-00000006: cannot be resumed" in str(caught.value)
    assert content_of(copied / "run") == before


def test_an_encoder_in_another_folder_is_the_same(copied):
    model = tiny_model()
    model.config.text_config.name_or_path = "elsewhere/minilm"
    assert resumed(copied, model)["history"][-1]["step"] == 6


def test_differences_are_shown_with_both_values_and_not_at_any_length():
    assert differences({"a": 1, "b": [1, 2]}, {"a": 1, "b": [2, 1]}) == ["b: in another order"]
    assert differences({}, {"a": None}) == ["a: was absent, is None"]
    many = {f"label {n:03d}": "x" * 1000 for n in range(50)}
    found = differences({"texts": many}, {"texts": dict.fromkeys(many, "y")})
    assert len(found) == 11
    assert found[-1] == "and 40 more"
    assert max(map(len, found)) < 300


# Pruning


def test_the_newest_checkpoint_is_kept_whatever_its_step(tmp_path):
    """A run of fewer steps than another one, whose checkpoints are in the folder."""
    run = tmp_path / "run"
    make_trainer(tmp_path, max_steps=3).train()
    shutil.copytree(run / "checkpoints" / "step-00000003", run / "checkpoints" / "step-00000900")
    shutil.copytree(run / "checkpoints" / "step-00000003", run / "checkpoints" / "step-00000901")
    state = json.loads((run / "checkpoints" / "step-00000900" / "trainer.json").read_text())
    assert state["order"] == 1
    trainer = make_trainer(tmp_path, max_steps=4, save_total_limit=2)
    trainer.output_dir = run
    save = [trainer.accelerator, run, {"step": 4, "fixed": {}}, 2]
    checkpointing.save_checkpoint(*save)
    assert steps_of(run) == ["step-00000004", "step-00000901"]
    assert last_checkpoint(run).name == "step-00000004"
    save[2] = {"step": 5, "fixed": {}}
    checkpointing.save_checkpoint(*save)
    assert steps_of(run) == ["step-00000004", "step-00000005"]
    save[3] = 4
    checkpointing.save_checkpoint(*save)
    assert steps_of(run) == ["step-00000004", "step-00000005"]


def test_a_checkpoint_of_the_same_step_is_replaced_and_one_is_always_complete(
    tmp_path, monkeypatch
):
    run = tmp_path / "run"
    make_trainer(tmp_path, max_steps=3).train()
    trainer = make_trainer(tmp_path / "other", max_steps=3)
    replace, seen = Path.replace, []

    def watched(self, target):
        found = replace(self, target)
        if "checkpoints" in str(target):
            seen.append(last_checkpoint(run).name)
        return found

    monkeypatch.setattr(Path, "replace", watched)
    checkpointing.save_checkpoint(trainer.accelerator, run, {"step": 3, "fixed": {}}, 1)
    assert seen[-2:] == ["step-00000003.replaced", "step-00000003"]
    assert steps_of(run) == ["step-00000003"]


# Locks


def hold(lock, ready, release):
    with locked(lock, "x"):
        ready.set()
        release.wait(60)


def holding(lock):
    """A process that holds a lock, and the event that ends it."""
    ready, release = FORK.Event(), FORK.Event()
    process = FORK.Process(target=hold, args=(lock, ready, release))
    process.start()
    assert ready.wait(60)
    return process, release


def test_a_folder_in_use_is_refused_and_the_holder_named(copied):
    process, release = holding(copied / "run" / ".lock")
    before = content_of(copied / "run")
    try:
        for options in ({"resume": True}, {"overwrite_output_dir": True}):
            with pytest.raises(BlockingIOError, match=r"run: in use by process") as caught:
                make_trainer(copied, **options).train()
            assert f"process {process.pid} on {os.uname().nodename} since 20" in str(caught.value)
        assert content_of(copied / "run") == before
    finally:
        release.set()
        process.join()


def test_a_killed_holder_does_not_block_and_is_not_named(tmp_path):
    lock = tmp_path / "a.lock"
    process, _ = holding(lock)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert holder_path(lock).exists()
    with locked(lock, "x"):
        assert json.loads(holder_path(lock).read_text())["pid"] == os.getpid()
    assert not holder_path(lock).exists()
    # A process that has acquired the lock but not yet said so, after another was killed.
    holder = {"pid": process.pid, "host": os.uname().nodename, "since": "2000-01-01T00:00:00"}
    other, release = holding(lock)
    holder_path(lock).write_text(json.dumps(holder))
    try:
        with pytest.raises(BlockingIOError, match="x: in use by another process; expected one"):
            locked(lock, "x").__enter__()
        holder_path(lock).write_text("{half")
        with pytest.raises(BlockingIOError, match="x: in use by another process"):
            locked(lock, "x").__enter__()
    finally:
        release.set()
        other.join()


def count_up(folder, turns):
    for _ in range(turns):
        with locked(folder / "lock", "the number", wait=True):
            number = int((folder / "number").read_text())
            (folder / "number").write_text(str(number + 1))


def test_processes_that_wait_take_turns(tmp_path):
    (tmp_path / "number").write_text("0")
    processes = [FORK.Process(target=count_up, args=(tmp_path, 25)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 3
    assert (tmp_path / "number").read_text() == "75"
