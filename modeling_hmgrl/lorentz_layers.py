"""Linear layers on the Lorentz model: the paper's, the fully hyperbolic one, and the Euclidean one.

All three map tangent vectors at the origin to tangent vectors at the origin and are called with the
squared radius ``c`` of the hyperboloid, so that one can stand in another's place.
"""

import math
from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .lorentz import (
    clip_norm,
    clip_radius,
    expmap0,
    full_precision,
    logmap0,
    origin,
    translate,
    wide,
    with_time,
)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Matrix product in float32 at least, whatever the autocast and the parameters' dtype."""
    with full_precision(x.device):
        return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


class LorentzLinear(nn.Module):
    r"""The paper's Lorentz linear layer, in its closed form.

    ``LLL(u) = log_o(exp_o((0, W log_o(exp_o((0, u)))_s + b)))``, where the original clips the space
    part of every point at norm 1000. As exp and log undo each other, that is

        LLL(u) = (0, clip_R(W clip_R(u) + b)),   R = sqrt(c) asinh(1000/sqrt(c))

    a linear layer between two radial saturations, which is what is computed here: exactly, in one
    matrix product, finite for every finite input. The first coordinate of the output is the
    constant 0 and counts among ``out_features``, as in the original.

    Args:
        in_features: Width of the input.
        out_features: Width of the output, the constant coordinate included.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features - 1, in_features))
        self.bias = nn.Parameter(torch.empty(out_features - 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He-uniform with the fan-in of the matrix; zero bias."""
        init.kaiming_uniform_(self.weight, nonlinearity="relu")
        init.zeros_(self.bias)

    def forward(self, u: Tensor, c: float | Tensor = 1.0) -> Tensor:
        """Maps tangent vectors (..., in_features) to tangent vectors (..., out_features).

        Args:
            u: Tangent vectors at the origin, shape (..., in_features).
            c: Squared radius of the hyperboloid.

        Returns:
            float32 (float64 for float64 input) tensor, shape (..., out_features).
        """
        radius = clip_radius(c)
        v = _linear(clip_norm(wide(u), radius), self.weight, self.bias)
        return F.pad(clip_norm(v, radius), (1, 0))

    def extra_repr(self) -> str:
        """Describes the layer when the model is printed."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class FullyLorentzLinear(nn.Module):
    r"""Fully hyperbolic linear layer: acts on all coordinates, time included.

    The space part of the result is ``W x``, its time part is recomputed as
    ``sqrt(|W x|^2 + c)``, so that boosts as well as rotations are learnt and the layer does not
    fold into a linear one (after Chen et al., Fully Hyperbolic Neural Networks, ACL 2022). A bias
    is a translation by a learnt point of the hyperboloid; see :func:`wrap_manifold_parameters`.

    Args:
        in_features: Space dimensions of the input points.
        out_features: Space dimensions of the output points.
        translation: Whether to learn a translation.
        c: Squared radius, needed for the translation's start at the origin.
    """

    manifold_parameter_names = ("translation",)

    def __init__(
        self, in_features: int, out_features: int, translation: bool = False, c: float = 1.0
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.c = in_features, out_features, c
        self.weight = nn.Parameter(torch.empty(out_features, in_features + 1))
        self.translation = nn.Parameter(torch.empty(out_features + 1)) if translation else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He-uniform matrix; translation at the origin."""
        init.kaiming_uniform_(self.weight, nonlinearity="relu")
        if self.translation is not None:
            init.copy_(self.translation, origin(self.out_features, self.c))

    def forward(self, x: Tensor, c: float | Tensor = 1.0) -> Tensor:
        """Maps points (..., in_features + 1) to points (..., out_features + 1)."""
        y = with_time(_linear(wide(x), self.weight, None), c)
        return y if self.translation is None else translate(y, self.translation.to(y.dtype), c)

    def extra_repr(self) -> str:
        """Describes the layer when the model is printed."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"translation={self.translation is not None}"
        )


class TangentFullyLorentzLinear(FullyLorentzLinear):
    """A :class:`FullyLorentzLinear` between tangent vectors, interchangeable with LorentzLinear."""

    def forward(self, x: Tensor, c: float | Tensor = 1.0) -> Tensor:
        """Maps tangent vectors (..., in_features) to tangent vectors (..., out_features)."""
        radius = clip_radius(c)
        point = super().forward(expmap0(clip_norm(wide(x), radius), c), c)
        return clip_norm(logmap0(point, c), radius)


class EuclideanLinear(nn.Linear):
    """An ordinary linear layer with the signature of LorentzLinear, for comparison."""

    def forward(self, x: Tensor, c: float | Tensor = 1.0) -> Tensor:  # noqa: ARG002
        """Maps (..., in_features) to (..., out_features), in float32 at least."""
        return _linear(wide(x), self.weight, self.bias)


def make_linear(
    kind: str, in_features: int, out_features: int, *, translation: bool = False, c: float = 1.0
) -> LorentzLinear | TangentFullyLorentzLinear | EuclideanLinear:
    """Makes the linear layer named ``kind``: "lorentz", "fully_lorentz" or "euclidean".

    Raises:
        ValueError: If ``kind`` is none of these.
    """
    if kind == "lorentz":
        return LorentzLinear(in_features, out_features)
    if kind == "fully_lorentz":
        return TangentFullyLorentzLinear(in_features, out_features, translation, c)
    if kind == "euclidean":
        return EuclideanLinear(in_features, out_features)
    raise ValueError(
        f"kind of linear layer: got {kind!r}, expected lorentz, fully_lorentz, euclidean"
    )


class Curvature(nn.Module):
    """The squared radius c of the hyperboloid: a constant, or one learnt log-parameter.

    Args:
        c: Value, or value at the start.
        learnable: Whether to learn it.
        bounds: Clamp of the learnt value.
    """

    def __init__(
        self, c: float = 1.0, learnable: bool = False, bounds: tuple[float, float] = (0.1, 10.0)
    ) -> None:
        super().__init__()
        self.c, self.bounds = float(c), bounds
        # one element, not none: engines that shard weights take no scalars
        self.log_c = nn.Parameter(torch.empty(1)) if learnable else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts the learnt value at ``c``."""
        if self.log_c is not None:
            init.constant_(self.log_c, math.log(self.c))

    def forward(self) -> float | Tensor:
        """Returns c: a float if constant, a scalar tensor if learnt."""
        if self.log_c is None:
            return self.c
        low, high = self.bounds
        return self.log_c.float().clamp(math.log(low), math.log(high)).exp().squeeze(0)


def wrap_manifold_parameters(module: nn.Module) -> int:
    """Makes geoopt manifold parameters of those that live on the hyperboloid.

    Loading a checkpoint leaves plain parameters, with which a Riemannian optimizer would drift off
    the manifold without an error; call this once before building the optimizer.

    Args:
        module: Model whose submodules declare ``manifold_parameter_names`` and a fixed ``c``.

    Returns:
        The number of parameters that live on the manifold.
    """
    found = 0
    for part in module.modules():
        for name in getattr(part, "manifold_parameter_names", ()):
            parameter = getattr(part, name)
            if parameter is None:
                continue
            found += 1
            # Heavy, and needed by this option alone; a statement in its place would make
            # transformers refuse this file, as part of a checkpoint, where geoopt is absent.
            geoopt = import_module("geoopt")
            if not isinstance(parameter, geoopt.ManifoldParameter):
                manifold = geoopt.Lorentz(k=parameter.new_tensor(part.c))
                wrapped = geoopt.ManifoldParameter(
                    parameter.data, manifold=manifold, requires_grad=parameter.requires_grad
                )
                setattr(part, name, wrapped)
    return found
