"""t-SNE onto a sphere, the Poincaré disk or the plane, and measures of the quality of a layout.

The affinities of the points are those of t-SNE (van der Maaten & Hinton 2008): Gaussian densities
in the original space, with bandwidths determined by the perplexity. In the layout, Student's
density is applied to the geodesic instead of the Euclidean distance.

The area that a layout requires grows with the number of points N: the radius of the sphere and the
radius of curvature of the disk are proportional to sqrt(N). The computation is exact, O(N^2) in
time and memory, and suitable for several thousand points.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MANIFOLDS = ("sphere", "poincare", "plane")
"""Points on the unit sphere, shape (N, 3); in the unit disk, (N, 2); in the plane, (N, 2)."""

MAX_POINTS = 5_000
"""Maximum number of points of a layout: with more, its matrices require more than 1 GB."""

# Radius divided by sqrt(N). The sphere has the area that plain t-SNE uses for as many points; in
# the disk, points reach a norm of 0.95, and a smaller radius would crowd them at the boundary.
_RADIUS = {"sphere": 1.1, "poincare": 0.6}
_BLOCK = 128  # rows of a matrix of pairs that are computed at once
_SMALL = 1e-3  # half distance below which d / sin d and d / sinh d are 1 in float32
_MAX_NORM = 0.9999  # of a point of the disk, for which 1 - norm is still accurate in float32


@dataclass(frozen=True)
class Layout:
    """Points of a low-dimensional manifold that represent points of the original space.

    Attributes:
        points: Coordinates, float64, shape (N, 3) on the unit sphere, (N, 2) otherwise.
        manifold: One of :data:`MANIFOLDS`.
        radius: Factor of the geodesic distances of the unit manifold.
        divergence: Kullback-Leibler divergence between the affinities of space and layout, in nats.
    """

    points: Tensor
    manifold: str
    radius: float
    divergence: float

    def distances(self) -> Tensor:
        """Geodesic distances on the unit manifold, float32, shape (N, N)."""
        points = self.points.float()
        blocks = [
            _squared_distances(rows, points, self.manifold)[0] for rows in points.split(_BLOCK)
        ]
        return torch.cat(blocks).sqrt_()


def affinities(distances: Tensor, perplexity: float, steps: int = 50) -> Tensor:
    """Affinities of t-SNE, symmetric, summing up to 1.

    Args:
        distances: Distances in the original space, shape (N, N).
        perplexity: Effective number of neighbours of each point.
        steps: Maximum number of bisection steps for the bandwidth of each point.

    Returns:
        Affinities, shape (N, N), with 0 on the diagonal.

    Raises:
        ValueError: If there are too few points for the perplexity.
    """
    count = len(distances)
    if distances.shape != (count, count):
        raise ValueError(f"distances: got shape {tuple(distances.shape)}, expected (N, N)")
    if not 1 <= perplexity <= (count - 1) / 3:
        raise ValueError(
            f"perplexity: got {perplexity:g} for {count} points, expected 1 to a third of the "
            f"others ({(count - 1) / 3:.3g})"
        )
    squared = distances.square().fill_diagonal_(math.inf)
    squared -= squared.amin(1, keepdim=True)  # no effect on the quotient, and no underflow
    finite = squared.clone().fill_diagonal_(0)
    target = math.log(perplexity)
    low, high = squared.new_zeros(count, 1), squared.new_full((count, 1), math.inf)
    precision = 1 / finite.mean(1, keepdim=True).clamp(min=torch.finfo(squared.dtype).tiny)
    for _ in range(steps):
        weights = torch.exp(-precision * squared)
        total = weights.sum(1, keepdim=True)
        entropy = total.log() + precision * (finite * weights).sum(1, keepdim=True) / total
        if ((entropy - target).abs() < 1e-5).all():
            break
        wide = entropy > target
        low, high = torch.where(wide, precision, low), torch.where(wide, high, precision)
        precision = torch.where(high.isinf(), 2 * precision, (low + high) / 2)
    conditional = torch.exp(-precision * squared)
    conditional /= conditional.sum(1, keepdim=True)
    return (conditional + conditional.T) / (2 * count)


def layout(
    vectors: Tensor,
    manifold: str,
    *,
    distances: Tensor | None = None,
    perplexity: float = 30.0,
    steps: int = 1000,
    learning_rate: float = 0.5,
    exaggeration: float = 2.0,
    seed: int = 0,
) -> Layout:
    """Computes a layout of points on a manifold.

    The layout is initialised to the principal components and optimised by Riemannian Adam, with a
    learning rate that decreases in the second half and exaggerated affinities in the first fifth of
    the steps. An exaggeration as strong as in plain t-SNE (12) gives worse layouts of few points.

    Args:
        vectors: Points of the original space, shape (N, D), for the initialisation.
        manifold: One of :data:`MANIFOLDS`.
        distances: Distances of the points, shape (N, N); None computes Euclidean ones.
        perplexity: Effective number of neighbours.
        steps: Number of optimisation steps.
        learning_rate: Step in units of the layout, in which near neighbours are about 1 apart.
        exaggeration: Initial factor of the affinities.
        seed: Seed of the noise of the initialisation, which separates identical points.

    Returns:
        The layout; it is deterministic.

    Raises:
        ValueError: If arguments are invalid.
    """
    if manifold not in MANIFOLDS:
        raise ValueError(f"manifold: got {manifold!r}, expected one of {', '.join(MANIFOLDS)}")
    if vectors.ndim != 2 or not vectors.isfinite().all():
        raise ValueError(
            f"vectors: got shape {tuple(vectors.shape)}, expected a finite matrix (N, D)"
        )
    count = len(vectors)
    if count > MAX_POINTS:
        raise ValueError(f"vectors: got {count}, expected at most {MAX_POINTS}")
    vectors = vectors.detach().double().cpu()
    distances = torch.cdist(vectors, vectors) if distances is None else distances.detach().cpu()
    if distances.shape != (count, count):
        raise ValueError(
            f"distances: got shape {tuple(distances.shape)}, expected ({count}, {count})"
        )
    with _one_thread():
        wanted = affinities(distances.double(), perplexity).float()
    radius = 1.0 if manifold == "plane" else _RADIUS[manifold] * math.sqrt(count)
    geoopt = _geoopt()
    on = {
        "sphere": geoopt.SphereExact,
        "poincare": geoopt.PoincareBall,
        "plane": lambda: geoopt.Euclidean(1),
    }[manifold]()
    points = geoopt.ManifoldParameter(_start(vectors, manifold, seed), manifold=on)
    # float64 coordinates, regularly projected to the manifold, from which they would drift
    optimizer = geoopt.optim.RiemannianAdam(
        [points], lr=learning_rate, betas=(0.9, 0.99), stabilize=10
    )
    with _one_thread():
        for step in range(steps):
            factor = exaggeration if step < steps // 5 else 1.0
            gradient = _gradient(wanted, points.data.float(), manifold, radius, factor)[0]
            points.grad = gradient.double()
            left = (steps - step) / (steps / 2)
            optimizer.param_groups[0]["lr"] = learning_rate / radius * min(1.0, left)
            optimizer.step()
            if manifold == "poincare":
                norm = points.data.norm(dim=1, keepdim=True)
                points.data.mul_((_MAX_NORM / norm).clamp(max=1.0))
        final = on.projx(points.data).detach()
        _, cost, mass = _gradient(wanted, final.float(), manifold, radius)
    # sum of p log(p/q); log q = log w - log(sum w), and p sums up to 1
    divergence = float(torch.xlogy(wanted, wanted).double().sum()) + cost + math.log(mass)
    return Layout(final, manifold, radius, divergence)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limits torch to one thread, which is faster for the small blocks used here.

    With one thread the order of summation is also fixed, so layouts are reproducible.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _geoopt() -> Any:
    """Imports geoopt and suppresses the warnings of its import."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        import geoopt  # noqa: PLC0415 - heavy
    return geoopt


