"""Temperature of probabilities and expected calibration error, against slow computations."""

import json
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny_world import tiny_label_sets, tiny_model, tiny_processor, tiny_records

from modeling_hmgrl import (
    HMGRLForZeroShotTyping,
    HMGRLTrainer,
    HMGRLTrainingArguments,
    ZeroShotTypingPipeline,
)
from modeling_hmgrl.metrics.calibration import calibrated
from modeling_hmgrl.metrics.temperature_scaling import (
    best_temperature,
    calibration_error,
    probabilities,
)

LOWEST, HIGHEST = 1e-3, 1e3


def softmax(row, temperature):
    """Of one row, with Python's numbers."""
    scaled = [float(score) / temperature for score in row]
    exponential = [math.exp(score - max(scaled)) for score in scaled]
    return np.array(exponential) / math.fsum(exponential)


@st.composite
def problems(draw):
    samples, labels = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    numbers = st.floats(-60, 60, width=32)
    scores = draw(hnp.arrays(np.float32, (samples, labels), elements=numbers))
    right = draw(hnp.arrays(np.int64, samples, elements=st.integers(0, labels - 1)))
    return scores, right


def loss(scores, right, temperature):
    """Mean negative log-likelihood of the true labels."""
    scaled = np.asarray(scores, dtype=np.float64) / temperature
    total = np.logaddexp.reduce(scaled, axis=1)
    return (total - scaled[np.arange(len(right)), right]).mean()


# Probabilities


@settings(max_examples=200, deadline=None)
@given(problems(), st.floats(1e-3, 1e3))
def test_probabilities_are_a_softmax(problem, temperature):
    scores, _ = problem
    found = probabilities(scores, temperature)
    expected = [softmax(row, temperature) for row in scores]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-300)
    assert found.dtype == np.float64
    # the order of the labels stays
    for row, chance in zip(scores, found, strict=True):
        assert chance[row.argmax()] == chance.max()


def test_probabilities_of_extremes():
    np.testing.assert_allclose(probabilities([1e30, -1e30]), [1, 0])
    np.testing.assert_allclose(probabilities([[-np.inf, 0.0, 0.0]]), [[0, 0.5, 0.5]])
    np.testing.assert_allclose(probabilities([[3.0]], 1e-3), [[1]])
    np.testing.assert_allclose(probabilities([1e3, 999.0], 1e-3), [1, 0])


@pytest.mark.parametrize("temperature", [0, -1.0, math.inf, math.nan])
def test_a_temperature_that_is_invalid_is_refused(temperature):
    with pytest.raises(ValueError, match=r"^temperature: got .*, expected a positive number"):
        probabilities([[1.0, 2.0]], temperature)
    with pytest.raises(ValueError, match=r"^temperature: got .*, expected a positive number"):
        calibration_error([[1.0, 2.0]], [0], temperature)


# The best temperature

GRID = np.geomspace(LOWEST, HIGHEST, 2001)


@settings(max_examples=100, deadline=None)
@given(problems())
def test_no_temperature_of_a_grid_is_better(problem):
    scores, right = problem
    found = best_temperature(scores, right)
    assert LOWEST <= found <= HIGHEST
    best = min(loss(scores, right, temperature) for temperature in GRID)
    assert loss(scores, right, found) <= best + 1e-9 * (1 + abs(best))


def test_it_is_found_exactly():
    # two labels, three of four right by a margin of 1: T with sigmoid(1/T) = 3/4
    scores, right = [[1.0, 0.0]] * 4, [0, 0, 0, 1]
    assert best_temperature(scores, right) == pytest.approx(1 / math.log(3), rel=1e-9)


@settings(max_examples=100, deadline=None)
@given(problems(), st.floats(0.25, 4.0), st.floats(-100, 100))
def test_it_scales_with_the_scores_and_ignores_what_is_added(problem, scale, shift):
    scores, right = problem
    scores = np.round(scores)  # differences that the shift does not swallow
    found = best_temperature(scores, right)
    rows = scores.astype(np.float64) * scale + shift * np.arange(len(scores))[:, None]
    scaled = best_temperature(rows, right)
    if found == LOWEST:
        assert scaled <= LOWEST * max(1, scale) * 1.001
    elif found == HIGHEST:
        assert scaled >= HIGHEST * min(1, scale) * 0.999
    else:
        assert scaled == pytest.approx(np.clip(found * scale, LOWEST, HIGHEST), rel=1e-4)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.2, 5.0))
