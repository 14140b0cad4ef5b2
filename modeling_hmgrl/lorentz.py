r"""The Lorentz model of hyperbolic space: all geometry of this package.

Convention:
    A point of the hyperboloid with squared radius ``c > 0`` (curvature ``-1/c``) is stored with all
    its coordinates, ``x = (x_0, x_s)`` of width ``D + 1``, time first, where
    ``<x, x>_L = -x_0^2 + |x_s|^2 = -c``; the time part follows from the space part as
    ``x_0 = sqrt(c + |x_s|^2)``. The origin is ``o = (sqrt(c), 0)``. geoopt's ``Lorentz(k)`` has
    ``k = c``.
    A tangent vector at the origin has time part 0 and is stored by its space part alone (width
    ``D``); a tangent vector elsewhere is stored whole (width ``D + 1``).

Precision:
    Everything is computed in float32 at least: bfloat16 and float16 inputs are widened, autocast is
    switched off around matrix products. Points farther from the origin than ``MAX_RADIUS`` (in
    units of ``sqrt(c)``) are moved back to it: beyond, squares of coordinates overflow float32.
    Coordinates grow as exp(radius)/2, and the effect of their rounding grows with them: at radius
    R, float32 coordinates determine a point to about 3e-8 exp(R), and tangent vectors there
    determine the point they lead to up to the square of the exponential.

Source: HMGRL (arXiv 2603.16259), equations 1-3, in forms that keep precision near the origin, near
coinciding points and far out.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_RADIUS = 42.0
"""Largest tangent norm over sqrt(c): sinh(42)^2 is 1e36, and float32 ends at 3.4e38."""

SPACE_NORM_LIMIT = 1000.0
"""Norm at which the original implementation clips the space part of a point."""

_SERIES_BELOW = 1e-4  # there sinh(r)/r and asinh(a)/a equal their two-term series to 1e-17
_HUGE = 1e15  # rows with larger entries are rescaled before squaring, so that no norm overflows


def wide(x: Tensor) -> Tensor:
    """Returns ``x`` in float32 if it is narrower, otherwise as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def radius_of(c: float | Tensor) -> float | Tensor:
    """The radius sqrt(c) of the hyperboloid of squared radius ``c``."""
    return c.sqrt() if isinstance(c, Tensor) else math.sqrt(c)


def full_precision(device: torch.device) -> torch.autocast:
    """Context in which autocast does not narrow matrix products."""
    return torch.autocast(device.type, enabled=False)


def clip_norm(u: Tensor, radius: float | Tensor) -> Tensor:
    """Scales the rows of ``u`` that are longer than ``radius`` back to that length.

    Exact identity below the radius (to rounding, for entries above 1e15); finite, with finite
    gradients, for every finite row.

    Args:
        u: Vectors, shape (..., D).
        radius: Largest norm that passes unchanged.

    Returns:
        Tensor of the shape of ``u``.
    """
    # The scale is 1 for all but absurd rows, whose squared norm would overflow; it is a constant to
    # autograd because a row's clipped value does not depend on it.
    scale = (u.detach().abs().amax(-1, keepdim=True) / _HUGE).clamp(min=1.0)
    u = u / scale
    norm = torch.linalg.vector_norm(u, dim=-1, keepdim=True)
    bound = radius / scale
    # min(1, bound/norm), written so that the gradient at norm 0 is 0 and not 0 * inf
    return u * (scale * bound / torch.maximum(norm, torch.as_tensor(bound).to(norm)))


def clip_radius(c: float | Tensor, limit: float = SPACE_NORM_LIMIT) -> float | Tensor:
    """Tangent norm whose point has space part ``limit``: ``R = sqrt(c) asinh(limit/sqrt(c))``.

    This is where the original's norm guard acts on tangent vectors; 7.6009 for ``c = 1``.
    """
    s = radius_of(c)
    return s * (torch.asinh(limit / s) if isinstance(s, Tensor) else math.asinh(limit / s))


def orthogonal_radius(c: float) -> float:
    """Radius of points in orthogonal directions from the origin that are at distance 1.

    By the hyperbolic theorem of Pythagoras, ``cosh(1/sqrt(c)) = cosh(r/sqrt(c))^2``; 0.6816 for
    ``c = 1``, and sqrt(1/2), as in Euclidean space, in the limit of large ``c``.
    """
    s = math.sqrt(c)
    # cosh(t) - 1 = 2 sinh(t/2)^2 keeps precision for small t; the bound prevents an overflow
    return s * math.asinh(math.sqrt(2) * math.sinh(min(0.5 / s, 300.0)))


def _within_reach(space: Tensor, c: float | Tensor) -> Tensor:
    """Scales space coordinates (..., D) back to those of a point at ``MAX_RADIUS``."""
    return clip_norm(space, math.sinh(MAX_RADIUS) * radius_of(c))


def with_time(space: Tensor, c: float | Tensor) -> Tensor:
    """Completes space coordinates (..., D) to points of the hyperboloid (..., D + 1).

    Coordinates whose point would lie beyond ``MAX_RADIUS`` are scaled back to it.
    """
    space = _within_reach(wide(space), c)
    time = torch.sqrt(space.square().sum(-1, keepdim=True) + c)
    return torch.cat([time, space], dim=-1)


