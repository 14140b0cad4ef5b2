"""Entity markers around the mentions of a text, and windows of texts that are too long."""

import operator
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

Span = tuple[int, int]

# Characters tokenised for each token that may be kept; a word has about 5.
_CHARACTERS_PER_TOKEN = 50
# Tokens next to a cut that are discarded, as the cut may divide a word.
_MARGIN = 100

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80

MARKERS = (("[E1]", "[/E1]"), ("[E2]", "[/E2]"))
"""Opening and closing marker of the first and of the second mention."""


@dataclass(frozen=True)
class MarkedText:
    """Tokens of a text with entity markers.

    Attributes:
        ids: Token ids.
        positions: Indices of the opening and the closing marker in ``ids``, one pair per mention.
        kept: Character ranges that were kept, in order; None for the whole text.
        offsets: Character range of each token, None for a marker or special token; None instead of
            the list if it was not requested.
    """

    ids: list[int]
    positions: list[Span]
    kept: list[Span] | None
    offsets: list[Span | None] | None = None


def short_repr(value: Any) -> str:
    """Shortened representation of any value for an error message."""
    try:
        return _REPR.repr(value)
    except Exception:  # an integer with too many digits, or an object whose repr fails
        return f"<{type(value).__name__}>"


def check_spans(text: Any, spans: Any, count: int, name: str) -> list[Span]:
    """Validates the text and the spans of one sample.

    Args:
        text: Text.
        spans: Character offsets, end exclusive; a flat pair is one span.
        count: Number of spans expected.
        name: Name of the sample in errors.

    Returns:
        The spans as pairs of int.

    Raises:
        ValueError: If the text or the spans are invalid.
    """
    if not isinstance(text, str) or not text.strip():
        got = "an empty or blank string" if isinstance(text, str) else type(text).__name__
        raise ValueError(f"{name}.text: got {got}, expected a non-blank string")
    if hasattr(spans, "tolist"):  # an array or a tensor
        spans = spans.tolist()
    try:
        pairs = [spans] if len(spans) == 2 and not isinstance(spans[0], Sequence) else list(spans)
        checked = [(operator.index(start), operator.index(end)) for start, end in pairs]
    except (TypeError, ValueError, LookupError) as error:
        raise ValueError(
            f"{name}.spans: got {short_repr(spans)}, expected pairs [start, end] of character "
            "offsets"
        ) from error
    if len(checked) != count:
        raise ValueError(f"{name}.spans: got {len(checked)} spans, expected {count}")
    for start, end in checked:
        if not 0 <= start < end <= len(text):
            raise ValueError(
                f"{name}.spans: got [{short_repr(start)}, {short_repr(end)}], expected "
                f"0 <= start < end <= {len(text)}"
            )
        if not text[start:end].strip():
            raise ValueError(
                f"{name}.spans: [{start}, {end}] contains whitespace only, expected a mention"
            )
    return checked


def mark_texts(
    tokenizer: Any, texts: Sequence[str], spans: Sequence[Sequence[Span]], max_tokens: int
) -> list[MarkedText]:
    """Tokenises texts with entity markers around their mentions.

    The pieces between markers are tokenised separately and without special tokens, so that "[SEP]"
    or "[E1]" in a text does not become one.

    Args:
        tokenizer: A fast tokenizer that has the marker tokens.
        texts: Texts.
        spans: Validated spans of each text, one or two, which may overlap or nest.
        max_tokens: Maximum number of tokens of a text, markers included.

    Returns:
        One :class:`MarkedText` for each text.
    """
    markers = [_marker_offsets(sample) for sample in spans]
    # Of a long text only the characters near its mentions are tokenised, which usually yield enough
    # tokens for the window; otherwise the whole text is tokenised.
    required = max_tokens + _MARGIN
    radius = _CHARACTERS_PER_TOKEN * required
    ranges = [
        (max(0, sample[0][0] - radius), min(len(text), sample[-1][0] + radius))
        for text, sample in zip(texts, markers, strict=True)
    ]
    marked = _insert_markers(tokenizer, texts, markers, ranges)
    for row, (text, (low, high)) in enumerate(zip(texts, ranges, strict=True)):
        positions = [position for pair in marked[row].positions for position in pair]
        left, right = min(positions), len(marked[row].ids) - 1 - max(positions)
        if (low > 0 and left < required) or (high < len(text) and right < required):
            [marked[row]] = _insert_markers(tokenizer, [text], [markers[row]], [(0, len(text))])
    return [_window(sample, max_tokens) for sample in marked]


