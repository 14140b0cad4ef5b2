"""Geometry: against exact arithmetic and geoopt, in float32, over all radii and widths."""

import math

import geoopt
import mpmath
import pytest
import torch
import torch.nn.functional as F

from modeling_hmgrl import lorentz

UNIT = 2.0**-24  # float32 rounds by this much of a number
RADII = (1.0, 0.5, 2.0)  # squared radii c
WIDTHS = (2, 16, 128, 768)
NORMS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 40.0)
squared_radii = pytest.mark.parametrize("c", RADII)
widths = pytest.mark.parametrize("width", WIDTHS)


def sized(width, c, each):
    """Tangent vectors of all NORMS, float32; for c < 1, of the part of them within reach."""
    largest = 40 * min(1.0, math.sqrt(c))
    sizes = [min(norm, largest) for norm in NORMS]
    return torch.cat([directions(each, width, i) * n for i, n in enumerate(sizes)]).float()


def exact_origin(width, c):
    return lorentz.with_time(torch.zeros(width, dtype=torch.float64), c)


def directions(rows, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=-1)


def apart(u, seed=1):
    """A direction about 60 degrees from each of u, which is how generic points lie."""
    other = directions(len(u), u.shape[1], seed)
    other = other - (other * u).sum(-1, keepdim=True) * u
    return 0.5 * u + math.sqrt(0.75) * F.normalize(other, dim=-1)


def row_error(actual, expected):
    expected = expected.double()
    error = (actual.double() - expected).norm(dim=-1) / expected.norm(dim=-1)
    return error.max().item()


# Exact arithmetic, by the definitions: a point is what its space coordinates say.


def exact_numbers(row):
    return [mpmath.mpf(float(value)) for value in row]


def exact_distance(x, y, c):
    """sqrt(c) acosh(-<x, y>_L/c) of each pair of points, with 120 digits, times computed anew."""
    out = []
    with mpmath.workdps(120):
        for one, two in zip(x, y, strict=True):
            a, b = exact_numbers(one[1:]), exact_numbers(two[1:])
            times = [mpmath.sqrt(c + mpmath.fdot(s, s)) for s in (a, b)]
            product = times[0] * times[1] - mpmath.fdot(a, b)
            out.append(float(mpmath.sqrt(c) * mpmath.acosh(product / c)))
    return torch.tensor(out, dtype=torch.float64)


def exact_exponential(u, c):
    out = []
    with mpmath.workdps(60):
        for row in u:
            v, root = exact_numbers(row), mpmath.sqrt(c)
            r = mpmath.sqrt(mpmath.fdot(v, v))
            factor = root * mpmath.sinh(r / root) / r
            out.append([float(root * mpmath.cosh(r / root)), *(float(factor * e) for e in v)])
    return torch.tensor(out, dtype=torch.float64)


def exact_logarithm(x, c):
    out = []
    with mpmath.workdps(60):
        for row in x:
            s, root = exact_numbers(row[1:]), mpmath.sqrt(c)
            a = mpmath.sqrt(mpmath.fdot(s, s))
            out.append([float(root * mpmath.asinh(a / root) / a * e) for e in s])
    return torch.tensor(out, dtype=torch.float64)


def quotient_distance(x, y, c):
    """The distance by Q = |x_s - y_s|^2 - (x_0 - y_0)^2, for comparison."""
    delta = x[:, 1:] - y[:, 1:]
    times = (delta * (x[:, 1:] + y[:, 1:])).sum(-1) / (x[:, 0] + y[:, 0])
    q = (delta.square().sum(-1) - times.square()).clamp(min=0)
    return 2 * math.sqrt(c) * torch.asinh(q.sqrt() / (2 * math.sqrt(c)))


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


# Derivatives


def differentiable(name, c):
    generator = torch.Generator().manual_seed(3)
    u, v, w = (torch.randn(4, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    x, y = lorentz.expmap0(u, c), lorentz.expmap0(v, c)
    near = lorentz.expmap0(1.0001 * u, c)
    mirrored = torch.cat([x[:, :1], -x[:, 1:]], dim=1)  # equal radii
    tiny = torch.cat([1e-6 * u[:2], 0 * u[:1], 1e-3 * u[3:]])
    return {
        "expmap0": (lambda t: lorentz.expmap0(t, c), [(u,), (tiny,)]),
        "logmap0": (lambda p: lorentz.logmap0(p, c), [(x,), (lorentz.expmap0(tiny, c),)]),
        "expmap": (
            lambda p, t: lorentz.expmap(p, t, c),
            [(x, lorentz.transport0(x, w, c)), (x, torch.zeros_like(x))],
        ),
        "logmap": (lambda p, q: lorentz.logmap(p, q, c), [(x, y), (x, near)]),
        "transport0": (lambda p, t: lorentz.transport0(p, t, c), [(x, w)]),
        "translate": (lambda p, q: lorentz.translate(p, q, c), [(x, y)]),
        "distance": (lambda p, q: lorentz.distance(p, q, c), [(x, y), (x, near)]),
        "mirrored": (lambda t: lorentz.distance(lorentz.expmap0(t, c), mirrored, c), [(u,)]),
        "clip_norm": (lambda t: lorentz.clip_norm(t, 2.0), [(u,), (0.1 * u,), (tiny,), (1e3 * u,)]),
        "with_time": (lambda t: lorentz.with_time(t, c), [(u,)]),
    }[name]


NAMES = [
    "expmap0", "logmap0", "expmap", "logmap", "transport0", "translate", "distance", "mirrored",
    "clip_norm", "with_time",
]  # fmt: skip


@squared_radii
@pytest.mark.parametrize("name", NAMES)
def test_derivatives(name, c):
    function, inputs = differentiable(name, c)
    for arguments in inputs:
        leaves = [a.clone().requires_grad_() for a in arguments]
        eps = min(1e-6, 1e-2 * min(float(a.abs().amax()) or 1.0 for a in arguments))
        assert torch.autograd.gradcheck(function, leaves, eps=max(eps, 1e-8), atol=1e-5, rtol=1e-4)


def test_derivatives_by_the_squared_radius():
    u = directions(4, 5)
    v = directions(4, 5, 1)

    def everything(c):
        x, y = lorentz.expmap0(u, c), lorentz.expmap0(v, c)
        w = lorentz.transport0(x, v, c)
        parts = (
            x, lorentz.logmap0(x, c), lorentz.distance(x, y, c), lorentz.logmap(x, y, c),
            lorentz.expmap(x, w, c), lorentz.translate(x, y, c), lorentz.clip_radius(c),
            lorentz.clip_norm(u, 0.5 * c),
        )  # fmt: skip
        return torch.cat([torch.as_tensor(part, dtype=torch.float64).flatten() for part in parts])

    c = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(everything, (c,))
    assert row_error(everything(c)[None], everything(1.3)[None]) < 1e-13


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
