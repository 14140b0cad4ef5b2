"""Validation of the inputs and candidate labels of the pipeline."""

import hashlib
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from numbers import Integral
from typing import Any, TypedDict

from torch import Tensor

from .entity_markers import MarkedText, Span, check_spans, short_repr
from .fetching import fetch, is_url
from .images import open_image

MAX_LISTED_OCCURRENCES = 10
"""Maximum number of occurrences of a mention that an error lists."""

MAX_LISTED_LABELS = 3
"""Maximum number of labels that a warning lists."""

MAX_COMPARED_CHARACTERS = 10_000_000
"""Bound on the length of a mention times the number of its occurrences that are counted."""

FIELDS = ("text", "mention", "spans", "occurrence", "image", "labels")
"""Fields of an input."""

IGNORED_FIELDS = ("id", "label", "seen", "split")
"""Further fields of a data record, which are permitted and ignored."""

# JSON can encode a lone surrogate; UTF-8 and tokenizers cannot.
_SURROGATE = re.compile(r"[\ud800-\udfff]")


class Failure(TypedDict):
    """Result for an invalid input if ``on_error`` is "skip".

    Attributes:
        error: The error message, which names the field and the expected value.
    """

    error: str


@dataclass(frozen=True)
class Candidates:
    """Candidate labels.

    Attributes:
        names: Names of the labels, which predictions contain.
        texts: Texts of the labels, which the encoder reads.
    """

    names: tuple[str, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Query:
    """A validated input.

    Attributes:
        text: Text.
        spans: Its mentions, as character offsets.
        pixels: The processed image, shape (1, 3, height, width), or None.
        image_key: Hash of the pixels, or None.
        labels: Candidate labels of this input, or None for those of the call.
    """

    text: str
    spans: list[Span]
    pixels: Tensor | None
    image_key: str | None
    labels: Candidates | None


def make_candidates(labels: Any, config: Any, name: str = "labels") -> Candidates:
    """Validates candidate labels.

    Args:
        labels: Names, or a mapping of names to the texts that the encoder reads instead, such as
            descriptions (None for the name). None for the labels of the configuration.
        config: Configuration of the model, which may define texts of names.
        name: Name of the argument in errors.

    Returns:
        The labels without duplicates.

    Raises:
        ValueError: If there are no labels, or a label is not a string or blank.
    """
    if labels is None:
        labels = [*(config.seen_labels or ()), *(config.generator_labels or ())]
        if not labels:
            raise ValueError(
                f"{name}: the model's configuration has none, expected a list of labels"
            )
    usable = isinstance(labels, Mapping | Sequence) and not isinstance(labels, str | bytes)
    if not usable or not labels:
        raise ValueError(
            f"{name}: got {short_repr(labels)}, expected a list of at least one label, or a "
            "mapping of labels to descriptions"
        )
    for label in labels:
        if not _is_valid_text(label):
            raise ValueError(
                f"{name}: got {short_repr(label)}, expected a label that is a non-blank string"
            )
    given = labels if isinstance(labels, Mapping) else dict.fromkeys(labels)
    texts = []
    known = config.label_texts or {}  # read once, as the attribute access of configurations is slow
    for label, own_text in given.items():
        text = known.get(label, label) if own_text is None else own_text
        if not _is_valid_text(text):
            raise ValueError(
                f"{name}[{short_repr(label)}]: got {short_repr(text)}, expected a non-blank string"
            )
        texts.append(text)
    return Candidates(tuple(given), tuple(texts))


def are_strings(value: Any) -> bool:
    """Whether a value is a collection of strings; the set of types makes large ones fast."""
    if isinstance(value, str | Mapping) or not isinstance(value, Collection):
        return False
    return all(issubclass(kind, str) for kind in set(map(type, value)))


def _is_valid_text(value: Any) -> bool:
    """Whether a value is a non-blank string without lone surrogates, as tokenizers require."""
    return isinstance(value, str) and bool(value.strip()) and not _SURROGATE.search(value)


def make_query(
    record: Any,
    processor: Any,
    config: Any,
    name: str,
    image_hosts: Collection[str] = (),
    allow_private_addresses: bool = False,
) -> Query:
    """Validates one input and opens its image.

    Args:
        record: Mapping with ``text``, ``mention`` or ``spans`` (if both, they must agree), and
            optionally ``occurrence``, ``image`` and ``labels``.
        processor: A :class:`HMGRLProcessor`.
        config: Configuration of the model.
        name: Name of the input in errors.
        image_hosts: Hosts from which images may be fetched.
        allow_private_addresses: Whether these hosts may have private addresses.

    Returns:
        The input.

    Raises:
        ValueError: If a field is invalid; the message names the input, the field and the expected
            value.
        FileNotFoundError: If the image does not exist.
    """
    if not isinstance(record, Mapping):
        raise ValueError(
            f"{name}: got {type(record).__name__}, expected a mapping with 'text' and 'mention' "
            "or 'spans'"
        )
    if unknown := [field for field in record if field not in (*FIELDS, *IGNORED_FIELDS)]:
        raise ValueError(
            f"{name}: unknown field {short_repr(unknown[0])}, expected {', '.join(FIELDS)}"
        )
    text, spans, mention = record.get("text"), record.get("spans"), record.get("mention")
    if not isinstance(text, str):
        raise ValueError(f"{name}.text: got {type(text).__name__}, expected a string")
    if surrogate := _SURROGATE.search(text):
        raise ValueError(
            f"{name}.text: lone surrogate at character {surrogate.start()}, expected valid Unicode"
        )
    if spans is None and mention is None:
        raise ValueError(f"{name}: expected 'mention' or 'spans'")
    if spans is None:
        is_list = isinstance(mention, Sequence) and not isinstance(mention, str | bytes)
        number = len(mention) if is_list else 1  # type: ignore[arg-type]
        if number != processor.num_spans:
            raise ValueError(
                f"{name}.mention: got {number} mentions, expected {processor.num_spans}"
            )
        spans = find_mentions(text, mention, name, record.get("occurrence"))
        mention = None
    checked = check_spans(text, spans, processor.num_spans, name)
    if mention is not None:
        marked = [text[start:end] for start, end in checked]
        if (list(mention) if isinstance(mention, list | tuple) else [mention]) != marked:
            raise ValueError(
                f"{name}.mention: got {short_repr(mention)}, expected the text at the spans, "
                f"{short_repr(marked)}"
            )
    image, pixels, key = record.get("image"), None, None
    if image is not None:
        if not processor.use_images:
            raise ValueError(f"{name}.image: the model reads text only, expected None")
        if is_url(image):
            image = fetch(
                image,
                image_hosts,
                f"{name}.image",
                allow_private_addresses=allow_private_addresses,
            )
        pixels = _encode_image(image, processor, f"{name}.image")
        key = hashlib.sha256(pixels.numpy()).hexdigest()
    labels = record.get("labels")
    candidates = None if labels is None else make_candidates(labels, config, f"{name}.labels")
    return Query(text, checked, pixels, key, candidates)


def _encode_image(image: Any, processor: Any, name: str) -> Any:
    """Opens and processes an image, (1, 3, height, width); errors of any type name the input."""
    try:
        opened = open_image(image, name, side=processor.image_side)
        pixels = processor.encode_images([opened], 1)["pixel_values"]
    except Exception as error:  # MemoryError, and various types of Pillow and image processors
        message = str(error).replace("sample 0.image", name) or type(error).__name__
        if isinstance(error, OSError) and message.startswith(name):
            raise
        if not message.startswith(name):
            message = f"{name}: cannot be processed ({message})"
        raise ValueError(message) from error
    if not pixels.isfinite().all():
        raise ValueError(f"{name}: its processed values are not finite, expected finite numbers")
    return pixels


def mention_warnings(processor: Any, query: Query, marked: MarkedText) -> list[str]:
    """One sentence for each mention that consists only of unknown tokens."""
    nouns = ("mention",) if len(query.spans) == 1 else ("head", "tail")
    return [
        f"The {nouns[index]} {short_repr(query.text[slice(*query.spans[index])])} consists only of "
        "tokens unknown to the model, so the prediction does not depend on which word it is."
        for index in processor.unknown_mentions(marked)
    ]


def label_warnings(unknown: Sequence[str], total: int) -> list[str]:
    """A sentence if any labels consist only of unknown tokens."""
    if not unknown:
        return []
    shown = ", ".join(map(short_repr, unknown[:MAX_LISTED_LABELS]))
    more = ", …" if len(unknown) > MAX_LISTED_LABELS else ""
    return [
        f"{len(unknown):,} of {total:,} labels consist only of tokens unknown to the model, so "
        f"their scores do not depend on which words they are: {shown}{more}"
    ]


def batching_order(queries: list[Query], lengths: list[int]) -> list[int]:
    """Order of inputs in which those with the same image are adjacent, then sorted by length."""
    first: dict[str | None, int] = {}
    for query in queries:
        first.setdefault(query.image_key, 0 if query.image_key is None else len(first) + 1)
    return sorted(
        range(len(queries)), key=lambda row: (first[queries[row].image_key], lengths[row])
    )


def undecoded(inputs: Any) -> Any:
    """Returns a Dataset without decoding of images, which :func:`images.open_image` does safely.

    The decoding of a Dataset follows URLs and accepts every format that Pillow reads.
    """
    for name, feature in dict(getattr(inputs, "features", None) or {}).items():
        if type(feature).__name__ == "Image" and getattr(feature, "decode", False):
            inputs = inputs.cast_column(name, type(feature)(decode=False))
    return inputs


def is_whole_word(text: str, start: int, end: int) -> bool:
    """Whether a part of a text neither begins nor ends inside a word."""

    def joins(position: int) -> bool:
        if not 0 < position < len(text):
            return False
        if unicodedata.combining(text[position]):  # an accent belongs to the letter before it
            return True
        return all(char.isalnum() or char == "_" for char in text[position - 1 : position + 1])

    return not (joins(start) or joins(end))


def find_mentions(
    text: str, mentions: Any, name: str = "text", occurrence: Any = None
) -> list[Span]:
    """Finds mentions in a text as character offsets.

    Occurrences that are whole words take precedence: "is" in "This is it" is the second word, and
    only a mention that is nowhere a whole word, as in scripts without spaces, may be part of one.

    Args:
        text: Text.
        mentions: One mention, or several.
        name: Name of the input in errors.
        occurrence: Index among all occurrences, those inside words included, counted from 0; one
            number for each mention, or None if it occurs once.

    Returns:
        One (start, end) for each mention.

    Raises:
        ValueError: If a mention does not occur, or occurs several times without an index; the
            message lists the occurrences.
    """
    listed = [mentions] if isinstance(mentions, str) else mentions
    if not isinstance(listed, Sequence) or not all(isinstance(m, str) for m in listed):
        raise ValueError(
            f"{name}.mention: got {short_repr(mentions)}, expected a string, or a pair of strings"
        )
    numbers = occurrence if isinstance(occurrence, Sequence) else [occurrence] * len(listed)
    if len(numbers) != len(listed):
        raise ValueError(
            f"{name}.occurrence: got {len(numbers)} numbers, expected {len(listed)}, one for each "
            "mention"
        )
    return [_find_mention(text, m, name, n) for m, n in zip(listed, numbers, strict=True)]


def _find_mention(text: str, mention: str, name: str, occurrence: Any) -> Span:
    quoted = short_repr(mention)
    # The bound limits the time for a long mention that overlaps itself.
    limit = 1 + MAX_COMPARED_CHARACTERS // max(len(mention), 1)
    starts = list(islice(_occurrences(text, mention), limit))
    if not starts:
        raise ValueError(f"{name}.mention: {quoted} not found, expected a substring of the text")
    if occurrence is None:
        whole = [n for n, at in enumerate(starts) if is_whole_word(text, at, at + len(mention))]
        found = whole or list(range(len(starts)))
        if len(found) > 1:
            listed = found[:MAX_LISTED_OCCURRENCES]
            more = " and more" if len(found) > MAX_LISTED_OCCURRENCES else ""
            raise ValueError(
                f"{name}.mention: {quoted} occurs at {[starts[n] for n in listed]}{more}; select "
                f"one by 'occurrence' ({', '.join(map(str, listed))}), or pass 'spans'"
            )
        occurrence = found[0]
    if (
        isinstance(occurrence, bool)
        or not isinstance(occurrence, Integral)
        or not 0 <= int(occurrence) < len(starts)
    ):
        raise ValueError(
            f"{name}.occurrence: got {short_repr(occurrence)}, expected a number from 0 to "
            f"{len(starts) - 1}, as {quoted} occurs {len(starts)} times"
            f"{' or more' if len(starts) == limit else ''}"
        )
    start = starts[int(occurrence)]
    return start, start + len(mention)


def _occurrences(text: str, mention: str) -> Iterator[int]:
    """Start offsets of a mention, whose occurrences may overlap."""
    start = text.find(mention) if mention else -1
    while start >= 0:
        yield start
        start = text.find(mention, start + 1)


def prefetch(
    function: Callable[[Any], Any], items: Iterable[Any], workers: int, limit: int
) -> Generator[Any, None, None]:
    """Maps items in order; worker threads run at most ``limit`` items ahead."""
    if not workers:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[Any]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > limit:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


__all__ = [
    "Candidates",
    "Failure",
    "Query",
    "are_strings",
    "batching_order",
    "find_mentions",
    "label_warnings",
    "make_candidates",
    "make_query",
    "mention_warnings",
    "undecoded",
]
