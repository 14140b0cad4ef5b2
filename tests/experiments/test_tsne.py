"""t-SNE on a sphere, in the Poincaré disk and in the plane: gradients, quality, pictures."""

import importlib.util
import io
import json
import math
import re
import sys
import warnings
from pathlib import Path

import geoopt
import matplotlib
import numpy as np
import pytest
import torch
import tsne as projection
from PIL import Image
from sklearn import manifold as reference
from sklearn.datasets import make_blobs
from sklearn.neighbors import KNeighborsClassifier
from tiny_world import LABELS, SEEN, tiny_pipeline
from tsne import MANIFOLDS, Layout, affinities, layout, neighbour_accuracy, trustworthiness
from tsne_figure import Points, _centered, _hemispheres, draw_layout


def on_manifold(name, count=12, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    points = spread * torch.randn(count, 3 if name == "sphere" else 2, generator=generator).double()
    if name == "sphere":
        return torch.nn.functional.normalize(points, dim=1)
    if name == "poincare":
        norm = points.norm(dim=1, keepdim=True)
        return points / norm * torch.tanh(norm / 2)
    return points


def library(name):
    return {"sphere": geoopt.SphereExact, "poincare": geoopt.PoincareBall}.get(
        name, lambda: geoopt.Euclidean(1)
    )()


# Affinities


def test_affinities_are_a_symmetric_distribution():
    points = on_manifold("plane", 40)
    found = affinities(torch.cdist(points, points), 5)
    assert found.shape == (40, 40)
    torch.testing.assert_close(found, found.T)
    assert float(found.sum()) == pytest.approx(1)
    assert (found.diagonal() == 0).all()
    assert (found >= 0).all()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_perplexity_is_reached(scale):
    """On a ring all points are alike, and a row of the joint affinities is one point's own."""
    angle = torch.arange(60).double() * (2 * math.pi / 60)
    ring = scale * torch.stack([angle.cos(), angle.sin()], 1)
    rows = 60 * affinities(torch.cdist(ring, ring), 7.0)
    entropy = -torch.special.xlogy(rows, rows).sum(1)
    torch.testing.assert_close(entropy.exp(), torch.full((60,), 7.0).double(), rtol=1e-4, atol=0)


def test_affinities_are_those_of_the_reference():
    points = on_manifold("plane", 50)
    found = affinities(torch.cdist(points, points), 8)
    squared = torch.cdist(points, points).square().numpy()
    expected = reference._t_sne._joint_probabilities(squared, 8, 0)
    rows, columns = np.triu_indices(50, 1)
    np.testing.assert_allclose(found.numpy()[rows, columns], expected, rtol=1e-2, atol=1e-7)


def test_affinities_with_points_that_coincide():
    points = torch.cat([torch.zeros(20, 2), torch.ones(20, 2)]).double()
    found = affinities(torch.cdist(points, points), 5)
    assert found.isfinite().all()
    assert float(found[:20, :20].sum()) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("perplexity", [0.5, 4, math.nan])
def test_unfit_perplexity_is_named(perplexity):
    points = on_manifold("plane", 10)
    with pytest.raises(ValueError, match=r"^perplexity: .* 10 points, expected 1 to a third"):
        affinities(torch.cdist(points, points), perplexity)


# Distances and gradients


@pytest.mark.parametrize("name", MANIFOLDS)
@pytest.mark.parametrize("spread", [1.0, 1e-2])
def test_distances_are_those_of_the_manifold(name, spread):
    points = on_manifold(name, 200, spread=spread)
    found = Layout(points, name, 1.0, 0.0).distances()
    assert found.dtype == torch.float32
    assert (found.diagonal() == 0).all()
    expected = library(name).dist(points[:, None], points[None, :])
    expected = expected.sum(-1) if expected.ndim == 3 else expected
    if name == "plane":
        expected = torch.cdist(points, points)
    off = ~torch.eye(200, dtype=torch.bool)
    torch.testing.assert_close(found.double()[off], expected[off], rtol=1e-3, atol=1e-5)


def divergence(wanted, points, name, radius):
    """The loss in float64 by way of geoopt's distances, to be differentiated by torch."""
    off = ~torch.eye(len(points), dtype=torch.bool)
    a, b = off.nonzero().T
    if name == "plane":
        squared = (points[a] - points[b]).square().sum(-1)
    else:
        squared = library(name).dist(points[a], points[b]).square()
    weights = 1 / (1 + radius**2 * squared)
    p = wanted[off]
    return (p * (p / (weights / weights.sum())).log()).sum()


@pytest.mark.parametrize("name", MANIFOLDS)
@pytest.mark.parametrize("blocks", [4, 128])
def test_gradient_is_that_of_the_divergence(name, blocks, monkeypatch):
    monkeypatch.setattr(projection, "_BLOCK", blocks)
    points = on_manifold(name)
    other = on_manifold("plane", seed=1)
    wanted = affinities(torch.cdist(other, other), 3)
    leaf = points.clone().requires_grad_()
    loss = divergence(wanted, leaf, name, 1.7)
    loss.backward()
    found, cost, mass = projection._gradient(wanted, points, name, 1.7)
    manifold = library(name)
    torch.testing.assert_close(
        manifold.egrad2rgrad(points, found),
        manifold.egrad2rgrad(points, leaf.grad),
        rtol=1e-4,
        atol=1e-7,
    )
    value = float(torch.xlogy(wanted, wanted).sum()) + cost + math.log(mass)
    assert value == pytest.approx(float(loss.detach()), rel=1e-5)


# Layouts


@pytest.fixture(scope="module")
def blobs():
    """200 points of 6 labels in 12 dimensions, which overlap somewhat."""
    points, labels = make_blobs(200, 12, centers=6, cluster_std=3.5, random_state=0)
    return torch.tensor(points), torch.tensor(labels)


@pytest.fixture(scope="module")
def plain(blobs):
    """What plain t-SNE makes of them: trustworthiness and accuracy of neighbours."""
    points, labels = blobs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flat = reference.TSNE(random_state=0, init="pca").fit_transform(points.numpy())
    placed = torch.cdist(torch.tensor(flat), torch.tensor(flat))
    distances = torch.cdist(points, points)
    return trustworthiness(distances, placed), neighbour_accuracy(placed, labels)


@pytest.mark.parametrize("name", MANIFOLDS)
def test_layout_is_as_good_as_plain_tsne(name, blobs, plain):
    points, labels = blobs
    distances = torch.cdist(points, points)
    found = layout(points, name, steps=400)
    placed = found.distances()
    trust, accuracy = plain
    assert trust > 0.85
    assert trustworthiness(distances, placed) > trust - 0.02
    assert neighbour_accuracy(placed, labels) > accuracy - 0.03
    assert neighbour_accuracy(placed, labels) > neighbour_accuracy(distances, labels) - 0.05
    norm = found.points.norm(dim=1)
    assert found.points.shape == (200, 3 if name == "sphere" else 2)
    if name == "sphere":
        torch.testing.assert_close(norm, torch.ones(200).double())
    if name == "poincare":
        assert 0.5 < float(norm.max()) < 0.9999
    start = layout(points, name, steps=0)
    assert found.divergence < 0.6 * start.divergence
    wanted = affinities(distances, 30)
    exact = divergence(wanted.clamp(min=1e-30), found.points, name, found.radius)
    assert found.divergence == pytest.approx(float(exact), rel=1e-3)


@pytest.mark.parametrize("name", MANIFOLDS)
def test_layout_is_the_same_each_time(name, blobs):
    points = blobs[0][:60]
    threads = torch.get_num_threads()
    settings = {"perplexity": 8, "steps": 30}
    first = layout(points, name, **settings)
    torch.set_num_threads(2)
    try:
        again = layout(points, name, **settings)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(first.points, again.points)
    assert not torch.equal(first.points, layout(points, name, seed=1, **settings).points)


def test_distances_may_be_given(blobs):
    points = blobs[0][:60]
    settings = {"perplexity": 8, "steps": 30}
    own = layout(points, "sphere", distances=torch.cdist(points, points), **settings)
    torch.testing.assert_close(own.points, layout(points, "sphere", **settings).points)
    other = layout(points, "sphere", distances=torch.cdist(points, points, p=1.0), **settings)
    assert not torch.allclose(own.points, other.points)


@pytest.mark.parametrize("name", MANIFOLDS)
def test_points_that_coincide_have_places(name):
    points = torch.cat([torch.zeros(30, 1), torch.ones(30, 1)])
    found = layout(points, name, perplexity=5, steps=100)
    assert found.points.isfinite().all()
    labels = torch.arange(60) // 30
    assert neighbour_accuracy(found.distances(), labels) == 1


@pytest.mark.parametrize(
    ("vectors", "options", "message"),
    [
        (torch.zeros(40, 2), {"manifold": "torus"}, r"^manifold: got 'torus', expected one of sph"),
        (torch.zeros(40), {}, r"^vectors: got shape \(40,\), expected a finite matrix"),
        (torch.full((40, 2), math.nan), {}, r"^vectors: .* finite"),
        (torch.zeros(40, 2), {"distances": torch.zeros(3, 3)}, r"^distances: got shape \(3, 3\)"),
        (torch.zeros(20, 2), {}, r"^perplexity: got 30 for 20 points"),
        (torch.zeros(6000, 2), {}, r"^vectors: got 6000, expected at most 5000"),
    ],
)  # fmt: skip
def test_unfit_points_are_named(vectors, options, message):
    with pytest.raises(ValueError, match=message):
        layout(vectors, **{"manifold": "sphere", **options})


# Quality


@pytest.mark.parametrize("k", [1, 5, 12])
def test_trustworthiness_is_that_of_the_reference(k):
    points, flat = on_manifold("plane", 60), on_manifold("plane", 60, seed=1)
    flat = points + 0.3 * flat
    found = trustworthiness(torch.cdist(points, points), torch.cdist(flat, flat), k)
    expected = reference.trustworthiness(points.numpy(), flat.numpy(), n_neighbors=k)
    assert found == pytest.approx(expected)
    assert found < 1
    assert trustworthiness(torch.cdist(points, points), torch.cdist(points, points), k) == 1


def test_neighbour_accuracy_is_that_of_the_reference(blobs):
    points, labels = blobs[0][:80], blobs[1][:80]
    found = neighbour_accuracy(torch.cdist(points, points), labels, 5)
    right = 0
    for i in range(80):
        others = [j for j in range(80) if j != i]
        model = KNeighborsClassifier(5).fit(points[others], labels[others])
        right += int(model.predict(points[i : i + 1])[0] == labels[i])
    assert found == pytest.approx(right / 80)


@pytest.mark.parametrize("k", [0, 5])
def test_too_many_neighbours_are_named(k):
    distances = torch.rand(10, 10)
    with pytest.raises(ValueError, match=rf"^k: got {k}, expected 1 to less than half of 10"):
        trustworthiness(distances, distances, k)
    with pytest.raises(ValueError, match=r"^k: got 10, expected 1 to less than 10"):
        neighbour_accuracy(distances, torch.zeros(10, dtype=torch.long), 10)


# Pictures


def some_points(count=40, prototypes=True):
    return Points(
        [LABELS[i % 4] for i in range(count)],
        [i % 5 > 0 for i in range(count)],
        LABELS[:4],
        set(SEEN),
        prototypes,
    )


@pytest.mark.parametrize("name", MANIFOLDS)
def test_a_layout_is_drawn(name):
    placed = Layout(on_manifold(name, 48), name, 3.0, 0.5)
    drawn = draw_layout(placed, some_points(), "A title", "a note")
    image = np.asarray(Image.open(io.BytesIO(drawn)).convert("RGB")).reshape(-1, 3)
    assert len(image) > 1000 * 1000
    for colour in ((0, 0x72, 0xB2), (0xD5, 0x5E, 0)):  # seen and unseen
        assert (image == colour).all(1).sum() > 100
    few = Layout(placed.points[:44], name, 3.0, 0.5)
    svg = draw_layout(few, some_points(prototypes=False), "A $title", "50 % of <it>", "svg")
    for text in (*LABELS[:4], "A $title", "50 % of &lt;it&gt;", "20 samples, label not seen"):
        assert f">{text}" in svg.decode()
    assert b"synthetic" not in svg


def test_a_name_stands_beside_its_star_in_an_svg_too():
    points = Points(["animal"] * 20, [True] * 20, ["animal"], {"animal"}, prototypes=False)
    placed = Layout(on_manifold("plane", 21, spread=0.1), "plane", 1.0, 0.5)
    svg = draw_layout(placed, points, format="svg").decode()
    name = re.search(r'x="([\d.]+)" y="([\d.]+)"[^>]*>animal<', svg).groups()
    star = re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"[^>]*stroke: #000000', svg)[0]
    distance = math.dist([float(v) for v in name], [float(v) for v in star])
    assert 5 < distance < 70  # in points; the picture has 650 of them


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_an_image_is_the_same_each_time(kind):
    placed = Layout(on_manifold("poincare", 48), "poincare", 3.0, 0.5)
    first, second = (draw_layout(placed, some_points(), format=kind) for _ in range(2))
    assert first == second


def test_the_callers_style_is_left_alone():
    with matplotlib.rc_context({"font.size": 77}):
        placed = Layout(on_manifold("plane", 48), "plane", 1.0, 0.5)
        drawn = draw_layout(placed, some_points())
        assert matplotlib.rcParams["font.size"] == 77
    assert drawn == draw_layout(placed, some_points())


def test_a_layout_of_other_points_is_refused():
    placed = Layout(on_manifold("plane", 20), "plane", 1.0, 0.5)
    with pytest.raises(ValueError, match=r"^points: got 48, expected 20 as in layout"):
        draw_layout(placed, some_points())


def test_without_matplotlib_it_is_reported_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    placed = Layout(on_manifold("plane", 48), "plane", 1.0, 0.5)
    with pytest.raises(ImportError, match=r'pip install "hmgrl\[report\]"'):
        draw_layout(placed, some_points())


def test_halves_of_the_sphere_keep_areas():
    """Of evenly spread points, each part of a disk holds as many as its area says."""
    flat = _hemispheres(on_manifold("sphere", 10_000))
    left = flat[:, 0] < 0
    assert float(left.double().mean()) == pytest.approx(0.5, abs=0.01)
    for side, rows in ((-1.02, left), (1.02, ~left)):
        offset = flat[rows] - torch.tensor([side, 0.0])
        radius = offset.norm(dim=1)
        assert float(radius.max()) <= 1 + 1e-9
        for bound in (0.3, 0.6, 0.9):
            inside = float((radius < bound).double().mean())
            assert inside == pytest.approx(bound**2, abs=0.02)


def test_halves_of_the_sphere_meet_where_they_touch():
    """Points near each other across the cut, where the disks touch, are near in the picture."""
    points = on_manifold("sphere", 3000)
    flat = _hemispheres(points)
    near = flat[:, 0].abs() < 0.08
    assert (flat[near, 0] < 0).any()
    assert (flat[near, 0] > 0).any()
    between = torch.cdist(points[near], points[near])
    assert float(between.max()) < 1.2


def test_the_sphere_is_cut_where_no_points_are():
    sides = torch.tensor([1.0, -1.0]).repeat(200)[:, None]  # around two poles
    points = 0.2 * on_manifold("sphere", 400) + sides * torch.tensor([0.6, 0.0, 0.8])
    flat = _hemispheres(torch.nn.functional.normalize(points, dim=1))
    halves = (sides[:, 0] > 0) == (flat[:, 0] < 0)
    assert halves.all() or not halves.any()


def test_the_disk_is_moved_by_an_isometry():
    points = on_manifold("poincare", 50, spread=0.5)
    ball = geoopt.PoincareBall()
    moved = ball.mobius_add(torch.tensor([0.5, -0.3]).double(), points)
    found = _centered(moved)
    assert float(found.mean(0).norm()) < 1e-6
    torch.testing.assert_close(
        ball.dist(found[:, None], found[None, :]), ball.dist(points[:, None], points[None, :])
    )


# The script


def test_representations_of_a_run_are_drawn(tmp_path, monkeypatch, capsys):
    run, out = tmp_path / "run", tmp_path / "drawings"
    tiny_pipeline(calibration_gamma=0.1, seen_labels=["bird", "tree"]).save_pretrained(run)
    path = Path(__file__).parents[2] / "experiments" / "draw_representations.py"
    spec = importlib.util.spec_from_file_location("draw_representations", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    options = ["--limit", "50", "--prototype-limit", "20", "--steps", "20", "--perplexity", "5"]
    monkeypatch.setattr(sys, "argv", [str(path), "--run", str(run), "--out", str(out), *options])
    script.main()
    printed = capsys.readouterr().out
    assert "sphere: trustworthiness 0." in printed
    assert "poincare: trustworthiness 0." in printed
    assert sorted(file.name for file in out.iterdir()) == [
        "layout.json", "poincare.png", "poincare.svg", "sphere.png", "sphere.svg"
    ]  # fmt: skip
    report = json.loads((out / "layout.json").read_text())
    assert report["samples"] == 50
    assert {"bird", "tree"} <= {point["label"] for point in report["points"][50:]}
    for found in report["layouts"].values():
        assert len(found["coordinates"]) == len(report["points"])
        assert 0 < found["trustworthiness"] < 1
    kinds = [point.get("kind") for point in report["points"]]
    assert kinds.count(None) == 50
    assert kinds.count("label") == kinds.count("prototype") == (len(kinds) - 50) // 2
