"""Marks mentions in a text by tokens of their own, and windows texts that are too long."""

import operator
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

Span = tuple[int, int]

# Characters that are tokenised for each token that may be kept; a word has 5 or so.
_CHARACTERS = 50
# Tokens next to where a text was cut off, which a word cut in two may have changed.
_EDGE = 100

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80

MARKERS = (("[E1]", "[/E1]"), ("[E2]", "[/E2]"))
"""Opening and closing marker of the first and of the second mention."""


@dataclass(frozen=True)
class MarkedText:
    """A text as tokens, with its mentions marked.

    Attributes:
        ids: Token ids, without the tokenizer's own special tokens.
        positions: Index of the opening and closing marker in ``ids``, one pair a mention.
        kept: Character ranges that were kept, in order; None if that is the whole text.
        offsets: For each token the characters it stands for, None at a marker or special token.
            None as a whole where it was not asked for.
    """

    ids: list[int]
    positions: list[Span]
    kept: list[Span] | None
    offsets: list[Span | None] | None = None


def shown(value: Any) -> str:
    """Shows a value in an error: shortened, however long or deep it is."""
    try:
        return _SHORT.repr(value)
    except Exception:  # of a number too long to print, or an object that cannot show itself
        return f"<{type(value).__name__}>"


def check_spans(text: Any, spans: Any, count: int, place: str) -> list[Span]:
    """Checks one sample's text and spans.

    Args:
        text: Text.
        spans: Character offsets, end exclusive; a flat pair is taken as one span.
        count: Number of spans expected.
        place: How errors name the sample.

    Returns:
        The spans as pairs of int.

    Raises:
        ValueError: If text or spans are not what was expected.
    """
    if not isinstance(text, str) or not text.strip():
        got = "an empty text" if isinstance(text, str) else type(text).__name__
        raise ValueError(f"{place}.text: got {got}, expected a text that is not blank")
    if hasattr(spans, "tolist"):  # an array or a tensor
        spans = spans.tolist()
    try:
        pairs = [spans] if len(spans) == 2 and not isinstance(spans[0], Sequence) else list(spans)
        checked = [(operator.index(start), operator.index(end)) for start, end in pairs]
    except (TypeError, ValueError, LookupError) as error:
        raise ValueError(
            f"{place}.spans: got {shown(spans)}, expected pairs [start, end] of character offsets"
        ) from error
    if len(checked) != count:
        raise ValueError(f"{place}.spans: got {len(checked)} spans, expected {count}")
    for start, end in checked:
        if not 0 <= start < end <= len(text):
            raise ValueError(
                f"{place}.spans: got [{shown(start)}, {shown(end)}], expected 0 <= start < end <= "
                f"{len(text)}"
            )
        if not text[start:end].strip():
            raise ValueError(f"{place}.spans: [{start}, {end}] marks blank space only")
    return checked


def mark_texts(
    tokenizer: Any, texts: Sequence[str], spans: Sequence[Sequence[Span]], max_tokens: int
) -> list[MarkedText]:
    """Tokenises texts with markers around their mentions.

    The pieces between markers are tokenised by themselves, with the tokenizer's special tokens
    switched off, so that a text that spells "[SEP]" or "[E1]" cannot play one.

    Args:
        tokenizer: A fast tokenizer that has the marker tokens.
        texts: Texts.
        spans: Checked spans of each text, one or two; they may overlap or nest.
        max_tokens: Most tokens a text may keep, markers included.

    Returns:
        One :class:`MarkedText` for each text.
    """
    cuts = [_cuts(sample) for sample in spans]
    # Of a long text only what is near its mentions is tokenised, in place of all that is windowed
    # away: first as many characters as should do, and the whole where they are too few tokens.
    enough = max_tokens + _EDGE
    reach = _CHARACTERS * enough
    near = [
        (max(0, sample[0][0] - reach), min(len(text), sample[-1][0] + reach))
        for text, sample in zip(texts, cuts, strict=True)
    ]
    marked = _mark(tokenizer, texts, cuts, near)
    for row, (text, (low, high)) in enumerate(zip(texts, near, strict=True)):
        places = [place for pair in marked[row].positions for place in pair]
        left, right = min(places), len(marked[row].ids) - 1 - max(places)
        if (low > 0 and left < enough) or (high < len(text) and right < enough):
            [marked[row]] = _mark(tokenizer, [text], [cuts[row]], [(0, len(text))])
    return [_window(sample, max_tokens) for sample in marked]


