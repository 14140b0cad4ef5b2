"""Geometry: maps at the origin and distances against exact arithmetic, over radii and widths."""

import math

import pytest
import torch
from exact_lorentz import (
    NORMS,
    RADII,
    UNIT,
    apart,
    directions,
    exact_distance,
    exact_exponential,
    exact_logarithm,
    quotient_distance,
    row_error,
    sized,
    squared_radii,
    widths,
)

from modeling_hmgrl import lorentz

# Maps at the origin


@squared_radii
@widths
def test_exponential_and_logarithm_undo_each_other_in_float32(c, width):
    u = sized(width, c, each=4)
    point = lorentz.expmap0(u, c)
    assert point.dtype == torch.float32
    back = lorentz.logmap0(point, c)
    assert row_error(back, u) < 1e-5
    assert row_error(lorentz.expmap0(back, c), point) < 1e-5


@squared_radii
def test_maps_at_the_origin_are_exact_to_rounding(c):
    u = sized(16, c, each=2)
    point = lorentz.expmap0(u, c)
    expected = exact_exponential(u, c)
    assert row_error(point, expected) < 1e-5
    assert row_error(point[:, 1:], expected[:, 1:]) < 1e-5
    assert row_error(lorentz.logmap0(point, c), exact_logarithm(point, c)) < 1e-6


@squared_radii
def test_origin(c):
    zero = torch.zeros(3, 5, requires_grad=True)
    point = lorentz.expmap0(zero, c)
    assert torch.equal(point.detach(), lorentz.origin(5, c).expand(3, 6))
    (jacobian,) = torch.autograd.grad(point[0, 2], zero)
    assert jacobian[0].tolist() == [0, 1, 0, 0, 0]
    assert (lorentz.logmap0(point, c) == 0).all()


@squared_radii
def test_tangent_vectors_beyond_the_reach_are_clamped(c):
    limit = lorentz.MAX_RADIUS * math.sqrt(c)
    u = directions(6, 16).float()
    sizes = torch.tensor([1.001 * limit, 100.0, 1e4, 1e18, 1e30, 3e38]).unsqueeze(1)
    far = (u * sizes).requires_grad_()
    point = lorentz.expmap0(far, c)
    assert row_error(point, lorentz.expmap0(limit * u.double(), c)) < 1e-4
    back = lorentz.logmap0(point, c)
    assert row_error(back, limit * u.double()) < 1e-5
    d = lorentz.distance(point, point.detach().flip(0), c)
    (back.sum() + d.sum() + (point / point.detach().abs().max()).sum()).backward()
    assert point.isfinite().all()
    assert d.isfinite().all()
    assert far.grad.isfinite().all()


@squared_radii
def test_coordinates_beyond_the_reach_are_clamped(c):
    space = (directions(3, 16).float() * torch.tensor([[1e19], [1e30], [1e38]])).requires_grad_()
    point = lorentz.with_time(space, c)
    assert point.isfinite().all()
    back = lorentz.logmap0(torch.cat([torch.ones(3, 1), space], dim=1), c)
    expected = lorentz.MAX_RADIUS * math.sqrt(c)
    assert back.norm(dim=-1).tolist() == pytest.approx([expected] * 3, rel=1e-6)
    (back.sum() + point.log().nan_to_num().sum()).backward()
    assert space.grad.isfinite().all()


# Distance


@squared_radii
@widths
def test_distance_of_points_in_general_position(c, width):
    """All pairs of radii, angles of about 60 degrees: 1e-5 of the exact value in float32."""
    u = directions(len(NORMS), width)
    sizes = torch.tensor(NORMS, dtype=torch.float64)
    first, second = torch.cartesian_prod(sizes, sizes).split(1, dim=1)
    one = (u.repeat_interleave(len(NORMS), 0) * first).float()
    two = (apart(u.repeat(len(NORMS), 1)) * second).float()
    x, y = lorentz.expmap0(one, c), lorentz.expmap0(two, c)
    d = lorentz.distance(x, y, c)
    assert d.dtype == torch.float32
    some = slice(None, None, 1 if width < 768 else 5)  # exact arithmetic is slow
    exact = exact_distance(x[some], y[some], c)
    assert ((d[some] - exact).abs() / exact).max() < 1e-5
    assert ((lorentz.distance(x, y, c) - lorentz.distance(y, x, c)).abs() / d).max() < 1e-6


@squared_radii
def test_distance_from_the_origin(c):
    u = sized(32, c, each=2)
    d = lorentz.distance(lorentz.expmap0(u, c), lorentz.origin(32, c), c)
    assert ((d - u.double().norm(dim=-1)).abs() / d).max() < 1e-6


