import dataclasses

import numpy as np
import pytest
import torch
from tiny_world import LABELS, SEEN, tiny_model, tiny_picture, tiny_processor

from modeling_hmgrl import HMGRLPredictor
from modeling_hmgrl.pipeline_hmgrl import Prediction, find_mentions

TEXTS = ["anna sees the fox", "the bus near boris", "chen sees the old oak today", "tea"]
MENTIONS = ["fox", "bus", "oak", "tea"]
SPANS = [[[t.index(m), t.index(m) + len(m)]] for t, m in zip(TEXTS, MENTIONS, strict=True)]
PICTURES = [tiny_picture("animal"), None, tiny_picture("plant", 3), None]


def predictor(task="typing", vision=True, **settings):
    """A model that looks at pictures and whose scores differ between samples."""
    model = tiny_model(task, vision=vision, **settings)
    with torch.no_grad():
        if vision:
            model.hmgrl.image_projection.weight.normal_(
                0, 0.3, generator=torch.Generator().manual_seed(0)
            )
    return HMGRLPredictor(model, tiny_processor(task, use_images=vision))


def close(a, b):
    numbers = ("scores", "probabilities")
    for name in numbers:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-4, atol=1e-5)
    rest = [dataclasses.replace(p, **{key: [] for key in numbers}) for p in (a, b)]
    assert rest[0] == rest[1]


# One and many


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 50])
def test_batch_size_changes_nothing(batch_size):
    predict = predictor()
    together = predict(TEXTS, SPANS, PICTURES, LABELS, batch_size=batch_size)
    assert len(together) == len(TEXTS)
    for i, result in enumerate(together):
        alone = predict(TEXTS[i], SPANS[i], PICTURES[i], LABELS)
        assert isinstance(alone, Prediction)
        close(alone, result)
    assert len({result.scores[0] for result in together}) == len(TEXTS)


def test_picture_takes_part():
    predict = predictor()
    scores = [
        dict(zip(p.labels, p.scores, strict=True))
        for p in (
            predict(TEXTS[0], SPANS[0], image, LABELS, top_k=None)
            for image in (None, tiny_picture("animal"), tiny_picture("plant"))
        )
    ]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert max(abs(scores[a][name] - scores[b][name]) for name in LABELS) > 1e-3


def test_no_text_gives_no_prediction():
    assert predictor()([], [], labels=LABELS) == []


def test_scores_are_those_of_the_model():
    predict = predictor()
    [result] = predict(TEXTS[:1], SPANS[:1], PICTURES[:1], LABELS, top_k=None)
    batch = predict.processor(TEXTS[:1], SPANS[:1], PICTURES[:1], labels=LABELS)
    with torch.no_grad():
        logits = predict.model(**batch).logits[0]
    order = logits.argsort(descending=True)
    assert result.labels == [LABELS[k] for k in order]
    np.testing.assert_allclose(result.scores, logits[order], rtol=1e-4)
    np.testing.assert_allclose(result.probabilities, logits.softmax(0)[order], rtol=1e-4)
    assert result.label == result.labels[0]


def test_prediction_leaves_no_graph_and_sets_evaluation_mode():
    model = tiny_model().train()
    predict = HMGRLPredictor(model, tiny_processor())
    assert not model.training
    a, b = (predict(TEXTS[0], SPANS[0], labels=LABELS) for _ in range(2))
    assert a == b
    assert all(p.grad is None for p in model.parameters())


# Mentions as strings


def test_mentions_stand_for_their_spans():
    predict = predictor()
    for a, b in zip(
        predict(TEXTS, SPANS, PICTURES, LABELS),
        predict(TEXTS, mentions=MENTIONS, images=PICTURES, labels=LABELS),
        strict=True,
    ):
        close(a, b)
    single = predict(TEXTS[0], mentions="fox", images=PICTURES[0], labels=LABELS)
    close(single, predict(TEXTS[0], SPANS[0], PICTURES[0], LABELS))


