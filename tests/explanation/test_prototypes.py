"""Explanation by example: nearest training samples, real and synthetic prototypes."""

import json
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from tiny_world import (
    LABELS,
    SEEN,
    tiny_method,
    tiny_picture,
    tiny_pipeline,
    tiny_processor,
    tiny_records,
    tiny_sample,
)

from modeling_hmgrl import ZeroShotTypingPipeline, lorentz
from modeling_hmgrl.explanation.prototypes import Prototypes
from modeling_hmgrl.explanation.sample_embeddings import (
    centroid,
    sample_vectors,
    similarity,
    squared_radius,
    to_score_space,
)

KINDS = ["cosine", "dot", "geodesic"]


def records(count=12, labels=SEEN):
    rng = random.Random(0)
    return [
        {
            "id": f"r{i}",
            **tiny_sample(label := labels[i % len(labels)], rng=rng),
            "label": label,
            "image": None if i % 3 == 0 else tiny_picture(label, i),
        }
        for i in range(count)
    ]


def pipe_of(kind="cosine", **settings):
    return tiny_pipeline(
        score_function=kind, calibration_gamma=0.3, seen_labels=SEEN, generator_labels=LABELS[2:],
        **settings,
    )  # fmt: skip


def vectors_of(pipe, rows, **options):
    return torch.stack([vector for _, _, vector in sample_vectors(pipe, rows, **options)])


# Vectors


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_score_as_the_model_does(kind):
    pipe = pipe_of(kind)
    rows = records(7)
    found = vectors_of(pipe, rows, batch_size=2)
    labels = pipe.label_cache.vectors(LABELS)
    with torch.no_grad():
        scores = pipe.model.scorer.compare(found, labels, pipe.model.hmgrl.curvature())
    for row, own in zip(rows, scores, strict=True):
        result = pipe(row, labels=LABELS, top_k=None, seen=())
        expected = dict(zip(result["labels"], result["scores"], strict=True))
        torch.testing.assert_close(
            own.double(), torch.tensor([expected[name] for name in LABELS]).double(),
            rtol=1e-4, atol=1e-4,
        )  # fmt: skip


def test_vectors_come_in_order_whatever_the_batch():
    pipe, rows = pipe_of(), records(9)
    whole = list(sample_vectors(pipe, iter(rows), batch_size=2))
    assert [record["id"] for record, _, _ in whole] == [row["id"] for row in rows]
    assert [spans for _, spans, _ in whole] == [row["spans"] for row in rows]
    torch.testing.assert_close(
        torch.stack([vector for _, _, vector in whole]), vectors_of(pipe, rows, batch_size=50)
    )


def test_a_faulty_record_is_named_by_its_place():
    rows = records(9)
    rows[8] = {"text": "no mention", "label": SEEN[0]}
    with pytest.raises(ValueError, match=r"^records\[8\]: expected 'mention' or 'spans'"):
        vectors_of(pipe_of(), rows, batch_size=1)


# Prototypes


