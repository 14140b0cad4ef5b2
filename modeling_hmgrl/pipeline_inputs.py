"""Inputs of a prediction, checked, and scores over any number of labels in bounded memory."""

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from numbers import Integral
from typing import Any, TypedDict

from torch import Tensor

from .entity_markers import Span, check_spans, shown
from .images import fetch, is_url, open_image

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
        opened = open_image(image, f"{place}.image", side=processor.image_side)
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


__all__ = ["Candidates", "Failure", "Query", "find_mentions", "make_candidates", "make_query"]