def _insert_markers(
    tokenizer: Any,
    texts: Sequence[str],
    markers: Sequence[list[tuple[int, str]]],
    ranges: Sequence[Span],
) -> list[MarkedText]:
    """Tokenises a range of each text with markers at the given offsets."""
    pieces: list[str] = []
    starts: list[int] = []
    for text, sample, (low, high) in zip(texts, markers, ranges, strict=True):
        bounds = [low, *(_before_blank(text, offset) for offset, _ in sample), high]
        pieces += [text[a:b] for a, b in pairwise(bounds)]
        starts += bounds[:-1]
    rows, mappings = tokenize_pieces(tokenizer, pieces)
    marker_ids = {m: tokenizer.convert_tokens_to_ids(m) for pair in MARKERS for m in pair}
    marked, piece = [], 0
    for sample in markers:
        ids: list[int] = []
        offsets: list[Span | None] = []  # None at a marker
        position_of: dict[str, int] = {}
        for index in range(len(sample) + 1):
            ids += rows[piece]
            offsets += [
                (starts[piece] + a, starts[piece] + b)
                for a, b in (_without_blank(pieces[piece], span) for span in mappings[piece])
            ]
            piece += 1
            if index < len(sample):
                marker = sample[index][1]
                position_of[marker] = len(ids)
                ids.append(marker_ids[marker])
                offsets.append(None)
        positions = [(position_of[a], position_of[b]) for a, b in MARKERS[: len(sample) // 2]]
        marked.append(MarkedText(ids, positions, None, offsets))
    return marked


def _before_blank(text: str, offset: int) -> int:
    """Moves a marker before the blank in front of it, if there is one.

    Many tokenizers encode a blank together with the word after it. A blank that is separated from
    its word would become a token, and the word would have the tokens of a word's continuation.
    """
    return offset - 1 if offset and text[offset - 1] == " " else offset


def _without_blank(text: str, span: Span) -> Span:
    """Removes blanks from the beginning of a range; some tokenizers include the blank before."""
    start, end = span
    return end - len(text[start:end].lstrip()), end


def tokenize_pieces(
    tokenizer: Any, pieces: Sequence[str]
) -> tuple[list[list[int]], list[list[Span]]]:
    """Tokenises parts of texts without special tokens.

    Vocabularies of SentencePiece contain the special tokens, so that a text could spell one; these
    become the unknown token.

    Args:
        tokenizer: A fast tokenizer.
        pieces: Parts of texts.

    Returns:
        For each piece its token ids and the character ranges of the tokens.
    """
    encoded = tokenizer(
        list(pieces),
        add_special_tokens=False,
        return_attention_mask=False,
        return_offsets_mapping=True,
        split_special_tokens=True,
        verbose=False,  # no warning about long pieces, which are windowed
    )
    unknown = tokenizer.unk_token_id
    rows = encoded.input_ids
    if unknown is not None:
        special = set(tokenizer.all_special_ids) - {unknown}
        rows = [
            row if special.isdisjoint(row) else [unknown if i in special else i for i in row]
            for row in rows
        ]
    return rows, encoded.offset_mapping


def token_of(tokenizer: Any, character: str) -> int:
    """Returns the token that a punctuation mark is inside a text, without a blank before it.

    The mark alone may be two tokens in vocabularies of SentencePiece, a blank and the mark.
    """
    found = tokenizer.convert_tokens_to_ids(character)
    if found is not None and found != tokenizer.unk_token_id:
        return found
    return tokenize_pieces(tokenizer, [character])[0][0][-1]


def _marker_offsets(spans: Sequence[Span]) -> list[tuple[int, str]]:
    """Character offsets of the markers, in the order of the text, as (offset, marker)."""
    events = []
    for (start, end), (opening, closing) in zip(spans, MARKERS, strict=False):
        # At the same offset, closing markers precede opening ones; the longer span opens first and
        # the shorter one closes first, so that the markers of nested mentions nest.
        length = end - start
        events.append((start, 1, -length, opening))
        events.append((end, 0, length, closing))
    if len(spans) == 2 and spans[0] == spans[1]:  # the same mention twice: [E1][E2] .. [/E2][/E1]
        order = [MARKERS[0][0], MARKERS[1][0], MARKERS[1][1], MARKERS[0][1]]
        return sorted(((e[0], e[3]) for e in events), key=lambda e: (e[0], order.index(e[1])))
    return [(event[0], event[3]) for event in sorted(events)]


def _window(sample: MarkedText, max_tokens: int) -> MarkedText:
    """Keeps the ``max_tokens`` tokens nearest to the markers.

    All markers are kept. The distance of a token inside a mention is divided by four, so that
    context is dropped before mentions; of a mention too long for the window the middle is dropped.
    """
    ids, positions, offsets = sample.ids, sample.positions, sample.offsets or []
    if len(ids) <= max_tokens:
        return sample
    markers = [marker for pair in positions for marker in pair]
    # More distant tokens need no sorting: at least max_tokens others are nearer to each marker.
    nearby = {i for m in markers for i in range(m - max_tokens, m + max_tokens + 1)}

    def distance(index: int) -> float:
        nearest = min(abs(index - marker) for marker in markers)
        inside = any(start < index < end for start, end in positions)
        return nearest / 4 if inside else nearest

    candidates = sorted(index for index in nearby if 0 <= index < len(ids))
    kept = sorted(sorted(candidates, key=distance)[:max_tokens])
    new = {old: index for index, old in enumerate(kept)}
    ranges: list[Span] = []
    last = None
    for index in kept:
        offset = offsets[index]
        if offset is not None:
            # Several tokens may encode one character, of which a cut may drop some.
            if ranges and (last == index - 1 or offset[0] < ranges[-1][1]):
                ranges[-1] = (ranges[-1][0], max(ranges[-1][1], offset[1]))
            else:
                ranges.append(offset)
            last = index
        elif last == index - 1:
            last = index  # a marker has no characters and does not end a range
    return MarkedText(
        [ids[index] for index in kept],
        [(new[start], new[end]) for start, end in positions],
        ranges,
        [offsets[index] for index in kept],
    )
