"""The pipeline: one and many inputs, labels and calibration at call time, what errors name."""

import json

import numpy as np
import pytest
import torch
from tiny_world import (
    LABELS,
    SEEN,
    tiny_model,
    tiny_picture,
    tiny_pipeline,
    tiny_processor,
)
from transformers import pipeline

from modeling_hmgrl import ZeroShotTypingPipeline
from modeling_hmgrl.pipeline_hmgrl import TASK

TEXTS = ["anna sees the fox", "the bus near boris", "chen sees the old oak today", "tea"]
MENTIONS = ["fox", "bus", "oak", "tea"]
SPANS = [[[t.index(m), t.index(m) + len(m)]] for t, m in zip(TEXTS, MENTIONS, strict=True)]
PICTURES = [tiny_picture("animal"), None, tiny_picture("plant", 3), None]
RECORDS = [
    {"text": text, "spans": spans, "image": image}
    for text, spans, image in zip(TEXTS, SPANS, PICTURES, strict=True)
]


def close(a, b):
    """Whether two predictions are the same but for rounding."""
    for name in ("scores", "probabilities"):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-5)
    rest = [{k: v for k, v in p.items() if k not in ("scores", "probabilities")} for p in (a, b)]
    assert rest[0] == rest[1]


def by_name(result):
    return dict(zip(result["labels"], result["scores"], strict=True))


def one(pipe, index=0, **options):
    return pipe(RECORDS[index], **{"labels": LABELS, "top_k": None, **options})


# Made in either way


def test_it_is_made_by_transformers_and_directly(tmp_path):
    direct = tiny_pipeline(calibration_gamma=0.5, seen_labels=SEEN, generator_labels=LABELS[2:])
    direct.save_pretrained(tmp_path)
    made = pipeline(TASK, model=str(tmp_path), device="cpu")
    assert type(made) is ZeroShotTypingPipeline
    assert made.task == TASK == "multimodal-zero-shot-typing"
    for a, b in zip(direct(RECORDS), made(RECORDS), strict=True):
        close(a, b)


def test_options_given_when_it_is_made_hold_for_all_calls():
    made = tiny_pipeline()
    pipe = ZeroShotTypingPipeline(made.model, made.processor, labels=LABELS, top_k=2, batch_size=3)
    assert len(pipe(RECORDS[0])["labels"]) == 2
    assert len(pipe(RECORDS[0], top_k=3)["labels"]) == 3
    assert pipe(RECORDS[0], labels=["tool"])["labels"] == ["tool"]


def test_what_it_cannot_be_made_of_is_named():
    with pytest.raises(ValueError, match=r"^processor: got None, expected"):
        ZeroShotTypingPipeline(tiny_model())
    with pytest.raises(ValueError, match=r"^top_k: got 0, expected 1 or more"):
        ZeroShotTypingPipeline(tiny_model(), tiny_processor(), top_k=0)
    with pytest.raises(TypeError, match="topk"):
        ZeroShotTypingPipeline(tiny_model(), tiny_processor(), topk=3)


def test_prediction_leaves_no_graph_and_sets_evaluation_mode():
    model = tiny_model().train()
    pipe = ZeroShotTypingPipeline(model, tiny_processor())
    assert not model.training
    assert one(pipe) == one(pipe)
    assert all(p.grad is None for p in model.parameters())


# One and many


def test_the_steps_of_the_base_class_give_what_a_call_gives():
    pipe = tiny_pipeline(seen_labels=LABELS)
    query = pipe.preprocess(RECORDS[0])
    assert pipe.postprocess(pipe._forward(query)) == pipe(RECORDS[0])


def many_inputs(task, count):
    """Inputs with their own labels, pictures that are shared, pictures that are missing."""
    shared = [tiny_picture("animal"), None, tiny_picture("plant", 3)]
    own = [None, LABELS[:3], LABELS[3:], {"x": "animal", "y": None}, LABELS[:3]]
    pairs = [(a, b) for a in ("anna", "boris", "chen") for b in ("dara", "fox", "old oak")]
    inputs = []
    for index in range(count):
        head, tail = pairs[index % len(pairs)]
        text = f"{head} sees {'near ' * (index * 7 % 31)}the {tail}{' today' * (index % 4)}"
        image = shared[index % 3] if index % 11 else tiny_picture("tool", index)
        record = {"text": text, "mention": tail if task == "typing" else (head, tail)}
        record |= {"image": image, "labels": own[index % len(own)]}
        inputs.append({name: value for name, value in record.items() if value is not None})
    return inputs


