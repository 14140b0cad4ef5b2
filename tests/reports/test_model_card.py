"""The model card says what the run was, and nothing of the machine."""

import json
import re
import statistics

import numpy as np
import pytest
from huggingface_hub import ModelCard, parse_eval_result_entries
from tiny_world import tiny_config, tiny_method
from transformers import AutoModel
from yaml import safe_load

from modeling_hmgrl import HMGRLTrainingArguments, evaluate_scores
from modeling_hmgrl.baselines import METHODS
from modeling_hmgrl.hub import is_hub_name, public_name
from modeling_hmgrl.metrics.label_sets import LabelSets
from modeling_hmgrl.reports.citations import PAPERS
from modeling_hmgrl.reports.hub_results import metric_values, results_yaml
from modeling_hmgrl.reports.model_card import make_card
from modeling_hmgrl.reports.run_report import describe_run, public_command, public_report

SEEN, VALIDATION, TEST = ("fox", "hen"), ("bus",), ("oak", "tea|milk")
HUB = {"id": "me/things", "config": "seed-0", "revision": "abc"}


def scores_of(seed, unseen, temperature=0.7):
    rng = np.random.default_rng(seed)
    names = [*SEEN, *unseen]
    truth = np.arange(40) % len(names)
    scores = rng.normal(size=(40, len(names))) + 2 * np.eye(len(names))[truth]
    seen = np.array([name in SEEN for name in names])
    return evaluate_scores(scores, truth, seen, 0.25, names, temperature)


def make_report(
    seed=0, vocabulary="transductive", texts=None, temperature=0.7, test=True, task="typing", **more
):
    labels = LabelSets.of(SEEN, VALIDATION, TEST, vocabulary, texts)
    config = tiny_config(
        task, seen_labels=list(SEEN), generator_labels=list(labels.generator),
        calibration_gamma=0.25, probability_temperature=temperature or 1.0,
    )  # fmt: skip
    scores = {"validation": scores_of(seed, VALIDATION, temperature)}
    if test:
        scores["test"] = scores_of(seed + 1, TEST, temperature)
    data = {
        "source": "records",
        "settings": {"seed": seed, "group_by": "none", "label_text": "raw", "protocol_version": 1},
        "records_in": 100,
        "records_out": 97,
        "left_out": {"no mention": {"count": 3, "examples": [{"file": "/home/me/x", "line": 1}]}},
        "images": {"found": 90, "missing": 7, "unreadable": 0, "none": 0},
        "splits": {"train": {"fox": 11, "hen": 12}, "test": {"fox": 5}},
        "overlap": {
            "test": {"samples": 40, "text": 9, "image": 8, "either": 10},
            "test_seen": {"samples": 20, "text": 7, "image": 6, "either": 8},
        },
    }
    report = describe_run(
        "hmgrl", config, HMGRLTrainingArguments(f"/home/me/run{seed}", seed=seed), labels, scores,
        **{"data": data, "images_used": True, "history": [], "processes": 1} | more,
    )  # fmt: skip
    report["command"] = f"hmgrl train --data-dir /home/me/data --seed {seed}"
    return report, config


def card_of(*args, reports=(), **options):
    report, config = make_report(*args, **options)
    return make_card(report, config, "me/model", reports)


@pytest.mark.parametrize(
    ("vocabulary", "name", "said"),
    [
        ("transductive", "class-transductive", "but their names were"),
        ("inductive", "inductive", "neither samples nor names"),
        (["oak"], "partly class-transductive", "of 1 the names were: oak"),
    ],
)
def test_the_protocol_is_named_and_explained(vocabulary, name, said):
    card = card_of(vocabulary=vocabulary)
    assert f"| protocol | {name} |" in card.text
    assert said in card.text
    assert all(f"({name}, percent)" in one.metric_name for one in card.data.eval_results)


