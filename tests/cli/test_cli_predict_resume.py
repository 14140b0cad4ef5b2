"""`hmgrl predict`: runs that are interrupted and resumed."""

import json
import os
import subprocess
import sys
import time

import pytest
from cli_world import Stdin, lines, records
from predict_world import BATCH, error_of, read, whole

from hmgrl_cli.predict_output import progress_path


def test_killed_in_the_middle_it_goes_on_to_the_same_bytes(world, predict, tmp_path):
    content = lines(records(44)[1::2] * 2)
    whole_out, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    predict("--output", whole_out, stdin=Stdin(content))
    command = [sys.executable, "-m", "hmgrl", "predict", "--model", str(world / "model")]
    command += ["--batch-size", str(BATCH), "--output", str(out), "--no-progress"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}
    ) as process:
        process.stdin.write(b"".join(content.splitlines(True)[:20]))  # and it waits for the 21st
        process.stdin.flush()
        deadline = time.monotonic() + 120
        while not (out.exists() and out.read_bytes().count(b"\n") >= 5 * BATCH):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
        process.wait()
    written = out.read_bytes()
    assert 0 < len(written) < len(whole_out.read_bytes())
    out.write_bytes(written + b'{"text": "half a li')  # killed while it wrote
    predict("--output", out, "--resume", stdin=Stdin(content))
    assert out.read_bytes() == whole_out.read_bytes()


def test_interrupted_it_says_how_to_go_on(data, predict, tmp_path, capsys):
    content, out = data.read_bytes(), tmp_path / "out.jsonl"
    part = b"".join(content.splitlines(True)[:20])
    options = ["--output", out, "--no-images"]
    predict(*options, stdin=Stdin(part, interrupted=True), expected=130)
    assert error_of(capsys).endswith("Run the same command with --resume to continue.")
    assert json.loads(progress_path(out).read_text())["lines"] == 18  # whole batches
    predict(*options, "--resume", stdin=Stdin(content))
    resumed = out.read_bytes()
    predict(*options, "--overwrite", stdin=Stdin(content))
    assert out.read_bytes() == resumed
    predict("--no-images", stdin=Stdin(part, interrupted=True), expected=130)
    assert error_of(capsys) == "hmgrl predict: interrupted."


def test_resume_where_nothing_is_begins(data, predict, tmp_path):
    expected = whole(predict, data, tmp_path)
    predict("--input", data, "--output", tmp_path / "new" / "out.jsonl", "--resume")
    assert (tmp_path / "new" / "out.jsonl").read_bytes() == expected


def test_a_finished_output_is_left_as_it_is(data, predict, tmp_path, capsys):
    expected = whole(predict, data, tmp_path)
    source, out = tmp_path / "in.jsonl", tmp_path / "whole.jsonl"
    source.write_bytes(data.read_bytes())
    options = ["--input", source, "--output", out, "--image-dir", data.parent, "--resume"]
    capsys.readouterr()
    predict(*options)
    assert "44 lines written; 44 of them by earlier runs" in capsys.readouterr().err
    assert out.read_bytes() == expected
    source.write_bytes(data.read_bytes() + lines(records(1)))
    predict(*options, expected=1)
    assert "in.jsonl: has more lines than the 44 of the finished output" in error_of(capsys)
    source.write_bytes(data.read_bytes().replace(b"sees", b"seas", 1))
    predict(*options, expected=1)
    assert "in.jsonl: the first 44 lines differ from those already processed" in error_of(capsys)


def test_an_output_that_is_there_is_not_lost(data, predict, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    options = ["--input", data, "--output", out]
    out.write_text("precious\n")
    predict(*options, expected=1)
    assert "exists already; expected --resume to continue it, or --overwrite" in error_of(capsys)
    predict(*options, "--resume", expected=1)
    assert "cannot be resumed without out.jsonl.progress.json" in error_of(capsys)
    assert out.read_text() == "precious\n"
    predict(*options, "--overwrite")
    assert len(read(out)) == 44


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--top-k", "2"], "started with top-k 5, got 2"),
        (["--batch-size", "5"], "started with batch-size 3, got 5"),
        (["--labels", "a", "b"], "started with labels '6 of hash "),
        (["--seen", "tool"], "started with seen ['animal', 'vehicle'], got ['tool']"),
        (["--no-images"], "started with no-images False, got True"),
    ],
)
def test_other_choices_do_not_go_on(data, predict, tmp_path, capsys, option, said):
    whole(predict, data, tmp_path)
    options = ["--input", data, "--output", tmp_path / "whole.jsonl", "--resume", *option]
    predict(*options, expected=1)
    assert said in error_of(capsys)


def test_an_output_that_was_tampered_with_does_not_go_on(data, predict, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    part = Stdin(b"".join(data.read_bytes().splitlines(True)[:20]), interrupted=True)
    options = ["--output", out, "--no-images"]
    predict(*options, stdin=part, expected=130)
    os.truncate(out, 10)
    predict(*options, "--resume", stdin=Stdin(data.read_bytes()), expected=1)
    assert "got 10 bytes, expected the " in error_of(capsys)
    progress_path(out).write_text("[]")
    predict(*options, "--resume", stdin=Stdin(data.read_bytes()), expected=1)
    assert "out.jsonl.progress.json: expected the progress of a prediction" in error_of(capsys)