@pytest.mark.parametrize("task", ["typing", "relation"])
@pytest.mark.parametrize("paper", [False, True])
def test_alone_and_among_many_and_in_any_batch_size(task, paper):
    pipe = tiny_pipeline(task, paper=paper, seen_labels=SEEN, calibration_gamma=0.3)
    inputs = many_inputs(task, 60)
    alone = [pipe(record, labels=LABELS, top_k=None) for record in inputs]
    assert len({result["scores"][0] for result in alone}) > 50
    for batch_size in (1, 3, 7, 32, 1000):
        together = pipe(inputs, labels=LABELS, top_k=None, batch_size=batch_size)
        assert len(together) == len(alone)
        for a, b in zip(alone, together, strict=True):
            close(a, b)


def test_alone_and_among_a_thousand():
    pipe = tiny_pipeline(seen_labels=SEEN, calibration_gamma=0.3)
    inputs = many_inputs("typing", 1000)
    together = pipe(inputs, labels=LABELS)
    assert len(together) == 1000
    for index in (0, 1, 2, 127, 128, 500, 998, 999):
        close(pipe(inputs[index], labels=LABELS), together[index])


def test_scores_are_those_of_the_model():
    pipe = tiny_pipeline()
    result = one(pipe)
    batch = pipe.processor(TEXTS[:1], SPANS[:1], PICTURES[:1], labels=LABELS)
    with torch.no_grad():
        logits = pipe.model(**batch).logits[0]
    order = logits.argsort(descending=True)
    assert result["labels"] == [LABELS[k] for k in order]
    np.testing.assert_allclose(result["scores"], logits[order], rtol=1e-4)
    np.testing.assert_allclose(result["probabilities"], logits.softmax(0)[order], rtol=1e-4)
    assert result["label"] == result["labels"][0]
    assert json.loads(json.dumps(result)) == result | {"window": None}


def test_an_image_that_is_shared_is_encoded_once(monkeypatch):
    pipe, encoded = tiny_pipeline(), []
    encode = pipe.model.encode_image
    monkeypatch.setattr(
        pipe.model, "encode_image", lambda pixels: encoded.append(len(pixels)) or encode(pixels)
    )
    record = {"text": TEXTS[0], "mention": "fox"}
    pictures = [tiny_picture("animal"), tiny_picture("plant")] * 4 + [None] * 2
    pipe([record | {"image": image} for image in pictures], labels=LABELS)
    assert encoded == [2]


@pytest.mark.parametrize("inputs", [[], ()])
def test_no_input_gives_no_prediction(inputs):
    assert tiny_pipeline()(inputs, labels=LABELS) == []


def test_one_input_is_answered_by_a_dict_several_by_a_list_a_stream_by_an_iterator():
    pipe = tiny_pipeline(seen_labels=LABELS)
    assert isinstance(pipe(TEXTS[0], mention="fox"), dict)
    assert isinstance(pipe(RECORDS[0]), dict)
    assert isinstance(pipe(RECORDS), list)
    assert isinstance(pipe(tuple(RECORDS)), list)
    stream = pipe(iter(RECORDS))
    assert not isinstance(stream, list)
    assert list(stream) == pipe(RECORDS, batch_size=32)


def test_image_takes_part():
    pipe = tiny_pipeline()
    pictures = (None, tiny_picture("animal"), tiny_picture("plant"))
    scores = [
        by_name(pipe(TEXTS[0], mention="fox", image=image, labels=LABELS, top_k=None))
        for image in pictures
    ]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert max(abs(scores[a][name] - scores[b][name]) for name in LABELS) > 1e-3


def test_an_image_is_the_same_from_wherever_it_comes(tmp_path):
    pipe, picture = tiny_pipeline(), tiny_picture("animal")
    path = tmp_path / "a.png"
    picture.save(path)
    expected = one(pipe)
    kinds = [
        path, str(path), path.read_bytes(), bytearray(path.read_bytes()), picture,
        np.asarray(picture), {"bytes": path.read_bytes(), "path": None},
        {"bytes": None, "path": str(path)},
    ]  # fmt: skip
    for image in kinds:
        close(pipe(TEXTS[0], mention="fox", image=image, labels=LABELS, top_k=None), expected)
    absent = pipe(TEXTS[0], mention="fox", image=None, labels=LABELS, top_k=None)
    assert absent["scores"] != pytest.approx(expected["scores"], abs=1e-3)


