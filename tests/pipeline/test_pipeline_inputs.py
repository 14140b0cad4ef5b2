"""Checks of inputs, mentions as character offsets, and the best of any number of labels."""

import re
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_world import LABELS, tiny_config, tiny_picture, tiny_pipeline, tiny_processor

from modeling_hmgrl import ranking
from modeling_hmgrl.pipeline_inputs import (
    FIELDS,
    IGNORED_FIELDS,
    find_mentions,
    make_candidates,
    make_query,
)
from modeling_hmgrl.ranking import best_labels, first_occurrences

# Mentions


def test_mentions_are_found_as_offsets():
    assert find_mentions("an old fox", "old") == [(3, 6)]
    assert find_mentions("an old fox", ["fox", "an"]) == [(7, 10), (0, 2)]
    assert find_mentions("😀 fox", "fox") == [(2, 5)]
    assert find_mentions("a fox, a fox", "fox", occurrence=1) == [(9, 12)]
    assert find_mentions("a fox, a fox", ["fox", ","], occurrence=[0, None]) == [(2, 5), (5, 6)]
    assert find_mentions("aaa", "aa", occurrence=np.int64(1)) == [(1, 3)]


def test_the_occurrence_that_stands_alone_is_the_mention():
    pipe = tiny_pipeline(vision=False)
    call = pipe.parse_call({"labels": LABELS})
    query = pipe.prepare(call, ({"text": "This is it", "mention": "is"}, "input"))
    assert query.spans == [(5, 7)]
    assert find_mentions("This is it", "is", occurrence=0) == [(2, 4)]
    found = pipe("This is it", mention="is", labels=LABELS)
    assert found == pipe("This is it", spans=[[5, 7]], labels=LABELS)


@pytest.mark.parametrize(
    ("mentions", "which", "message"),
    [
        ("hen", None, r"^x\.mention: 'hen' not found, expected a substring of the text"),
        ("", None, r"^x\.mention: '' not found"),
        ("fox", None, r"^x\.mention: 'fox' occurs at \[2, 9\]; select one by 'occurrence'"),
        ("a", None, r"^x\.mention: 'a' occurs at \[0, 7\]"),
        ("fox", 2, r"^x\.occurrence: got 2, expected a number from 0 to 1, as 'fox' occurs 2"),
        ("fox", -1, r"^x\.occurrence: got -1, expected a number from 0 to 1"),
        ("fox", True, r"^x\.occurrence: got True, expected a number from 0 to 1"),
        ("fox", 1.0, r"^x\.occurrence: got 1\.0, expected a number"),
        ("fox", "1", r"^x\.occurrence: got '1', expected a number"),
        ("fox", [0, 1], r"^x\.occurrence: got 2 numbers, expected 1, one for each mention"),
        (["fox", ","], [1], r"^x\.occurrence: got 1 numbers, expected 2"),
        (None, None, r"^x\.mention: got None, expected a string, or a pair"),
        (["fox", 3], None, r"^x\.mention: got \['fox', 3\], expected a string"),
        (b"fox", None, r"^x\.mention: got b'fox', expected a string"),
    ],
)
def test_unfit_mentions_are_named(mentions, which, message):
    with pytest.raises(ValueError, match=message):
        find_mentions("a fox, a fox", mentions, "x", which)


def test_of_many_places_ten_are_listed():
    with pytest.raises(ValueError, match=re.escape(f"at {list(range(0, 60, 6))} and more")):
        find_mentions("a fox " * 50, "a fox")
    assert find_mentions("a fox " * 50, "fox", occurrence=49) == [(296, 299)]


@settings(max_examples=200, deadline=None)
@given(st.text("ab", min_size=1, max_size=20), st.text("ab", min_size=1, max_size=3))
def test_each_occurrence_can_be_chosen(text, mention):
    places = [i for i in range(len(text)) if text.startswith(mention, i)]
    for which, place in enumerate(places):
        assert find_mentions(text, mention, occurrence=which) == [(place, place + len(mention))]
    with pytest.raises(ValueError, match="occurrence" if places else "not found"):
        find_mentions(text, mention, occurrence=len(places))


# Labels and inputs


