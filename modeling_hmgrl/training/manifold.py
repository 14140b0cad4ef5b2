"""What is learnt on the hyperboloid: parameters that geoopt's optimizer keeps there."""

from typing import Any

import torch
from torch import Tensor, nn

from ..lorentz import expmap0, logmap0, project, wide


def wrap_manifold_parameters(module: nn.Module) -> int:
    """Makes geoopt manifold parameters of those that live on the hyperboloid.

    Loading a checkpoint leaves plain parameters, with which a Riemannian optimizer would drift off
    the manifold without an error; call this once before building the optimizer. Points that a
    flat optimizer moved off the manifold before are projected to it.

    Args:
        module: Model whose submodules declare ``manifold_parameter_names`` and a fixed ``c``.

    Returns:
        The number of parameters that live on the manifold.
    """
    found = 0
    part: Any
    for part in module.modules():
        for name in getattr(part, "manifold_parameter_names", ()):
            parameter = getattr(part, name)
            if parameter is None:
                continue
            found += 1
            import geoopt  # noqa: PLC0415 - heavy, and needed by this option alone

            if not isinstance(parameter, geoopt.ManifoldParameter):
                manifold = geoopt.Lorentz(k=parameter.new_tensor(part.c))
                wrapped = geoopt.ManifoldParameter(
                    on_manifold(parameter.data, part.c),
                    manifold=manifold,
                    requires_grad=parameter.requires_grad,
                )
                setattr(part, name, wrapped)
    return found


def on_manifold(x: Tensor, c: float) -> Tensor:
    """Projects ``x`` (..., D + 1) to the hyperboloid unless it lies there up to rounding."""
    projected = project(x, c).to(x.dtype)
    return x if torch.allclose(projected, x, rtol=1e-5, atol=0) else projected


def to_average(weight: Any) -> Tensor:
    """What of a weight may be averaged: the weight itself, or a point's tangent vector.

    A mean of coordinates of points lies inside the hyperboloid, not on it; that of their
    logarithms at the origin is the logarithm of a point.

    Args:
        weight: A parameter, of geoopt if it is a point of the hyperboloid, shape (..., D + 1).

    Returns:
        The weight, or space parts of tangent vectors at the origin, shape (..., D).
    """
    if not is_point(weight):
        return weight
    return logmap0(wide(weight.detach()), float(weight.manifold.k)).to(weight.dtype)


def from_average(average: Tensor, weight: Any) -> Tensor:
    """The inverse of :func:`to_average`: a value for ``weight``."""
    if not is_point(weight):
        return average
    return expmap0(wide(average), float(weight.manifold.k)).to(average.dtype)


def is_point(weight: Any) -> bool:
    """Whether a parameter is a point of the hyperboloid, wrapped as a parameter of geoopt."""
    return getattr(weight, "manifold", None) is not None
