"""The command line: help, exit codes, train, evaluate, push, data, export."""

import json
import math
import os
import re
import subprocess
import sys
import types

import pytest
from cli_world import data_options, train, write_data
from hub_server import HubServer
from huggingface_hub.errors import HTTPError
from safetensors.torch import load_file, save_file

from hmgrl_cli import cli, evaluation, push
from hmgrl_cli import train as room
from hmgrl_cli.arguments import UsageError, attribute_docs
from hmgrl_cli.cli import COMMANDS, main, make_parser, parse_arguments
from modeling_hmgrl import HMGRLConfig, HMGRLTrainingArguments


@pytest.fixture(scope="module")
def world(tmp_path_factory, backbones):
    """Folder with data and the run `run` that was trained on them."""
    folder = tmp_path_factory.mktemp("cli")
    data = write_data(folder / "data")
    assert train(data, backbones, folder / "run") == 0
    return folder


@pytest.fixture
def data(world):
    return world / "data" / "records.jsonl"


def evaluate(world, *more, model="run", out="evaluation.json"):
    options = data_options(world / "data" / "records.jsonl")
    options += ["--feature-dir", str(world / "features"), "--no-progress"]
    return main(
        ["evaluate", "--model", str(world / model), "--output", str(world / out), *options, *more]
    )


# Help and exit codes


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_option_with_a_text(name):
    parser = make_parser(name)
    [commands] = parser._subparsers._group_actions
    command = commands.choices[name]
    text = command.format_help()
    assert "example" in text
    nested = [a for a in command._actions if a.dest == "command"]
    parsers = [command, *(p for action in nested for p in action.choices.values())]
    for each in parsers:
        shown = each.format_help()
        for action in each._actions:
            if action.option_strings:
                assert action.help, action.option_strings
                assert all(option in shown for option in action.option_strings)
    assert not re.search(r"\(default: (None|False|\[\]|==SUPPRESS==)\)", text)


def test_help_of_training_says_what_the_arguments_mean():
    texts = attribute_docs(HMGRLTrainingArguments)
    assert set(texts) == HMGRLTrainingArguments.names()
    assert texts["ema_decay"].endswith("in the saved model; 0 to disable.")  # its second line
    shown = " ".join(make_parser("train")._subparsers._group_actions[0].choices["train"]
                     .format_help().split())  # fmt: skip
    assert "learning rate of the encoders (default: 2e-05)" in shown
    assert "--schedule {linear,cosine,constant}" in shown