@squared_radii
def test_distance_of_antipodal_points(c):
    u = sized(32, c, each=2)
    other = lorentz.expmap0(-u.flip(0), c)
    d = lorentz.distance(lorentz.expmap0(u, c), lorentz.expmap0(-u, c), c)
    assert ((d - 2 * u.double().norm(dim=-1)).abs() / d).max() < 1e-6
    x = lorentz.expmap0(u, c)
    exact = exact_distance(x, other, c)
    assert ((lorentz.distance(x, other, c) - exact).abs() / exact).max() < 1e-5


@squared_radii
@pytest.mark.parametrize("radius", [1e-6, 1e-3, 0.1, 1.0, 5.0, 10.0])
@pytest.mark.parametrize("width", [16, 768])
def test_distance_of_near_points(c, radius, width):
    """A relative perturbation of 1e-3 to any side: mostly sideways, which is well conditioned."""
    u = directions(8, width) * radius
    v = u + 1e-3 * radius * directions(8, width, seed=7)
    x, y = lorentz.expmap0(u.float(), c), lorentz.expmap0(v.float(), c)
    exact = exact_distance(x, y, c)
    error = (lorentz.distance(x, y, c) - exact).abs() / exact
    assert error.max() < 1e-5


@squared_radii
@pytest.mark.parametrize("radius", [1e-3, 0.1, 1.0, 3.0, 5.0, 8.0, 10.0])
def test_distance_along_a_ray_is_as_good_as_the_coordinates(c, radius):
    """Conditioning: on one ray float32 coordinates do not carry the distance far out.

    Rounding moves a point sideways by up to UNIT sqrt(c) sinh(radius/sqrt(c)) (its coordinates are
    that large) and along the ray by much less. The float32 pair is therefore off the ray, at an
    exact distance that differs from the intended one, and no formula can undo that; ours adds no
    more than a few times as much.
    """
    u = directions(16, 32)
    step = 1e-3 * radius
    x = lorentz.expmap0((u * radius).float(), c)
    y = lorentz.expmap0((u * (radius + step)).float(), c)
    sideways = UNIT * math.sqrt(c) * math.sinh((radius + step) / math.sqrt(c))
    d, exact = lorentz.distance(x, y, c).double(), exact_distance(x, y, c)
    assert ((d - exact).abs() <= 4 * sideways + 1e-5 * exact).all()
    # the intended distance is `step`, up to the rounding of the tangent vectors
    intended = (d - step).abs()
    assert (intended <= 8 * sideways + 4 * UNIT * radius + 1e-5 * step).all()


@squared_radii
def test_distance_of_radii_far_apart(c):
    sizes = [(1e-6, 40.0), (1e-3, 20.0), (0.1, 10.0), (1.0, 30.0), (1e-6, 1.0), (1e-6, 1e-3)]
    for small, large in sizes:
        u = directions(8, 32)
        for v in (u, -u, apart(u)):
            x = lorentz.expmap0((u * small).float(), c)
            y = lorentz.expmap0((v * large).float(), c)
            exact = exact_distance(x, y, c)
            assert ((lorentz.distance(x, y, c) - exact).abs() / exact).max() < 1e-5


def test_difference_of_squares_cancels_where_this_formula_does_not():
    """Q = |x_s - y_s|^2 - (x_0 - y_0)^2 loses its digits where the radii differ."""
    u = directions(32, 32)
    lost = {}
    for small, large in ((0.1, 1.0), (0.1, 5.0), (0.1, 10.0), (0.1, 15.0), (1e-6, 40.0)):
        x = lorentz.expmap0((u * small).float())
        y = lorentz.expmap0((apart(u) * large).float())
        exact = exact_distance(x, y, 1.0)
        ours = ((lorentz.distance(x, y) - exact).abs() / exact).max().item()
        quotient = ((quotient_distance(x, y, 1.0) - exact).abs() / exact).max().item()
        assert ours < 2e-6
        lost[large] = quotient
    assert lost[1.0] < 1e-5
    assert lost[10.0] > 1e-5
    assert lost[15.0] > 1e-3
    assert lost[40.0] > 0.5


@squared_radii
@widths
def test_distance_of_a_point_to_itself_is_0(c, width):
    u = torch.cat([directions(3, width, i) * n for i, n in enumerate((0, *NORMS, 1e3))]).float()
    x = lorentz.expmap0(u, c).requires_grad_()
    d = lorentz.distance(x, x.detach().clone(), c)
    assert (d == 0).all()
    d.sum().backward()
    assert (x.grad == 0).all()
    assert (lorentz.logmap(x, x, c) == 0).all()


