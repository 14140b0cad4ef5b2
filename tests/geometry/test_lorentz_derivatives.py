"""Derivatives of the geometry, against numerical ones."""

import pytest
import torch
from exact_lorentz import directions, row_error, squared_radii

from modeling_hmgrl import lorentz


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