def test_real_prototypes_are_means_of_their_samples():
    pipe, rows = pipe_of(), records(11)
    found = Prototypes.of(pipe, iter(rows), keep=3, batch_size=2)
    assert found.counts == {SEEN[0]: 6, SEEN[1]: 5}
    vectors = vectors_of(pipe, rows)
    expected = torch.stack([F.normalize(vectors[i::2].mean(0), dim=0) for i in range(2)])
    torch.testing.assert_close(found.prototypes({name: name for name in SEEN}), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_synthetic_prototypes_are_means_of_generated_samples(kind):
    pipe = pipe_of(kind)
    found = Prototypes.of(pipe, records(4))
    texts = {LABELS[4]: "a drink", LABELS[2]: "a plant"}
    whole = found.prototypes(texts, draws=5)
    torch.testing.assert_close(
        found.prototypes(dict(reversed(texts.items())), draws=5).flip(0), whole
    )
    assert not torch.allclose(found.prototypes(texts, draws=5, seed=1), whole)
    model = pipe.model
    inputs = pipe.processor.encode_labels(list(texts.values()))
    with torch.no_grad():
        labels = model.encode_labels(
            inputs["candidate_input_ids"], inputs["candidate_attention_mask"]
        )
        noise = torch.randn(5, 10, generator=torch.Generator().manual_seed(0))
        drawn = model.hmcvae.generate(labels, 5, noise.expand(2, -1, -1))
        placed = to_score_space(model, drawn)
    torch.testing.assert_close(whole, centroid(model, placed.mean(1)), rtol=1e-4, atol=1e-5)


def test_center_of_points_of_the_hyperboloid():
    pipe = pipe_of("geodesic", squared_radius=2.5, learnable_curvature=True)
    c = squared_radius(pipe.model)
    assert c == pytest.approx(2.5)
    points = lorentz.expmap0(torch.tensor([[1.0, 0.5], [-0.3, 2.0]]), c)
    middle = centroid(pipe.model, points.double().mean(0, keepdim=True))
    torch.testing.assert_close(lorentz.inner(middle, middle), torch.full((1,), -c).double())
    a, b = -similarity(pipe.model, middle.float(), points)[0]
    torch.testing.assert_close(a, b)  # of two points, halfway
    torch.testing.assert_close(a + b, lorentz.distance(points[0], points[1], c))


def test_samples_are_drawn_evenly_and_by_seed():
    pipe, rows = pipe_of(), records(30)
    kept = [
        [sample["id"] for sample in Prototypes.of(pipe, rows, keep=10, seed=seed).samples]
        for seed in (0, 0, 1)
    ]
    assert len(set(kept[0])) == 10
    assert kept[0] == kept[1] != kept[2]
    assert {int(name[1:]) // 10 for name in kept[0] + kept[2]} == {0, 1, 2}
    whole = Prototypes.of(pipe, rows)
    few = Prototypes.of(pipe, rows, keep=1)
    texts = {name: name for name in SEEN}
    torch.testing.assert_close(few.prototypes(texts), whole.prototypes(texts))


def test_kept_vectors_are_those_of_the_kept_samples():
    pipe, rows = pipe_of(), records(20)
    found = Prototypes.of(pipe, rows, keep=4)
    by_id = dict(zip([row["id"] for row in rows], vectors_of(pipe, rows), strict=True))
    for sample, vector in zip(found.samples, found._vectors, strict=True):
        torch.testing.assert_close(vector, by_id[sample["id"]])


# Explanation


@pytest.mark.parametrize("kind", KINDS)
def test_what_speaks_for_each_label(kind):
    pipe, rows = pipe_of(kind), records()
    found = Prototypes.of(pipe, rows).explain(rows[4], k=2, labels=LABELS, top_k=4)
    expected = pipe(rows[4], labels=LABELS, top_k=4)
    assert found.prediction["labels"] == expected["labels"]
    assert [e.label for e in found.labels] == expected["labels"]
    assert [e.seen for e in found.labels] == [name in SEEN for name in expected["labels"]]
    scale = 1.0 if kind == "dot" else float(pipe.model.scorer.log_scale.detach().exp())
    for e, score in zip(found.labels, expected["scores"], strict=True):
        assert e.score == pytest.approx(score, abs=1e-4)
        raw = -scale * e.to_label**2 if kind == "geodesic" else scale * e.to_label
        assert raw - 0.3 * e.seen == pytest.approx(score, rel=1e-3, abs=1e-3)
        real = e.label in SEEN
        assert (e.prototype, e.samples) == (("real", 6) if real else ("synthetic", 64))
    own = vectors_of(pipe, [rows[4]])
    names = {name: name for name in expected["labels"]}
    near = similarity(pipe.model, own, Prototypes.of(pipe, rows).prototypes(names))[0]
    assert [e.to_prototype for e in found.labels] == pytest.approx(near.tolist(), abs=1e-4)


@pytest.mark.parametrize("kind", ["cosine", "geodesic"])
def test_a_training_sample_is_nearest_to_itself(kind):
    pipe, rows = pipe_of(kind), records()
    found = Prototypes.of(pipe, rows).explain(rows[7], k=3, labels=LABELS)
    first = found.neighbours[0]
    assert (first.id, first.label, first.text) == ("r7", rows[7]["label"], rows[7]["text"])
    assert first.spans == rows[7]["spans"]
    assert first.similarity == pytest.approx(1.0 if kind == "cosine" else 0.0, abs=1e-3)
    near = [n.similarity for n in found.neighbours]
    assert near == sorted(near, reverse=True)
    assert len(near) == 3


def test_labels_of_a_dataset_are_numbers():
    data = tiny_records(n=6)["train"]
    found = Prototypes.of(pipe_of(), data)
    assert found.counts == {SEEN[0]: 3, SEEN[1]: 3}
    assert found.samples[1]["id"] == data[1]["id"]
    rows = [{**row, "label": int(row["label"])} for row in data]
    assert Prototypes.of(pipe_of(), rows, label_names=LABELS).counts == found.counts


def test_more_neighbours_than_samples():
    pipe, rows = pipe_of(), records(2)
    assert len(Prototypes.of(pipe, rows).explain(rows[0], k=9, labels=LABELS).neighbours) == 2


# Files


def test_saved_and_loaded(tmp_path):
    pipe, rows = pipe_of(), records()
    made = Prototypes.of(pipe, rows, keep=5)
    made.save(tmp_path / "new")
    loaded = Prototypes.load(pipe, tmp_path / "new")
    assert loaded.samples == made.samples
    # Loaded vectors lie elsewhere in memory, where a product may round its last bit otherwise:
    # similarities to them agree within 1e-6, all else to the bit.
    found, expected = (p.explain(rows[3], labels=LABELS) for p in (loaded, made))
    assert found.prediction == expected.prediction
    for parts, field in (("neighbours", "similarity"), ("labels", "to_prototype")):
        ours, theirs = getattr(found, parts), getattr(expected, parts)
        assert [replace(part, **{field: 0.0}) for part in ours] == [
            replace(part, **{field: 0.0}) for part in theirs
        ]
        assert [getattr(part, field) for part in ours] == pytest.approx(
            [getattr(part, field) for part in theirs], abs=1e-6
        )
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "prototypes.json", "prototypes.safetensors"
    ]  # fmt: skip


def test_files_that_do_not_fit_are_refused(tmp_path):
    pipe, rows = pipe_of(), records(4)
    with pytest.raises(FileNotFoundError, match=r"expected prototypes\.json and prototypes\.safet"):
        Prototypes.load(pipe, tmp_path)
    Prototypes.of(pipe, rows).save(tmp_path)
    with pytest.raises(ValueError, match="of other weights or settings"):
        Prototypes.load(tiny_pipeline(seed=1), tmp_path)
    content = json.loads((tmp_path / "prototypes.json").read_text())
    content["samples"].pop()
    (tmp_path / "prototypes.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="do not match, expected"):
        Prototypes.load(pipe, tmp_path)
    (tmp_path / "prototypes.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        Prototypes.load(pipe, tmp_path)


# What is refused


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, r"^records: got none"),
        (records(2), {"keep": 0}, r"^keep: got 0, expected 1 or more"),
        ([{**records(1)[0], "label": 1}], {}, r"^records\[0\]\.label: got 1, expected a name$"),
        (
            [records(1)[0], {**records(1)[0], "label": 9}],
            {"label_names": LABELS},
            r"^records\[1\]\.label: got 9, expected a name, or a number below 6",
        ),
        ([{**records(1)[0], "label": " "}], {}, r"^records\[0\]\.label: got ' '"),
    ],
)
def test_unfit_records_are_named(rows, options, message):
    with pytest.raises(ValueError, match=message):
        Prototypes.of(pipe_of(), rows, **options)


