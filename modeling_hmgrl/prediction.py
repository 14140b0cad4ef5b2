"""Inputs of a prediction, checked, and scores over any number of labels in bounded memory."""

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from numbers import Integral
from typing import Any, TypedDict

import torch
from torch import Tensor

from .fetching import fetch, is_url
from .images import open_image
from .marking import Span, check_spans, shown

LABEL_CHUNK = 16_384
"""Labels scored at once."""

LISTED = 10
"""Places of a repeated mention that an error lists."""

COUNTED_CHARACTERS = 10_000_000
"""Bound on the length of a mention times its occurrences, as far as they are counted."""

FIELDS = ("text", "mention", "spans", "occurrence", "image", "labels")
"""Fields of an input that are read."""

IGNORED_FIELDS = ("id", "label", "seen", "split")
"""Further fields of a data record, which may stand there."""

# JSON can write it, UTF-8 and tokenizers cannot.
_SURROGATE = re.compile(r"[\ud800-\udfff]")


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


class Failure(TypedDict):
    """What stands in a prediction's place if the input could not be used and that is accepted.

    Attributes:
        error: What was wrong, with the field and what was expected.
    """

    error: str


@dataclass(frozen=True)
class Candidates:
    """Labels to choose from.

    Attributes:
        names: What is returned.
        texts: What the encoder is shown.
    """

    names: tuple[str, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Query:
    """One input, checked.

    Attributes:
        text: Text.
        spans: Its mentions.
        pixels: The picture, shape (1, 3, height, width), or None.
        image_key: Hash of the picture's pixels, or None.
        labels: Labels of this input, or None for those of the call.
    """

    text: str
    spans: list[Span]
    pixels: Tensor | None
    image_key: str | None
    labels: Candidates | None


def make_candidates(labels: Any, config: Any, name: str = "labels") -> Candidates:
    """Checks labels to choose from.

    Args:
        labels: Names, or a mapping of names to the texts that the encoder is shown in their place
            (a description, say; None for the name). None for the labels of the config.
        config: The model's config, which may know a text for a name.
        name: How errors name the argument.

    Returns:
        The labels; one that is given twice is taken once.

    Raises:
        ValueError: If there are none, or one is no text or blank.
    """
    if labels is None:
        labels = [*(config.seen_labels or ()), *(config.generator_labels or ())]
        if not labels:
            raise ValueError(f"{name}: the model's config names none, expected a list of labels")
    usable = isinstance(labels, Mapping | Sequence) and not isinstance(labels, str | bytes)
    if not usable or not labels:
        raise ValueError(
            f"{name}: got {shown(labels)}, expected a list of at least one label, or a "
            "mapping of labels to descriptions"
        )
    for label in labels:
        if not _is_text(label):
            raise ValueError(
                f"{name}: got {shown(label)}, expected a label that is a text not blank"
            )
    given = labels if isinstance(labels, Mapping) else dict.fromkeys(labels)
    texts = []
    known = config.label_texts or {}  # read once: an attribute of a config is slow
    for label, own_text in given.items():
        text = known.get(label, label) if own_text is None else own_text
        if not _is_text(text):
            raise ValueError(
                f"{name}[{shown(label)}]: got {shown(text)}, expected a text not blank"
            )
        texts.append(text)
    return Candidates(tuple(given), tuple(texts))


def _is_text(value: Any) -> bool:
    """Whether a tokenizer takes it: a string, not blank, without half a surrogate pair."""
    return isinstance(value, str) and bool(value.strip()) and not _SURROGATE.search(value)


def make_query(
    record: Any, processor: Any, config: Any, place: str, image_hosts: Collection[str] = ()
) -> Query:
    """Checks one input and opens its picture.

    Args:
        record: Mapping with ``text``, ``mention`` or ``spans``, and perhaps ``occurrence``,
            ``image`` and ``labels``.
        processor: A :class:`HMGRLProcessor`.
        config: The model's config.
        place: How errors name the input.
        image_hosts: Hosts from which pictures are fetched.

    Returns:
        The input.

    Raises:
        ValueError: Naming the input, the field and what was expected.
        FileNotFoundError: If there is no such picture.
    """
    if not isinstance(record, Mapping):
        raise ValueError(
            f"{place}: got {type(record).__name__}, expected a mapping with 'text' and 'mention' "
            "or 'spans'"
        )
    if unknown := [field for field in record if field not in (*FIELDS, *IGNORED_FIELDS)]:
        raise ValueError(
            f"{place}: unknown field {shown(unknown[0])}, expected {', '.join(FIELDS)}"
        )
    text, spans, mention = record.get("text"), record.get("spans"), record.get("mention")
    if not isinstance(text, str):
        raise ValueError(f"{place}.text: got {type(text).__name__}, expected a text")
    if half := _SURROGATE.search(text):
        raise ValueError(
            f"{place}.text: half a surrogate pair at character {half.start()}, expected Unicode"
        )
    if (spans is None) == (mention is None):
        raise ValueError(f"{place}: expected exactly one of 'mention' and 'spans'")
    if spans is None:
        several = isinstance(mention, Sequence) and not isinstance(mention, str | bytes)
        number = len(mention) if several else 1  # type: ignore[arg-type]
        if number != processor.num_spans:
            raise ValueError(
                f"{place}.mention: got {number} mentions, expected {processor.num_spans}"
            )
        spans = find_mentions(text, mention, place, record.get("occurrence"))
    checked = check_spans(text, spans, processor.num_spans, place)
    image, pixels, key = record.get("image"), None, None
    if image is not None:
        if not processor.use_images:
            raise ValueError(f"{place}.image: the model is of text alone, expected None")
        if is_url(image):
            image = fetch(image, image_hosts, f"{place}.image")
        opened = open_image(image, f"{place}.image")
        pixels = processor.encode_images([opened], 1)["pixel_values"]
        key = hashlib.sha256(pixels.numpy()).hexdigest()
    labels = record.get("labels")
    candidates = None if labels is None else make_candidates(labels, config, f"{place}.labels")
    return Query(text, checked, pixels, key, candidates)


def find_mentions(text: str, mentions: Any, place: str = "text", which: Any = None) -> list[Span]:
    """Finds mentions in a text as character offsets.

    Args:
        text: Text.
        mentions: One mention, or several.
        place: How errors name the input.
        which: Which occurrence is meant, counted from 0; one number for each mention, or None where
            it occurs once.

    Returns:
        One (start, end) for each mention.

    Raises:
        ValueError: If a mention does not occur, or occurs several times and it is not said which
            is meant; the places are listed.
    """
    listed = [mentions] if isinstance(mentions, str) else mentions
    if not isinstance(listed, Sequence) or not all(isinstance(m, str) for m in listed):
        raise ValueError(
            f"{place}.mention: got {shown(mentions)}, expected a string, or a pair of them"
        )
    numbers = which if isinstance(which, Sequence) else [which] * len(listed)
    if len(numbers) != len(listed):
        raise ValueError(
            f"{place}.occurrence: got {len(numbers)} numbers, expected {len(listed)} as of mention"
        )
    return [_find(text, m, place, n) for m, n in zip(listed, numbers, strict=True)]


def _find(text: str, mention: str, place: str, which: Any) -> Span:
    name = shown(mention)
    # A long mention that overlaps itself is not counted without end.
    limit = LISTED + 1 if which is None else 1 + COUNTED_CHARACTERS // max(len(mention), 1)
    starts = list(islice(_starts(text, mention), limit))
    if not starts:
        raise ValueError(f"{place}.mention: {name} occurs nowhere, expected a part of the text")
    if which is None:
        if len(starts) > 1:
            places = f"{starts[:LISTED]}{' and further' if len(starts) > LISTED else ''}"
            raise ValueError(
                f"{place}.mention: {name} occurs at {places}; say which by 'occurrence', counted "
                "from 0, or give 'spans'"
            )
        which = 0
    if (
        isinstance(which, bool)
        or not isinstance(which, Integral)
        or not 0 <= int(which) < len(starts)
    ):
        raise ValueError(
            f"{place}.occurrence: got {shown(which)}, expected a number from 0 to "
            f"{len(starts) - 1}, as {name} occurs {len(starts)} times"
            f"{' or more' if len(starts) == limit else ''}"
        )
    start = starts[int(which)]
    return start, start + len(mention)


def _starts(text: str, mention: str) -> Iterator[int]:
    """Where a mention occurs; occurrences may overlap."""
    at = text.find(mention) if mention else -1
    while at >= 0:
        yield at
        at = text.find(mention, at + 1)


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


__all__ = ["Failure", "Prediction", "find_mentions"]