def test_scores_stand_as_they_were_measured():
    report, config = make_report()
    report["references"] = {
        "label similarity": {"variant": "mention", "test": scores_of(7, TEST)},
        "majority": {"test": scores_of(8, TEST)},
    }
    text = make_card(report, config, "me/model").text
    for method, scores in (
        ("hmgrl, these weights", report["test"]),
        ("hmgrl, these weights", report["validation"]),
        ("label similarity", report["references"]["label similarity"]["test"]),
    ):
        overall = scores["overall"]
        row = rf"\| {method} +\|.*\| {100 * overall['accuracy']:.1f} +\| {100 * overall['f1']:.1f} "
        assert re.search(row, text), row
    assert "**Test**: 20 samples of 2 seen labels, 20 of 2 unseen ones." in text
    error = 100 * report["test"]["calibration_error"]
    assert "over the temperature 0.7; both were chosen on validation" in text
    assert f"{error:.1f} on test" in text
    assert "One run (seed 0, split 0)" in text
    assert "gamma = 0.25" in text


def test_several_runs_are_shown_with_their_spread():
    runs = [make_report(seed) for seed in range(3)]
    report, config = runs[0]
    text = make_card(report, config, "me/model", [run for run, _ in runs]).text
    values = [100 * run["test"]["overall"]["f1"] for run, _ in runs]
    assert f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}" in text
    assert "n = 3 runs (seed 0, split 0; seed 1, split 1; seed 2, split 2)" in text
    assert "The weights here are those of seed 0, split 0." in text
    assert f"{values[0]:.1f}" in text
    assert "3 runs are not enough for reliable comparisons." in text


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"vocabulary": "inductive"}, r"reports\[0\].protocol: got 'inductive'"),
        ({"task": "relation"}, r"reports\[0\].task: got 'relation', expected 'typing'"),
        ({"images_used": False}, r"reports\[0\].images_used: got False, expected True"),
    ],
)
def test_runs_of_something_else_are_no_repetitions(other, message):
    with pytest.raises(ValueError, match=message):
        card_of(reports=[make_report(1, **other)[0]])


def test_runs_with_other_arguments_are_no_repetitions():
    other, _ = make_report(1)
    other["arguments"] |= {"batch_size": 7, "progress": False, "output_dir": "elsewhere"}
    with pytest.raises(ValueError, match=r"reports\[0\].arguments.batch_size: got 7, expected 32"):
        card_of(reports=[other])


def test_labels_stand_with_their_texts_and_samples():
    text = card_of(texts={"oak": "a tree"}).text
    assert "| label " in text
    assert re.search(r"\| fox +\| seen +\| fox +\| 11 +\| 10 +\|", text)
    assert re.search(r"\| oak +\| unseen, test +\| a tree +\| 0 +\| 10 +\|", text)
    assert "tea&#124;milk" in text  # which would end a cell
    assert "| encoder input" in text
    assert "| encoder input" not in card_of().text


def test_what_is_missing_is_reported():
    text = card_of(test=False).text
    assert "No test was run." in text
    text = card_of(temperature=None).text
    assert "no calibration error was measured" in text
    assert "100 records read, 97 used; omitted: no mention: 3" in text
    assert "7 missing" in text
    assert "of the 20 with seen labels 8 share one or both" in text
    report, config = make_report(images_used=False)
    config.vision_config = None
    text = make_card(report, config, "me/model").text
    assert "This model takes text only." in text
    assert "No images were used in training." in text


def test_old_and_bare_reports_make_a_card_too():
    report, config = make_report(data={}, temperature=None)
    for name in ("date", "settings", "base_models"):
        del report[name]
    text = make_card(report, config, "me/model").text
    assert "the report contains no further information about the data" in text


@pytest.mark.parametrize("task", ["typing", "relation"])
def test_the_card_is_whole(task):
    card = card_of(task=task)
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    assert not re.search(r"\{\{|\}\}|\{%|None|nan", card.text)
    assert "arXiv 2603.16259" in card.text
    assert card.data.library_name == "transformers"
    assert card.data.base_model is None
    for block in re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL):
        compile(block, "card", "exec")


METHOD_CASES = [(name, task) for name, method in METHODS.items() for task in method.tasks]


