"""Test points of the hyperboloid, and its maps and distance in exact arithmetic."""

import math

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