def _mark(
    tokenizer: Any,
    texts: Sequence[str],
    cuts: Sequence[list[tuple[int, str]]],
    ranges: Sequence[Span],
) -> list[MarkedText]:
    """Tokenises a range of each text with markers at its cuts."""
    pieces: list[str] = []
    starts: list[int] = []
    for text, sample, (low, high) in zip(texts, cuts, ranges, strict=True):
        bounds = [low, *(offset for offset, _ in sample), high]
        pieces += [text[a:b] for a, b in pairwise(bounds)]
        starts += bounds[:-1]
    encoded = tokenizer(
        pieces,
        add_special_tokens=False,
        return_attention_mask=False,
        return_offsets_mapping=True,
        split_special_tokens=True,
        verbose=False,  # a long piece is no fault: it is windowed
    )
    marker_ids = {m: tokenizer.convert_tokens_to_ids(m) for pair in MARKERS for m in pair}
    marked, piece = [], 0
    for sample in cuts:
        ids: list[int] = []
        offsets: list[Span | None] = []  # None at a marker
        places: dict[str, int] = {}
        for index in range(len(sample) + 1):
            ids += encoded.input_ids[piece]
            base = starts[piece]
            offsets += [(base + a, base + b) for a, b in encoded.offset_mapping[piece]]
            piece += 1
            if index < len(sample):
                marker = sample[index][1]
                places[marker] = len(ids)
                ids.append(marker_ids[marker])
                offsets.append(None)
        positions = [(places[a], places[b]) for a, b in MARKERS[: len(sample) // 2]]
        marked.append(MarkedText(ids, positions, None, offsets))
    return marked


def _cuts(spans: Sequence[Span]) -> list[tuple[int, str]]:
    """Where markers go, in the order they stand in the text, as (offset, marker)."""
    events = []
    for (start, end), (opening, closing) in zip(spans, MARKERS, strict=False):
        # At one offset: closings first; of two openings the longer span's, of two closings the
        # shorter span's, so that nested mentions nest.
        length = end - start
        events.append((start, 1, -length, opening))
        events.append((end, 0, length, closing))
    if len(spans) == 2 and spans[0] == spans[1]:  # the same mention twice: [E1][E2] .. [/E2][/E1]
        order = [MARKERS[0][0], MARKERS[1][0], MARKERS[1][1], MARKERS[0][1]]
        return sorted(((e[0], e[3]) for e in events), key=lambda e: (e[0], order.index(e[1])))
    return [(event[0], event[3]) for event in sorted(events)]


def _window(sample: MarkedText, max_tokens: int) -> MarkedText:
    """Keeps the ``max_tokens`` tokens nearest to the markers.

    Every marker stays. A mention's own tokens count a quarter of their distance, so that context
    is given up before mentions are; only a mention longer than its share loses its middle.
    """
    ids, positions, offsets = sample.ids, sample.positions, sample.offsets or []
    if len(ids) <= max_tokens:
        return sample
    markers = [place for pair in positions for place in pair]
    # What lies further than that many tokens from each marker has as many before it in the order.
    near = {i for m in markers for i in range(m - max_tokens, m + max_tokens + 1)}

    def remoteness(index: int) -> float:
        distance = min(abs(index - place) for place in markers)
        inside = any(start < index < end for start, end in positions)
        return distance / 4 if inside else distance

    candidates = sorted(index for index in near if 0 <= index < len(ids))
    kept = sorted(sorted(candidates, key=remoteness)[:max_tokens])
    new = {old: index for index, old in enumerate(kept)}
    ranges: list[Span] = []
    last = None
    for index in kept:
        offset = offsets[index]
        if offset is not None:
            if ranges and last == index - 1:
                ranges[-1] = (ranges[-1][0], offset[1])
            else:
                ranges.append(offset)
            last = index
        elif last == index - 1:
            last = index  # a marker takes no characters and does not end a range
    return MarkedText(
        [ids[index] for index in kept],
        [(new[start], new[end]) for start, end in positions],
        ranges,
        [offsets[index] for index in kept],
    )
