"""The data options of the command lines: one list, the same meaning as in Python."""

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from dataset_scripts import SourceOptions, load_gzs
from dataset_scripts.__main__ import main, parse_arguments
from dataset_scripts.arguments import read_partition, source_choices
from dataset_scripts.export import export
from hmgrl_cli.arguments import UsageError
from hmgrl_cli.cli import parse_arguments as parse
from hmgrl_cli.data_arguments import load_data

GROUPS = {"seen": ["bird"], "validation_unseen": ["fish"], "test_unseen": ["tree"]}


def test_every_choice_of_a_source_can_be_made_on_the_command_line():
    choices = source_choices(parse_arguments(["report"]))
    in_python_only = {"dataset", "task", "seed"}
    lists = {"seen", "validation_unseen", "test_unseen"}  # --partition
    names = {field.name for field in fields(SourceOptions)} - in_python_only - lists
    assert set(choices) == names | {"source"}
    defaults = SourceOptions()
    for name in names:
        assert choices[name] == getattr(defaults, name), name


def test_help_says_what_the_encoder_may_be_shown(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["report", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--label-text {raw,verbalised,parts,described}" in shown
    for text in ("label names", "names in words", "relations in three parts", "descriptions"):
        assert text in shown


def test_partition_of_a_file(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(GROUPS))
    options = parse(["train", "--partition", str(path), "--split-seed", "5"])
    data = load_data(options)
    assert data.partition.test_unseen == ("tree",)
    assert data.report.settings["seed"] == 5


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"seen": ["a"]}', json.dumps(GROUPS | {"seen": "bird"}),
     json.dumps(GROUPS | {"seen": []}), json.dumps(GROUPS | {"more": ["a"]})],
)  # fmt: skip
def test_partition_files_that_are_none(tmp_path, content):
    path = tmp_path / "labels.json"
    path.write_text(content)
    with pytest.raises(
        ValueError, match=r"labels\.json: expected a JSON object of the label lists"
    ):
        read_partition(str(path))
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_partition(str(tmp_path / "none.json"))


def test_training_takes_exported_splits_as_they_are(tmp_path):
    data = load_gzs(seed=7, cache_dir=str(tmp_path / "c"))
    folder = str(export({"seed-7": data}, tmp_path / "shared"))
    options = parse(["train", "--source", "exported", "--data-dir", folder])
    assert load_data(options).report == data.report
    options = parse(
        ["train", "--source", "exported", "--data-dir", folder, "--data-config", "seed-8"]
    )
    with pytest.raises(ValueError, match=r"configurations \['seed-7'\], got 'seed-8'"):
        load_data(options)
    with pytest.raises(UsageError, match="expected --data-dir"):
        load_data(parse(["train", "--source", "exported"]))
    options = ["--source", "exported", "--data-dir", folder, "--counts", "1", "1", "1"]
    with pytest.raises(UsageError, match="the splits are fixed"):
        load_data(parse(["train", *options]))


def test_a_fault_of_the_data_ends_in_one_line(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"text": "Ada", "spans": [[0, 9]], "label": "person"}\n')
    with pytest.raises(SystemExit) as caught:
        main(["report", "--source", "records", "--data-dir", str(path), "--out", str(tmp_path)])
    assert str(caught.value) == (
        "hmgrl data report: mine.jsonl, line 1, field 'spans': expected offsets within the text's "
        "3 characters, got list [0, 9]"
    )


def test_help_needs_no_data_and_no_plotting():
    command = [sys.executable, "-m", "dataset_scripts", "export", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path.cwd())
    for option in ("--group-by", "--license", "--push-to-hub", "--label-descriptions"):
        assert option in done.stdout
