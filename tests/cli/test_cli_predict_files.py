"""`hmgrl predict`: files that it must not write, and runs that write the same file."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
from cli_world import Stdin, lines, records
from predict_world import BATCH, as_process, error_of, read, whole

from hmgrl_cli.predict_output import PredictionWriter, lock_output, part_path, progress_path
from modeling_hmgrl.training.locks import holder_path, lock_path, locked

FORK = multiprocessing.get_context("fork")


def refused(predict, capsys, *options, count=2):
    capsys.readouterr()
    predict(*options, expected=count)
    return error_of(capsys)


# Files that are read


def test_files_that_are_read_are_not_written(data, predict, tmp_path, capsys):
    labels, out = tmp_path / "labels.txt", tmp_path / "out.jsonl"
    labels.write_text("animal\ntool\n")
    shared = ["--input", data, "--overwrite"]
    said = refused(predict, capsys, *shared, "--output", labels, "--labels-file", labels)
    assert f"--output {labels}: same file as --labels-file {labels}, expected another file" in said
    os.link(labels, tmp_path / "linked.txt")
    said = refused(
        predict, capsys, *shared, "--output", tmp_path / "linked.txt", "--labels-file", labels
    )
    assert f"same file as --labels-file {labels}" in said
    assert labels.read_text() == "animal\ntool\n"
    for name in ("out.jsonl.progress.json", "out.jsonl.part-0-of-2", ".out.jsonl.lock"):
        source = tmp_path / name
        source.write_bytes(lines(records(2)[1:]))
        for option in ("--input", "--labels-file"):
            given = {"--input": data, "--output": out, option: source}
            options = [word for pair in given.items() for word in pair]
            said = refused(predict, capsys, *options, "--overwrite")
            assert f"{source}, which belongs to --output: same file as {option} {source}" in said
        assert source.read_bytes() == lines(records(2)[1:])
        source.unlink()
    assert not out.exists()


def test_the_label_cache_is_not_written_by_two_options(data, predict, tmp_path, capsys):
    cache = tmp_path / "cache"
    cache.mkdir()
    labels = cache / "labels.json"
    labels.write_text('["animal", "tool"]')
    shared = ["--input", data, "--label-cache", cache]
    said = refused(
        predict, capsys, *shared, "--output", tmp_path / "out.jsonl", "--labels-file", labels
    )
    assert f"(labels.json): same file as --labels-file {labels}" in said
    said = refused(predict, capsys, *shared, "--output", labels, "--overwrite")
    assert f"--output {labels}: same file as a file of --label-cache (labels.json)" in said
    assert labels.read_text() == '["animal", "tool"]'


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.progress.json", "out.jsonl.part-0-of-2"])
@pytest.mark.parametrize("exists", [True, False])
def test_nothing_is_written_through_a_link(data, predict, tmp_path, capsys, name, exists):
    target, out = tmp_path / "precious", tmp_path / "out.jsonl"
    if exists:
        target.write_text("precious")
    (tmp_path / name).symlink_to(target)
    for more in ([], ["--overwrite"], ["--resume"]):
        said = refused(predict, capsys, "--input", data, "--output", out, *more)
        assert f"{tmp_path / name}" in said
        assert "is a symbolic link, expected a file or a new name" in said
    assert (target.read_text() == "precious") if exists else not target.exists()


def test_a_link_put_in_place_after_the_check_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "out.jsonl").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        PredictionWriter.open(tmp_path / "out.jsonl", {}, resume=False)
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_folder_that_is_a_link_may_hold_the_output(data, predict, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    expected = whole(predict, data, tmp_path)
    predict("--input", data, "--output", tmp_path / "link" / "out.jsonl")
    assert (tmp_path / "real" / "out.jsonl").read_bytes() == expected


# Two runs


def test_two_processes_into_one_output(world, data, predict, tmp_path, capsys):
    """The second one ends with an error; a killed one does not block."""
    out = tmp_path / "out.jsonl"
    content = data.read_bytes()
    command = [sys.executable, "-m", "hmgrl", "predict", "--model", str(world / "model")]
    command += ["--batch-size", str(BATCH), "--output", str(out), "--no-progress", "--no-images"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}
    ) as process:
        process.stdin.write(b"".join(content.splitlines(True)[: 2 * BATCH]))  # and it waits
        process.stdin.flush()
        deadline = time.monotonic() + 240
        while not (out.exists() and out.read_bytes().count(b"\n") >= BATCH):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        written = out.read_bytes()
        for more in ([], ["--resume"], ["--overwrite"]):
            said = refused(predict, capsys, "--input", data, "--output", out, *more, count=1)
            assert f"--output {out}: in use by process {process.pid} on " in said
        assert out.read_bytes().startswith(written)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert holder_path(lock_path(out)).exists()
    predict("--output", out, "--no-images", "--resume", stdin=Stdin(content))
    assert len(read(out)) == 44
    assert sorted(path.name for path in tmp_path.iterdir()) == (
        [".out.jsonl.lock", "out.jsonl", "out.jsonl.progress.json"]
    )


def hold(path, index, count, ready, release):
    with lock_output(path, index, count):
        ready.set()
        release.wait(120)


def test_a_part_that_is_being_written_is_locked(data, predict, tmp_path, capsys, monkeypatch):
    """A process of a run whose main process has ended still writes its part."""
    out = tmp_path / "out.jsonl"
    ready, release = FORK.Event(), FORK.Event()
    holder = FORK.Process(target=hold, args=(out, 1, 2, ready, release))
    holder.start()
    assert ready.wait(60)
    try:
        as_process(monkeypatch, 1)
        said = refused(predict, capsys, "--input", data, "--output", out, count=1)
        assert f"--output {part_path(out, 1, 2)}: in use by process {holder.pid} on " in said
        as_process(monkeypatch, 0)
        with lock_output(out, 0, 2):
            pass
    finally:
        release.set()
        holder.join()


def load_label_cache(path, ready, release):
    with locked(path / ".lock", "the cache"):
        ready.set()
        release.wait(120)


def test_a_run_waits_for_another_to_write_the_label_cache(data, predict, tmp_path):
    cache, out = tmp_path / "cache", tmp_path / "out.jsonl"
    ready, release = FORK.Event(), FORK.Event()
    holder = FORK.Process(target=load_label_cache, args=(cache, ready, release))
    holder.start()
    assert ready.wait(60)
    timer = FORK.Process(target=lambda: (time.sleep(1), release.set()))
    timer.start()
    predict("--input", data, "--output", out, "--label-cache", cache, "--no-images")
    assert release.is_set()
    holder.join()
    timer.join()
    assert len(read(out)) == 44
    assert len(json.loads((cache / "labels.json").read_text())["texts"]) == 6
    assert json.loads(progress_path(out).read_text())["finished"]


def test_a_cache_that_cannot_be_written_is_read(data, predict, tmp_path, monkeypatch):
    cache, out = tmp_path / "cache", tmp_path / "out.jsonl"
    options = ["--input", data, "--label-cache", cache, "--no-images"]
    predict(*options, "--output", out)
    (cache / ".lock").unlink()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    predict(*options, "--output", tmp_path / "second.jsonl")
    assert (tmp_path / "second.jsonl").read_bytes() == out.read_bytes()
    assert sorted(path.name for path in cache.iterdir()) == (
        ["label_vectors.safetensors", "labels.json"]
    )
