"""Scoring of representations against labels.

Source: HMGRL (arXiv 2603.16259), equation 7; :class:`HMGRLConfig` names the departures from it.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_hmgrl import ZeroShotTypingConfig
from .layers import Fp32Linear, blocks, zeros
from .lorentz import clip_norm, clip_radius, expmap0, orthogonal_radius, pairwise_distance

MAX_LOG_SCALE = math.log(100.0)  # a temperature below 0.01 only amplifies rounding errors
MAX_LOG_RADIUS = 3.0  # radii from 0.05 to 20


class Comparison(nn.Module):
    """Compares vectors of samples and of labels as ``config.score_function`` says.

    Distances are those of points whose direction is that of the vector and whose radius is learnt:
    its logarithm is a linear function of the direction, initialised to the constant at which points
    in orthogonal directions are at distance 1. Scores are therefore initially those of cosines, up
    to a constant ("euclidean") or nearly ("geodesic"). With the vector's own length as radius, the
    label of the smallest length would be the closest to every sample.

    Args:
        config: Configuration of the model.
        width: Width of the vectors, all parts of a label together.
    """

    def __init__(self, config: ZeroShotTypingConfig, width: int) -> None:
        super().__init__()
        self.kind, self.temperature_init = config.score_function, config.temperature_init
        self.parts = config.num_label_parts
        self.log_scale = None if self.kind == "dot" else nn.Parameter(torch.empty(1))
        self.log_radius: Fp32Linear | None = None
        if self.kind in ("geodesic", "euclidean"):
            hyperbolic = self.kind == "geodesic"
            radius = orthogonal_radius(config.squared_radius) if hyperbolic else 0.5**0.5
            self.log_radius = Fp32Linear(width, 1, init_weight=zeros, init_bias=math.log(radius))

    def init_parameters(self) -> None:
        """Initialises the scale to the inverse of the temperature."""
        if self.log_scale is not None:
            init.constant_(self.log_scale, -math.log(self.temperature_init))

    @property
    def scale(self) -> Any:
        """Factor of the similarity or negative squared distance; 1 for dot products."""
        return 1.0 if self.log_scale is None else self.log_scale.clamp(max=MAX_LOG_SCALE).exp()

    def to_score_space(self, x: Tensor, c: float | Tensor) -> Tensor:
        """Maps projected samples or labels to the space in which they are compared.

        Args:
            x: Vectors, shape (..., d_p).
            c: Squared radius of the hyperboloid, for geodesic scores.

        Returns:
            ``x`` for dot products; vectors of length 1 for cosine scores, to which all parts of a
            label contribute equally; the same vectors times a learnt radius for Euclidean scores;
            their points of the hyperboloid, (..., d_p + 1), for geodesic scores.
        """
        if self.kind == "dot":
            return x
        parts = x.unflatten(-1, (self.parts, x.shape[-1] // self.parts))
        direction = F.normalize(parts, dim=-1).flatten(-2) / self.parts**0.5
        if self.log_radius is None:
            return direction
        log_radius = self.log_radius(direction).clamp(-MAX_LOG_RADIUS, MAX_LOG_RADIUS)
        u = log_radius.exp() * direction
        return expmap0(clip_norm(u, clip_radius(c)), c) if self.kind == "geodesic" else u

    def compare(self, q: Tensor, p: Tensor, c: float | Tensor) -> Tensor:
        """Scores samples (..., d_p) against labels (K, d_p), both from :meth:`to_score_space`.

        Returns:
            Scores, shape (..., K).
        """
        if self.kind in ("dot", "cosine"):
            return self.scale * (q @ p.T)
        if self.kind == "euclidean":
            lengths = q.square().sum(-1, keepdim=True) + p.square().sum(-1)
            return -self.scale * (lengths - 2 * q @ p.T)
        squared = pairwise_distance(q.reshape(-1, q.shape[-1]), p, c).square()
        return -self.scale * squared.reshape(*q.shape[:-1], p.shape[0])

    def compare_pairs(self, q: Tensor, p: Tensor, c: float | Tensor) -> Tensor:
        """Scores vectors that depend on sample and label, (B, K, d_p), against labels (K, d_p).

        Returns:
            Scores, shape (B, K).
        """
        if self.kind in ("dot", "cosine"):
            return self.scale * (q * p).sum(-1)
        if self.kind == "euclidean":
            return -self.scale * (q - p).square().sum(-1)
        pairs = [self.compare(q[:, k], p[k : k + 1], c) for k in range(len(p))]
        return torch.cat(pairs, dim=1)


def _linear(config: ZeroShotTypingConfig, width: int, size: int, factors: list[float]) -> nn.Linear:
    """A linear layer over blocks, initialised as ``config.projection_init`` says."""
    if config.projection_init == "similarity":
        return Fp32Linear(width * len(factors), size, init_weight=blocks(width, factors))
    return Fp32Linear(len(factors) * width, size)


class PartProjection(nn.Module):
    """Projects head, tail and context of a relation separately.

    Head and tail, which are both entities, share one projection; the context has another. What is
    learnt about the type of an entity in one relation then transfers to all others. A joint
    projection of the three fits seen relations better and unseen relations far worse.

    Args:
        config: Configuration of the model.
        size: Width of each projected part.
        first: Index of the block of the input that holds the head; the tail follows.
        factors: Initial weights in the context of the last blocks of the input, one for each block
            that the context uses.
    """

    def __init__(
        self, config: ZeroShotTypingConfig, size: int, first: int, factors: list[float]
    ) -> None:
        super().__init__()
        width = config.text_width
        self.mentions = slice(first * width, (first + 2) * width)
        self.read = slice(-len(factors) * width, None)
        self.entity = _linear(config, width, size, [1.0])
        self.context = _linear(config, width, size, factors)

    def forward(self, x: Tensor) -> Tensor:
        """Projects blocks side by side, (..., blocks d), to [head; tail; context], (..., 3 d_p)."""
        head, tail = x[..., self.mentions].chunk(2, dim=-1)
        context = self.context(x[..., self.read])
        return torch.cat([self.entity(head), self.entity(tail), context], dim=-1)


def make_projection(config: ZeroShotTypingConfig, size: int) -> nn.Module:
    """Returns the projection of representations (..., D) to (..., d_p), by parts if labels are."""
    if config.label_parts:
        return PartProjection(config, size, config.first_mention, config.block_factors)
    return _linear(config, config.text_width, size, config.block_factors)


class LabelScorer(Comparison):
    """Scores representations against label encodings: q = W1 H, p = W2 l (eq. 7).

    Args:
        config: Configuration of the model.
    """

    def __init__(self, config: ZeroShotTypingConfig) -> None:
        width = config.text_width
        size = config.projection_size or width
        super().__init__(config, config.num_label_parts * size)
        self.dropout = nn.Dropout(config.dropout)
        self.sample_projection = make_projection(config, size)
        self.label_projection: nn.Module
        if config.label_parts:
            self.label_projection = PartProjection(config, size, 0, [1.0])
        else:
            self.label_projection = _linear(config, width, size, [1.0])

    def project_samples(self, h: Tensor) -> Tensor:
        """Projects representations, (..., D) to (..., d_p)."""
        return self.sample_projection(self.dropout(h))

    def project_labels(self, labels: Tensor) -> Tensor:
        """Projects label encodings, (K, d) to (K, d_p)."""
        return self.label_projection(self.dropout(labels))

    def score(self, q: Tensor, p: Tensor, c: float | Tensor) -> Tensor:
        """Scores projected samples (..., d_p) against projected labels (K, d_p).

        Args:
            q: Projected samples.
            p: Projected labels.
            c: Squared radius of the hyperboloid, for geodesic scores.

        Returns:
            Scores, shape (..., K).
        """
        return self.compare(self.to_score_space(q, c), self.to_score_space(p, c), c)
