import json
import math
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file

from modeling_hmgrl.metrics.calibration import (
    ausuc,
    best_gamma,
    calibrated,
    harmonic_mean,
    predict,
    seen_unseen_curve,
)

METRICS = ["f1", "accuracy", "macro_accuracy"]
GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "i_calibration.safetensors")
CASES = sorted({name.split("/")[0] for name in GOLDEN})
GOLDEN_SEEN = np.arange(8) < 4


def golden(case, name):
    return GOLDEN[f"{case}/{name}"]


# The oracle: plain loops over samples, rational numbers, nothing shared with the module.


def naive_parts(predictions, labels, seen, metric):
    values = []
    for side in (True, False):
        pairs = [(p, y) for p, y in zip(predictions, labels, strict=True) if seen[y] == side]
        terms, weight = Fraction(0), 0
        for k in sorted({y for _, y in pairs}):
            support = sum(y == k for _, y in pairs)
            predicted = sum(p == k for p, _ in pairs)
            hits = sum(p == y == k for p, y in pairs)
            if metric == "f1":
                terms += support * Fraction(2 * hits, support + predicted)
                weight += support
            elif metric == "accuracy":
                terms += hits
                weight += support
            else:
                terms += Fraction(hits, support)
                weight += 1
        values.append(terms / weight if weight else Fraction(0))
    return values


def naive_value(predictions, labels, seen, metric):
    a, b = naive_parts(predictions.tolist(), labels.tolist(), seen.tolist(), metric)
    return float(2 * a * b / (a + b)) if a + b else 0.0


def naive_predict(scores, seen, gamma):
    lowered = [
        [Fraction(float(s)) - (Fraction(gamma) if k else 0) for s, k in zip(row, seen, strict=True)]
        for row in scores
    ]
    return np.array([max(range(len(row)), key=row.__getitem__) for row in lowered])


def naive_gammas(scores, seen, allow_negative):
    """Zero, and one γ of every interval wide enough to hold a float."""
    gammas = [0.0]
    if seen.any() and not seen.all():
        exact = scores.astype(np.float64)
        gaps = np.unique(exact[:, seen].max(axis=1) - exact[:, ~seen].max(axis=1)).tolist()
        ends = [gaps[0] - 2, *gaps, gaps[-1] + 2]
        if not allow_negative:
            ends = [max(0.0, end) for end in ends]
        for low, high in pairwise(ends):
            middle = low + (high - low) / 2
            if low < middle < high:
                gammas.append(middle)
    return gammas