def _start(vectors: Tensor, manifold: str, seed: int) -> Tensor:
    """Returns the principal components with a little noise, on the manifold."""
    centered = vectors - vectors.mean(0)
    width = 3 if manifold == "sphere" else 2
    if centered.shape[1] < width:
        centered = torch.nn.functional.pad(centered, (0, width - centered.shape[1]))
    axes = torch.linalg.eigh(centered.T @ centered).eigenvectors[:, -width:].flip(1)
    # the sign of an axis is arbitrary, so its largest entry is made positive
    sign = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    start = centered @ (axes * sign)
    start /= start[:, 0].std().clamp(min=torch.finfo(start.dtype).tiny)
    generator = torch.Generator().manual_seed(seed)
    start += 1e-2 * torch.randn(start.shape, generator=generator, dtype=start.dtype)
    return torch.nn.functional.normalize(start, dim=1) if manifold == "sphere" else 1e-2 * start


def _squared_distances(
    rows: Tensor, points: Tensor, manifold: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Squared geodesic distances t on the unit manifold between points (n, k) and points (N, k).

    Returns:
        t, D = |x - y|^2 and dt/dD, shape (n, N) each. D is computed from differences, to be
        accurate for near points.
    """
    chord = torch.zeros(len(rows), len(points), dtype=points.dtype)
    for a, b in zip(rows.unbind(1), points.unbind(1), strict=True):
        chord += (a[:, None] - b[None, :]).square_()
    if manifold == "plane":
        return chord, chord, torch.ones(())
    if manifold == "sphere":
        # |x - y| = 2 sin(d/2), dt/dD = d / sin d, which is unbounded towards antipodes
        half = (chord.sqrt() / 2).clamp_(max=1.0)
        distance = 2 * torch.asin(half)
        sine = 2 * half * torch.sqrt(1 - half.square())
        slope = torch.where(half < _SMALL, 1.0, distance / sine.clamp_(min=_SMALL))
        return distance.square(), chord, slope
    # sinh(d/2) = sqrt(D a_x a_y), a = 1/(1 - |x|^2): the arccosh formula without its cancellation
    scale = _conformal(rows)[:, None] * _conformal(points)[None, :]
    half = torch.sqrt(chord * scale)
    root = torch.sqrt(1 + half.square())
    distance = 2 * torch.log(half + root)  # five times as fast as asinh, within 1e-7
    slope = torch.where(half < _SMALL, 1.0, distance / (2 * half * root).clamp_(min=_SMALL))
    return distance.square(), chord, slope.mul_(scale).mul_(4)


def _conformal(points: Tensor) -> Tensor:
    """The factor a = 1/(1 - |x|^2) of points of the disk (N, 2), shape (N,)."""
    return 1 / (1 - points.square().sum(1))


def _gradient(
    wanted: Tensor, points: Tensor, manifold: str, radius: float, exaggeration: float = 1.0
) -> tuple[Tensor, float, float]:
    """Euclidean gradient of the divergence with respect to the coordinates.

    With w = 1/(1 + t) and q = w / sum w it is the sum of (p - q) w dt over all pairs: attraction by
    p w and repulsion by w^2 / sum w, computed in one pass over blocks of rows that fit into a
    processor's cache.

    Returns:
        The gradient (N, k), sum of p log(1/w), and sum of w.
    """
    attraction, repulsion = torch.zeros_like(points), torch.zeros_like(points)
    cost = mass = 0.0
    for start in range(0, len(points), _BLOCK):
        rows = points[start : start + _BLOCK]
        part = wanted[start : start + _BLOCK]
        squared, chord, slope = _squared_distances(rows, points, manifold)
        inverse = squared.mul_(radius**2).add_(1)
        cost += float((part * inverse.log()).sum())
        weights = inverse.reciprocal_()
        weights[:, start : start + len(rows)].fill_diagonal_(0)
        mass += float(weights.sum())
        both = (attraction, slope * weights * part), (repulsion, slope * weights.square_())
        for total, forces in both:
            moved = forces.sum(1, keepdim=True) * rows - forces @ points
            if manifold == "poincare":  # the point's own factor a depends on it, da/dx = 2 a^2 x
                moved += (forces * chord).sum(1, keepdim=True) * _conformal(rows)[:, None] * rows
            total[start : start + _BLOCK] = moved
    return (exaggeration * attraction - repulsion / mass) * (4 * radius**2), cost, mass


def trustworthiness(distances: Tensor, layout_distances: Tensor, k: int = 10) -> float:
    """Measures whether neighbours in a layout are neighbours in the original space.

    Venna & Kaski 2001: 1 if the k nearest neighbours of each point in the layout are also its k
    nearest in the original space; lower according to the original ranks of those that are not.

    Args:
        distances: Distances in the original space, shape (N, N).
        layout_distances: Distances in the layout, shape (N, N).
        k: Number of neighbours, less than half of the points.

    Returns:
        A value from 0 to 1.

    Raises:
        ValueError: If there are too many neighbours.
    """
    count = len(distances)
    if not 1 <= k < count / 2:
        raise ValueError(f"k: got {k}, expected 1 to less than half of {count} points")
    order = distances.clone().fill_diagonal_(-math.inf).argsort(dim=1, stable=True)
    ranks = torch.empty_like(order)
    ranks.scatter_(1, order, torch.arange(count).expand(count, -1))  # 0 is the point itself
    excess = (ranks.gather(1, _neighbours(layout_distances, k)) - k).clamp(min=0).sum()
    return 1 - 2 / (count * k * (2 * count - 3 * k - 1)) * float(excess)


def neighbour_accuracy(distances: Tensor, labels: Tensor, k: int = 10) -> float:
    """Accuracy of predicting the label of each point from its k nearest neighbours.

    Args:
        distances: Distances, shape (N, N).
        labels: Label indices, shape (N,); ties are resolved in favour of the lowest.
        k: Number of neighbours.

    Returns:
        A value from 0 to 1.

    Raises:
        ValueError: If there are too many neighbours.
    """
    if not 1 <= k < len(labels):
        raise ValueError(f"k: got {k}, expected 1 to less than {len(labels)} points")
    near = labels[_neighbours(distances, k)]
    votes = torch.nn.functional.one_hot(near, int(labels.max()) + 1).sum(1)
    return float((votes.argmax(1) == labels).double().mean())


def _neighbours(distances: Tensor, k: int) -> Tensor:
    """Indices of the k nearest neighbours of each point, (N, k)."""
    return distances.clone().fill_diagonal_(math.inf).topk(k, dim=1, largest=False).indices


__all__ = [
    "MANIFOLDS",
    "Layout",
    "affinities",
    "layout",
    "neighbour_accuracy",
    "trustworthiness",
]
