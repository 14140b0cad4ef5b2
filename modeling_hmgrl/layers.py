"""Linear layers: the float32 one of all heads, and those on the Lorentz model.

:func:`make_linear` makes the paper's layer, the fully hyperbolic one or the Euclidean one. All
three map tangent vectors at the origin to tangent vectors at the origin and are called with the
squared radius ``c`` of the hyperboloid, so that each can replace another.
"""

import math
from collections.abc import Callable, Sequence

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
    project,
    translate,
    wide,
    with_time,
)


def fp32_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Matrix product in float32 at least, whatever the autocast and the parameters' dtype."""
    x = wide(x)
    x = x.to(torch.promote_types(x.dtype, weight.dtype))  # float64 weights keep float64
    with full_precision(x.device):
        return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


class Fp32Linear(nn.Linear):
    """A linear layer that computes in float32 at least, whatever dtype the model is cast to.

    Every head of this package uses it, so that ``model.half()``, ``model.bfloat16()`` and sharding
    with a bfloat16 policy leave the geometry and the losses in full precision.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        bias: Whether to add a bias.
        init_weight: Function that fills the weight, as of :func:`zeros` or :func:`blocks`;
            Xavier-uniform if None.
        init_bias: Value to which the bias is initialised.

    Models of transformers initialise the layer by :meth:`init_parameters`. Outside of a model, a
    layer without ``init_weight`` has the initialisation of ``torch.nn.Linear`` until then.

    Example:
        >>> import torch
        >>> layer = Fp32Linear(4, 2, init_weight=zeros, init_bias=0.5).half()
        >>> layer(torch.ones(3, 4, dtype=torch.float16)).dtype
        torch.float32
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        init_weight: Callable[[Tensor], object] | None = None,
        init_bias: float = 0.0,
    ) -> None:
        self.init_weight, self.init_bias = init_weight, init_bias
        super().__init__(in_features, out_features, bias)

    def reset_parameters(self) -> None:
        """Called by torch when the layer is built outside of a model of transformers."""
        if self.init_weight is None:
            super().reset_parameters()
        else:
            self.init_parameters()

    def init_parameters(self) -> None:
        """Initialises weight and bias; parameters loaded from a checkpoint are left alone."""
        (self.init_weight or init.xavier_uniform_)(self.weight)
        if self.bias is not None:
            init.constant_(self.bias, self.init_bias)

    def forward(self, input: Tensor) -> Tensor:
        """Maps (..., in_features) to (..., out_features), in float32 at least."""
        return fp32_linear(input, self.weight, self.bias)


def zeros(weight: Tensor) -> None:
    """Fills a weight with zeros, so that the layer initially returns its bias."""
    init.zeros_(weight)


def blocks(width: int, factors: Sequence[float]) -> Callable[[Tensor], None]:
    """Returns a function that initialises a weight to a weighted sum of its input's blocks.

    All blocks share one projection P: the identity (followed by zeros) where the output is at
    least as wide as a block, else a fixed random orthogonal projection, the same for all layers of
    these sizes.

    Args:
        width: Width of a block.
        factors: Factor of each block; the input has ``len(factors) * width`` coordinates.
    """

    def fill(weight: Tensor) -> None:
        size = weight.shape[0]
        if size >= width:
            projection = torch.eye(size, width, device=weight.device)
        else:
            # explicit dtype and device: loading changes the defaults, and bfloat16 has no QR
            gaussian = torch.randn(
                width,
                size,
                generator=torch.Generator().manual_seed(0),
                device="cpu",
                dtype=torch.float32,
            )
            projection = torch.linalg.qr(gaussian).Q.T.to(weight.device)
        init.copy_(weight, torch.cat([factor * projection for factor in factors], dim=1))

    return fill


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
        self.init_parameters()

    def init_parameters(self) -> None:
        """Initialises the matrix He-uniform, by its fan-in, and the bias to zero."""
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
        v = fp32_linear(clip_norm(wide(u), radius), self.weight, self.bias)
        return F.pad(clip_norm(v, radius), (1, 0))

    def extra_repr(self) -> str:
        """Describes the layer when the model is printed."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class FullyLorentzLinear(nn.Module):
    r"""Fully hyperbolic linear layer: acts on all coordinates, time included.

    The space part of the result is ``W x``, its time part is recomputed as
    ``sqrt(|W x|^2 + c)``, so that boosts as well as rotations are learnt and the layer does not
    fold into a linear one (after Chen et al., Fully Hyperbolic Neural Networks, ACL 2022). A bias
    is a translation by a learnt point of the hyperboloid. The point is projected to the hyperboloid
    wherever it is used, so that the point used stays there under any optimizer; the stored time
    coordinate may not. :class:`HMGRLTrainer` trains it with a Riemannian optimizer of geoopt.

    Args:
        in_features: Space dimensions of the input points.
        out_features: Space dimensions of the output points.
        translation: Whether to learn a translation.
        c: Squared radius of the hyperboloid on which the translation lies; it is initialised to the
            origin.
    """

    manifold_parameter_names = ("translation",)

    def __init__(
        self, in_features: int, out_features: int, translation: bool = False, c: float = 1.0
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.c = in_features, out_features, c
        self.weight = nn.Parameter(torch.empty(out_features, in_features + 1))
        self.translation = nn.Parameter(torch.empty(out_features + 1)) if translation else None
        self.init_parameters()

    def init_parameters(self) -> None:
        """Initialises the matrix He-uniform and the translation to the origin."""
        init.kaiming_uniform_(self.weight, nonlinearity="relu")
        if self.translation is not None:
            init.copy_(self.translation, origin(self.out_features, self.c))

    def forward(self, x: Tensor, c: float | Tensor = 1.0) -> Tensor:
        """Maps points (..., in_features + 1) to points (..., out_features + 1)."""
        y = with_time(fp32_linear(x, self.weight, None), c)
        if self.translation is None:
            return y
        return translate(y, project(self.translation.to(y.dtype), self.c), c)

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


class EuclideanLinear(Fp32Linear):
    """A :class:`Fp32Linear` with the signature of LorentzLinear, for comparison."""

    def forward(self, input: Tensor, c: float | Tensor = 1.0) -> Tensor:  # noqa: ARG002
        """Maps (..., in_features) to (..., out_features), in float32 at least."""
        return super().forward(input)


def make_linear(
    kind: str, in_features: int, out_features: int, *, translation: bool = False, c: float = 1.0
) -> LorentzLinear | TangentFullyLorentzLinear | EuclideanLinear:
    """Returns a new linear layer of a kind: "lorentz", "fully_lorentz" or "euclidean".

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
        c: Value, or value to which the learnt one is initialised.
        learnable: Whether to learn it.
        bounds: Bounds to which the learnt value is clamped.
    """

    def __init__(
        self, c: float = 1.0, learnable: bool = False, bounds: tuple[float, float] = (0.1, 10.0)
    ) -> None:
        super().__init__()
        self.c, self.bounds = float(c), bounds
        # shape (1,): engines that shard weights do not support scalars
        self.log_c = nn.Parameter(torch.empty(1)) if learnable else None
        self.init_parameters()

    def init_parameters(self) -> None:
        """Initialises the learnt value to ``c``."""
        if self.log_c is not None:
            init.constant_(self.log_c, math.log(self.c))

    def forward(self) -> float | Tensor:
        """Returns c: a float if constant, a scalar tensor if learnt."""
        if self.log_c is None:
            return self.c
        low, high = self.bounds
        return self.log_c.float().clamp(math.log(low), math.log(high)).exp().squeeze(0)