def test_candidates_are_names_with_texts():
    config = tiny_config(label_texts={"/p": "plant"}, seen_labels=["a"], generator_labels=["/p"])
    found = make_candidates(["/p", "x", "/p"], config)
    assert (found.names, found.texts) == (("/p", "x"), ("plant", "x"))
    found = make_candidates({"/p": None, "x": "a kind of x", "/q": "/p"}, config)
    assert (found.names, found.texts) == (("/p", "x", "/q"), ("plant", "a kind of x", "/p"))
    found = make_candidates(None, config)
    assert (found.names, found.texts) == (("a", "/p"), ("a", "plant"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, r"^labels: the model's configuration has none, expected a list of labels"),
        ({}, r"^labels: got \{\}, expected a list of at least one label, or a mapping"),
        ({"a"}, r"^labels: got \{'a'\}, expected a list"),
        (b"animal", r"^labels: got b'animal', expected a list"),
        (5, r"^labels: got 5, expected a list"),
        (["a", None], r"^labels: got None, expected a label that is a non-blank string"),
        (["\t\n"], r"^labels: got '\\t\\n', expected a label"),
        ([["a"]], r"^labels: got \['a'\], expected a label"),
        ({"a": 3}, r"^labels\['a'\]: got 3, expected a non-blank string"),
        ({3: "a"}, r"^labels: got 3, expected a label"),
    ],
)
def test_unfit_labels_are_named(labels, message):
    with pytest.raises(ValueError, match=message):
        make_candidates(labels, tiny_config())


def test_fields_of_a_data_record_may_stand_there():
    record = dict.fromkeys(IGNORED_FIELDS, 1) | {"text": "the fox", "mention": "fox"}
    query = make_query(record, tiny_processor(), tiny_config(), "input")
    assert (query.text, query.spans, query.pixels, query.labels) == (
        "the fox",
        [(4, 7)],
        None,
        None,
    )
    assert not set(FIELDS) & set(IGNORED_FIELDS)


def test_an_image_is_known_by_its_pixels(tmp_path):
    path = tmp_path / "a.png"
    tiny_picture("animal").save(path)
    tiny_picture("animal").save(tmp_path / "a.bmp")

    def key(image):
        record = {"text": "fox", "mention": "fox", "image": image}
        return make_query(record, tiny_processor(), tiny_config(), "input").image_key

    assert key(path) == key(tmp_path / "a.bmp") == key(tiny_picture("animal"))
    assert key(path) != key(tiny_picture("animal", seed=1))
    assert key(None) is None


# The best of many


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(ranking, "LABEL_CHUNK", 7)


def plainly(scores, seen, gamma, temperature, top_k):
    """What best_labels gives, computed over all labels at once, one sample after another."""
    found = []
    for row in np.asarray(scores, dtype=np.float64):
        calibrated = row - gamma * np.asarray(seen)
        order = sorted(range(len(row)), key=lambda k: (-calibrated[k], k))[:top_k]
        exponential = np.exp((calibrated - calibrated.max()) / temperature)
        probabilities = exponential / exponential.sum()
        found.append(([calibrated[k] for k in order], [probabilities[k] for k in order], order))
    return found


problems = st.integers(1, 30).flatmap(
    lambda labels: st.tuples(
        # few values, so that there are ties
        st.lists(
            st.lists(
                st.sampled_from([-2.0, 0.0, 0.5, 1.0, 30.0]), min_size=labels, max_size=labels
            ),
            min_size=1,
            max_size=4,
        ),
        st.lists(st.booleans(), min_size=labels, max_size=labels),
        st.sampled_from([0.0, 0.5, 2.5]),
        st.sampled_from([0.1, 1.0, 40.0]),
        st.one_of(st.none(), st.integers(1, 35)),
        st.integers(1, 40),
    )
)


@settings(max_examples=300, deadline=None)
@given(problems)
def test_best_labels_are_those_of_a_plain_computation(problem):
    scores, seen, gamma, temperature, top_k, chunk = problem
    table = torch.tensor(scores)
    whole, ranking.LABEL_CHUNK = ranking.LABEL_CHUNK, chunk
    try:
        found = best_labels(
            lambda vectors: table[:, vectors.long()],
            torch.arange(table.shape[1]),
            torch.tensor(seen),
            gamma,
            temperature,
            top_k,
        )
    finally:
        ranking.LABEL_CHUNK = whole
    expected = plainly(scores, seen, gamma, temperature, top_k)
    for row, (best, probabilities, columns) in enumerate(expected):
        assert found[2][row].tolist() == columns
        np.testing.assert_allclose(found[0][row], best, rtol=1e-12)
        np.testing.assert_allclose(found[1][row], probabilities, rtol=1e-9, atol=1e-300)


