"""From scores to the best labels, over any number of labels in bounded memory."""

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor

from .entity_markers import Span

LABEL_CHUNK = 16_384
"""Labels scored at once."""


class Prediction(TypedDict):
    """What was predicted for one input.

    Attributes:
        label: Name of the best label.
        labels: Names of the best labels, best first.
        scores: Their calibrated scores.
        probabilities: Softmax of calibrated scores over the temperature, over all labels given.
        seen: Whether each was seen in training, so that gamma was taken off its score.
        window: None, or the character ranges that were kept of a text that was too long.
    """

    label: str
    labels: list[str]
    scores: list[float]
    probabilities: list[float]
    seen: list[bool]
    window: list[Span] | None


def best_labels(
    score: Any,
    label_vectors: Tensor,
    seen: Tensor,
    gamma: float,
    temperature: float,
    top_k: int | None,
    same: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores a batch against any number of labels, a chunk at a time, and keeps the best.

    Args:
        score: From label vectors (k, d_p) to logits (B, k).
        label_vectors: Shape (K, d_p).
        seen: Which labels gamma is taken off, bool, shape (K,).
        gamma: What is taken off.
        temperature: What scores are divided by for probabilities.
        top_k: How many are kept; all if None.
        same: Where labels share a text, the first label of the same text for each, shape (K,): they
            get its score to the bit, which a product of matrices does not grant.

    Returns:
        Calibrated scores, probabilities and columns of the best labels, best first, shape (B, k)
        each, on the CPU. Equal scores come in the order of the labels.

    Raises:
        FloatingPointError: If a score is no number.
    """
    total = len(label_vectors)
    keep = total if top_k is None else min(top_k, total)
    best: Any = None
    columns: Any = None
    mass: Any = None
    starts = range(0, total, LABEL_CHUNK)
    whole = None
    if same is not None:
        whole = torch.cat([score(label_vectors[at : at + LABEL_CHUNK]) for at in starts], 1)
    for start in starts:
        if whole is None or same is None:
            logits = score(label_vectors[start : start + LABEL_CHUNK])
        else:
            logits = whole[:, same[start : start + LABEL_CHUNK].to(whole.device)]
        logits = logits.double().cpu()
        if logits.isnan().any():
            raise FloatingPointError("scores: got NaN, expected numbers; are the weights finite?")
        # in float64, so that the subtraction does not round scores into ties
        logits -= gamma * seen[start : start + LABEL_CHUNK].double()
        part = (logits / temperature).logsumexp(1)
        mass = part if mass is None else torch.logaddexp(mass, part)
        if keep < logits.shape[1]:
            index = _first_best(logits, keep)
            logits = logits.gather(1, index)
        else:
            index = torch.arange(logits.shape[1]).expand(len(logits), -1)
        if best is not None:
            logits = torch.cat([best, logits], 1)
            index = torch.cat([columns, index + start], 1)
        best, order = logits.sort(dim=1, descending=True, stable=True)
        best, columns = best[:, :keep], index.gather(1, order)[:, :keep]
    chances = (best / temperature - mass.unsqueeze(1)).exp()
    return best, chances, columns


def first_of_same(texts: Sequence[str]) -> Tensor | None:
    """For each label text the first place of the same text, shape (K,); None if all differ."""
    if len(set(texts)) == len(texts):
        return None
    first: dict[str, int] = {}
    return torch.tensor([first.setdefault(text, place) for place, text in enumerate(texts)])


def _first_best(scores: Tensor, count: int) -> Tensor:
    """Columns (B, count) of the best scores (B, K), ascending; of equal ones the first."""
    least = scores.topk(count, dim=1).values[:, -1:]
    above, equal = scores > least, scores == least
    equal &= equal.cumsum(1) <= count - above.sum(1, keepdim=True)
    return (above | equal).nonzero()[:, 1].view(-1, count)


def predictions(
    found: tuple[Tensor, Tensor, Tensor],
    names: Sequence[str],
    seen: Tensor,
    windows: Iterable[list[Span] | None],
) -> list[Prediction]:
    """Puts names to what :func:`best_labels` found."""
    flags = seen.tolist() if len(seen) <= LABEL_CHUNK else seen
    results: list[Prediction] = []
    for scores, chances, columns, window in zip(
        *(part.tolist() for part in found), windows, strict=True
    ):
        labels = [names[column] for column in columns]
        results.append(
            Prediction(
                label=labels[0],
                labels=labels,
                scores=scores,
                probabilities=chances,
                seen=[bool(flags[column]) for column in columns],
                window=window,
            )
        )
    return results


__all__ = ["LABEL_CHUNK", "Prediction", "best_labels", "first_of_same", "predictions"]
