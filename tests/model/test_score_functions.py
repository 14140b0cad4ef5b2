"""Distances as scores: an untrained model starts as one that compares cosines does."""

import math

import mpmath
import pytest
import torch
from tiny_world import tiny_batch, tiny_method, tiny_model

from modeling_hmgrl import lorentz

DISTANCES = pytest.mark.parametrize("kind", ["geodesic", "euclidean"])


def uneven_labels(model, longest=3.0):
    """Random label encodings of very different lengths, the shortest last."""
    width = model.config.label_width
    labels = torch.randn(8, width, generator=torch.Generator().manual_seed(0))
    labels = torch.nn.functional.normalize(labels, dim=-1)
    return labels * torch.linspace(longest, 0.3, 8).unsqueeze(1) * width**0.5


@pytest.mark.parametrize("c", [1e-9, 1e-3, 0.1, 1.0, 2.5, 10.0, 1e8])
def test_orthogonal_points_at_the_initial_radius_are_at_distance_one(c):
    radius = lorentz.orthogonal_radius(c)
    assert math.isfinite(radius)
    if c < 1e-3:
        return  # there float32 holds no such points
    with mpmath.workdps(60):
        t = mpmath.mpf(radius) / mpmath.sqrt(c)
        distance = mpmath.sqrt(c) * mpmath.acosh(mpmath.cosh(t) ** 2)
        assert float(distance) == pytest.approx(1, rel=1e-12)
    points = lorentz.expmap0(torch.eye(3, 5) * radius, c)
    found = lorentz.pairwise_distance(points, points, c)
    torch.testing.assert_close(found, 1 - torch.eye(3), rtol=1e-5, atol=1e-6)


@DISTANCES
@pytest.mark.parametrize("settings", [{}, {"squared_radius": 0.1}, {"squared_radius": 10.0}])
@pytest.mark.parametrize("task", ["typing", "relation"])
def test_an_untrained_model_scores_nearly_as_cosines_do(kind, task, settings):
    batch = tiny_batch(task)
    losses, rankings = {}, {}
    for name in ("cosine", kind):
        model = tiny_model(task, score_function=name, **settings)
        labels = uneven_labels(model)
        batch = {k: v for k, v in batch.items() if not k.startswith(("candidate", "seen"))}
        with torch.no_grad():
            output = model(**batch, candidate_embeddings=labels)
        losses[name] = output.loss_terms["classification"].item()
        rankings[name] = output.logits.argsort(1)
    assert losses[kind] < losses["cosine"] + 0.3
    assert torch.equal(rankings[kind], rankings["cosine"])


@DISTANCES
def test_the_shortest_label_does_not_win_every_sample(kind):
    model = tiny_model(score_function=kind)
    with torch.no_grad():
        samples = torch.randn(200, model.config.representation_size)
        encoded = type(model.encode(**model_inputs()))(representation=samples)
        best = model.score(encoded, model.prepare_labels(uneven_labels(model))).argmax(1)
    assert best.bincount(minlength=8).max() < 0.5 * len(best)


def model_inputs():
    batch = tiny_batch()
    return {k: batch[k] for k in ("input_ids", "attention_mask", "span_positions")}


@DISTANCES
def test_the_radius_of_a_direction_is_learnt(kind):
    model = tiny_model(score_function=kind).train()
    batch = tiny_batch(batch_size=6)
    weight = model.scorer.log_radius.weight
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(5):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        assert weight.grad.abs().max() > 0
        optimizer.step()
    with torch.no_grad():
        vectors = model.eval().prepare_labels(torch.randn(20, 32))
        space = lorentz.logmap0(vectors) if kind == "geodesic" else vectors
    assert space.norm(dim=-1).std() > 1e-2


@DISTANCES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_opposite_and_absent_vectors_have_finite_gradients(kind, dtype):
    model = tiny_model(score_function=kind)
    x = torch.randn(6, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    q = torch.cat([x, -x, 1e4 * x, 1e-4 * x]).requires_grad_()
    p = x.clone().requires_grad_()
    scores = model.scorer.score(q, p, 1.0)
    assert scores.isfinite().all()
    diagonal = scores[:6].diagonal()
    torch.testing.assert_close(diagonal, torch.zeros(6), atol=1e-4, rtol=0)
    torch.nn.functional.cross_entropy(scores, torch.arange(24) % 6).backward()
    for gradient in (q.grad, p.grad, *(w.grad for w in model.scorer.log_radius.parameters())):
        assert gradient.isfinite().all()


@DISTANCES
@pytest.mark.parametrize("method", ["proto", "zs_ska", "re_matching", "zs_bert", "nzfet"])
def test_other_methods_start_sanely_too(kind, method):
    task = "typing" if method == "nzfet" else "relation"
    options = {"label_parts": False} if method in ("proto", "zs_bert") else {}
    losses = {}
    for name in ("cosine", kind):
        model = tiny_method(method, task, score_function=name, **options)
        batch = tiny_batch(task, images=False)
        if method == "zs_ska":
            batch["input_ids"][:, -1] = model.config.mask_token_id
        with torch.no_grad():
            losses[name] = model(**batch).loss_terms["classification"].item()
    assert losses[kind] < losses["cosine"] + 0.3