def test_pairwise_distance():
    x = lorentz.expmap0(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)))
    y = lorentz.expmap0(torch.randn(7, 8, generator=torch.Generator().manual_seed(1)))
    whole = lorentz.pairwise_distance(x, y)
    assert whole.shape == (5, 7)
    for i in range(5):
        for j in range(7):
            assert whole[i, j] == pytest.approx(lorentz.distance(x[i], y[j]).item(), rel=1e-6)
    assert torch.allclose(lorentz.pairwise_distance(x, y, chunk=2), whole, rtol=1e-6)


@squared_radii
def test_gradients_are_finite_everywhere(c):
    sizes = torch.tensor([0.0, 1e-38, 1e-20, 1e-6, 1.0, 10.0, 40.0, 50.0, 1e10, 1e38])
    u = directions(len(sizes), 8).float() * sizes.unsqueeze(1)
    for i in range(len(sizes)):
        one, two = u.clone().requires_grad_(), u.roll(i, 0).clone().requires_grad_()
        x, y = lorentz.expmap0(one, c), lorentz.expmap0(two, c)
        lorentz.distance(x, y, c).sum().backward()
        assert one.grad.isfinite().all()
        assert two.grad.isfinite().all()
        # each step of distance moves by at most one
        inside = (sizes > 1e-4) & (sizes < 30)
        assert (one.grad[inside].norm(dim=-1) < 1e6).all()


# Clipping


@pytest.mark.parametrize("width", [16, 768, 4096])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clip_norm(width, dtype):
    u = directions(8, width).to(dtype)
    sizes = torch.tensor([0, 1e-38, 1e-3, 2.999, 3.001, 1e10, 1e25, 3e38], dtype=dtype)
    rows = (u * sizes.unsqueeze(1)).requires_grad_()
    out = lorentz.clip_norm(rows, 3.0)
    assert torch.equal(out[:4], rows[:4])
    assert row_error(out[4:], 3 * u[4:]) < 1e-6
    largest = torch.full((1, width), torch.finfo(dtype).max, dtype=dtype, requires_grad=True)
    full = lorentz.clip_norm(largest, 3.0)
    assert full.norm().item() == pytest.approx(3, rel=1e-5)
    (out.sum() + full.sum()).backward()
    assert rows.grad.isfinite().all()
    assert largest.grad.isfinite().all()


def test_clip_radius():
    assert lorentz.clip_radius(1.0) == pytest.approx(7.600902709541988)
    for c in RADII:
        point = lorentz.expmap0(torch.tensor([lorentz.clip_radius(c), 0.0]), c)
        assert point[1].item() == pytest.approx(1000, rel=1e-5)
        assert lorentz.clip_radius(torch.tensor(c)).item() == pytest.approx(lorentz.clip_radius(c))


# Precision under autocast, and of narrow inputs


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_inputs_and_autocast_are_computed_in_float32(dtype):
    u, v = (directions(4, 8, i).to(dtype) for i in (0, 1))
    x, y = lorentz.expmap0(u.float()), lorentz.expmap0(v.float())
    weight = directions(6, 8, 2).to(dtype)
    calls = {
        "expmap0": lambda a, b, p, q: lorentz.expmap0(a),
        "logmap0": lambda a, b, p, q: lorentz.logmap0(p),
        "transport0": lambda a, b, p, q: lorentz.transport0(p, b),
        "expmap": lambda a, b, p, q: lorentz.expmap(p, q - q),
        "logmap": lambda a, b, p, q: lorentz.logmap(p, q),
        "distance": lambda a, b, p, q: lorentz.distance(p, q),
        "pairwise": lambda a, b, p, q: lorentz.pairwise_distance(p, q),
        "translate": lambda a, b, p, q: lorentz.translate(p, q),
        "inner": lambda a, b, p, q: lorentz.inner(p, q),
        "project_tangent": lambda a, b, p, q: lorentz.project_tangent(p, q),
        "with_time": lambda a, b, p, q: lorentz.with_time(a, 1.0),
        "linear": lambda a, b, p, q: lorentz.linear_transform(p, weight),
    }
    for name, call in calls.items():
        narrow = (u, v, x.to(dtype), y.to(dtype))
        plain = call(*(t.float() for t in narrow))
        assert torch.equal(call(*narrow), plain), name
        with torch.autocast("cpu", torch.bfloat16):
            mixed = call(*narrow)
            assert torch.equal(call(*(t.float() for t in narrow)), plain), name
        assert mixed.dtype == torch.float32, name
        assert torch.equal(mixed, plain), name
