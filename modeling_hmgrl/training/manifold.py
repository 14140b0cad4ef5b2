"""Parameters on the hyperboloid, which geoopt's optimizer keeps there."""

from typing import Any

import torch
from torch import Tensor, nn

from ..lorentz import expmap0, logmap0, project, wide


def wrap_manifold_parameters(module: nn.Module) -> int:
    """Replaces parameters on the hyperboloid by geoopt manifold parameters.

    Loading a checkpoint creates plain parameters, which a Riemannian optimizer would move off the
    manifold without an error; call this function once before creating the optimizer. Points that a
    Euclidean optimizer has moved off the manifold are projected to it.

    Args:
        module: Model whose submodules declare ``manifold_parameter_names`` and a fixed ``c``.

    Returns:
        The number of parameters on the manifold.
    """
    found = 0
    part: Any
    for part in module.modules():
        for name in getattr(part, "manifold_parameter_names", ()):
            parameter = getattr(part, name)
            if parameter is None:
                continue
            found += 1
            import geoopt  # noqa: PLC0415 - slow to import and rarely used

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
    """Maps a weight to a vector space, in which it can be averaged.

    The mean of points of the hyperboloid does not lie on it, but the mean of their logarithms at
    the origin is the logarithm of a point.

    Args:
        weight: A parameter; a geoopt parameter if it holds points, shape (..., D + 1).

    Returns:
        The weight itself, or the space parts of tangent vectors at the origin, shape (..., D), in
        float32 at least: a narrow average would round away the small steps towards a weight.
    """
    if not is_point(weight):
        return wide(weight)
    return logmap0(wide(weight.detach()), float(weight.manifold.k))


def from_average(average: Tensor, weight: Any) -> Tensor:
    """Maps an average to a value of ``weight``, the inverse of :func:`to_average`."""
    if not is_point(weight):
        return average
    return expmap0(average, float(weight.manifold.k))


def is_point(weight: Any) -> bool:
    """Whether a parameter is a geoopt parameter on the hyperboloid."""
    return getattr(weight, "manifold", None) is not None
