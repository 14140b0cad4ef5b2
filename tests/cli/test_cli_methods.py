"""The command line with each of the compared methods: train, evaluate, predict, export."""

import json
import random

import pytest
from cli_world import data_options, lines, train, write_data
from tiny_world import LABELS, tiny_sample
from transformers import AutoModel

from hmgrl_cli import evaluation
from hmgrl_cli.cli import main, parse_arguments
from hmgrl_cli.model_loading import load_model, method_name
from modeling_hmgrl.baselines import METHODS

CASES = [
    pytest.param(name, task, id=f"{name}-{task}")
    for name, method in METHODS.items()
    for task in method.tasks
    if name != "hmgrl"
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folder with data of both tasks: files `typing` and `relation`."""
    folder = tmp_path_factory.mktemp("methods")
    write_data(folder / "typing")
    write_data(folder / "relation", 0)
    rng = random.Random(0)
    made = [
        {"id": f"r{number}", "label": label, **tiny_sample(label, "relation", rng)}
        for number, label in enumerate(LABELS * 16)
    ]
    (folder / "relation" / "records.jsonl").write_bytes(lines(made))
    return folder


@pytest.mark.parametrize(("name", "task"), CASES)
def test_trained_it_is_evaluated_and_predicts_but_is_not_exported(
    name, task, world, backbones, tmp_path, capsys
):
    data, run = world / task / "records.jsonl", tmp_path / "run"
    assert train(data, backbones, run, "--method", name) == 0
    assert f"| {name} " in capsys.readouterr().out
    trained = json.loads((run / "report.json").read_text())
    method = METHODS[name]
    assert type(AutoModel.from_pretrained(run)) is method

    out = tmp_path / "evaluation.json"
    argv = ["evaluate", "--model", str(run), "--output", str(out), "--no-progress"]
    argv += ["--feature-dir", str(tmp_path / "features"), *data_options(data)]
    assert main(argv) == 0
    report = json.loads(out.read_text())
    assert report["method"] == trained["method"] == name
    for split in ("validation", "test"):
        assert report[split]["overall"] == pytest.approx(trained[split]["overall"])
    assert not [sentence for sentence in report["missing"] if "generator" in sentence]

    answers = tmp_path / "answers.jsonl"
    argv = ["predict", "--model", str(run), "--input", str(data), "--output", str(answers)]
    argv += ["--labels", *LABELS, "--no-progress"] + ["--no-images"] * (not method.uses_images)
    assert main(argv) == 0
    made = [json.loads(line) for line in answers.read_bytes().splitlines()]
    assert len(made) == 96
    assert {record["prediction"]["label"] for record in made} <= set(LABELS)

    capsys.readouterr()
    assert main(["export", "--model", str(run), "--out", str(tmp_path / "onnx")]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"got the method '{method.config_class.model_type}', expected 'hmgrl'" in said
    assert not (tmp_path / "onnx").exists()


def test_names_without_samples_are_missed_by_methods_that_only_generate_them(world, backbones):
    found = {}
    for name in ("proto", "zs_ska"):
        run = world / name
        data = world / "relation" / "records.jsonl"
        assert train(data, backbones, run, "--method", name, "--vocabulary", "inductive") == 0
        model, processor = load_model(str(run))
        assert (type(model), method_name(model.config)) == (METHODS[name], name)
        assert processor.prompt == (name == "zs_ska")
        options = parse_arguments(["evaluate", "--model", str(run), *data_options(data)])
        splits = evaluation.load_data(options)
        found[name] = evaluation.find_limitations(model, splits, False)
    assert found["proto"] == []
    assert found["zs_ska"] == ["generator: 2 of 2 test-unseen labels were unknown in training"]