def project(x: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """Projects vectors (..., D + 1) to the hyperboloid: keeps the space part, recomputes the time.

    The result is the point itself for a point of the hyperboloid, up to rounding.
    """
    return with_time(x[..., 1:], c)


def inner(x: Tensor, y: Tensor) -> Tensor:
    """Lorentz product ``-x_0 y_0 + x_s . y_s`` of vectors (..., D + 1); returns shape (...)."""
    product = wide(x) * wide(y)
    return product[..., 1:].sum(-1) - product[..., 0]


def _sinhc(r: Tensor) -> Tensor:
    """sinh(r)/r, with its value and gradient at 0."""
    small = r < _SERIES_BELOW
    safe = torch.where(small, torch.ones_like(r), r)
    return torch.where(small, 1 + r.square() / 6, torch.sinh(safe) / safe)


def _asinhc(a: Tensor) -> Tensor:
    """asinh(a)/a, with its value and gradient at 0."""
    small = a < _SERIES_BELOW
    safe = torch.where(small, torch.ones_like(a), a)
    return torch.where(small, 1 - a.square() / 6, torch.asinh(safe) / safe)


def expmap0(u: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """Exponential map at the origin.

    ``exp_o((0, u)) = (sqrt(c) cosh(|u|/sqrt(c)), sqrt(c) sinh(|u|/sqrt(c)) u/|u|)`` (HMGRL eq. 1).

    Args:
        u: Space parts of tangent vectors at the origin, shape (..., D). Norms above
            ``MAX_RADIUS * sqrt(c)`` are clamped to it.
        c: Squared radius of the hyperboloid.

    Returns:
        Points, shape (..., D + 1).
    """
    u = wide(u)
    s = radius_of(c)
    u = clip_norm(u, MAX_RADIUS * s)
    r = torch.linalg.vector_norm(u, dim=-1, keepdim=True) / s
    return torch.cat([s * torch.cosh(r), u * _sinhc(r)], dim=-1)


def logmap0(x: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """Logarithmic map at the origin: the inverse of :func:`expmap0`.

    Uses ``sqrt(c) asinh(|x_s|/sqrt(c)) x_s/|x_s|`` in place of the paper's acosh of the time part
    (HMGRL eq. 2), which loses all digits near the origin.

    Args:
        x: Points, shape (..., D + 1); those beyond ``MAX_RADIUS`` are treated as at it.
        c: Squared radius of the hyperboloid.

    Returns:
        Space parts of tangent vectors at the origin, shape (..., D).
    """
    space = _within_reach(wide(x)[..., 1:], c)
    a = torch.linalg.vector_norm(space, dim=-1, keepdim=True) / radius_of(c)
    return space * _asinhc(a)


def expmap(x: Tensor, v: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """Exponential map at ``x``: ``cosh(|v|_L/sqrt(c)) x + sinh(|v|_L/sqrt(c)) v sqrt(c)/|v|_L``.

    Computed as the boost by ``x`` of the exponential at the origin: the Lorentz norm of a long
    ``v`` would be a difference of squares that are both much larger.

    Args:
        x: Points, shape (..., D + 1).
        v: Tangent vectors at ``x``, shape (..., D + 1); see :func:`project_tangent` for others.
            Lorentz norms above ``MAX_RADIUS * sqrt(c)`` are clamped to it.
        c: Squared radius of the hyperboloid.

    Returns:
        Points, shape (..., D + 1).
    """
    x, v = wide(x), wide(v)
    # parallel transport of v to the origin, the inverse of transport0
    at_origin = v[..., 1:] - v[..., :1] / (x[..., :1] + radius_of(c)) * x[..., 1:]
    return translate(expmap0(at_origin, c), x, c)


def project_tangent(x: Tensor, v: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """Projects vectors (..., D + 1) to the tangent space at ``x``: ``v + <x, v>_L/c x``."""
    x, v = wide(x), wide(v)
    return v + inner(x, v).unsqueeze(-1) / c * x


def logmap(x: Tensor, y: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """Logarithmic map at ``x``: the tangent vector at ``x`` that leads to ``y``.

    Args:
        x: Points, shape (..., D + 1).
        y: Points, shape (..., D + 1).
        c: Squared radius of the hyperboloid.

    Returns:
        Tangent vectors at ``x``, shape (..., D + 1), whose Lorentz norm is the distance.
    """
    x, y = wide(x), wide(y)
    half = _half_distance_sinh(x, y, c)
    # y + <x,y>/c x with <x,y>/c = -(1 + 2 half^2): near x the difference y - x keeps the digits.
    # Its length is sqrt(c) sinh(2 asinh(half)) = 2 sqrt(c) half sqrt(1 + half^2), wanted is
    # 2 sqrt(c) asinh(half). Both terms are scaled before they are added: far out they overflow.
    root = torch.sqrt(1 + half.square())
    return _difference(x, y) * (_asinhc(half) / root) - 2 * torch.asinh(half) * (half / root) * x


def transport0(y: Tensor, v: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """Parallel transport of tangent vectors from the origin to ``y``.

    Args:
        y: Points, shape (..., D + 1).
        v: Space parts of tangent vectors at the origin, shape (..., D).
        c: Squared radius of the hyperboloid.

    Returns:
        Tangent vectors at ``y``, shape (..., D + 1).
    """
    y, v, s = wide(y), wide(v), radius_of(c)
    time, space = y[..., :1], y[..., 1:]
    along = (space * v).sum(-1, keepdim=True)
    return torch.cat([along / s, v + along / (s * (time + s)) * space], dim=-1)


def translate(x: Tensor, b: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """Lorentz boost that carries the origin to ``b``, applied to points ``x``.

    Args:
        x: Points, shape (..., D + 1).
        b: One point, shape (D + 1,), or as many as ``x``.
        c: Squared radius of the hyperboloid.

    Returns:
        Points, shape (..., D + 1).
    """
    x, b, s = wide(x), wide(b), radius_of(c)
    moved = x[..., 1:] + b[..., 1:] * (
        x[..., :1] / s + (b[..., 1:] * x[..., 1:]).sum(-1, keepdim=True) / (s * (b[..., :1] + s))
    )
    return with_time(moved, c)


def _difference(x: Tensor, y: Tensor) -> Tensor:
    """``y - x`` of points (..., D + 1), the time part from the space parts for precision."""
    delta, total = y[..., 1:] - x[..., 1:], y[..., 1:] + x[..., 1:]
    time_delta = (delta * total).sum(-1, keepdim=True) / (x[..., :1] + y[..., :1])
    return torch.cat([time_delta, delta], dim=-1)


def _half_distance_sinh(x: Tensor, y: Tensor, c: float | Tensor) -> Tensor:
    """sinh(d/(2 sqrt(c))) of points (..., D + 1), keeping the last axis.

    In the Poincare ball (p = x_s/(x_0 + sqrt(c))) this is |p - q| over the two conformal roots, a
    quotient without cancellation between large terms. The difference p - q is expanded about the
    point closer to the origin, which keeps the digits of points that almost coincide. (The quotient
    |x_s - y_s|^2 - (x_0 - y_0)^2 cancels when the two radii differ by much.)

    The difference still cancels where both points lie on one ray: there the rounding of the space
    coordinates, relative 6e-8, comes in times exp(r)/2, r being the smaller radius over sqrt(c).
    """
    s = radius_of(c)
    x_time, y_time = x[..., :1], y[..., :1]
    x_space, y_space = x[..., 1:], y[..., 1:]
    delta = _difference(y, x)
    # a single condition: at equal radii, the gradients of min and max would be inconsistent
    x_near = x_time < y_time
    low, high = torch.where(x_near, x_time, y_time) + s, torch.where(x_near, y_time, x_time) + s
    near = torch.where(x_near, x_space, y_space) / low
    gap = torch.linalg.vector_norm(delta[..., 1:] - near * delta[..., :1], dim=-1, keepdim=True)
    return gap * torch.sqrt(low / high) / (2 * s)


def distance(x: Tensor, y: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """Geodesic distance ``2 sqrt(c) asinh(|p - q| / ...)``, exactly 0 for equal points.

    The gradient is finite everywhere; where the points coincide, and the distance has a kink, it
    is 0.

    Args:
        x: Points, shape (..., D + 1).
        y: Points, shape (..., D + 1), broadcast against ``x``.
        c: Squared radius of the hyperboloid.

    Returns:
        Distances, shape (...).
    """
    return (2 * radius_of(c) * torch.asinh(_half_distance_sinh(wide(x), wide(y), c))).squeeze(-1)


def pairwise_distance(x: Tensor, y: Tensor, c: float | Tensor = 1.0, chunk: int = 256) -> Tensor:
    """Geodesic distances between all pairs of two sets of points.

    Args:
        x: Points, shape (N, D + 1).
        y: Points, shape (M, D + 1).
        c: Squared radius of the hyperboloid.
        chunk: Points of ``y`` taken at once; bounds memory to N * chunk * D.

    Returns:
        Distances, shape (N, M).
    """
    parts = [distance(x.unsqueeze(1), part.unsqueeze(0), c) for part in y.split(chunk)]
    return torch.cat(parts, dim=1)


def linear_transform(x: Tensor, weight: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """Lorentz linear transformation ``exp_o((0, W log_o(x)_s))`` (HMGRL eq. 3).

    Args:
        x: Points, shape (..., in + 1).
        weight: Matrix, shape (out, in).
        c: Squared radius of the hyperboloid.

    Returns:
        Points, shape (..., out + 1).
    """
    with full_precision(x.device):
        return expmap0(F.linear(logmap0(x, c), weight.to(wide(x).dtype)), c)


def origin(dimensions: int, c: float = 1.0) -> Tensor:
    """The origin (sqrt(c), 0, ..., 0) of the hyperboloid of that many space dimensions."""
    point = torch.zeros(dimensions + 1)
    point[0] = math.sqrt(c)
    return point
