import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file

import modeling_hmgrl.metrics as metrics
from modeling_hmgrl.metrics.calibration import ausuc, best_gamma, predict
from modeling_hmgrl.metrics.gzs_scores import evaluate_scores, gzs_scores
from modeling_hmgrl.metrics.temperature_scaling import calibration_error

GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "i_calibration.safetensors")
CASES = sorted({name.split("/")[0] for name in GOLDEN})
GOLDEN_SEEN = np.arange(8) < 4


@st.composite
def predictions(draw):
    samples, classes = draw(st.integers(1, 30)), draw(st.integers(1, 6))
    columns = hnp.arrays(np.int64, samples, elements=st.integers(0, classes - 1))
    return draw(columns), draw(columns), draw(hnp.arrays(np.bool_, classes))


@pytest.mark.parametrize("case", CASES)
def test_recorded_metrics_are_reproduced(case):
    golden = {n.split("/")[1]: v for n, v in GOLDEN.items() if n.startswith(f"{case}/")}
    result = evaluate_scores(
        golden["logits"], golden["labels"], GOLDEN_SEEN, golden["gamma"].item()
    )
    for part in ("seen", "unseen", "overall"):
        for ours, theirs in (("accuracy", "acc"), ("f1", "f1")):
            # Only where nothing is right is the original's harmonic mean 0 / 0; that is 0 here.
            expected = np.nan_to_num(golden[f"{part}_{theirs}"].item(), nan=0.0)
            assert result[part][ours] == pytest.approx(expected, abs=1e-12)
        if part != "overall":  # weighted precision and recall, from the table
            rows = [row for row in result["per_class"] if row["seen"] == (part == "seen")]
            support = [row["support"] for row in rows]
            for ours, theirs in (("precision", "p"), ("recall", "r")):
                value = np.average([row[ours] for row in rows], weights=support)
                assert value == pytest.approx(golden[f"{part}_{theirs}"].item(), abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(predictions())
def test_equals_scikit_learn(problem):
    sklearn = pytest.importorskip("sklearn.metrics")
    predicted, labels, seen = problem
    result = gzs_scores(predicted, labels, seen)
    assert [row["support"] for row in result["per_class"]] == np.bincount(
        labels, minlength=len(seen)
    ).tolist()
    for part, side in (("seen", True), ("unseen", False)):
        chosen = seen[labels] == side
        if not chosen.any():
            assert result[part] == {"accuracy": 0.0, "f1": 0.0, "macro_accuracy": 0.0}
            continue
        p, y = predicted[chosen], labels[chosen]
        f1 = sklearn.precision_recall_fscore_support(y, p, average="weighted", zero_division=0)[2]
        recall = sklearn.recall_score(y, p, labels=np.unique(y), average="macro", zero_division=0)
        assert result[part]["f1"] == pytest.approx(f1, abs=1e-12)
        assert result[part]["accuracy"] == pytest.approx(sklearn.accuracy_score(y, p), abs=1e-12)
        assert result[part]["macro_accuracy"] == pytest.approx(recall, abs=1e-12)

        columns = np.flatnonzero(seen == side)
        table = sklearn.precision_recall_fscore_support(y, p, labels=columns, zero_division=0)
        rows = [result["per_class"][k] for k in columns]
        for name, expected in zip(("precision", "recall", "f1"), table[:3], strict=True):
            np.testing.assert_allclose([row[name] for row in rows], expected, rtol=0, atol=1e-12)


def test_result_is_plain_and_complete():
    result = evaluate_scores(
        np.array([[3, 1, 0], [2, 2.5, 0], [1, 0, 2]], dtype=np.float32),
        np.array([0, 1, 2]),
        np.array([True, True, False]),
        np.float32(0.5),
        ["Person", "Place", "Film"],
    )
    assert json.loads(json.dumps(result)) == result
    one = {"accuracy": 1.0, "f1": 1.0, "macro_accuracy": 1.0}
    row = {"support": 1, "precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert result == {
        "seen": one,
        "unseen": one,
        "overall": one,
        "per_class": [
            {"name": "Person", "seen": True, **row},
            {"name": "Place", "seen": True, **row},
            {"name": "Film", "seen": False, **row},
        ],
        "ausuc": 1.0,
        "gamma": 0.5,
    }


def test_macro_accuracy_weighs_classes_alike_and_skips_absent_ones():
    # Class 0: 3 of 3, class 1: 0 of 1, class 2 without samples; class 3 unseen.
    result = gzs_scores([0, 0, 0, 0, 3], [0, 0, 0, 1, 3], [True, True, True, False])
    assert result["seen"]["accuracy"] == 0.75
    assert result["seen"]["macro_accuracy"] == 0.5
    assert result["overall"]["macro_accuracy"] == pytest.approx(2 / 3)
    assert result["per_class"][2] == {
        "name": "2",
        "seen": True,
        "support": 0,
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
    }


def test_table_averages_to_the_f1_of_its_part():
    rng = np.random.default_rng(0)
    seen = np.arange(7) < 3
    result = gzs_scores(rng.integers(7, size=200), rng.integers(7, size=200), seen)
    for part, side in (("seen", True), ("unseen", False)):
        rows = [row for row in result["per_class"] if row["seen"] == side]
        mean = np.average([r["f1"] for r in rows], weights=[r["support"] for r in rows])
        assert result[part]["f1"] == pytest.approx(mean, abs=1e-12)


def test_evaluate_scores_is_its_parts():
    rng = np.random.default_rng(0)
    seen = np.arange(6) < 3
    labels = rng.integers(6, size=100)
    scores = rng.standard_normal((100, 6))
    best = best_gamma(scores, labels, seen)
    result = evaluate_scores(scores, labels, seen, best.gamma)
    assert result["overall"]["f1"] == best.value
    assert (result["seen"]["f1"], result["unseen"]["f1"]) == (best.seen, best.unseen)
    assert result.pop("ausuc") == ausuc(scores, labels, seen)
    assert result.pop("gamma") == best.gamma
    assert result == gzs_scores(predict(scores, seen, best.gamma), labels, seen)


def test_label_given_twice_is_one_label():
    rng = np.random.default_rng(0)
    names, seen = ["a", "b", "c", "d"], np.array([True, True, False, False])
    labels, scores = rng.integers(4, size=50), rng.standard_normal((50, 4))
    once = evaluate_scores(scores, labels, seen, 0.3, names)
    columns = [0, 1, 0, 2, 3, 2]
    places = np.array([0, 1, 3, 4])
    twice = evaluate_scores(
        scores[:, columns], places[labels], seen[columns], 0.3, [names[k] for k in columns]
    )
    assert twice == once
    # Whichever of the two was predicted or is the truth.
    assert gzs_scores([2, 0, 1], [0, 2, 1], [True] * 3, ["a", "b", "a"])["seen"]["accuracy"] == 1


@pytest.mark.parametrize("side", [True, False])
def test_one_kind_of_label(side):
    result = evaluate_scores(np.eye(3), [0, 1, 1], [side] * 3, 2.0)
    part, other = ("seen", "unseen") if side else ("unseen", "seen")
    assert result[part]["accuracy"] == pytest.approx(2 / 3)
    assert result[other]["accuracy"] == result["overall"]["f1"] == result["ausuc"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictions": [0]}, "predictions has 1 entries, but there are 2 samples"),
        ({"predictions": [0, 9]}, r"predictions must be in \[0, 3\).*entry 1 is 9"),
        ({"predictions": [0.5, 1]}, "predictions must be integers"),
        ({"labels": [0, 3]}, "labels must be in"),
        ({"labels": [], "predictions": []}, "labels must be integers"),
        ({"seen_mask": [0, 1]}, "seen_mask must be boolean"),
        ({"label_names": ["a"]}, "label_names has 1 names, but seen_mask has 3 entries"),
        ({"label_names": ["a", "b", "a"]}, "label_names gives 'a' both as seen and as unseen"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"predictions": [0, 1], "labels": [0, 1], "seen_mask": [True, True, False]}
    with pytest.raises(ValueError, match=message):
        gzs_scores(**arguments | change)


def test_temperature_adds_its_calibration_error_and_changes_nothing_else():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(0, 3, (50, 4)), rng.integers(0, 4, 50)
    seen = np.array([True, True, False, False])
    plain = evaluate_scores(scores, labels, seen, 0.7)
    assert not {"temperature", "calibration_error"} & set(plain)
    result = evaluate_scores(scores, labels, seen, 0.7, temperature=2.5)
    # of the scores from which gamma was taken, as they are predicted with
    expected = calibration_error(scores - 0.7 * seen, labels, 2.5)
    assert result.pop("calibration_error") == pytest.approx(expected)
    assert result.pop("temperature") == 2.5
    assert result == plain
    other = evaluate_scores(scores, labels, seen, 0.7, temperature=25.0)
    assert other["calibration_error"] != pytest.approx(expected, abs=0.01)
    assert json.loads(json.dumps(other)) == other


def test_labels_of_one_name_are_one_for_the_calibration_error_too():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(0, 3, (50, 3)), rng.integers(0, 3, 50)
    once = evaluate_scores(scores, labels, [True, True, False], 0.3, ["a", "b", "c"], 1.5)
    twice = evaluate_scores(
        np.hstack([scores, scores[:, :1]]), labels, [True, True, False, True], 0.3,
        ["a", "b", "c", "a"], 1.5,
    )  # fmt: skip
    assert twice["calibration_error"] == pytest.approx(once["calibration_error"])


def test_evaluate_metric_at_once(tmp_path):
    metric = metrics.GZSMetric(cache_dir=str(tmp_path))
    arguments = ([0, 2, 2], [0, 1, 2], [True, True, False])
    result = metric.compute(predictions=arguments[0], references=arguments[1], seen=arguments[2])
    assert result == gzs_scores(*arguments)
    assert json.loads(json.dumps(result)) == result


def test_evaluate_metric_in_batches():
    metric = metrics.GZSMetric(keep_in_memory=True)
    for predicted, labels in (([0, 2], [0, 1]), ([2], [2])):
        metric.add_batch(predictions=np.array(predicted), references=np.array(labels))
    result = metric.compute(seen=np.array([True, True, False]), label_names=["a", "b", "c"])
    assert result == gzs_scores([0, 2, 2], [0, 1, 2], [True, True, False], ["a", "b", "c"])


def test_evaluate_metric_is_one_class_with_a_home():
    assert metrics.GZSMetric is metrics.GZSMetric
    assert metrics.GZSMetric.__module__ == "modeling_hmgrl.metrics.gzs_scores"
    assert metrics.GZSMetric.__qualname__ == "GZSMetric"
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        metrics.Nonsense  # noqa: B018


def test_import_does_not_import_evaluate():
    code = "import sys, modeling_hmgrl.metrics; assert 'evaluate' not in sys.modules"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