def test_pairs_of_mentions_for_relations():
    predict = predictor("relation")
    text = "anna feeds boris"
    spans = predict(text, [[11, 16], [0, 4]], labels=LABELS)
    close(spans, predict(text, mentions=("boris", "anna"), labels=LABELS))
    close(spans, predict([text], mentions=[["boris", "anna"]], labels=LABELS)[0])
    turned = predict(text, mentions=("anna", "boris"), labels=LABELS)
    assert not np.allclose(turned.scores, spans.scores)


@pytest.mark.parametrize(
    ("mention", "message"),
    [
        ("hen", r"^sample 1: mention 'hen' occurs nowhere, expected exactly one place"),
        ("the", r"^sample 1: mention 'the' occurs at \[0, 8\], expected .* give spans instead"),
        ("", r"^sample 1: mention '' occurs nowhere"),
        (None, r"^sample 1: mention None, expected a string"),
        (["fox", 3], r"^sample 1: mention \['fox', 3\], expected a string"),
        (["fox", "the fox"], r"^sample 1\.spans: got 2 spans, expected 1"),
    ],
)
def test_unfit_mention_is_named(mention, message):
    with pytest.raises(ValueError, match=message):
        predictor()(["a fox", "the fox the"], mentions=["fox", mention], labels=LABELS)


def test_find_mentions():
    assert find_mentions("an old fox", "old") == [(3, 6)]
    assert find_mentions("an old fox", ["fox", "an"]) == [(7, 10), (0, 2)]
    assert find_mentions("😀 fox", "fox") == [(2, 5)]
    with pytest.raises(ValueError, match=r"occurs at \[0, 1\]"):
        find_mentions("aaa", "aa")


# Labels and calibration


def test_labels_never_met_are_scored():
    labels = ["a kind of bird", "動物 [SEP]", "x" * 20]
    result = predictor()(TEXTS[0], SPANS[0], labels=labels, top_k=None)
    assert sorted(result.labels) == sorted(labels)
    assert sum(result.probabilities) == pytest.approx(1)
    assert result.seen == [False] * 3


def test_labels_of_the_config_are_the_default():
    predict = predictor(seen_labels=SEEN, generator_labels=LABELS[2:4])
    result = predict(TEXTS[0], SPANS[0], top_k=None)
    assert sorted(result.labels) == sorted(LABELS[:4])
    assert [name in SEEN for name in result.labels] == result.seen
    only_seen = predictor(seen_labels=SEEN)(TEXTS[0], SPANS[0])
    assert sorted(only_seen.labels) == sorted(SEEN)


def by_name(result):
    return dict(zip(result.labels, result.scores, strict=True))


def test_gamma_is_taken_off_seen_labels_alone():
    plain, lowered = predictor(), predictor(calibration_gamma=2.5, seen_labels=SEEN)
    before = by_name(plain(TEXTS[0], SPANS[0], labels=LABELS, top_k=None))
    result = lowered(TEXTS[0], SPANS[0], labels=LABELS, top_k=None)
    after = by_name(result)
    for name in LABELS:
        expected = before[name] - (2.5 if name in SEEN else 0)
        assert after[name] == pytest.approx(expected, abs=1e-5)
    assert result.scores == sorted(result.scores, reverse=True)
    exponential = np.exp(result.scores)
    np.testing.assert_allclose(result.probabilities, exponential / exponential.sum())
    # a list of one's own stands in place of the config's
    other = by_name(lowered(TEXTS[0], SPANS[0], labels=LABELS, seen=["tool"], top_k=None))
    assert other["tool"] == pytest.approx(before["tool"] - 2.5, abs=1e-5)
    assert other[SEEN[0]] == pytest.approx(before[SEEN[0]], abs=1e-5)


