"""Maps between any two points of the hyperboloid, also against geoopt."""

import math

import geoopt
import pytest
import torch
import torch.nn.functional as F
from exact_lorentz import (
    UNIT,
    apart,
    directions,
    exact_distance,
    exact_origin,
    row_error,
    squared_radii,
)

from modeling_hmgrl import lorentz

# Maps elsewhere


@squared_radii
@pytest.mark.parametrize("radius", [1e-6, 1e-3, 0.1, 1.0, 3.0, 5.0, 8.0])
def test_maps_elsewhere_undo_each_other_in_float32(c, radius):
    """The logarithm is exact to rounding. Back again costs more the farther out.

    Coordinates of x are of size sinh(r/sqrt(c)), and so are those of a tangent vector there for
    its Lorentz norm; the point it leads to moves by the product of both: about
    UNIT sqrt(c) sinh(2r/sqrt(c)). In float32 that is useful up to r/sqrt(c) of 5.
    """
    u = directions(16, 16) * radius
    v = apart(u / radius) * radius / 2
    x, y = lorentz.expmap0(u.float(), c), lorentz.expmap0(v.float(), c)
    tangent = lorentz.logmap(x, y, c)
    again = lorentz.expmap(x, tangent, c)
    blur = UNIT * math.sqrt(c) * math.sinh(2 * radius / math.sqrt(c))
    assert exact_distance(again, y, c).max() <= 32 * blur
    exact = lorentz.logmap(*(lorentz.with_time(p[:, 1:].double(), c) for p in (x, y)), c)
    assert row_error(tangent, exact) < 2e-6


@squared_radii
def test_maps_elsewhere_undo_each_other_in_float64(c):
    for radius in (0.1, 1.0, 4.0):
        u, v = directions(8, 6) * radius, directions(8, 6, 3) * radius
        x, y = lorentz.expmap0(u, c), lorentz.expmap0(v, c)
        tangent = lorentz.logmap(x, y, c)
        length = lorentz.inner(tangent, tangent).sqrt()
        assert length.tolist() == pytest.approx(lorentz.distance(x, y, c).tolist(), rel=1e-8)
        assert lorentz.inner(x, tangent).abs().max() < 1e-9
        assert row_error(lorentz.expmap(x, tangent, c), y) < 1e-9
        w = lorentz.transport0(x, 0.3 * directions(8, 6, 5), c)
        assert row_error(lorentz.logmap(x, lorentz.expmap(x, w, c), c), w) < 1e-7


def test_far_maps_stay_finite():
    for radius in (20.0, 40.0, 100.0):
        u = directions(8, 16).float() * radius
        x = lorentz.expmap0(u).requires_grad_()
        y = lorentz.expmap0(directions(8, 16, 4).float() * radius)
        w = (directions(8, 16, 9).float() * radius).requires_grad_()
        outs = (
            lorentz.expmap(x, lorentz.transport0(x, w)), lorentz.logmap(x, y),
            lorentz.translate(x, y), lorentz.transport0(x, w),
        )  # fmt: skip
        for out in outs:
            assert out.isfinite().all()
            # scaled, so that a sum of gradients of size exp(80) does not overflow by itself
            grads = torch.autograd.grad((out * 1e-30).sum(), (x, w), allow_unused=True)
            assert all(g.isfinite().all() for g in grads if g is not None)


@pytest.mark.parametrize("radius", [20.0, 32.0, 42.0])
def test_logarithm_between_opposite_far_points_has_a_gradient(radius):
    """The scale of x, about exp(2 radius), times x itself is beyond float32 from radius 30 on."""
    u = (directions(8, 16).float() * radius).requires_grad_()
    v = -u.detach()
    tangent = lorentz.logmap(lorentz.expmap0(u), lorentz.expmap0(v))
    tangent.mean().backward()
    assert tangent.isfinite().all()
    assert u.grad.isfinite().all()