def test_help_needs_no_torch():
    code = """
import sys
from hmgrl_cli.cli import main
for argv in [], ["predict"], ["export"], ["push"]:
    try:
        main([*argv, "--help"])
    except SystemExit as stop:
        assert stop.code == 0
heavy = {"torch", "transformers", "datasets", "numpy", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("usage: hmgrl") == 4


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["dance"],
        ["predict"],
        ["predict", "--model", "m", "--batch-size", "0"],
        ["predict", "--model", "m", "--image-dir", "nowhere"],
        ["predict", "--model", "m", "--labels", "a", "--labels-file", "b"],
        ["push", "--folder", "nowhere", "--repo", "me/model"],
        ["train", "--schedule", "zigzag"],
        ["data", "report", "--source", "moon"],
    ],
)
def test_wrong_usage_is_2(argv, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    assert "usage: hmgrl" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert re.fullmatch(r"hmgrl \d+\.\d+\.\d+\n", capsys.readouterr().out)


def ended(monkeypatch, capsys, error, *argv):
    def run(options):
        print("half a result")
        raise error

    monkeypatch.setattr(push, "run", run)
    code = main(["push", "--folder", ".", "--repo", "me/model", *argv])
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("a.jsonl, line 3:\n  got x"), 1, "a.jsonl, line 3: got x"),
        (FileNotFoundError(2, "No such file", "x"), 1, "[Errno 2] No such file: 'x'"),
        (ImportError("no onnx"), 1, "no onnx"),
        (FloatingPointError("the loss is nan"), 1, "the loss is nan"),
        (ValueError(), 1, "ValueError"),
        (
            HTTPError("[Errno 111] Connection refused"),
            1,
            "the Hub cannot be reached ([Errno 111] Connection refused)",
        ),
        (UsageError("--a: expected b"), 2, "--a: expected b (see hmgrl push --help)"),
        (KeyboardInterrupt(), 130, "interrupted."),
    ],
)
def test_errors_end_in_one_line_and_a_code(monkeypatch, capsys, error, code, message):
    assert ended(monkeypatch, capsys, error) == (code, f"hmgrl push: {message}\n")


def test_errors_of_the_code_itself_are_not_hidden(monkeypatch, capsys):
    with pytest.raises(KeyError):
        ended(monkeypatch, capsys, KeyError("x"))
    with pytest.raises(ValueError, match="bad"):
        ended(monkeypatch, capsys, ValueError("bad"), "--debug")


def test_interrupted_training_says_how_to_go_on(monkeypatch, capsys):
    def run(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "run", run)
    assert main(["train"]) == 130
    assert capsys.readouterr().err.endswith(
        "Run the same command with --resume to continue from the last checkpoint, if any.\n"
    )


def test_interrupted_while_it_starts(monkeypatch, capsys):
    def imported(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "import_module", imported)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "hmgrl: interrupted.\n"


# Train


def test_training_leaves_a_run_and_prints_its_scores(world, backbones, capsys):
    capsys.readouterr()
    out = world / "again"
    assert train(world / "data" / "records.jsonl", backbones, out, "--references",
                 "--set", "dropout=0.0", "--no-images") == 0  # fmt: skip
    shown = capsys.readouterr()
    assert "| hmgrl            |" in shown.out
    assert "| label similarity |" in shown.out
    assert "Test scores (%), records, seed 0:" in shown.out
    config = HMGRLConfig.from_pretrained(out)
    assert config.dropout == 0.0
    assert config.vision_config is None
    # lines of epochs are progress
    train(world / "data" / "records.jsonl", backbones, world / "third", "--progress", "--no-test")
    shown = capsys.readouterr()
    assert "epoch 2, step 2: validation" in shown.err
    assert "epoch 2" not in shown.out
    assert shown.out.startswith("\nValidation scores (%)")


def test_unknown_settings_are_wrong_usage(capsys):
    assert main(["train", "--set", "colour=red"]) == 2
    assert "--set colour=red: expected FIELD=VALUE with a field among alignment" in (
        capsys.readouterr().err
    )


def test_train_py_is_the_same_command(world, data, backbones, tmp_path):
    text, vision = backbones
    options = ["--text-encoder", text, "--vision-encoder", vision, "--max-steps", "1"]
    options += ["--no-images", "--tracker", "none", "--no-progress", "--output-dir", "run"]
    command = [sys.executable, str(cli.__file__).replace("hmgrl_cli/cli.py", "train.py")]
    done = subprocess.run(
        [*command, *data_options(data), *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "| hmgrl  |" in done.stdout
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["command"].startswith("train.py --source records --data-dir ")


# Evaluate


def test_evaluation_gives_the_scores_of_training(world, capsys):
    assert evaluate(world) == 0
    shown = capsys.readouterr()
    trained = json.loads((world / "run" / "report.json").read_text())
    report = json.loads((world / "evaluation.json").read_text())
    for split in ("validation", "test"):
        assert report[split]["overall"] == pytest.approx(trained[split]["overall"])
        assert report[split]["ausuc"] == pytest.approx(trained[split]["ausuc"])
        assert f"| {split} " in shown.out
    for name in ("labels", "encoders", "gamma", "data", "images_used", "task", "versions"):
        assert report[name] == trained[name], name
    assert report["model"]["seen_labels"] == ["animal", "vehicle"]
    assert report["command"]
    assert report["missing"] == ["images: 48 none for 96 records"]
    assert "images: 48 none for 96 records" in shown.err


def test_one_split_alone_scores_the_same(world):
    assert evaluate(world) == 0
    both = json.loads((world / "evaluation.json").read_text())
    assert evaluate(world, "--splits", "test", out="test.json") == 0
    alone = json.loads((world / "test.json").read_text())
    assert "validation" not in alone
    assert alone["test"] == both["test"]


def test_other_seen_labels_are_refused_unless_wanted(world, tmp_path, capsys):
    groups = {"seen": ["animal", "tool"], "validation_unseen": ["plant", "vehicle"],
              "test_unseen": ["drink", "place"]}  # fmt: skip
    (tmp_path / "other.json").write_text(json.dumps(groups))
    other = ["--partition", str(tmp_path / "other.json")]
    assert evaluate(world, *other) == 1
    message = capsys.readouterr().err
    assert "only the model has ['vehicle'], only the data have ['tool']" in message
    assert "--allow-other-labels" in message
    assert evaluate(world, *other, "--allow-other-labels") == 1
    assert "trained on the same source with another split (partition: " in capsys.readouterr().err
    allowed = ["--allow-other-labels", "--allow-other-split", "--splits", "test"]
    assert evaluate(world, *other, *allowed, out="other.json") == 0
    report = json.loads((world / "other.json").read_text())
    assert report["labels"]["seen"] == ["animal", "tool"]
    assert report["model"]["seen_labels"] == ["animal", "vehicle"]
    assert report["arguments"]["allow_other_labels"]


def test_another_split_of_the_same_data_is_refused(world, capsys):
    assert evaluate(world, "--split-seed", "3") == 1
    assert "another split (seed: got 3, in training 0), so that" in capsys.readouterr().err


def test_what_is_missing_is_reported(world, capsys):
    out = ["--no-images", "--label-text", "described", "--splits", "test"]
    texts = {name: f"a kind of {name}" for name in ("animal", "vehicle", "plant", "tool", "drink",
                                                    "place")}  # fmt: skip
    (world / "texts.json").write_text(json.dumps(texts))
    out += ["--label-descriptions", str(world / "texts.json")]
    assert evaluate(world, *out, out="missing.json") == 0
    missing = json.loads((world / "missing.json").read_text())["missing"]
    assert missing[0] == "images: not used, although the model reads them"
    assert "2 seen labels have other texts than in training, such as 'animal'" in missing[1]
    assert len(missing) == 2


def test_seen_labels_that_a_model_does_not_name():
    partition = types.SimpleNamespace(seen=("a",))
    data = types.SimpleNamespace(task="typing", partition=partition)
    config = types.SimpleNamespace(task="typing", seen_labels=None)
    with pytest.raises(ValueError, match="the config contains no seen labels"):
        evaluation.check_labels(config, data, allowed=False)
    evaluation.check_labels(config, data, allowed=True)
    config.task = "relation"
    with pytest.raises(ValueError, match="trained for the task 'relation', but the task of the"):
        evaluation.check_labels(config, data, allowed=True)


# Models that are none


def copied(world, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (world / "run").iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_models_that_cannot_be_used_are_named(world, backbones, tmp_path, capsys, monkeypatch):
    def message(model):
        assert main(["predict", "--model", str(model), "--input", os.devnull]) == 1
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith(f"hmgrl predict: --model {model}: ")
        return said

    said = message(backbones[0])
    assert "got a model of type 'bert', expected one of 'hmgrl', 'hmgrl-proto', " in said
    (tmp_path / "empty").mkdir()
    assert "the folder contains no model" in message(tmp_path / "empty")
    assert "neither a local folder nor a model on the Hub" in message(tmp_path / "nowhere")
    folder = copied(world, tmp_path)
    weights = load_file(folder / "model.safetensors")
    name = sorted(weights)[0]
    save_file({k: v for k, v in weights.items() if k != name}, folder / "model.safetensors",
              {"format": "pt"})  # fmt: skip
    assert f"1 of {len(weights)} weights ({name}) is missing" in message(folder)
    ruined = weights[name].clone()
    ruined.view(-1)[0] = math.nan
    save_file(weights | {name: ruined}, folder / "model.safetensors", {"format": "pt"})
    assert f"({name}) is not finite" in message(folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["hidden_size"] = 10**9
    (folder / "config.json").write_text(json.dumps(config))
    assert "text_config.hidden_size: got 1000000000, expected a number from" in message(folder)
    (folder / "config.json").write_bytes((world / "run" / "config.json").read_bytes())
    (folder / "model.safetensors").write_bytes(b"\x00" * 100)
    assert "the weights are damaged" in message(folder)


def test_code_beside_the_weights_is_not_run(world, tmp_path, capsys):
    folder = copied(world, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "stranger"
    config["auto_map"] = {"AutoConfig": "stranger.Stranger"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "stranger.py").write_text("raise SystemExit('was run')\n")
    assert main(["predict", "--model", str(folder), "--input", os.devnull]) == 1
    assert "the configuration is invalid" in capsys.readouterr().err.splitlines()[-1]


# Data, push, export


def test_data_is_the_command_of_the_data(data, tmp_path, capsys):
    out = str(tmp_path / "out.jsonl")
    argv = ["data", "convert", "--source", "records", "--data-dir", str(data), "--out", out]
    assert main(argv) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("records: 96 records in, 96 out")
    assert f"Written: {out}" in shown.out
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n')
    argv[5:] = [str(tmp_path / "bad.jsonl"), "--out", str(tmp_path / "other.jsonl")]
    assert main(argv) == 1
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith("hmgrl data: bad.jsonl, line 1, field 'spans': expected the mentions")
    )


def test_push_and_evaluate_from_the_hub(world, tmp_path):
    code = """
