"""The linear layers: closed form, every finite input, points that are learnt, curvature."""

import copy
import math

import geoopt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_hmgrl import lorentz
from modeling_hmgrl.layers import (
    Curvature,
    EuclideanLinear,
    FullyLorentzLinear,
    LorentzLinear,
    TangentFullyLorentzLinear,
    make_linear,
)
from modeling_hmgrl.training.manifold import wrap_manifold_parameters
from modeling_hmgrl.training.optimization import WeightAverage

LARGEST = torch.finfo(torch.float32).max


def rows(count, width, norm, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(count, width, generator=generator, dtype=torch.float64)
    return (norm * F.normalize(directions)).to(dtype)


def filled(layer, seed=0):
    """The layer with weights of its own start and a bias that is not 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            bound = 2 / parameter.shape[-1] ** 0.5
            parameter.copy_(bound * torch.randn(parameter.shape, generator=generator))
        translation = getattr(layer, "translation", None)
        if translation is not None:
            point = lorentz.expmap0(torch.full((layer.out_features,), 0.3), layer.c)
            translation.copy_(point)
    return layer


# --- the paper's layer --------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**31),
    c=st.floats(0.2, 5.0),
    norm=st.floats(0.0, 5.0),
    width=st.integers(1, 24),
    out=st.integers(2, 24),
)
@settings(max_examples=50, deadline=None)
def test_closed_form_equals_the_composed_maps_inside_the_radius(seed, c, norm, width, out):
    layer = filled(LorentzLinear(width, out), seed).double()
    u = rows(4, width, norm, seed, torch.float64)
    log = lorentz.logmap0(lorentz.expmap0(u, c), c)
    mapped = F.linear(log, layer.weight, layer.bias)
    composed = lorentz.logmap0(lorentz.expmap0(mapped, c), c)
    result = layer(u, c)
    assert (result[:, 0] == 0).all()
    radius = lorentz.clip_radius(c)
    inside = (u.norm(dim=1) < radius) & (mapped.norm(dim=1) < radius)
    assert torch.allclose(result[inside, 1:], composed[inside], rtol=1e-10, atol=1e-12)
    assert (result.norm(dim=1) <= radius * (1 + 1e-12)).all()


def test_saturation_equals_clipping_the_space_part_of_points():
    layer, c = filled(LorentzLinear(8, 6)).double(), 2.0

    def guarded(u):
        space = lorentz.clip_norm(lorentz.expmap0(u, c)[:, 1:], lorentz.SPACE_NORM_LIMIT)
        return lorentz.logmap0(lorentz.with_time(space, c), c)

    u = torch.cat([rows(4, 8, norm, dtype=torch.float64) for norm in (1.0, 12.0, 40.0)])
    composed = guarded(F.linear(guarded(u), layer.weight, layer.bias))
    assert torch.allclose(layer(u, c)[:, 1:], composed, rtol=1e-10)
    assert (composed.norm(dim=1) > lorentz.clip_radius(c) * 0.999).any()


@pytest.mark.parametrize("make", [LorentzLinear, TangentFullyLorentzLinear])
@pytest.mark.parametrize("width", [16, 768, 4096])
@pytest.mark.parametrize("c", [0.5, 2.0])
def test_every_finite_input_gives_a_finite_value_and_gradient(make, width, c):
    layer = filled(make(width, 12))
    norms = [1e-38, 1e-30, 1e-19, 1e-8, 1e-4, 1.0, 27.7, 45.0, 1e3, 1e10, 1e15, 1e19, 1e30, 3e38]
    x = torch.cat([torch.zeros(1, width), *(rows(1, width, norm, 1) for norm in norms)])
    one = torch.zeros(2, width)
    one[0, 0], one[1] = LARGEST, torch.finfo(torch.float32).tiny
    largest = torch.full((2, width), LARGEST)
    largest[1, ::2] *= -1
    x = torch.cat([x, one, largest]).requires_grad_()
    out = layer(x, c)
    assert out.isfinite().all()
    out.sum().backward()
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
    # large rows are what their direction is
    direction = F.normalize(x.detach().double()).float() * lorentz.clip_radius(c)
    assert torch.allclose(out[9:15], layer(direction[9:15], c), rtol=1e-4, atol=1e-4)


def test_rows_on_which_the_original_gives_nan():
    # The original multiplies all coordinates of a point and zeroes the point where that gives 0.
    u = rows(64, 768, 4.4)
    points = lorentz.expmap0(u)
    assert (points.prod(dim=1) == 0).all()
    # the smallest number that float32 knows is 2**-149
    assert (points.double().abs().log2().sum(dim=1) < -149).all()
    layer = filled(LorentzLinear(768, 128))
    out = layer(u)
    assert out.isfinite().all()
    assert (out[:, 1:].norm(dim=1) > 0.1).all()


@pytest.mark.parametrize("make", [LorentzLinear, TangentFullyLorentzLinear])
@pytest.mark.parametrize("norm", [0.0, 0.7, 12.0])
def test_gradients_in_float64(make, norm):
    layer = filled(make(4, 3)).double()
    c = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    u = rows(3, 4, norm, dtype=torch.float64).requires_grad_()
    parameters = tuple(layer.parameters())

    def call(u, c, *parameters):
        names = [name for name, _ in layer.named_parameters()]
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (u, c))

    assert torch.autograd.gradcheck(call, (u, c, *parameters))


def test_translation_gradient_in_float64():
    layer = filled(FullyLorentzLinear(4, 3, translation=True)).double()
    x = lorentz.expmap0(rows(3, 4, 0.8, dtype=torch.float64)).requires_grad_()
    translation = lorentz.expmap0(rows(1, 3, 0.5, dtype=torch.float64))[0].requires_grad_()

    def call(x, weight, translation):
        parameters = {"weight": weight, "translation": translation}
        return torch.func.functional_call(layer, parameters, (x,))

    assert torch.autograd.gradcheck(call, (x, layer.weight, translation))


@pytest.mark.parametrize("kind", ["lorentz", "fully_lorentz", "euclidean"])
def test_autocast_and_narrow_inputs_are_computed_in_float32(kind):
    layer = filled(make_linear(kind, 32, 16))
    u = rows(8, 32, 2.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(u)
    assert out.dtype == torch.float32
    assert torch.equal(out, layer(u))
    assert layer(u.bfloat16()).dtype == torch.float32
    narrow = copy.deepcopy(layer).bfloat16()
    assert torch.allclose(narrow(u), out, rtol=0.05, atol=0.05)
    assert layer(u.double()).dtype == torch.float64


def test_layers_stand_in_each_others_place():
    kinds = {
        "lorentz": LorentzLinear,
        "fully_lorentz": TangentFullyLorentzLinear,
        "euclidean": EuclideanLinear,
    }
    for kind, expected in kinds.items():
        layer = make_linear(kind, 8, 5)
        assert type(layer) is expected
        assert layer(torch.randn(2, 3, 8), 1.5).shape == (2, 3, 5)
        assert "8" in repr(layer)
    with pytest.raises(ValueError, match="got 'poincare', expected lorentz"):
        make_linear("poincare", 8, 5)


def test_weights_start_with_the_spread_of_the_right_fan_in():
    layer = LorentzLinear(768, 129)
    assert layer.weight.std().item() == pytest.approx((2 / 768) ** 0.5, rel=0.02)
    assert (layer.bias == 0).all()
    layer = FullyLorentzLinear(767, 128, translation=True, c=2.0)
    assert layer.weight.std().item() == pytest.approx((2 / 768) ** 0.5, rel=0.02)
    assert torch.equal(layer.translation, lorentz.origin(128, 2.0))


# --- the fully hyperbolic layer -----------------------------------------------------------------


@pytest.mark.parametrize("c", [0.5, 1.0, 2.0])
def test_fully_hyperbolic_layer_can_be_a_boost(c):
    # The space rows of the boost's matrix as weight: an isometry, and none that a matrix between
    # log and exp could be.
    (b,) = lorentz.expmap0(rows(1, 3, 1.2, dtype=torch.float64), c)
    time, space, s = b[0], b[1:, None], math.sqrt(c)
    stretched = torch.eye(3, dtype=torch.float64) + space * space.T / (s * (time + s))
    matrix = torch.cat([space / s, stretched], dim=1)
    layer = FullyLorentzLinear(3, 3).double()
    with torch.no_grad():
        layer.weight.copy_(matrix)
    x = lorentz.expmap0(rows(5, 3, 2.0, 1, torch.float64), c)
    assert torch.allclose(layer(x, c), lorentz.translate(x, b, c))
    before = lorentz.pairwise_distance(x, x.roll(1, 0), c)
    assert torch.allclose(lorentz.pairwise_distance(layer(x, c), layer(x, c).roll(1, 0), c), before)


@pytest.mark.parametrize("c", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("translation", [False, True])
def test_fully_hyperbolic_layer_stays_within_reach(c, translation):
    # coordinates grow by the matrix; without a limit their squares would leave float32
    layer = filled(FullyLorentzLinear(64, 32, translation, c))
    with torch.no_grad():
        layer.weight.mul_(100)
    u = torch.cat([rows(2, 64, norm) for norm in (0.0, 1.0, 30.0, 42.0, 100.0)]).requires_grad_()
    y = layer(lorentz.expmap0(u, c), c)
    assert y.isfinite().all()
    assert (lorentz.logmap0(y, c).norm(dim=1) <= lorentz.MAX_RADIUS * math.sqrt(c) * 1.00001).all()
    lorentz.logmap0(y, c).sum().backward()
    assert u.grad.isfinite().all()
    assert layer.weight.grad.isfinite().all()


# --- points that are learnt ---------------------------------------------------------------------


def drift(layer):
    """How far the translation is off its hyperboloid, relative to its squared radius."""
    point = layer.translation.detach().double()
    return abs(lorentz.inner(point, point).item() + layer.c) / layer.c


def train(layer, optimizer, steps):
    x = lorentz.expmap0(rows(32, 8, 1.0), layer.c)
    goal = lorentz.expmap0(rows(32, 8, 0.5, 1) + 0.5, layer.c)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = lorentz.distance(layer(x, layer.c), goal, layer.c).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("c", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("rate", [1e-5, 0.05])
def test_riemannian_adam_keeps_the_translation_on_the_manifold(c, rate):
    layer = FullyLorentzLinear(8, 8, translation=True, c=c)
    assert wrap_manifold_parameters(layer) == 1
    assert isinstance(layer.translation, geoopt.ManifoldParameter)
    losses = train(layer, geoopt.optim.RiemannianAdam(layer.parameters(), lr=rate), 50)
    assert losses[-1] < losses[0]
    assert drift(layer) < 1e-5
    # it moved: 50 steps of the rate, or as far as there was something to gain
    moved = lorentz.logmap0(layer.translation.detach(), c).norm().item()
    assert moved > min(25 * rate, 0.1)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_a_flat_optimizer_does_not_leave_the_manifold(optimizer):
    # as transformers' Trainer does, which knows nothing of points; decay shrinks coordinates, too
    layer = FullyLorentzLinear(8, 8, translation=True, c=2.0)
    flat = optimizer(layer.parameters(), lr=0.05, weight_decay=0.1)
    losses = train(layer, flat, 60)
    assert losses[-1] < losses[0]
    assert drift(layer) > 1e-3, "the coordinates that are stored may leave it"
    x = lorentz.expmap0(rows(32, 8, 1.0), layer.c)
    before = layer(x, layer.c)
    assert (lorentz.inner(before.double(), before.double()) / -layer.c - 1).abs().max() < 1e-4
    # those that are used do not: wrapping projects them, and the layer maps as it did
    assert wrap_manifold_parameters(layer) == 1
    assert drift(layer) < 1e-5
    assert torch.equal(layer(x, layer.c), before)


def test_an_average_of_points_is_a_point():
    layer = FullyLorentzLinear(8, 8, translation=True, c=2.0)
    wrap_manifold_parameters(layer)
    average = WeightAverage(layer, 0.5)
    ends = [lorentz.expmap0(rows(1, 8, 3.0, seed), 2.0)[0] for seed in (0, 1)]
    for end in ends:
        with torch.no_grad():
            layer.translation.copy_(end)
        average.update()
    logs = [lorentz.logmap0(end, 2.0) for end in ends]
    expected = lorentz.expmap0(0.25 * logs[0] + 0.5 * logs[1], 2.0)
    with average.applied():
        assert torch.allclose(layer.translation, expected, rtol=1e-5)
        assert drift(layer) < 1e-5
    assert torch.equal(layer.translation, ends[1]), "the weights are back to the bit"
    with average.applied():
        assert torch.allclose(layer.translation, expected, rtol=1e-5)


def test_after_saving_and_loading_points_are_wrapped_again(tmp_path):
    layer = FullyLorentzLinear(8, 8, translation=True, c=2.0)
    wrap_manifold_parameters(layer)
    train(layer, geoopt.optim.RiemannianAdam(layer.parameters(), lr=0.05), 5)
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    loaded = FullyLorentzLinear(8, 8, translation=True, c=2.0)
    loaded.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True), assign=True)
    assert not isinstance(loaded.translation, geoopt.ManifoldParameter)
    assert torch.equal(loaded.translation, layer.translation.detach())
    assert wrap_manifold_parameters(loaded) == 1
    first = loaded.translation
    assert wrap_manifold_parameters(loaded) == 1
    assert loaded.translation is first, "wrapping twice changes nothing"
    train(loaded, geoopt.optim.RiemannianAdam(loaded.parameters(), lr=0.05), 50)
    assert drift(loaded) < 1e-5


def test_wrapping_finds_points_in_submodules_and_keeps_them_frozen():
    model = torch.nn.ModuleList(
        [
            make_linear("fully_lorentz", 8, 4, translation=True, c=0.5),
            make_linear("fully_lorentz", 8, 4),
            make_linear("lorentz", 8, 4),
        ]
    )
    model[0].translation.requires_grad_(False)
    assert wrap_manifold_parameters(model) == 1
    assert isinstance(model[0].translation, geoopt.ManifoldParameter)
    assert not model[0].translation.requires_grad
    assert model[0].translation.manifold.k.item() == 0.5
    assert [name for name, _ in model.named_parameters() if "manifold" in name] == []
    assert wrap_manifold_parameters(torch.nn.Linear(2, 2)) == 0


# --- curvature ----------------------------------------------------------------------------------


def test_constant_curvature_is_a_number_without_parameters():
    curvature = Curvature(2.0)
    assert curvature() == 2.0
    assert list(curvature.parameters()) == []


def test_learnt_curvature_gets_a_gradient_and_is_clamped():
    curvature = Curvature(2.0, learnable=True)
    assert curvature().item() == pytest.approx(2.0)
    u, v = rows(4, 8, 1.0), rows(4, 8, 1.0, 1)
    c = curvature()
    lorentz.distance(lorentz.expmap0(u, c), lorentz.expmap0(v, c), c).sum().backward()
    step = 1e-4

    def value(shift):
        c = 2.0 * math.exp(shift)
        points = [lorentz.expmap0(p.double(), c) for p in (u, v)]
        return lorentz.distance(*points, c).sum().item()

    expected = (value(step) - value(-step)) / (2 * step)
    assert curvature.log_c.grad.item() == pytest.approx(expected, rel=1e-3)
    for start, bound in ((100.0, 10.0), (1e-4, 0.1)):
        with torch.no_grad():
            curvature.log_c.fill_(math.log(start))
        assert curvature().item() == pytest.approx(bound)


def test_the_papers_layer_feels_the_curvature_only_where_it_saturates():
    layer = filled(LorentzLinear(8, 6)).double()
    for norm, felt in ((0.5, False), (30.0, True)):
        c = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(layer(rows(4, 8, norm).double(), c).sum(), c)
        assert (gradient.abs() > 1e-6) == felt
        assert felt or gradient.abs() < 1e-12