def test_text_shown_for_a_label_decides_its_score_and_its_name_is_returned():
    plain = by_name(predictor()(TEXTS[0], SPANS[0], labels=["tool", "drink"]))
    shown = predictor(label_texts={"/t": "tool", "/d": "drink"})
    result = by_name(shown(TEXTS[0], SPANS[0], labels=["/t", "/d"]))
    assert result == pytest.approx({"/t": plain["tool"], "/d": plain["drink"]}, rel=1e-5)


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (3, 3), (None, 6), (50, 6)])
def test_top_k(top_k, count):
    predict = predictor()
    whole = predict(TEXTS[0], SPANS[0], labels=LABELS, top_k=None)
    result = predict(TEXTS[0], SPANS[0], labels=LABELS, top_k=top_k)
    for name in ("labels", "scores", "probabilities", "seen"):
        assert getattr(result, name) == getattr(whole, name)[:count]


# Windows, errors, loading


def test_windows_are_reported():
    long = "near " * 100 + "fox"
    predict = predictor()
    results = predict([*TEXTS[:1], long], mentions=["fox", "fox"], labels=LABELS, batch_size=1)
    assert results[0].window is None
    [(start, end)] = results[1].window
    assert end == len(long)
    assert 0 < start < len(long)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spans": None}, r"^spans, mentions: expected exactly one of them"),
        ({"mentions": MENTIONS}, r"^spans, mentions: expected exactly one of them"),
        ({"spans": SPANS[:3]}, r"^spans: got 3, expected 4 as of text"),
        ({"spans": None, "mentions": MENTIONS[:3]}, r"^mentions: got 3, expected 4 as of text"),
        ({"spans": None, "mentions": "fox"}, r"^mentions: got str, expected a list"),
        ({"images": PICTURES[:3]}, r"^images: got 3, expected 4 as of text"),
        ({"images": "a.png"}, r"^images: got str, expected a list"),
        # places are counted over all texts, not within a batch
        ({"spans": [*SPANS[:3], [[0, 99]]]}, r"^sample 3\.spans: got \[0, 99\], expected"),
        ({"text": [*TEXTS[:3], " "]}, r"^sample 3\.text: got an empty text"),
        ({"images": [None, None, None, b"x"]}, r"^sample 3\.image: not a picture"),
        ({"labels": None}, r"^labels: the model's config names none, expected a list"),
        ({"labels": []}, r"^labels: got \[\], expected a list of at least one"),
        ({"labels": "animal"}, r"^labels: got 'animal', expected a list"),
        ({"labels": ["animal", " "]}, r"^labels\[1\]: got ' ', expected a text"),
        ({"seen": "animal"}, r"^seen: got 'animal', expected a list"),
        ({"top_k": 0}, r"^top_k: got 0, expected 1 or more"),
        ({"batch_size": 0}, r"^batch_size: got 0, expected 1 or more"),
    ],
)
def test_error_names_sample_field_and_expectation(arguments, message):
    valid = {"text": TEXTS, "spans": SPANS, "labels": LABELS, "batch_size": 2}
    with pytest.raises(ValueError, match=message):
        predictor()(**{**valid, **arguments})


def test_picture_for_a_model_of_text_alone_is_refused():
    predict = predictor(vision=False)
    predict(TEXTS[0], SPANS[0], labels=LABELS)
    with pytest.raises(ValueError, match="of text alone"):
        predict(TEXTS[0], SPANS[0], PICTURES[0], LABELS)


def test_loaded_predictor_predicts_the_same(tmp_path):
    predict = predictor(calibration_gamma=0.5, seen_labels=SEEN, generator_labels=LABELS[2:])
    predict.model.save_pretrained(tmp_path)
    predict.processor.save_pretrained(tmp_path)
    loaded = HMGRLPredictor.from_pretrained(str(tmp_path), device="cpu")
    for a, b in zip(predict(TEXTS, SPANS, PICTURES), loaded(TEXTS, SPANS, PICTURES), strict=True):
        close(a, b)
