"""The data options of the command lines: one list, the same meaning as in Python."""

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from dataset_scripts import SourceOptions, load_gzs, load_gzs_seeds
from dataset_scripts.__main__ import main, parse_arguments
from dataset_scripts.arguments import read_partition, source_choices
from dataset_scripts.export import export
from hmgrl_cli.arguments import UsageError
from hmgrl_cli.cli import main as run
from hmgrl_cli.cli import parse_arguments as parse
from hmgrl_cli.data_arguments import load_data
from hmgrl_cli.evaluation import label_text_of_training
from hmgrl_cli.train import make_model

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
    assert "--label-text {auto,raw,verbalised,parts,described}" in shown
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
def test_partition_files_that_are_invalid(tmp_path, content):
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
    with pytest.raises(UsageError, match=r"the splits are fixed; expected no --counts$"):
        load_data(parse(["train", *options]))
    options[4:] = ["--split-seed", "0", "--label-text", "raw", "--on-error", "report"]
    with pytest.raises(UsageError, match=r"expected no --split-seed, --label-text, --on-error$"):
        load_data(parse(["train", *options]))
    with pytest.raises(UsageError, match="--data-config: expected only with --source exported"):
        load_data(parse(["train", "--data-config", "seed-7"]))
    evaluated = parse(["evaluate", "--model", "x", *options[:4]])
    assert load_data(evaluated).report.settings["seed"] == 7


def test_options_without_effect_are_refused(tmp_path, capsys):
    for words, message in {
        ("--references", "--no-test"): "--references, --no-test: expected at most one",
        ("--method", "proto", "--generator-labels", "a"): "expected a method with a generator",
    }.items():
        assert run(["train", "--source", "sample", *words]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="joiner: expected 'auto' for the source 'sample'"):
        load_gzs("sample", joiner="space")
    with pytest.raises(SystemExit, match="--private: expected only with --push-to-hub"):
        main(["export", "--out", str(tmp_path / "out"), "--private"])


def test_lengths_of_the_paper_yield_to_a_given_one(backbones):
    text, _ = backbones
    for paper in (False, True):
        for given, expected in ((None, 128), (64, 64)):
            _, processor = make_model("hmgrl", "typing", text, None, {}, paper, given)
            assert processor.max_length == expected


def test_evaluation_takes_the_label_texts_of_training():
    trained = {"data": {"source": "mnre", "settings": {"label_text": "raw"}}}
    assert label_text_of_training(trained, "mnre") == "raw"
    assert label_text_of_training(trained, "records") is None
    assert label_text_of_training(None, "mnre") is None


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


@pytest.mark.parametrize(("given", "meant"), [("raise", "raise"), ("skip", "skip")])
def test_one_vocabulary_for_invalid_records(given, meant):
    for argv in (["data", "convert", "--out", "x"], ["evaluate", "--model", "m"],
                 ["predict", "--model", "m"], ["train"]):  # fmt: skip
        assert parse([*argv, "--on-error", given]).on_error == meant
    assert SourceOptions(on_error=given).on_error == meant


def test_earlier_names_of_the_vocabulary_are_accepted(capsys):
    assert parse(["data", "convert", "--out", "x", "--on-error", "report"]).on_error == "skip"
    assert parse(["predict", "--model", "m", "--on-error", "fail"]).on_error == "raise"
    assert SourceOptions(on_error="report").on_error == "skip"
    with pytest.raises(SystemExit):
        parse(["predict", "--model", "m", "--on-error", "report"])
    assert "invalid choice: 'report'" in capsys.readouterr().err


@pytest.mark.parametrize("load", [load_gzs, lambda *a, **k: load_gzs_seeds([0], *a, **k)])
def test_an_unknown_argument_is_named_with_the_closest_one(load):
    with pytest.raises(TypeError, match=r"^groupby: unknown argument of load_gzs.*'group_by'$"):
        load("sample", groupby="text")
    with pytest.raises(TypeError, match=r"^xyz: unknown argument .*; expected one of data_dir, "):
        load("sample", xyz=1)


def test_no_progress_disables_every_bar(tmp_path, capfd):
    code = (
        "import sys, datasets, huggingface_hub, transformers\n"
        "from hmgrl_cli.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "assert not datasets.utils.is_progress_bar_enabled()\n"
        "assert huggingface_hub.utils.are_progress_bars_disabled()\n"
        "assert not transformers.utils.logging.is_progress_bar_enabled()\n"
        "from modeling_hmgrl import label_cache\n"
        "for _ in label_cache.tqdm(range(3)): pass\n"
        "sys.exit(code)"
    )
    source = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": f"Ada {k}", "mention": "Ada", "label": "x"}) for k in range(50)]
    source.write_text("\n".join(lines))
    done = subprocess.run(
        [sys.executable, "-c", code, "data", "convert", "--source", "records", "--data-dir", source,
         "--out", tmp_path / "b.jsonl", "--no-progress"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