@st.composite
def problems(draw):
    samples, classes = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    few = st.integers(-3, 3).map(float)  # many ties
    values = draw(st.sampled_from([few, st.floats(-8, 8, width=32)]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    scores = draw(hnp.arrays(dtype, (samples, classes), elements=values))
    labels = draw(hnp.arrays(np.int64, samples, elements=st.integers(0, classes - 1)))
    seen = draw(hnp.arrays(np.bool_, classes))
    return scores, labels, seen


def random_problem(samples=300, classes=10, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=samples)
    seen = np.arange(classes) < classes // 2
    scores = rng.standard_normal((samples, classes))
    scores[np.arange(samples), labels] += 1.5
    scores[:, seen] += 0.8
    return scores.astype(dtype), labels, seen


# Against the original implementation


@pytest.mark.parametrize("case", CASES)
def test_predictions_at_the_recorded_gamma(case):
    gamma = golden(case, "gamma").item()
    predictions = predict(golden(case, "logits"), GOLDEN_SEEN, gamma)
    np.testing.assert_array_equal(predictions, golden(case, "preds"))


@pytest.mark.parametrize("metric", ["f1", "accuracy"])
@pytest.mark.parametrize("case", [case for case in CASES if f"{case}/grid" in GOLDEN])
def test_gamma_is_no_worse_than_the_best_of_the_recorded_grid(case, metric):
    result = best_gamma(golden(case, "logits"), golden(case, "labels"), GOLDEN_SEEN, metric)
    # The original's 0 / 0 is defined as 0 here.
    values = np.nan_to_num(golden(case, "grid")[:, 1 if metric == "f1" else 2], nan=0.0)
    assert result.value >= values.max() - 1e-12
    assert result.gamma >= 0


def test_recorded_grids_are_met_point_by_point():
    for case in ("random", "nonmonotone", "nonmonotone2"):
        logits, labels = golden(case, "logits"), golden(case, "labels")
        for gamma, f1, accuracy in golden(case, "grid")[::37]:
            predictions = predict(logits, GOLDEN_SEEN, gamma)
            values = [naive_value(predictions, labels, GOLDEN_SEEN, m) for m in ("f1", "accuracy")]
            assert values == pytest.approx([f1, accuracy], abs=1e-9)


def test_gamma_beyond_the_seen_scores_is_found():
    # The original stops at the largest seen score; the unseen labels need a larger γ here.
    logits, labels = golden("seen_dominates", "logits"), golden("seen_dominates", "labels")
    result = best_gamma(logits, labels, GOLDEN_SEEN)
    assert result.gamma > logits[:, GOLDEN_SEEN].max()
    assert result.value > 0.5


def test_gamma_does_not_depend_on_an_offset_of_all_scores():
    results = [
        best_gamma(golden(case, "logits"), golden(case, "labels"), GOLDEN_SEEN)
        for case in ("random", "shifted")
    ]
    assert results[0].gamma == pytest.approx(results[1].gamma, abs=1e-5)
    assert results[0].value == results[1].value


# Against exhaustive search


@settings(max_examples=300, deadline=None)
@given(problems(), st.sampled_from(METRICS), st.booleans())
def test_best_gamma_equals_exhaustive_search(problem, metric, allow_negative):
    scores, labels, seen = problem
    result = best_gamma(scores, labels, seen, metric, allow_negative)
    best = max(
        naive_value(naive_predict(scores, seen, gamma), labels, seen, metric)
        for gamma in naive_gammas(scores, seen, allow_negative)
    )
    assert result.value == pytest.approx(best, abs=1e-11)
    assert math.isfinite(result.gamma)
    assert allow_negative or result.gamma >= 0

    # What was promised is what the chosen γ gives, computed independently.
    predictions = naive_predict(scores, seen, result.gamma)
    np.testing.assert_array_equal(predictions, predict(scores, seen, result.gamma))
    assert result.value == pytest.approx(naive_value(predictions, labels, seen, metric), abs=1e-12)
    parts = naive_parts(predictions.tolist(), labels.tolist(), seen.tolist(), metric)
    assert (result.seen, result.unseen) == pytest.approx([float(p) for p in parts], abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(problems(), st.floats(-20, 20))
def test_predict_is_the_argmax_of_calibrated(problem, gamma):
    scores, _, seen = problem
    lowered = calibrated(scores, seen, gamma)
    assert lowered.dtype == np.float64
    chosen = np.take_along_axis(lowered, predict(scores, seen, gamma)[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(chosen, lowered.max(axis=1), rtol=0, atol=1e-13)


@settings(max_examples=200, deadline=None)
@given(problems(), st.sampled_from(["accuracy", "macro_accuracy"]))
def test_curve_and_area_equal_exhaustive_search(problem, metric):
    scores, labels, seen = problem
    curve = seen_unseen_curve(scores, labels, seen, metric)
    assert len(curve.seen) == len(curve.unseen) == len(curve.thresholds) + 1
    assert (np.diff(curve.seen) <= 1e-12).all()
    assert (np.diff(curve.unseen) >= -1e-12).all()
    edges = curve.thresholds.tolist()
    gammas = [edges[0] - 1, *edges, edges[-1] + 1] if edges else [0.0, 0.0]
    points = []
    for i, (low, high) in enumerate(pairwise(gammas)):
        middle = low + (high - low) / 2
        predictions = naive_predict(scores, seen, middle)
        parts = naive_parts(predictions.tolist(), labels.tolist(), seen.tolist(), metric)
        if edges and not low < middle < high:
            continue
        points.append((curve.unseen[i], curve.seen[i]))
        assert (curve.seen[i], curve.unseen[i]) == pytest.approx(
            [float(p) for p in parts], abs=1e-12
        )
    area = sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(points))
    if len(points) == len(curve.seen):
        assert ausuc(scores, labels, seen, metric) == pytest.approx(area, abs=1e-12)


# What γ is chosen among equals


def test_zero_is_taken_where_calibration_gains_nothing():
    scores = np.array([[3.0, 1.0], [1.0, 3.0]])
    result = best_gamma(scores, [0, 1], [True, False])
    assert (result.gamma, result.value) == (0.0, 1.0)
    assert (result.low, result.high) == (-2.0, 2.0)


def test_middle_of_the_widest_optimal_interval():
    # Gaps 1 (unseen sample) and 9 (seen sample): any γ between them makes both right.
    result = best_gamma(np.array([[9.0, 0.0], [1.0, 0.0]]), [0, 1], [True, False])
    assert (result.gamma, result.low, result.high, result.value) == (5.0, 1.0, 9.0, 1.0)


def test_lowest_of_equally_wide_optimal_intervals():
    # Seen and unseen samples move in turn. (1, 2) gets 2 of 3 unseen and all seen, (3, 4) the
    # other way round: 0.8 both.
    gaps = np.array([1.0, 2.0, 3.0, 4.0, 0.5, 4.5])
    scores = np.stack([gaps, np.zeros(6), np.full(6, -9.0)], axis=1)
    labels = np.array([1, 0, 1, 0, 1, 0])
    result = best_gamma(scores, labels, [True, False, True], "accuracy")
    assert (result.gamma, result.low, result.high) == (1.5, 1.0, 2.0)
    assert result.value == pytest.approx(0.8)


def test_negative_gamma_only_on_demand():
    scores = np.array([[0.0, 4.0], [0.0, 8.0]])
    assert best_gamma(scores, [0, 1], [True, False]).gamma == 0
    result = best_gamma(scores, [0, 1], [True, False], allow_negative=True)
    assert (result.gamma, result.value) == (-6.0, 1.0)


def test_tie_goes_to_the_lower_column():
    scores = np.array([[2.0, 1.0], [1.0, 1.0]])
    assert predict(scores, [True, False], 1.0).tolist() == [0, 1]
    assert predict(scores[:, ::-1], [False, True], 1.0).tolist() == [0, 0]
    assert predict(np.zeros((1, 4)), [False, True, True, False], 0).tolist() == [0]


def test_plain_argmax_with_ties_counts_as_gamma_zero():
    # Every gap is 0: only γ = 0, where the lower column wins, gets both samples right.
    scores = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    result = best_gamma(scores, [0, 1], [True, False, True])
    assert (result.gamma, result.low, result.high, result.value) == (0.0, 0.0, 0.0, 1.0)


def test_neighbouring_floats_leave_no_interval_between_them():
    one, above = 1.0, math.nextafter(1.0, 2.0)
    scores = np.array([[one, 0.0], [above, 0.0], [5.0, 0.0]])
    result = best_gamma(scores, [1, 0, 0], [True, False], "accuracy")
    assert result.value == pytest.approx(2 * 0.5 / 1.5)  # between 1 + ε and 5
    assert above < result.gamma < 5


# Precision


@pytest.mark.parametrize("seed", range(5))
def test_float32_subtraction_predicts_the_same(seed):
    scores, labels, seen = random_problem(seed=seed)
    result = best_gamma(scores, labels, seen)
    gamma = np.float32(result.gamma)
    assert result.gamma == gamma
    in_float32 = scores - gamma * seen.astype(np.float32)
    assert in_float32.dtype == np.float32
    np.testing.assert_array_equal(in_float32.argmax(axis=1), predict(scores, seen, result.gamma))


def test_gamma_survives_json():
    scores, labels, seen = random_problem(dtype=np.float64)
    result = best_gamma(scores, labels, seen)
    assert type(result.gamma) is float
    again = json.loads(json.dumps(result.gamma))
    np.testing.assert_array_equal(predict(scores, seen, again), predict(scores, seen, result.gamma))


def test_large_gamma_keeps_the_order_of_seen_labels():
    scores = np.array([[1.0, np.nextafter(np.float32(1), 2), -1e9]], dtype=np.float32)
    assert predict(scores, [True, True, False], 1e8).tolist() == [1]


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_any_magnitude(scale):
    result = best_gamma(np.array([[9.0, 0.0], [1.0, 0.0]]) * scale, [0, 1], [True, False])
    assert result.value == 1
    assert result.low < result.gamma < result.high


@pytest.mark.parametrize("dtype", [np.float16, np.int32, np.float64])
def test_any_real_dtype(dtype):
    result = best_gamma(np.array([[9, 0], [1, 0]], dtype=dtype), [0, 1], [True, False])
    assert (result.gamma, result.value) == (5.0, 1.0)


def test_blocks_do_not_show(monkeypatch):
    scores, labels, seen = random_problem()
    whole = best_gamma(scores, labels, seen)
    monkeypatch.setattr("modeling_hmgrl.metrics.calibration._BLOCK", 7)
    assert best_gamma(scores, labels, seen) == whole


def test_order_of_labels_and_samples_does_not_matter():
    scores, labels, seen = random_problem()
    whole = best_gamma(scores, labels, seen)
    rng = np.random.default_rng(1)
    columns, rows = rng.permutation(scores.shape[1]), rng.permutation(len(scores))
    inverse = np.argsort(columns)
    other = best_gamma(scores[rows][:, columns], inverse[labels[rows]], seen[columns])
    assert other.gamma == whole.gamma
    assert other.value == pytest.approx(whole.value, abs=1e-12)


# Edges


@pytest.mark.parametrize("side", [True, False])
def test_one_kind_of_label_needs_no_gamma(side):
    scores, labels, _ = random_problem(samples=20)
    seen = np.full(10, side)
    result = best_gamma(scores, labels, seen)
    assert (result.gamma, result.value) == (0.0, 0.0)
    assert (result.low, result.high) == (-math.inf, math.inf)
    assert ausuc(scores, labels, seen) == 0
    np.testing.assert_array_equal(predict(scores, seen, 3.0), scores.argmax(axis=1))
    curve = seen_unseen_curve(scores, labels, seen)
    right = (scores.argmax(axis=1) == labels).mean()
    assert (curve.seen.tolist(), curve.unseen.tolist()) == (
        ([right], [0.0]) if side else ([0.0], [right])
    )


def test_no_samples_of_one_part():
    scores, _, seen = random_problem(samples=20)
    result = best_gamma(scores, np.zeros(20, dtype=int), seen)
    assert (result.gamma, result.value, result.unseen) == (0.0, 0.0, 0.0)
    assert ausuc(scores, np.zeros(20, dtype=int), seen) == 0


def test_area_of_known_curves():
    seen = [True, False]
    # Perfectly separable: seen accuracy 1 up to unseen accuracy 1.
    assert ausuc(np.array([[9.0, 0.0], [1.0, 0.0]]), [0, 1], seen) == 1
    # The wrong way round: unseen samples move last.
    assert ausuc(np.array([[1.0, 0.0], [9.0, 0.0]]), [0, 1], seen) == 0
    # Same gap: one straight line from (0, 1) to (1, 0).
    assert ausuc(np.array([[1.0, 0.0], [1.0, 0.0]]), [0, 1], seen) == 0.5


def test_ruled_out_labels():
    scores = np.array([[9.0, -np.inf, 0.0], [-np.inf, 1.0, 0.0]])
    result = best_gamma(scores, [0, 2], [True, True, False])
    assert (result.gamma, result.value) == (5.0, 1.0)


def test_harmonic_mean():
    assert harmonic_mean(0.0, 0.0) == 0
    assert harmonic_mean(0.0, 0.7) == 0
    both = harmonic_mean(np.array([1.0, 0.5]), np.array([1.0, 0.25]))
    np.testing.assert_allclose(both, [1, 1 / 3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.zeros(3)}, "scores must be numbers of shape"),
        ({"scores": np.zeros((2, 3), dtype=bool)}, "scores must be numbers of shape"),
        ({"scores": np.zeros((2, 4))}, "scores has 4 columns, but seen_mask has 3"),
        ({"scores": np.array([[0, 0, 0], [0, np.nan, 0]])}, "scores must be finite: row 1"),
        ({"scores": np.array([[0, 0, np.nan], [0, 0, 0]])}, "scores must be finite: row 0"),
        ({"scores": np.array([[np.inf, 0, 0], [0, 0, 0]])}, "scores must be finite: row 0"),
        ({"scores": np.array([[0, 0, -np.inf], [0, 0, 0]])}, "scores must be finite: row 0"),
        ({"scores": np.array([[1e308, 0, -1e308], [0, 0, 0]])}, "scores must be finite: row 0"),
        ({"labels": [0]}, "labels has 1 entries, but there are 2 samples"),
        ({"labels": [0, 3]}, r"labels must be in \[0, 3\), one of the columns; entry 1 is 3"),
        ({"labels": [-1, 0]}, "entry 0 is -1"),
        ({"labels": [0.0, 1.0]}, "labels must be integers"),
        ({"labels": [[0], [1]]}, "labels must be integers"),
        ({"scores": np.zeros((0, 3)), "labels": np.zeros(0, dtype=int)}, "labels is empty"),
        ({"seen_mask": [0, 1]}, "seen_mask must be boolean"),
        ({"seen_mask": np.zeros((1, 3), dtype=bool)}, "seen_mask must be boolean"),
        ({"seen_mask": np.zeros(0, dtype=bool)}, "seen_mask must be boolean"),
        ({"metric": "recall"}, "metric must be one of f1, accuracy, macro_accuracy; got 'recall'"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"scores": np.zeros((2, 3)), "labels": [0, 1], "seen_mask": [True, True, False]}
    with pytest.raises(ValueError, match=message):
        best_gamma(**arguments | change)


def test_nan_is_refused_where_all_labels_are_seen():
    with pytest.raises(ValueError, match="scores must be finite: row 0"):
        best_gamma(np.array([[0.0, np.nan]]), [0], [True, True])


def test_curve_of_f1_is_refused():
    with pytest.raises(ValueError, match="metric must be one of accuracy, macro_accuracy"):
        ausuc(np.zeros((1, 2)), [0], [True, False], "f1")


@pytest.mark.parametrize("gamma", [np.nan, np.inf, -np.inf])
def test_gamma_must_be_finite(gamma):
    for function in (predict, calibrated):
        with pytest.raises(ValueError, match="gamma must be finite"):
            function(np.zeros((1, 2)), [True, False], gamma)


def test_predict_takes_no_samples():
    assert predict(np.zeros((0, 3)), [True, True, False], 1.0).shape == (0,)
