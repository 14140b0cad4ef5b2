"""Linear layers that start at given values instead of random ones.

transformers passes over modules without parameters of their own when it initialises a model that is
not part of it, so a start has to be the business of the layer that holds the weights.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import initialization as init


class ConstantLinear(nn.Linear):
    """A linear layer that starts with zero weights and a constant bias.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        start: Value of the bias at the start.
    """

    def __init__(self, in_features: int, out_features: int, start: float = 0.0) -> None:
        self.start = start
        super().__init__(in_features, out_features)

    def reset_parameters(self) -> None:
        """Sets the start."""
        init.zeros_(self.weight)
        init.constant_(self.bias, self.start)


class BlockLinear(nn.Linear):
    """A linear layer that starts as a weighted sum of its input's blocks under one projection P.

    P is the identity (followed by zeros) where ``size >= width``, else a fixed random orthogonal
    projection, the same for all such layers of these sizes.

    Args:
        width: Width of a block.
        size: Width of the output.
        factors: Factor of each block; the input has ``len(factors) * width`` coordinates.
    """

    def __init__(self, width: int, size: int, factors: Sequence[float]) -> None:
        self.width, self.factors = width, tuple(factors)
        super().__init__(width * len(self.factors), size)

    def reset_parameters(self) -> None:
        """Sets the start."""
        size = self.out_features
        if size >= self.width:
            projection = torch.eye(size, self.width, device=self.weight.device)
        else:
            # dtype and device named: loading changes the defaults, and bfloat16 has no QR
            gaussian = torch.randn(
                self.width,
                size,
                generator=torch.Generator().manual_seed(0),
                device="cpu",
                dtype=torch.float32,
            )
            projection = torch.linalg.qr(gaussian).Q.T.to(self.weight.device)
        init.copy_(self.weight, torch.cat([f * projection for f in self.factors], dim=1))
        init.zeros_(self.bias)
