"""`hmgrl predict` in a pipe of other programs and on several processes."""

import json
import os
import subprocess
import sys

from cli_world import Stdin, lines, records
from predict_world import BATCH, as_process, error_of, whole
from tiny_world import LABELS

from hmgrl_cli.predict_output import PredictionWriter

# Pipes of other programs


def test_a_reader_that_goes_away_ends_it_in_one_line(world):
    command = [sys.executable, "-m", "hmgrl", "predict", "--model", str(world / "model")]
    command += ["--batch-size", "1", "--no-progress"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    line = lines(records(2)[1:])
    with subprocess.Popen(command, env=environment, **pipes) as process:
        process.stdin.write(line)
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())  # comes before the input ends
        assert answer["prediction"]["label"] in LABELS
        process.stdout.close()
        process.stdin.write(line)
        process.stdin.close()
        said = process.stderr.read().decode()
        assert process.wait() == 1
    assert said.splitlines()[-1] == (
        "hmgrl predict: standard output was closed before all results were written"
    )
    assert "Traceback" not in said


# Several processes


def test_two_processes_equal_one(world, data, predict, tmp_path):
    expected = whole(predict, data, tmp_path)
    out = tmp_path / "two.jsonl"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command += ["-m", "hmgrl", "predict", "--model", str(world / "model"), "--input", str(data)]
    command += ["--output", str(out), "--batch-size", str(BATCH), "--no-progress"]
    command += ["--label-cache", str(tmp_path / "labels")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert out.read_bytes() == expected
    assert done.stdout == ""
    assert done.stderr.count("44 lines written") == 1
    assert sorted(path.name for path in tmp_path.glob("two*")) == (
        ["two.jsonl", "two.jsonl.progress.json"]
    )


def test_parts_go_on_too(world, data, predict, tmp_path, monkeypatch, capsys):
    expected = whole(predict, data, tmp_path)
    out = tmp_path / "two.jsonl"
    options = ["--input", data, "--output", out]

    def killed(self, *_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        commits = []
        commit = PredictionWriter.commit

        def counted(self, *values, **more):
            commit(self, *values, **more)
            commits.append(values)
            raise KeyboardInterrupt

        patch.setattr(PredictionWriter, "commit", counted)
        as_process(patch, 0)
        predict(*options, expected=130)
    assert len(commits) == 1
    as_process(monkeypatch, 1)
    predict(*options)  # the second process comes to its end
    part = (tmp_path / "two.jsonl.part-1-of-2").read_bytes()
    capsys.readouterr()
    as_process(monkeypatch, 0)
    predict(*options, expected=1)
    assert "exists already" in error_of(capsys)
    as_process(monkeypatch, 0, 3)
    predict(*options, "--resume", expected=1)
    assert "started with another number of processes (two.jsonl.part-0-of-2)" in error_of(capsys)
    as_process(monkeypatch, 1)
    predict(*options, "--resume")
    assert (tmp_path / "two.jsonl.part-1-of-2").read_bytes() == part
    as_process(monkeypatch, 0)
    predict(*options, "--resume")
    assert out.read_bytes() == expected
    assert sorted(path.name for path in tmp_path.glob("two*")) == (
        ["two.jsonl", "two.jsonl.progress.json"]
    )
    predict(*options, "--resume")
    assert out.read_bytes() == expected


def test_several_processes_need_files(data, predict, tmp_path, monkeypatch, capsys):
    as_process(monkeypatch, 0)
    predict(stdin=Stdin(b""), expected=2)
    assert "expected files when several processes share them" in error_of(capsys)
    options = ["--input", data, "--output", tmp_path / "out.jsonl", "--device", "cuda:1"]
    predict(*options, expected=2)
    assert "--device: expected none, or cpu" in error_of(capsys)