import sys
from hmgrl_cli.cli import main
argv = ["push", "--folder", sys.argv[1], "--repo", "me/model"]
assert main(argv) == 1  # HF_TOKEN is of another
assert main([*argv, "--token-env", "MINE"]) == 0
"""
    options = data_options(world / "data" / "records.jsonl")
    options += ["--feature-dir", str(world / "features"), "--no-progress", "--splits", "test"]
    load = f"""
import json, sys
from hmgrl_cli.cli import main
out = sys.argv[1] + "/hub.json"
assert main(["evaluate", "--model", "me/model", "--revision", "main", "--output", out,
             *{options!r}]) == 0
print(json.dumps(json.load(open(out))["model"]))
"""
    with HubServer() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINE", "x")
        url = server.run_client(code, world / "run", tmp_path / "push", token="stranger")
        assert url.startswith(f"{server.url}/me/model/commit/")
        assert {"README.md", "model.safetensors", "report.json"} <= set(server.files)
        model = json.loads(server.run_client(load, tmp_path, tmp_path / "load"))
    assert model["name"] == "me/model"
    assert model["commit"] == server.repositories["me/model"].sha("main")


def test_push_needs_a_run_and_a_token(world, tmp_path, capsys, monkeypatch):
    argv = ["push", "--folder", str(tmp_path), "--repo", "me/model"]
    monkeypatch.delenv("MINE", raising=False)
    assert main([*argv, "--token-env", "MINE"]) == 2
    assert "--token-env MINE: no such variable" in capsys.readouterr().err
    assert main(argv) == 1
    assert "expected a finished run" in capsys.readouterr().err
    options = parse_arguments([*argv, "--private"])
    assert options.private
    assert not any("token" in name and name != "token_env" for name in vars(options))


@pytest.mark.slow
def test_export_writes_a_folder(world, tmp_path, capsys):
    argv = ["export", "--model", str(world / "run"), "--out"]
    assert main([*argv, str(tmp_path / "onnx")]) == 0
    shown = capsys.readouterr().out
    assert all(line.endswith(" MB") for line in shown.splitlines())
    assert ".onnx" in shown
    assert main([*argv, str(world / "run")]) == 1
    assert "holds a model of torch" in capsys.readouterr().err.splitlines()[-1]
    (tmp_path / "file").touch()
    assert main([*argv, str(tmp_path / "file")]) == 2