def test_exponential_keeps_more_digits_than_by_its_definition():
    """By the definition |v|_L is a difference of squares, which cancels far out."""
    x = lorentz.expmap0(directions(64, 16).float() * 7)
    w = directions(64, 16, 3).float()
    v = lorentz.transport0(x, w)
    exact = lorentz.translate(
        lorentz.expmap0(w.double()), lorentz.with_time(x[:, 1:].double(), 1.0)
    )
    ours = lorentz.distance(lorentz.expmap(x, v).double(), exact)
    r = lorentz.inner(v, v).clamp(min=1e-12).sqrt().unsqueeze(1)
    plain = lorentz.with_time((torch.cosh(r) * x + torch.sinh(r) / r * v)[:, 1:], 1.0)
    theirs = lorentz.distance(plain.double(), exact)
    assert ours.max() < UNIT * math.sinh(7 + 1)  # what the rounding of the result amounts to
    assert theirs.max() > 50 * ours.max()


@squared_radii
def test_projection_is_tangent_and_changes_tangent_vectors_little(c):
    x = lorentz.expmap0(directions(8, 6) * 2, c)
    v = lorentz.project_tangent(x, directions(8, 7, 2), c)
    assert lorentz.inner(x, v).abs().max() < 1e-12
    assert row_error(lorentz.project_tangent(x, v, c), v) < 1e-13


@squared_radii
def test_parallel_transport_keeps_norms_and_tangency(c):
    y = lorentz.expmap0(directions(8, 6) * 2, c)
    v, w = directions(8, 6, 2) * 3, directions(8, 6, 3)
    moved, other = lorentz.transport0(y, v, c), lorentz.transport0(y, w, c)
    assert lorentz.inner(y, moved).abs().max() < 1e-12
    product = (v * w).sum(-1)
    assert (lorentz.inner(moved, other) - product).abs().max() < 1e-11
    assert (lorentz.inner(moved, moved).sqrt() - 3).abs().max() < 1e-12
    # along the geodesic from the origin, direction is kept
    u = lorentz.logmap0(y, c)
    toward = lorentz.transport0(y, u, c)
    back = lorentz.logmap(y, exact_origin(6, c).expand_as(y), c)
    assert row_error(toward, -back) < 1e-12


@squared_radii
def test_boosts_are_isometries(c):
    x, y = (lorentz.expmap0(directions(8, 6, i) * 2, c) for i in (0, 1))
    b = lorentz.expmap0(directions(1, 6, 5)[0] * 1.5, c)
    moved = [lorentz.translate(p, b, c) for p in (x, y)]
    assert (lorentz.inner(*moved) - lorentz.inner(x, y)).abs().max() < 1e-10
    d = lorentz.distance(x, y, c)
    assert (lorentz.distance(*moved, c) - d).abs().max() < 1e-11
    zero = exact_origin(6, c)
    assert row_error(lorentz.translate(zero, b, c)[None], b[None]) < 1e-14
    inverse = torch.cat([b[:1], -b[1:]])
    assert row_error(lorentz.translate(moved[0], inverse, c), x) < 1e-12
    assert row_error(lorentz.translate(x, zero, c), x) < 1e-15


# Against geoopt in float64, where its acosh keeps enough digits


@squared_radii
@pytest.mark.parametrize("radius", [0.03, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("width", [2, 64])
def test_maps_agree_with_geoopt(c, radius, width):
    manifold = geoopt.Lorentz(k=torch.tensor(c, dtype=torch.float64))
    u, v = directions(8, width) * radius, apart(directions(8, width)) * 0.7 * radius
    u32, v32 = u.float(), v.float()
    x, y = (lorentz.expmap0(t.float().double(), c) for t in (u, v))
    points = [lorentz.expmap0(t, c) for t in (u32, v32)]
    tangent = F.pad(u32.double(), (1, 0))
    assert row_error(points[0], manifold.expmap0(tangent)) < 1e-5
    assert row_error(lorentz.logmap0(points[0], c), manifold.logmap0(x)[:, 1:]) < 1e-5
    relative = (lorentz.distance(*points, c) / manifold.dist(x, y) - 1).abs()
    assert relative.max() < 1e-5
    assert row_error(lorentz.logmap(*points, c), manifold.logmap(x, y)) < 1e-5
    carried = manifold.transp0(y, tangent)
    assert row_error(lorentz.transport0(points[1], u32, c), carried) < 1e-5
    assert row_error(lorentz.transport0(y, u32.double(), c), carried) < 1e-6
    arrived = lorentz.expmap(y, carried, c)
    assert row_error(arrived, manifold.expmap(y, carried)) < 1e-5