def test_an_exported_model_is_refused():
    pipe = pipe_of()
    pipe.model = SimpleNamespace(config=pipe.model.config)
    with pytest.raises(TypeError, match=r"^pipe: got SimpleNamespace, expected a model of torch"):
        Prototypes.of(pipe, records(2))


def test_another_method_is_refused():
    model, processor = tiny_method("proto"), tiny_processor(use_images=False)
    pipe = ZeroShotTypingPipeline(model, processor, device="cpu")
    rows = [{name: v for name, v in row.items() if name != "image"} for row in records(2)]
    with pytest.raises(ValueError, match=r"^pipe: got a model of the method 'hmgrl-proto', expect"):
        Prototypes.of(pipe, rows)


def test_unfit_k_is_named():
    with pytest.raises(ValueError, match=r"^k: got 0, expected 1 or more"):
        Prototypes.of(pipe_of(), records(2)).explain(records(1)[0], k=0)


def test_input_and_labels_are_encoded_once(monkeypatch):
    pipe = pipe_of()
    prototypes = Prototypes.of(pipe, records(6))
    pipe.label_cache.vectors(LABELS)
    record, calls = records(1)[0], []
    encoder = pipe.model.encoders.text_model
    encoder.register_forward_hook(lambda *_: calls.append("text"))
    found = prototypes.explain(record, labels=LABELS, top_k=None)
    assert len(calls) == 2  # the input, and the labels without samples
    assert prototypes.explain(record, labels=LABELS, top_k=None) == found
    assert len(calls) == 3
    assert found.prediction == pipe(record, labels=LABELS, top_k=None)
    [vector] = vectors_of(pipe, [record])
    own = similarity(pipe.model, vector[None], pipe.label_cache.vectors(LABELS).float())[0]
    by_label = {label.label: label.to_label for label in found.labels}
    assert [by_label[name] for name in LABELS] == pytest.approx(own.tolist(), abs=1e-6)