def test_mentions_stand_for_their_spans():
    pipe = tiny_pipeline()
    by_mention = [
        {"text": t, "mention": m, "image": i}
        for t, m, i in zip(TEXTS, MENTIONS, PICTURES, strict=True)
    ]
    for a, b in zip(pipe(RECORDS, labels=LABELS), pipe(by_mention, labels=LABELS), strict=True):
        close(a, b)
    for spans in (SPANS[0], SPANS[0][0], np.array(SPANS[0]), torch.tensor(SPANS[0])):
        close(pipe(TEXTS[0], spans=spans, image=PICTURES[0], labels=LABELS, top_k=None), one(pipe))


def test_pairs_of_mentions_for_relations():
    pipe, text = tiny_pipeline("relation"), "anna feeds boris"
    spans = pipe(text, spans=[[11, 16], [0, 4]], labels=LABELS)
    close(spans, pipe(text, mention=("boris", "anna"), labels=LABELS))
    close(spans, pipe([{"text": text, "mention": ["boris", "anna"]}], labels=LABELS)[0])
    turned = pipe(text, mention=("anna", "boris"), labels=LABELS)
    assert turned["scores"] != pytest.approx(spans["scores"], abs=1e-3)


def test_a_repeated_mention_requires_an_occurrence():
    pipe, text = tiny_pipeline(), "the fox and the old fox"
    with pytest.raises(ValueError, match=r"^input\.mention: 'fox' occurs at \[4, 20\]; select one"):
        pipe(text, mention="fox", labels=LABELS)
    found = [pipe(text, mention="fox", occurrence=k, labels=LABELS, top_k=None) for k in (0, 1)]
    for result, start in zip(found, (4, 20), strict=True):
        close(result, pipe(text, spans=[[start, start + 3]], labels=LABELS, top_k=None))
    assert found[0]["scores"] != pytest.approx(found[1]["scores"], abs=1e-4)
    close(
        pipe({"text": text, "mention": "fox", "occurrence": 1}, labels=LABELS, top_k=None), found[1]
    )
    pair = tiny_pipeline("relation")
    close(
        pair(text, mention=("fox", "old"), occurrence=(1, None), labels=LABELS),
        pair(text, spans=[[20, 23], [16, 19]], labels=LABELS),
    )


# Labels and calibration


def test_labels_never_met_are_scored():
    labels = ["a kind of bird", "動物 [SEP]", "x" * 20]
    result = one(tiny_pipeline(), labels=labels)
    assert sorted(result["labels"]) == sorted(labels)
    assert sum(result["probabilities"]) == pytest.approx(1)
    assert result["seen"] == [False] * 3


def test_labels_of_the_config_are_the_default():
    pipe = tiny_pipeline(seen_labels=SEEN, generator_labels=LABELS[2:4])
    result = pipe(RECORDS[0], top_k=None)
    assert sorted(result["labels"]) == sorted(LABELS[:4])
    assert [name in SEEN for name in result["labels"]] == result["seen"]
    assert sorted(tiny_pipeline(seen_labels=SEEN)(RECORDS[0])["labels"]) == sorted(SEEN)


def test_labels_are_given_by_call_or_by_input():
    pipe = tiny_pipeline(seen_labels=SEEN)
    own = [{**record, "labels": LABELS[:k]} for k, record in enumerate(RECORDS, start=1)]
    given = pipe([*own, RECORDS[0]], labels=LABELS[3:], top_k=None, batch_size=2)
    for k, result in enumerate(given[:-1], start=1):
        assert sorted(result["labels"]) == sorted(LABELS[:k])
        close(result, pipe(RECORDS[k - 1], labels=LABELS[:k], top_k=None))
    close(given[-1], one(pipe, labels=LABELS[3:]))
    # those of the config, where neither the call nor the input has any
    assert sorted(pipe([own[2], RECORDS[0]])[1]["labels"]) == sorted(SEEN)