def test_the_temperature_that_labels_were_drawn_with_is_found(seed, true):
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 2, (4000, 5))
    drawn = (scores / true + rng.gumbel(size=scores.shape)).argmax(1)
    assert best_temperature(scores, drawn) == pytest.approx(true, rel=0.15)


def test_extremes_are_kept_within_bounds():
    right = np.arange(3)
    assert best_temperature(np.eye(3), right) == LOWEST  # all right: the sharper the better
    assert best_temperature(-np.eye(3), right) == HIGHEST  # worse than none: the flatter the better
    assert best_temperature(np.zeros((3, 3)), right) in (LOWEST, HIGHEST)  # it decides nothing
    assert best_temperature([[5.0], [-3.0]], [0, 0]) in (LOWEST, HIGHEST)  # one label
    huge = np.array([[1e30, 0.0], [0.0, 1e30], [1e30, 0.0]])
    assert best_temperature(huge, [0, 1, 1]) == HIGHEST
    for scores in (np.eye(3), -np.eye(3), np.zeros((3, 3)), huge):
        found = best_temperature(scores, np.arange(len(scores)) % scores.shape[1])
        assert np.isfinite(probabilities(scores, found)).all()


def test_labels_that_are_ruled_out_take_no_part():
    scores, right = np.array([[1.0, 0.0]] * 4), [0, 0, 0, 1]
    wider = np.hstack([scores, np.full((4, 2), -np.inf)])
    assert best_temperature(wider, right) == pytest.approx(best_temperature(scores, right))
    assert calibration_error(wider, right) == pytest.approx(calibration_error(scores, right))
    with pytest.raises(ValueError, match=r"^scores: that of a true label is infinite"):
        best_temperature(wider, [0, 0, 0, 2])


# The error


def slow_calibration_error(scores, right, temperature, bins):
    """One sample after another, one bin after another."""
    total = 0.0
    for k in range(bins):
        low, high = k / bins, (k + 1) / bins
        confidences, hits = [], []
        for row, label in zip(np.asarray(scores, dtype=np.float64), right, strict=True):
            chances = softmax(row, temperature)
            best = max(range(len(row)), key=lambda j: (row[j], -j))
            if low < chances[best] <= high:
                confidences.append(chances[best])
                hits.append(best == label)
        if hits:
            gap = abs(sum(hits) / len(hits) - sum(confidences) / len(hits))
            total += gap * len(hits) / len(right)
    return total


@settings(max_examples=200, deadline=None)
@given(problems(), st.sampled_from([0.1, 1.0, 7.0]), st.integers(1, 20))
def test_calibration_error_is_that_of_a_slow_loop(problem, temperature, bins):
    scores, right = problem
    confidence = np.array([softmax(row, temperature).max() for row in scores])
    # at a bound between bins, rounding decides where a sample falls
    edge = np.abs(confidence * bins - np.round(confidence * bins)) < 1e-9
    assume(not (edge & (np.round(confidence * bins) < bins)).any())
    found = calibration_error(scores, right, temperature, bins)
    assert found == pytest.approx(
        slow_calibration_error(scores, right, temperature, bins), abs=1e-9
    )
    assert 0 <= found <= 1


def test_calibration_error_of_known_cases():
    sure = np.array([[100.0, 0.0]] * 4)
    assert calibration_error(sure, [0, 0, 0, 0]) == pytest.approx(0)
    assert calibration_error(sure, [1, 1, 1, 1]) == pytest.approx(1)
    assert calibration_error(sure, [0, 0, 1, 1]) == pytest.approx(0.5)
    # as sure as it is right: 3 of 4, with a probability of 3/4
    assert calibration_error([[math.log(3), 0.0]] * 4, [0, 0, 0, 1]) == pytest.approx(0)
    # one label is always right, with a probability of 1
    assert calibration_error([[2.0]] * 3, [0, 0, 0]) == 0
    # two bins: gaps do not cancel between them, but within one
    scores = np.array([[math.log(9), 0.0], [0.0, 0.0]])
    assert calibration_error(scores, [1, 0]) == pytest.approx((0.9 + 0.5) / 2)
    assert calibration_error(scores, [1, 0], bins=1) == pytest.approx(abs(0.5 - 0.7))


