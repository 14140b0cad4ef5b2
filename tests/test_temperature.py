"""The temperature of probabilities and the calibration error, against plain computations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny_world import tiny_label_sets, tiny_model, tiny_processor, tiny_records

from modeling_hmgrl import HMGRLForZeroShotTyping, HMGRLTrainer, HMGRLTrainingArguments
from modeling_hmgrl.metrics import evaluate_scores
from modeling_hmgrl.temperature import best_temperature, calibration_error, probabilities

RNG = np.random.default_rng(0)


def likelihood(scores, labels, temperature):
    """Mean log-likelihood of the right labels, one by one."""
    total = 0.0
    for row, label in zip(scores, labels, strict=True):
        scaled = row / temperature
        total += scaled[label] - scaled.max() - np.log(np.exp(scaled - scaled.max()).sum())
    return total / len(labels)


def noisy(n=300, k=5, scale=3.0):
    labels = RNG.integers(k, size=n)
    scores = RNG.normal(size=(n, k)) * scale
    scores[np.arange(n), labels] += scale
    return scores, labels


@pytest.mark.parametrize("scale", [0.05, 1.0, 40.0])
def test_no_other_temperature_is_likelier(scale):
    scores, labels = noisy(scale=scale)
    found = best_temperature(scores, labels)
    best = likelihood(scores, labels, found)
    grid = np.exp(np.linspace(np.log(1e-3), np.log(1e3), 500))
    assert best >= max(likelihood(scores, labels, t) for t in grid) - 1e-9
    for factor in (0.999, 1.001):
        assert likelihood(scores, labels, found * factor) < best


@given(
    arrays(np.float64, (6, 3), elements=st.floats(-50, 50, width=32)),
    arrays(np.int64, 6, elements=st.integers(0, 2)),
)
def test_any_scores_have_a_temperature_within_its_bounds(scores, labels):
    found = best_temperature(scores, labels)
    assert 1e-3 <= found <= 1e3
    own = likelihood(scores, labels, found)
    assert own >= max(likelihood(scores, labels, t) for t in (1e-3, 0.1, 1, 10, 1e3)) - 1e-7


def test_scaled_scores_have_a_scaled_temperature():
    scores, labels = noisy()
    assert best_temperature(7 * scores, labels) == pytest.approx(
        7 * best_temperature(scores, labels)
    )


def test_what_is_drawn_from_a_softmax_is_found_again():
    scores = RNG.normal(size=(20_000, 4)) * 2
    chances = probabilities(scores, 1.7)
    labels = (chances.cumsum(1) > RNG.random((20_000, 1))).argmax(1)
    assert best_temperature(scores, labels) == pytest.approx(1.7, rel=0.05)
    assert calibration_error(scores, labels, 1.7) < 0.02
    assert calibration_error(scores, labels, 0.4) > 0.1


def test_extremes():
    right = np.eye(3)
    assert best_temperature(right, [0, 1, 2]) == 1e-3  # nothing is too sharp
    assert best_temperature(right, [1, 2, 0]) == 1e3  # nothing is too flat
    assert best_temperature(np.ones((2, 1)), [0, 0]) == 1e-3  # one label is always right
    ruled_out = np.array([[0.0, 1.0, -np.inf], [2.0, 1.5, -np.inf]])
    assert best_temperature(ruled_out, [0, 0]) == pytest.approx(
        best_temperature(ruled_out[:, :2], [0, 0])
    )
    assert probabilities([[0.0, -np.inf]], 1e-3).tolist() == [[1.0, 0.0]]
    assert np.isfinite(probabilities([[1e30, -1e30]], 1e-3)).all()


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_is_that_of_a_plain_loop(bins):
    scores, labels = noisy(n=200)
    chances = probabilities(scores, 2.0)
    error = 0.0
    for b in range(bins):
        rows = [i for i, row in enumerate(chances) if b / bins < row.max() <= (b + 1) / bins]
        if rows:
            accuracy = np.mean([chances[i].argmax() == labels[i] for i in rows])
            confidence = np.mean([chances[i].max() for i in rows])
            error += len(rows) / len(labels) * abs(accuracy - confidence)
    assert calibration_error(scores, labels, 2.0, bins) == pytest.approx(error)


def test_evaluation_tells_temperature_and_error_if_they_are_meant():
    scores, labels = noisy()
    seen = np.array([True, True, False, False, False])
    plain = evaluate_scores(scores, labels, seen, 0.5)
    assert "temperature" not in plain
    told = evaluate_scores(scores, labels, seen, 0.5, temperature=2.0)
    assert told["temperature"] == 2.0
    stacked = scores - 0.5 * seen
    assert told["calibration_error"] == pytest.approx(calibration_error(stacked, labels, 2.0))
    assert {k: v for k, v in told.items() if k in plain} == plain


def test_training_chooses_it_on_validation_and_keeps_it(tmp_path):
    data = tiny_records(24)
    arguments = HMGRLTrainingArguments(
        str(tmp_path / "run"), epochs=2, tracker="none", progress=False, save_epochs=0,
        head_learning_rate=1e-3, feature_dir=str(tmp_path / "features"),
    )  # fmt: skip
    trainer = HMGRLTrainer(
        tiny_model(), tiny_processor(), arguments, tiny_label_sets(),
        data["train"], data["validation"], data["test"],
    )  # fmt: skip
    report = trainer.train()
    loaded = HMGRLForZeroShotTyping.from_pretrained(tmp_path / "run").config
    scores, truth = trainer.scores("validation")
    stacked = scores - loaded.calibration_gamma * trainer.labels.seen_mask("validation")
    assert loaded.probability_temperature == pytest.approx(
        best_temperature(stacked, truth), rel=1e-4
    )
    assert loaded.probability_temperature != 1.0
    for split in ("validation", "test"):
        assert report[split]["temperature"] == loaded.probability_temperature
        assert 0 <= report[split]["calibration_error"] <= 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: probabilities([1.0], 0), "temperature: got 0, expected a positive number"),
        (lambda: probabilities([1.0], np.nan), "temperature: got nan, expected a positive"),
        (lambda: best_temperature([[np.nan]], [0]), "scores: hold NaN"),
        (lambda: best_temperature([[1.0]], [1]), r"labels must be in \[0, 1\)"),
        (lambda: calibration_error([[1.0]], [0], bins=0), "bins: got 0, expected 1 or more"),
        (lambda: calibration_error([1.0], [0]), r"scores must be numbers of shape \(N, K\)"),
    ],
)
def test_what_cannot_be_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