@pytest.mark.parametrize("where", ["call", "input"])
def test_descriptions_decide_scores_and_names_are_returned(where):
    pipe = tiny_pipeline(label_texts={"/d": "drink"})
    plain = by_name(one(pipe, labels=["tool", "drink"]))
    labels = {"/t": "tool", "/d": None}
    result = one(pipe, labels=labels) if where == "call" else pipe(RECORDS[0] | {"labels": labels})
    assert by_name(result) == pytest.approx({"/t": plain["tool"], "/d": plain["drink"]}, rel=1e-5)
    # without a description the text of the config is shown; with one, that
    assert by_name(one(pipe, labels=["/d"])) == pytest.approx({"/d": plain["drink"]}, rel=1e-5)
    shown = by_name(one(pipe, labels={"/d": "tool"}))
    assert shown == pytest.approx({"/d": plain["tool"]}, rel=1e-5)


def test_descriptions_that_change_between_calls_are_taken_up():
    pipe = tiny_pipeline()
    plain = by_name(one(pipe, labels=["tool", "drink"]))
    for description in ("tool", "drink", "tool"):
        found = by_name(one(pipe, labels={"x": description}))
        assert found["x"] == pytest.approx(plain[description], rel=1e-5)
    pipe.model.config.label_texts = {"x": "drink"}
    assert by_name(one(pipe, labels=["x"]))["x"] == pytest.approx(plain["drink"], rel=1e-5)
    pipe.model.config.label_texts = {"x": "tool"}
    assert by_name(one(pipe, labels=["x"]))["x"] == pytest.approx(plain["tool"], rel=1e-5)


def test_a_label_given_twice_is_one():
    pipe = tiny_pipeline(seen_labels=SEEN)
    result = one(pipe, labels=["tool", "animal", "tool", "tool"])
    assert sorted(result["labels"]) == ["animal", "tool"]
    close(result, one(pipe, labels=["tool", "animal"]))


def test_gamma_is_taken_off_seen_labels_alone():
    plain, lowered = tiny_pipeline(), tiny_pipeline(calibration_gamma=2.5, seen_labels=SEEN)
    before, result = by_name(one(plain)), one(lowered)
    for name, score in by_name(result).items():
        assert score == pytest.approx(before[name] - (2.5 if name in SEEN else 0), abs=1e-5)
    assert result["scores"] == sorted(result["scores"], reverse=True)
    assert result["seen"] == [name in SEEN for name in result["labels"]]
    exponential = np.exp(result["scores"])
    np.testing.assert_allclose(result["probabilities"], exponential / exponential.sum())
    # a list of one's own stands in place of the config's
    for seen in (["tool"], ("tool",), {"tool"}, []):
        other = one(lowered, seen=seen)
        for name, score in by_name(other).items():
            assert score == pytest.approx(before[name] - (2.5 if name in seen else 0), abs=1e-5)
        assert other["seen"] == [name in seen for name in other["labels"]]


def test_probabilities_are_those_of_the_temperature():
    plain, sharp = tiny_pipeline(), tiny_pipeline(probability_temperature=0.25)
    a, b = one(plain), one(sharp)
    assert a["labels"] == b["labels"]
    np.testing.assert_allclose(a["scores"], b["scores"], rtol=1e-6)
    powers = np.array(a["probabilities"]) ** 4
    np.testing.assert_allclose(b["probabilities"], powers / powers.sum(), rtol=1e-5)
    # over all labels given, however many are returned
    assert one(sharp, top_k=2)["probabilities"] == pytest.approx(b["probabilities"][:2])


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (3, 3), (None, 6), (50, 6)])
def test_top_k(top_k, count):
    pipe = tiny_pipeline()
    whole, result = one(pipe), one(pipe, top_k=top_k)
    for name in ("labels", "scores", "probabilities", "seen"):
        assert result[name] == whole[name][:count]


# Windows and errors


def test_windows_are_reported():
    long = "near " * 100 + "fox"
    records = [{"text": text, "mention": "fox"} for text in (TEXTS[0], long)]
    results = tiny_pipeline()(records, labels=LABELS, batch_size=1)
    assert results[0]["window"] is None
    [(start, end)] = results[1]["window"]
    assert end == len(long)
    assert 0 < start < len(long)


