"""Selection of the best labels from scores, for any number of labels in bounded memory."""

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor

from .entity_markers import Span

LABEL_CHUNK = 16_384
"""Number of labels scored at once."""


class Prediction(TypedDict):
    """Prediction for one input.

    Attributes:
        label: Name of the best label.
        labels: Names of the best labels, best first.
        scores: Their calibrated scores.
        probabilities: Softmax of the calibrated scores over the temperature, over all candidates.
        seen: Whether each label was seen in training, so that gamma was subtracted from its score.
        window: Character ranges kept of a text that exceeds the maximum length, or None.
        warnings: One sentence for each reason to doubt the prediction, usually none: a mention, or
            texts of labels, that consist only of tokens unknown to the model.
    """

    label: str
    labels: list[str]
    scores: list[float]
    probabilities: list[float]
    seen: list[bool]
    window: list[Span] | None
    warnings: list[str]


def best_labels(
    score: Any,
    label_vectors: Tensor,
    seen: Tensor,
    gamma: float,
    temperature: float,
    top_k: int | None,
    first_occurrence: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores a batch against any number of labels in chunks and selects the best labels.

    Args:
        score: Function from label vectors (k, d_p) to logits (B, k).
        label_vectors: Shape (K, d_p).
        seen: Labels from whose scores gamma is subtracted, bool, shape (K,).
        gamma: The calibration constant.
        temperature: Divisor of the scores for the probabilities.
        top_k: Number of labels selected; all if None.
        first_occurrence: If labels share a text, the index of the first label with the same text,
            shape (K,). Such labels receive exactly the same score, which a matrix product does not
            guarantee.

    Returns:
        Calibrated scores, probabilities and columns of the best labels, best first, shape (B, k)
        each, on the CPU. Equal scores keep the order of the labels.

    Raises:
        FloatingPointError: If a score is NaN or infinite.
    """
    total = len(label_vectors)
    k = total if top_k is None else min(top_k, total)
    best: Any = None
    columns: Any = None
    log_normalizer: Any = None
    starts = range(0, total, LABEL_CHUNK)
    all_logits = None
    if first_occurrence is not None:
        chunks = [label_vectors[start : start + LABEL_CHUNK] for start in starts]
        all_logits = torch.cat([score(chunk) for chunk in chunks], 1)
    for start in starts:
        if all_logits is None or first_occurrence is None:
            logits = score(label_vectors[start : start + LABEL_CHUNK])
        else:
            index = first_occurrence[start : start + LABEL_CHUNK]
            logits = all_logits[:, index.to(all_logits.device)]
        logits = logits.double().cpu()
        if not logits.isfinite().all():
            raise FloatingPointError(
                "scores: got NaN or infinite values, expected numbers; are the weights finite?"
            )
        # in float64, so that rounding after the subtraction creates no ties
        logits -= gamma * seen[start : start + LABEL_CHUNK].double()
        part = (logits / temperature).logsumexp(1)
        log_normalizer = part if log_normalizer is None else torch.logaddexp(log_normalizer, part)
        if k < logits.shape[1]:
            index = _stable_topk(logits, k)
            logits = logits.gather(1, index)
        else:
            index = torch.arange(logits.shape[1]).expand(len(logits), -1)
        if best is not None:
            logits = torch.cat([best, logits], 1)
            index = torch.cat([columns, index + start], 1)
        best, order = logits.sort(dim=1, descending=True, stable=True)
        best, columns = best[:, :k], index.gather(1, order)[:, :k]
    probabilities = (best / temperature - log_normalizer.unsqueeze(1)).exp()
    return best, probabilities, columns


def first_occurrences(texts: Sequence[str]) -> Tensor | None:
    """Index of the first equal text for each text, shape (K,); None if all texts are distinct."""
    if len(set(texts)) == len(texts):
        return None
    first: dict[str, int] = {}
    return torch.tensor([first.setdefault(text, index) for index, text in enumerate(texts)])


def _stable_topk(scores: Tensor, k: int) -> Tensor:
    """Columns (B, k) of the largest scores (B, K), ascending; the first columns among ties."""
    threshold = scores.topk(k, dim=1).values[:, -1:]
    above, equal = scores > threshold, scores == threshold
    equal &= equal.cumsum(1) <= k - above.sum(1, keepdim=True)
    return (above | equal).nonzero()[:, 1].view(-1, k)


def to_predictions(
    best: tuple[Tensor, Tensor, Tensor],
    names: Sequence[str],
    seen: Tensor,
    windows: Iterable[list[Span] | None],
    warnings: Iterable[list[str]],
) -> list[Prediction]:
    """Converts the result of :func:`best_labels` to predictions.

    Args:
        best: Scores, probabilities and columns, shape (B, k) each.
        names: Names of all K labels.
        seen: Labels seen in training, bool, shape (K,).
        windows: For each input the character ranges kept, or None.
        warnings: For each input its warnings.
    """
    # A list is faster to index; for many labels its creation is slower.
    flags = seen.tolist() if len(seen) <= LABEL_CHUNK else seen
    results: list[Prediction] = []
    for scores, probabilities, columns, window, notes in zip(
        *(part.tolist() for part in best), windows, warnings, strict=True
    ):
        labels = [names[column] for column in columns]
        results.append(
            Prediction(
                label=labels[0],
                labels=labels,
                scores=scores,
                probabilities=probabilities,
                seen=[bool(flags[column]) for column in columns],
                window=window,
                warnings=notes,
            )
        )
    return results


__all__ = ["LABEL_CHUNK", "Prediction", "best_labels", "first_occurrences", "to_predictions"]