@pytest.mark.parametrize("function", [best_temperature, calibration_error])
@pytest.mark.parametrize(
    ("scores", "right", "message"),
    [
        ([[1.0, math.nan]], [0], r"^scores: contain NaN, expected numbers"),
        ([1.0, 2.0], [0], "scores must be numbers of shape"),
        ([["a", "b"]], [0], "scores must be numbers"),
        (3.0, [0], "scores must be numbers of shape"),
        (np.zeros((1, 0)), [0], "seen_mask|labels|columns"),
        ([[1.0, math.inf]], [0], "^scores: the best of a row is infinite"),
        ([[-math.inf, -math.inf]], [0], "^scores: the best of a row is infinite"),
        (np.zeros((0, 3)), [], "labels"),
        ([[1.0, 2.0]], [0, 1], "labels has 2 entries, but there are 1 samples"),
        ([[1.0, 2.0]], [2], r"labels must be in \[0, 2\)"),
        ([[1.0, 2.0]], [0.0], "labels must be integers"),
    ],
)
def test_what_cannot_be_measured_is_named(function, scores, right, message):
    with pytest.raises(ValueError, match=message):
        function(scores, right)


def test_bins_are_checked():
    with pytest.raises(ValueError, match=r"^bins: got 0, expected 1 or more"):
        calibration_error([[1.0, 2.0]], [0], bins=0)


def test_the_best_temperature_of_calibrated_labels_leaves_little_error():
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 3, (20_000, 4))
    drawn = (scores / 2.5 + rng.gumbel(size=scores.shape)).argmax(1)
    found = best_temperature(scores, drawn)
    assert calibration_error(scores, drawn, found) < 0.02 < calibration_error(scores, drawn)
    json.dumps([found, calibration_error(scores, drawn)])  # plain numbers, for the report


# From training to a pipeline


def test_training_chooses_it_on_validation_and_a_pipeline_uses_it(tmp_path):
    data, labels = tiny_records(24, images=False), tiny_label_sets()
    settings = {"epochs": 3, "batch_size": 8, "learning_rate": 3e-3, "head_learning_rate": 3e-3}
    settings |= {"progress": False, "tracker": "none", "feature_dir": str(tmp_path / "features")}
    trainer = HMGRLTrainer(
        tiny_model(vision=False),
        tiny_processor(use_images=False),
        HMGRLTrainingArguments(str(tmp_path / "run"), **settings),
        labels,
        data["train"],
        data["validation"],
        data["test"],
    )
    report = trainer.train()
    assert report == json.loads((tmp_path / "run" / "report.json").read_text())
    model = HMGRLForZeroShotTyping.from_pretrained(tmp_path / "run")
    gamma, temperature = model.config.calibration_gamma, model.config.probability_temperature
    scores, right = trainer.scores("validation")
    stacked = calibrated(scores, labels.seen_mask("validation"), gamma)
    assert temperature == pytest.approx(best_temperature(stacked, right), rel=1e-6)
    assert LOWEST < temperature < HIGHEST
    assert temperature != 1.0
    for split in ("validation", "test"):
        scores, right = trainer.scores(split)
        stacked = calibrated(scores, labels.seen_mask(split), gamma)
        assert report[split]["temperature"] == temperature
        error = calibration_error(stacked, right, temperature)
        assert report[split]["calibration_error"] == pytest.approx(error)
    # `stacked` and `right` are those of the test split now
    pipe = ZeroShotTypingPipeline(model, trainer.processor, labels=labels.candidates("test"))
    rows = [{"text": row["text"], "spans": row["spans"]} for row in data["test"]]
    expected = probabilities(stacked, temperature)
    names = labels.candidates("test")
    for result, row in zip(pipe(rows, top_k=None), expected, strict=True):
        found = dict(zip(result["labels"], result["probabilities"], strict=True))
        np.testing.assert_allclose([found[name] for name in names], row, rtol=1e-3, atol=1e-5)