FAULTS = [
    ({"text": 3}, r"\.text: got int, expected a string"),
    ({"text": " "}, r"\.text: got an empty or blank string"),
    ({"spans": None}, r": expected 'mention' or 'spans'"),
    ({"mention": "hen"}, r"\.mention: got 'hen', expected the text at the spans, \['"),
    ({"spans": [[0, 99]]}, r"\.spans: got \[0, 99\], expected 0 <= start < end <= 17"),
    ({"spans": [[0, 1], [2, 3]]}, r"\.spans: got 2 spans, expected 1"),
    ({"spans": None, "mention": "hen"}, r"\.mention: 'hen' not found"),
    ({"spans": None, "mention": ["fox", "the"]}, r"\.mention: got 2 mentions, expected 1"),
    ({"image": b"x"}, r"\.image: not an image"),
    ({"image": "a/b.png"}, r"\.image 'a/b\.png': no such file"),
    ({"image": 5}, r"\.image: got int, expected a path"),
    ({"labels": []}, r"\.labels: got \[\], expected a list of at least one"),
    ({"labels": ["a", " "]}, r"\.labels: got ' ', expected a label"),
    ({"labels": {"a": ""}}, r"\.labels\['a'\]: got '', expected a non-blank string"),
    ({"lables": ["a"]}, r": unknown field 'lables', expected text, mention, spans"),
]


@pytest.mark.parametrize(("fields", "message"), FAULTS)
def test_errors_of_an_input_name_it_and_its_field(fields, message):
    pipe = tiny_pipeline()
    faulty = RECORDS[0] | fields
    with pytest.raises((ValueError, OSError), match=f"^input{message}"):
        pipe(faulty, labels=LABELS)
    # places are counted over all inputs, not within a batch
    several = [*RECORDS[:3], faulty, *RECORDS]
    with pytest.raises((ValueError, OSError), match=rf"^inputs\[3\]{message}"):
        pipe(several, labels=LABELS, batch_size=2)
    found = pipe(several, labels=LABELS, batch_size=2, on_error="skip")
    assert list(found[3]) == ["error"]
    assert found[3]["error"].startswith("inputs[3]")
    for index in (0, 1, 2, 4, 5, 6, 7):
        close(found[index], pipe(several[index], labels=LABELS))
    assert list(pipe(faulty, labels=LABELS, on_error="skip")) == ["error"]
    assert len(pipe([faulty] * 20, labels=LABELS, batch_size=2, on_error="skip")) == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": None}, r"^labels: the model's configuration has none, expected a list"),
        ({"labels": []}, r"^labels: got \[\], expected a list of at least one"),
        ({"labels": "animal"}, r"^labels: got 'animal', expected a list"),
        ({"labels": ["animal", 3]}, r"^labels: got 3, expected a label that is a non-blank string"),
        ({"seen": "animal"}, r"^seen: got 'animal', expected a list of names"),
        ({"seen": [["animal"]]}, r"^seen: got \[\['animal'\]\], expected a list of names"),
        ({"image_hosts": "a.org"}, r"^image_hosts: got 'a.org', expected a list of names"),
        ({"top_k": 0}, r"^top_k: got 0, expected 1 or more"),
        ({"top_k": 2.0}, r"^top_k: got 2\.0, expected 1 or more"),
        ({"batch_size": 0}, r"^batch_size: got 0, expected 1 or more"),
        ({"batch_size": None}, r"^batch_size: got None, expected 1 or more"),
        ({"num_workers": -1}, r"^num_workers: got -1, expected 0 or more"),
        ({"on_error": "ignore"}, r"^on_error: got 'ignore', expected 'raise' or 'skip'"),
        ({"mention": "fox"}, r"^mention: expected only with a single text"),
    ],
)
def test_errors_of_a_call_name_the_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_pipeline()(RECORDS, **{"labels": LABELS, **arguments})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (5, r"^inputs: got int, expected a text"),
        ([5], r"^inputs\[0\]: got int, expected a mapping"),
    ],
)
def test_inputs_of_another_kind_are_named(inputs, message):
    with pytest.raises(ValueError, match=message):
        tiny_pipeline()(inputs, labels=LABELS)


def test_an_unknown_argument_is_named():
    with pytest.raises(TypeError, match=r"^lables: unknown argument, expected one of"):
        tiny_pipeline()(RECORDS, lables=LABELS)


def test_image_for_a_text_only_model_is_refused():
    pipe = tiny_pipeline(vision=False)
    pipe(RECORDS[1], labels=LABELS)
    with pytest.raises(ValueError, match=r"^input\.image: the model reads text only"):
        pipe(RECORDS[0], labels=LABELS)


def test_weights_that_are_no_numbers_are_reported():
    pipe = tiny_pipeline()
    with torch.no_grad():
        pipe.model.hmgrl.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"^scores: got NaN"):
        pipe(RECORDS[1], labels=LABELS)