def method_card(name, task, **settings):
    """Card of a run of a compared method, and its configuration."""
    report, _ = make_report(task=task)
    config = tiny_method(name, task, seen_labels=list(SEEN), **settings).config
    return make_card(report | {"method": name}, config, "me/model"), config


@pytest.mark.parametrize(("name", "task"), METHOD_CASES)
def test_every_method_has_its_card(name, task):
    card, config = method_card(name, task)
    paper, kind = PAPERS[config.model_type], METHODS[name].__name__
    module = "modeling_hmgrl" if name == "hmgrl" else "modeling_hmgrl.baselines"
    assert f"| method | {paper.name} ({paper.citation}); score_function cosine" in card.text
    assert f"| class | `{kind}` of `{module}` |" in card.text
    assert f"| {name}, these weights" in card.text
    assert (f"The method is that of {paper.name}" in card.text) == (name != "hmgrl")
    assert ("trust_remote_code" in card.text) == (name == "hmgrl")
    assert not re.search(r"\{\{|\}\}|\{%|None|nan", card.text)
    assert "\n\n\n" not in card.text
    blocks = re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL)
    assert blocks[0].startswith(f"import {module}  # registers ")
    assert blocks[-1].startswith(f"from {module} import {kind}\n")
    for block in blocks:
        compile(block, "card", "exec")
        for line in block.splitlines():
            if line.startswith(("import ", "from ")):
                exec(line, {})
    protocol = "class-transductive" if METHODS[name].uses_generator_labels else "inductive"
    assert f"| protocol | {protocol} |" in card.text
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    assert config.model_type in card.data.tags


@pytest.mark.parametrize(("name", "task"), METHOD_CASES)
def test_departures_are_named_where_there_are_some(name, task):
    card, config = method_card(name, task)
    assert "Settings other than the published ones: " in card.text
    assert "projection_init similarity (published: random)" in card.text
    fixed = PAPERS[config.model_type].departures
    assert ("Departs from its paper: " in card.text) == bool(fixed)
    published, _ = method_card(name, task, paper=True, projection_size=768)
    assert "Settings other than the published" not in published.text
    assert ("Departs from its paper: " in published.text) == bool(fixed)


def test_a_method_of_ones_own_has_a_card_once_it_is_registered():
    class OwnConfig(type(tiny_method("proto").config)):
        model_type = "own-method"

    class Own(METHODS["proto"]):
        pass

    report, _ = make_report()
    config = OwnConfig(**{**tiny_method("proto").config.to_dict(), "model_type": "own-method"})
    with pytest.raises(ValueError, match="config: got OwnConfig, expected one that is registered"):
        make_card(report, config, "me/model")
    Own.config_class = OwnConfig
    AutoModel.register(OwnConfig, Own)
    text = make_card(report | {"method": "own"}, config, "me/model").text
    assert "| method | Own (a method of its own, not one of the package `hmgrl`); " in text
    assert f"from {__name__} import Own" in text


def test_every_method_has_a_paper():
    assert set(PAPERS) == {method.config_class.model_type for method in METHODS.values()}


def test_repetitions_of_a_method_without_a_generator_may_differ_in_its_labels():
    runs = [make_report(seed, vocabulary)[0] | {"method": "proto"}
            for seed, vocabulary in enumerate(("transductive", "inductive"))]  # fmt: skip
    config = tiny_method("proto").config
    assert "2 runs are not enough" in make_card(runs[0], config, "me/model", runs).text


def test_the_report_has_the_settings_of_all_methods_and_of_its_own():
    config = tiny_method("movcnet", num_regions=3).config
    labels = LabelSets.of(SEEN, VALIDATION, TEST)
    found = describe_run("movcnet", config, HMGRLTrainingArguments("x"), labels, {})["settings"]
    assert (found["num_regions"], found["score_function"]) == (3, "cosine")
    assert not {"text_config", "seen_labels", "calibration_gamma"} & set(found)