def test_a_score_that_is_no_number_is_reported():
    with pytest.raises(FloatingPointError, match=r"^scores: got NaN"):
        best_labels(
            lambda vectors: torch.tensor([[1.0, float("nan")]]),
            torch.zeros(2, 1), torch.zeros(2, dtype=torch.bool), 0.0, 1.0, 1,
        )  # fmt: skip


def test_first_occurrences():
    assert first_occurrences(["a", "b", "c"]) is None
    assert first_occurrences(["a", "b", "a", "b", "c"]).tolist() == [0, 1, 0, 1, 4]


@pytest.mark.parametrize("count", [2, 7, 8, 40])
def test_labels_of_one_text_tie_and_come_in_their_order(small_chunks, count):
    pipe = tiny_pipeline()
    labels = {f"n{k}": "tool" if k % 2 else "animal" for k in range(count)}
    inputs = [{"text": f"the {word}", "mention": word} for word in ("fox", "oak", "bus")]
    alone = [pipe(record, labels=labels, top_k=None) for record in inputs]
    for result, also in zip(alone, pipe(inputs, labels=labels, top_k=None), strict=True):
        assert result["labels"] == also["labels"]
        assert len(set(result["scores"])) == len(set(also["scores"])) == 2
        numbers = [int(name[1:]) for name in result["labels"]]
        half = [k for k in numbers if k % 2 == numbers[0] % 2]
        assert numbers == sorted(half) + sorted(set(numbers) - set(half))


def test_hundred_thousand_labels_are_those_of_a_plain_computation():
    pipe, count = tiny_pipeline(seen_labels=["old 7"], calibration_gamma=0.3), 100_000
    labels = [f"old {k}" for k in range(count)]
    cache = pipe.label_cache
    # what lies in the cache is what is scored; encoding as many texts would take minutes
    with torch.inference_mode():
        width = cache.vectors(labels[:1]).shape[1]
        noise = torch.Generator().manual_seed(0)
        cache._vectors = torch.nn.functional.normalize(
            torch.randn(count, width, generator=noise), dim=-1
        )
        cache._rows, cache._last = {text: k for k, text in enumerate(labels)}, None
    records = [
        {"text": "anna sees the fox", "mention": "fox", "image": tiny_picture("animal")},
        {"text": "the old bus", "mention": "bus"},
    ] * 20
    found = pipe(records[:2], labels=labels, top_k=7)
    for record, result in zip(records[:2], found, strict=True):
        query = make_query(record, pipe.processor, pipe.model.config, "input")
        encoded = pipe.encode([query], pipe.processor.mark([query.text], [query.spans]))
        with torch.inference_mode():
            scores = pipe.model.score(encoded, cache._vectors)
        [(best, probabilities, columns)] = plainly(scores, np.arange(count) == 7, 0.3, 1.0, 7)
        assert result["labels"] == [labels[k] for k in columns]
        np.testing.assert_allclose(result["scores"], best, rtol=1e-5)
        np.testing.assert_allclose(result["probabilities"], probabilities, rtol=1e-4)
    assert found[0]["labels"] != found[1]["labels"]


def test_memory_of_scoring_does_not_grow_with_the_labels():
    sizes = []

    def score(vectors):
        sizes.append(len(vectors))
        return vectors[:, 0].expand(64, -1)

    vectors = torch.rand(200_000, 1, generator=torch.Generator().manual_seed(0))
    found = best_labels(score, vectors, torch.zeros(200_000, dtype=torch.bool), 0.0, 1.0, 5)
    assert max(sizes) == ranking.LABEL_CHUNK
    assert sum(sizes) == 200_000
    assert found[2][0].tolist() == vectors[:, 0].topk(5).indices.tolist()


def test_what_is_held_of_a_stream_does_not_grow():
    pipe = tiny_pipeline(seen_labels=LABELS)
    record = {"text": "the fox", "mention": "fox", "image": tiny_picture("animal")}

    def peak(count):
        tracemalloc.start()
        for _ in pipe((record for _ in range(count)), batch_size=8):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(16)
    # the pixels of 360 pictures are 4.4 MB
    assert peak(400) < peak(40) + 1_000_000
