"""Vectors of samples in the space in which the model compares them with labels.

There, unit vectors are compared by their cosine, points of the hyperboloid by their geodesic
distance, other vectors by their dot product, as ``config.score_function`` says.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import lorentz
from ..entity_markers import MarkedText, Span
from ..pipeline_hmgrl import LOOKAHEAD, batching_order
from ..pipeline_inputs import Query


def sample_vectors(
    pipe: Any, records: Iterable[Any], batch_size: int = 32
) -> Iterator[tuple[Any, list[Span], Tensor]]:
    """Vectors of samples, where the model compares them with labels.

    Args:
        pipe: A :class:`ZeroShotTypingPipeline`.
        records: Inputs of the pipeline, or training records.
        batch_size: Samples encoded at once.

    Yields:
        Each record in order, its mentions in characters, and its vector, shape (d_p,), float32, on
        the CPU.

    Raises:
        TypeError: If the model is an exported one.
        ValueError: If it is of another method; or naming the record, the field and what was
            expected.
    """
    call, at, stream = pipe.parse_call({"on_error": "raise"}), 0, iter(records)
    while part := list(islice(stream, LOOKAHEAD * batch_size)):
        queries: list[Query] = [
            pipe.prepare(call, (record, f"records[{at + row}]")) for row, record in enumerate(part)
        ]
        marked = pipe.processor.mark([q.text for q in queries], [q.spans for q in queries])
        order = batching_order(queries, [len(sample.ids) for sample in marked])
        found: list[Tensor] = []
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            found.append(batch_vectors(pipe, [queries[r] for r in rows], [marked[r] for r in rows]))
        vectors = torch.cat(found)[torch.tensor(order).argsort()]
        for record, query, vector in zip(part, queries, vectors, strict=True):
            yield record, query.spans, vector
        at += len(part)


@torch.inference_mode()
def batch_vectors(pipe: Any, queries: list[Query], marked: list[MarkedText]) -> Tensor:
    """Vectors of one batch, (B, d_p)."""
    if not hasattr(pipe.model, "scorer"):
        raise TypeError(f"pipe: got {type(pipe.model).__name__}, expected a model of torch")
    if (kind := pipe.model.config.model_type) != "hmgrl":
        raise ValueError(
            f"pipe: got a model of the method {kind!r}, expected 'hmgrl': samples and prototypes "
            "of other methods are not vectors of one space"
        )
    return place(pipe.model, pipe.encode(queries, marked).representation)


def place(model: Any, representations: Tensor) -> Tensor:
    """Puts representations (..., D) where the model compares them with labels, (..., d_p)."""
    with lorentz.full_precision(representations.device):
        projected = model.scorer.project_samples(lorentz.wide(representations))
        return model.scorer.place(projected, model.hmgrl.curvature()).float().cpu()


def squared_radius(model: Any) -> float:
    """Squared radius of the model's hyperboloid as a number; it may be learnt."""
    return float(torch.as_tensor(model.hmgrl.curvature()).detach())


def similarity(model: Any, a: Tensor, b: Tensor) -> Tensor:
    """Similarity of placed vectors, before the scale of the scores.

    Args:
        model: The model, whose ``config.score_function`` says what is compared.
        a: Shape (N, d_p).
        b: Shape (M, d_p).

    Returns:
        Cosine, dot product or minus the geodesic distance, shape (N, M).
    """
    if model.config.score_function == "geodesic":
        return -lorentz.pairwise_distance(a, b, squared_radius(model))
    return a @ b.T


def center(model: Any, mean: Tensor) -> Tensor:
    """Puts means of placed vectors, shape (K, d_p), back where such vectors lie.

    On the hyperboloid that is the centroid of least squared Lorentz distance, the mean scaled to
    the hyperboloid (Law et al. 2019, "Lorentzian Distance Learning", theorem 3.3).
    """
    if model.config.score_function == "cosine":
        return F.normalize(mean, dim=-1)
    if model.config.score_function == "geodesic":
        c = squared_radius(model)
        inside = (-lorentz.inner(mean, mean)).clamp(min=torch.finfo(mean.dtype).tiny)
        # time follows from space, so that rounding leaves the point on the hyperboloid
        return lorentz.with_time(mean[..., 1:] * (c / inside).sqrt().unsqueeze(-1), c)
    return mean


__all__ = [
    "batch_vectors",
    "center",
    "place",
    "sample_vectors",
    "similarity",
    "squared_radius",
]
