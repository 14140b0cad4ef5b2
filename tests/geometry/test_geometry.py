"""The Lorentz model in float32: precision, finite gradients, agreement with geoopt."""

import math

import geoopt
import pytest
import torch

from modeling_hmgrl import lorentz
from modeling_hmgrl.layers import (
    Curvature,
    FullyLorentzLinear,
    LorentzLinear,
    TangentFullyLorentzLinear,
)
from modeling_hmgrl.training.manifold import wrap_manifold_parameters

NORMS = (1e-6, 1e-4, 1e-2, 0.5, 1.0, 5.0, 10.0, 20.0, 30.0, 40.0)
RADII = (0.5, 1.0, 2.0)


def rows(norm, width=64, count=32, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(count, width, generator=generator, dtype=torch.float64)
    return (directions / directions.norm(dim=-1, keepdim=True) * norm).to(dtype)


def relative(ours, truth):
    return ((ours.double() - truth).norm(dim=-1) / truth.norm(dim=-1)).max().item()


@pytest.mark.parametrize("c", RADII)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("width", [2, 64, 768])
def test_maps_invert_each_other(norm, c, width):
    u = rows(norm, width) * math.sqrt(c)
    point = lorentz.expmap0(u, c)
    assert relative(lorentz.logmap0(point, c), u.double()) < 1e-5
    again = lorentz.expmap0(lorentz.logmap0(point, c), c)
    assert relative(again[:, 1:], point[:, 1:].double()) < 1e-5
    # on the hyperboloid, up to the rounding of squared coordinates
    assert ((lorentz.inner(point, point) + c).abs() < 1e-5 * point[:, 0] ** 2).all()


@pytest.mark.parametrize("c", RADII)
@pytest.mark.parametrize("near", NORMS)
@pytest.mark.parametrize("far", NORMS)
def test_distance_agrees_with_geoopt(near, far, c):
    x = lorentz.expmap0(rows(near, seed=1) * math.sqrt(c), c)
    y = lorentz.expmap0(rows(far, seed=2) * math.sqrt(c), c)
    x64 = lorentz.with_time(x[:, 1:].double(), c)
    y64 = lorentz.with_time(y[:, 1:].double(), c)
    # geoopt.Lorentz in float64 knows cosh(d) to 1e-16, so a small d only to 1e-16/d: below 1e-2
    # the oracle is the chord in float64, which is the distance to d^2/24
    if max(near, far) > 1e-2:
        truth = geoopt.Lorentz(k=torch.tensor(c, dtype=torch.float64)).dist(x64, y64)
    else:
        chord = (x64 - y64)[:, 1:].square().sum(-1) - (x64 - y64)[:, 0].square()
        truth = 2 * math.sqrt(c) * torch.asinh(chord.sqrt() / (2 * math.sqrt(c)))
    ours = lorentz.distance(x, y, c).double()
    assert ((ours - truth).abs() / truth).max() < 1e-5


@pytest.mark.parametrize("norm", NORMS)
def test_distance_to_itself_is_zero(norm):
    x = lorentz.expmap0(rows(norm)).requires_grad_()
    d = lorentz.distance(x, x.detach())
    assert (d == 0).all()
    d.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_quotient_of_differences_cancels_where_ours_does_not():
    """|x_s - y_s|^2 - (x_0 - y_0)^2 loses all digits when the radii differ by much."""
    x, y = lorentz.expmap0(rows(1.0, seed=1)), lorentz.expmap0(rows(20.0, seed=2))
    truth = geoopt.Lorentz().dist(*(lorentz.with_time(p[:, 1:].double(), 1.0) for p in (x, y)))
    delta = x - y
    q = (delta[:, 1:].square().sum(-1) - delta[:, 0].square()).clamp(min=0)
    spread = 2 * torch.asinh(q.sqrt() / 2).double()
    assert ((spread - truth).abs() / truth).max() > 1e-2
    assert ((lorentz.distance(x, y).double() - truth).abs() / truth).max() < 1e-6


@pytest.mark.parametrize("radius", [1.0, 5.0, 8.0])
def test_near_points(radius):
    """Points a thousandth apart: float32 coordinates carry the distance to their own rounding."""
    u = rows(radius)
    x = lorentz.expmap0(u)
    y = lorentz.expmap0(u * (1 + 1e-3 * torch.rand(len(u), 1)) + 1e-3 * rows(1.0, seed=3))
    truth = geoopt.Lorentz().dist(*(lorentz.with_time(p[:, 1:].double(), 1.0) for p in (x, y)))
    assert ((lorentz.distance(x, y).double() - truth).abs() / truth).max() < 1e-4


@pytest.mark.parametrize("norm", [41.0, 100.0, 1e4, 1e20, 3e38])
def test_beyond_the_range_is_clamped(norm):
    u = torch.zeros(2, 8)
    u[:, 0] = norm
    u.requires_grad_()
    point = lorentz.expmap0(u)
    back = lorentz.logmap0(point)
    back.sum().backward()
    assert torch.isfinite(point).all()
    assert torch.isfinite(u.grad).all()
    assert torch.allclose(back[:, 0], torch.tensor(min(norm, lorentz.MAX_RADIUS)), rtol=1e-5)


@pytest.mark.parametrize("norm", [0.0, *NORMS])
def test_gradients_are_finite(norm):
    u = rows(norm).requires_grad_()
    point = lorentz.expmap0(u)
    values = [point, lorentz.logmap0(point), lorentz.distance(point, lorentz.expmap0(rows(1.0)))]
    values.append(lorentz.logmap(point, lorentz.expmap0(rows(0.5, seed=4))))
    for value in values:
        (gradient,) = torch.autograd.grad(value.sum(), u, retain_graph=True)
        assert torch.isfinite(gradient).all()


def test_gradcheck():
    x = lorentz.expmap0(rows(0.7, 3, 2, seed=1, dtype=torch.float64)).requires_grad_()
    y = lorentz.expmap0(rows(1.3, 3, 2, seed=2, dtype=torch.float64)).requires_grad_()
    u = rows(0.9, 3, 2, seed=3, dtype=torch.float64).requires_grad_()
    zero = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    v = rows(0.4, 4, 2, seed=5, dtype=torch.float64).requires_grad_()
    layer, full = LorentzLinear(3, 4).double(), TangentFullyLorentzLinear(3, 4, True).double()
    cases = [
        (lorentz.expmap0, (u,)),
        (lorentz.expmap0, (zero,)),
        (lorentz.logmap0, (x,)),
        (lorentz.logmap, (x, y)),
        (lorentz.expmap, (x, v)),
        (lorentz.transport0, (y, u)),
        (lorentz.distance, (x, y)),
        (lorentz.translate, (x, y)),
        (lambda w: lorentz.clip_norm(w, 0.5), (u,)),
        (lambda w: lorentz.clip_norm(w, 2.0), (u,)),
        (layer, (u,)),
        (full, (u,)),
    ]
    for function, arguments in cases:
        assert torch.autograd.gradcheck(function, arguments)


@pytest.mark.parametrize("width", [16, 768, 4096])
@pytest.mark.parametrize("kind", [LorentzLinear, TangentFullyLorentzLinear])
def test_layer_is_finite_for_every_finite_input(width, kind):
    layer = kind(width, 16)
    scales = torch.tensor([0.0, 1e-38, 1e-20, 1e-4, 1.0, 4.0, 27.7, 45.0, 1e3, 1e15, 1e30, 3e38])
    x = rows(1.0, width, len(scales)) * scales[:, None]
    largest = torch.full((1, width), torch.finfo(torch.float32).max)
    x = torch.cat([x, largest]).requires_grad_()
    out = layer(x)
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(layer.weight.grad).all()


def test_layer_lives_where_the_original_gives_nan():
    """The original multiplies a point's coordinates; at width 768 the product underflows."""
    x = rows(4.0, 768, 4)
    point = lorentz.expmap0(x)
    assert (point.prod(dim=-1) == 0).all()
    out = LorentzLinear(768, 64)(x)
    assert torch.isfinite(out).all()
    assert (out.norm(dim=-1) > 0.1).all()


def test_closed_form_equals_composed_maps():
    layer = LorentzLinear(16, 12).double()
    u = rows(2.0, 16, dtype=torch.float64)
    moved = torch.nn.functional.linear(
        lorentz.logmap0(lorentz.expmap0(u)), layer.weight, layer.bias
    )
    composed = lorentz.logmap0(lorentz.expmap0(moved))
    assert torch.allclose(layer(u)[:, 1:], composed, rtol=1e-12)
    assert (layer(u)[:, 0] == 0).all()


def test_autocast_does_not_narrow():
    layer, x = LorentzLinear(64, 32), rows(3.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.float32
    assert torch.equal(out, layer(x))


def test_translations_are_isometries_and_transport_keeps_norms():
    x, y, b = (lorentz.expmap0(rows(n, 5, 8, i, torch.float64)) for i, n in enumerate((1, 2, 0.7)))
    moved = lorentz.distance(lorentz.translate(x, b), lorentz.translate(y, b))
    assert torch.allclose(moved, lorentz.distance(x, y))
    u = rows(1.5, 5, 8, 9, torch.float64)
    carried = lorentz.transport0(y, u)
    assert torch.allclose(lorentz.inner(carried, carried), u.square().sum(-1))
    assert torch.allclose(lorentz.inner(carried, y), torch.zeros(8, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(lorentz.expmap(x, lorentz.logmap(x, y)), y)


def test_translation_stays_on_the_manifold():
    torch.manual_seed(0)
    layer = FullyLorentzLinear(4, 3, translation=True)
    assert wrap_manifold_parameters(layer) == 1
    assert isinstance(layer.translation, geoopt.ManifoldParameter)
    optimizer = geoopt.optim.RiemannianAdam(layer.parameters(), lr=0.05)
    x, goal = lorentz.expmap0(rows(1.0, 4, 8)), lorentz.expmap0(rows(2.0, 3, 8, 1))
    first = lorentz.distance(layer(x), goal).mean().item()
    for _ in range(50):
        optimizer.zero_grad()
        loss = lorentz.distance(layer(x), goal).mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.9 * first
    assert abs(lorentz.inner(layer.translation, layer.translation).item() + 1) < 1e-4
    # what a checkpoint gives back is a plain parameter, to be wrapped again
    fresh = FullyLorentzLinear(4, 3, translation=True)
    fresh.load_state_dict(layer.state_dict())
    assert not isinstance(fresh.translation, geoopt.ManifoldParameter)
    assert wrap_manifold_parameters(fresh) == 1
    assert torch.equal(fresh(x), layer(x))


def test_learnt_curvature():
    curvature = Curvature(1.0, learnable=True)
    lorentz.distance(*(lorentz.expmap0(rows(1.0, seed=i), curvature()) for i in (0, 1))).sum()
    value = lorentz.expmap0(rows(1.0), curvature())[:, 0].sum()
    value.backward()
    assert torch.isfinite(curvature.log_c.grad)
    assert curvature.log_c.grad != 0