def test_no_path_of_the_machine_is_in_card_or_report():
    report, config = make_report()
    for text in (str(make_card(report, config, "me/model")), json.dumps(public_report(report))):
        assert "/home/me" not in text
    assert report["arguments"]["output_dir"] == "/home/me/run0"  # the report itself is as it was
    assert public_report(report)["arguments"]["epochs"] == 10


@pytest.mark.parametrize(
    ("line", "public"),
    [
        ("train.py --data-dir /home/me/data/", "train.py --data-dir data"),
        ("train.py --data-dir=../../me/data", "train.py --data-dir=data"),
        ("train.py --data-dir '/home/me/my data'", "train.py --data-dir 'my data'"),
        (r"train.py --data-dir 'C:\me\data'", "train.py --data-dir data"),
        ("train.py --text-encoder google/bert", "train.py --text-encoder google/bert"),
        ("train.py --generator-labels /per/org x", "train.py --generator-labels /per/org x"),
        ("hmgrl train --push-to-hub me/model", "hmgrl train --push-to-hub me/model"),
        ("train.py --set score_function=dot", "train.py --set score_function=dot"),
    ],
)
def test_commands_lose_their_paths_alone(line, public):
    assert public_command(line, ["google/bert", "/per/org"]) == public


def test_encoders_of_the_hub_are_base_models_and_folders_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "encoders" / "mini").mkdir(parents=True)
    assert is_hub_name("google/vit-base-patch16-384")
    assert is_hub_name("bert-base-cased")
    for name in (
        "encoders/mini",
        str(tmp_path),
        "./mini",
        "a/b/c",
        "",
        None,
        r"C:\me\mini",
        "../x",
    ):
        assert not is_hub_name(name)
    assert public_name("google/vit") == "google/vit"
    assert public_name("encoders/mini") == public_name(str(tmp_path / "encoders/mini")) == "./mini"
    assert public_name(public_name("encoders/mini")) == "./mini"
    assert public_name(r"C:\me\mini") == "./mini"

    report, config = make_report()
    config.text_config.name_or_path = "google/bert"
    config.vision_config.name_or_path = "encoders/mini"
    labels = LabelSets.of(SEEN, VALIDATION, TEST)
    described = describe_run("hmgrl", config, HMGRLTrainingArguments("x"), labels, {})
    assert described["encoders"] == {"text": "google/bert", "vision": "mini"}
    card = make_card(report | {"base_models": described["base_models"]}, config, "me/model")
    assert card.data.base_model == ["google/bert"]


def test_results_on_a_data_set_of_the_hub_name_it_and_the_protocol():
    report, config = make_report()
    report["data"]["hub"] = HUB
    entries = parse_eval_result_entries(
        safe_load(results_yaml(report, "inductive", "https://hub/me/model/report.json"))
    )
    values = metric_values(report["test"])
    assert {entry.task_id: entry.value for entry in entries} == {
        f"seed-0_{name}": value for name, value in values.items()
    }
    assert values["unseen_accuracy"] == round(100 * report["test"]["unseen"]["accuracy"], 2)
    for entry in entries:
        assert (entry.dataset_id, entry.dataset_revision) == ("me/things", "abc")
        assert entry.notes.endswith("inductive; seed 0; gamma 0.25")
        assert entry.date == report["date"]
    card = make_card(report, config, "me/model")
    assert card.data.eval_results is None
    assert card.data.datasets == ["me/things"]
    assert "seed-0_overall_f1" in card.text
    assert "revision `abc`" in card.text


def test_without_a_data_set_of_the_hub_no_benchmark_is_invented():
    report, config = make_report()
    assert results_yaml(report, "inductive", "https://hub") is None
    card = make_card(report, config, "me/model")
    assert "There is no `.eval_results`" in card.text
    found = {one.metric_name.split(" (")[0]: one for one in card.data.eval_results}
    assert set(found) == {name.replace("_", " ") for name in metric_values(report["test"])}
    assert found["seen f1"].metric_value == round(100 * report["test"]["seen"]["f1"], 2)
    assert found["seen f1"].dataset_type == "records"
    assert card_of(test=False).data.eval_results is None
