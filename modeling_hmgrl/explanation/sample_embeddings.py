"""Sample embeddings in the space in which the model compares samples with labels.

According to ``config.score_function``, they are unit vectors compared by cosine, points of the
hyperboloid compared by geodesic distance, or vectors compared by distance or dot product.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import lorentz
from ..entity_markers import MarkedText, Span
from ..pipeline_hmgrl import LOOKAHEAD
from ..pipeline_inputs import Query, batching_order


def sample_vectors(
    pipe: Any, records: Iterable[Any], batch_size: int = 32
) -> Iterator[tuple[Any, list[Span], Tensor]]:
    """Computes the embeddings of samples.

    Args:
        pipe: A :class:`ZeroShotTypingPipeline`.
        records: Inputs of the pipeline, or training records.
        batch_size: Number of samples encoded at once.

    Yields:
        Each record in order, the character offsets of its mentions, and its embedding, shape
        (d_p,), float32, on the CPU.

    Raises:
        TypeError: If the model is an exported one.
        ValueError: If the model is of another method, or a record is invalid.
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
    """Computes the embeddings of one batch, (B, d_p)."""
    check_method(pipe)
    return to_score_space(pipe.model, pipe.encode(queries, marked).representation)


def check_method(pipe: Any) -> None:
    """Checks that samples and labels of the model are vectors of one space.

    Raises:
        TypeError: If the model is an exported one.
        ValueError: If the model is of another method.
    """
    if not hasattr(pipe.model, "scorer"):
        raise TypeError(f"pipe: got {type(pipe.model).__name__}, expected a model of torch")
    if (kind := pipe.model.config.model_type) != "hmgrl":
        raise ValueError(
            f"pipe: got a model of the method {kind!r}, expected 'hmgrl': samples and prototypes "
            "of other methods are not vectors of one space"
        )


def to_score_space(model: Any, representations: Tensor) -> Tensor:
    """Maps representations (..., D) to the space of the scores, (..., d_p)."""
    with lorentz.full_precision(representations.device):
        projected = model.scorer.project_samples(lorentz.wide(representations))
        return model.scorer.to_score_space(projected, model.hmgrl.curvature()).float().cpu()


def squared_radius(model: Any) -> float:
    """Squared radius of the model's hyperboloid, which may be a parameter, as a number."""
    return float(torch.as_tensor(model.hmgrl.curvature()).detach())


def similarity(model: Any, a: Tensor, b: Tensor) -> Tensor:
    """Computes similarities in the space of the scores, without their scale.

    Args:
        model: The model, whose ``config.score_function`` determines the similarity.
        a: Shape (N, d_p).
        b: Shape (M, d_p).

    Returns:
        Cosine, dot product or negative distance, shape (N, M).
    """
    if model.config.score_function == "euclidean":
        return -torch.cdist(a, b)
    if model.config.score_function == "geodesic":
        return -lorentz.pairwise_distance(a, b, squared_radius(model))
    return a @ b.T


def centroid(model: Any, mean: Tensor) -> Tensor:
    """Computes centroids in the space of the scores from arithmetic means, both (K, d_p).

    On the hyperboloid, the centroid minimises the squared Lorentz distances and is the mean scaled
    to the hyperboloid (Law et al. 2019, "Lorentzian Distance Learning", theorem 3.3).
    """
    if model.config.score_function == "cosine":
        return F.normalize(mean, dim=-1)
    if model.config.score_function == "geodesic":
        c = squared_radius(model)
        inside = (-lorentz.inner(mean, mean)).clamp(min=torch.finfo(mean.dtype).tiny)
        # The time coordinate is computed from the space part, so that rounding does not move the
        # point off the hyperboloid.
        return lorentz.with_time(mean[..., 1:] * (c / inside).sqrt().unsqueeze(-1), c)
    return mean


__all__ = [
    "batch_vectors",
    "centroid",
    "check_method",
    "sample_vectors",
    "similarity",
    "squared_radius",
    "to_score_space",
]
