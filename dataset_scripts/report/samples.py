"""The samples of a data report: selection, thumbnails and marked text."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
from PIL import Image, ImageOps

from ..images import open_image
from ..protocol import SPLITS, Split
from ..schema import Span, Task

THUMBNAIL_SIDE = 256
ROLES: Mapping[Task, tuple[str, ...]] = {"typing": ("mention",), "relation": ("head", "tail")}

# Texts up to this length are shown completely. Of longer ones, only the context of the mentions is
# shown, and of long mentions only the start and the end.
_WHOLE_TEXT = 400
_AROUND_MENTION = 110
_MENTION_END = 120
_WORD_REACH = 20

_ROWS_AT_ONCE = 4096

# Whether the image is missing, digest of the id, and index of the row.
_Candidate = tuple[bool, str, int]


@dataclass(frozen=True)
class Sample:
    """A row of the data, with its image as stored.

    Attributes:
        id: Identifier of the sample.
        text: The sentence.
        spans: Span of the mention, or of head and tail.
        label: Name of the label.
        split: The split that it is in.
        picture: `{"bytes", "path"}` as `datasets.Image` stores it, or None.
    """

    id: str
    text: str
    spans: tuple[Span, ...]
    label: str
    split: Split
    picture: Mapping[str, Any] | None


def choose_samples(splits: datasets.DatasetDict, number: int) -> list[Sample]:
    """Selects samples that cover all splits and as many labels as possible.

    Splits alternate; within a split, seen and unseen labels alternate, and labels selected least
    often come first. Of the samples of a label, those with an image are preferred, then those whose
    id has the smallest SHA-256, so the order of the rows is irrelevant.

    Args:
        splits: The splits of `GZSData`. Only images of selected rows are read.
        number: Maximum number of samples.

    Returns:
        The samples, ordered by split.
    """
    waiting = {split: _candidates(splits[split]) for split in SPLITS}
    chosen: dict[Split, list[int]] = {split: [] for split in SPLITS}
    of_label: Counter[int] = Counter()
    of_group: Counter[tuple[Split, bool]] = Counter()
    for turn in range(len(SPLITS) * number):
        split = SPLITS[turn % len(SPLITS)]
        lists = waiting[split]
        if not lists or sum(map(len, chosen.values())) == number:
            continue

        def key(group: tuple[bool, int], split: Split = split) -> tuple[int, int, _Candidate]:
            return of_group[split, group[0]], of_label[group[1]], waiting[split][group][-1]

        best = min(lists, key=key)
        chosen[split].append(lists[best].pop()[-1])
        if not lists[best]:
            del lists[best]
        of_group[split, best[0]] += 1
        of_label[best[1]] += 1
    return [_sample(splits[split], index) for split in SPLITS for index in chosen[split]]


def _candidates(rows: datasets.Dataset) -> dict[tuple[bool, int], list[_Candidate]]:
    """Returns the rows of a split by seen and label, each list in reverse order of selection."""
    lists: dict[tuple[bool, int], list[_Candidate]] = {}
    index = 0
    # With Arrow tables, images are not decoded to check whether there is one.
    columns = rows.select_columns(["id", "label", "seen", "image"]).with_format("arrow")
    for table in columns.iter(_ROWS_AT_ONCE):
        absent = table["image"].is_null().to_pylist()
        ids, labels, seen = (table[name].to_pylist() for name in ("id", "label", "seen"))
        for values in zip(ids, labels, seen, absent, strict=True):
            digest = hashlib.sha256(values[0].encode()).hexdigest()
            lists.setdefault((values[2], values[1]), []).append((values[3], digest, index))
            index += 1
    for candidates in lists.values():
        candidates.sort(reverse=True)
    return lists


def _sample(rows: datasets.Dataset, index: int) -> Sample:
    # Read as Arrow, because reading a row otherwise decodes its picture, which may have been
    # damaged or removed since the data were built.
    row = rows.with_format("arrow")[index].to_pylist()[0]
    return Sample(
        id=row["id"],
        text=row["text"],
        spans=tuple((start, end) for start, end in row["spans"]),
        label=rows.features["label"].int2str(row["label"]),
        split=row["split"],
        picture=row["image"],
    )


def thumbnail(picture: Mapping[str, Any]) -> bytes | None:
    """Returns a picture as a small JPEG, or None if it cannot be decoded.

    Args:
        picture: `{"bytes", "path"}` as `datasets.Image` stores it.
    """
    content, path = picture["bytes"], picture["path"]
    try:
        if content is None and not Path(path).is_file():  # opening a pipe would wait for ever
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata; open_image checks the size
            with open_image(Path(path) if content is None else content) as image:
                image.draft(None, (2 * THUMBNAIL_SIDE, 2 * THUMBNAIL_SIDE))
                small = ImageOps.exif_transpose(image)
                small = small.convert("RGBA" if small.has_transparency_data else "RGB")
        small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        # A new image: a comment of the old one would be written with it.
        canvas = Image.new("RGB", small.size, "white")
        canvas.paste(small, mask=small if small.mode == "RGBA" else None)
        file = io.BytesIO()
        canvas.save(file, "JPEG", quality=82, optimize=True)
        return file.getvalue()
    except Exception:  # a damaged file makes Pillow's decoders raise anything at all
        return None


def mark_spans(text: str, spans: Sequence[Span], roles: Sequence[str]) -> str:
    """Returns a text as HTML with marked mentions.

    Spans may overlap, but HTML elements may not. Therefore the text is divided wherever a span
    starts or ends, and each piece inside spans becomes its own `<mark>`, with the roles of these
    spans as classes. If there are several spans, the name of each role precedes its first piece.

    Args:
        text: The sentence. A long one is reduced to the context of the mentions.
        spans: Character offsets of each mention, end exclusive.
        roles: Role of each span, e.g. `"head"`.
    """
    marked = list(zip(spans, roles, strict=True))
    # If two spans start at the same offset, the longer one is named first.
    marked.sort(key=lambda pair: (pair[0][0], -pair[0][1]))
    parts: list[str] = []
    shown_to = 0
    for begin, finish in _windows(text, spans):
        if begin > shown_to:
            parts.append(_CUT)
        cuts = {begin, finish, *(offset for span in spans for offset in span)}
        offsets = sorted(offset for offset in cuts if begin <= offset <= finish)
        for start, end in pairwise(offsets):
            parts += [
                f'<span class="role {escape(role)}">{escape(role)}</span>'
                for span, role in marked
                if span[0] == start and len(spans) > 1
            ]
            inside = [role for span, role in marked if span[0] <= start and end <= span[1]]
            piece = escape(text[start:end])
            if inside:
                piece = f'<mark class="{escape(" ".join(inside))}">{piece}</mark>'
            parts.append(piece)
        shown_to = finish
    if shown_to < len(text):
        parts.append(_CUT)
    return "".join(parts)


_CUT = '<span class="cut">…</span>'


def _windows(text: str, spans: Sequence[Span]) -> list[Span]:
    """Returns the parts of a text to show, in order and without overlap."""
    if len(text) <= _WHOLE_TEXT:
        return [(0, len(text))]
    wanted = []
    for start, end in spans:
        wanted += [
            (_word_start(text, start - _AROUND_MENTION), min(end, start + _MENTION_END)),
            (max(start, end - _MENTION_END), _word_end(text, end + _AROUND_MENTION)),
        ]
    windows: list[Span] = []
    for start, end in sorted(wanted):
        if windows and start <= windows[-1][1] + _WORD_REACH:  # an ellipsis would hide very little
            windows[-1] = (windows[-1][0], max(end, windows[-1][1]))
        else:
            windows.append((start, end))
    return windows


def _word_start(text: str, offset: int) -> int:
    """Returns the start of the word at an offset, or the offset if no word starts nearby."""
    if offset <= _WORD_REACH:
        return 0
    reach = text[offset - _WORD_REACH : offset]
    spaces = [index for index, character in enumerate(reach, 1) if character.isspace()]
    return offset - _WORD_REACH + spaces[-1] if spaces else offset


def _word_end(text: str, offset: int) -> int:
    """Returns the end of the word at an offset, or the offset if no word ends nearby."""
    if offset >= len(text) - _WORD_REACH:
        return len(text)
    reach = text[offset : offset + _WORD_REACH]
    spaces = [index for index, character in enumerate(reach) if character.isspace()]
    return offset + spaces[0] if spaces else offset
