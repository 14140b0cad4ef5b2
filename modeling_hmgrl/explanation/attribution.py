"""What a prediction rests on: where the fusion's attention looks, or what the score loses.

Two methods, which answer different questions:

* "attention" shows the weights with which the model pools tokens: of text and picture in HMGRL's
  fusion and MG-VMoE's, of the text in other methods. Methods that pool by no attention, or by one
  for each label, have none to show. The weights say what is mixed into the representation, not what
  decides: a token of much weight may carry nothing about the label, the encoders have mixed the
  tokens before, and mentions enter the representation a second time, past the pooling. With
  ``config.attention == "additive"``, the paper's form, the mention does not even steer the weights
  (it cancels in the softmax).
* "occlusion" hides one word, or one region of the picture, at a time and shows how much the score
  of the label falls. It costs one pass for each, and tells what the model needed. Parts that stand
  in for each other hide one another: masking either alone then changes little. It works with every
  method.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import Any
from unicodedata import category

import numpy as np
import torch
from torch import Tensor

from ..entity_markers import MarkedText, Span
from ..images import fetch, is_url, open_image
from ..pipeline_inputs import Query
from ..ranking import Prediction
from .heatmap import Box, heat_over, patch_grid, visible_box

METHODS = ("attention", "occlusion")

# Scripts without spaces whose characters tokenizers take one by one; kana are among them.
_IDEOGRAPHS = (("\u2e80", "\u9fff"), ("\uf900", "\ufaff"), ("\U00020000", "\U0003ffff"))


@dataclass(frozen=True)
class WordWeight:
    """A word and what it weighs.

    Attributes:
        start: Where it starts in the text, in characters.
        end: Where it ends, exclusive.
        text: The word.
        weight: Its share, or by how much the score falls without it.
    """

    start: int
    end: int
    text: str
    weight: float


@dataclass(frozen=True)
class Explanation:
    """Where a prediction comes from.

    With ``method == "attention"`` all weights are shares: ``words``, ``special``, ``picture`` and
    ``picture_class`` sum to 1. With "occlusion" they are falls of the label's calibrated score (in
    units of the score); below 0 where the score rose.

    Attributes:
        prediction: What was predicted.
        words: The words that the model was shown, in the order of the text. Those that were cut off
            a long text are not among them (``prediction["window"]``).
        special: Share of markers and special tokens, and of padding where it is not masked; 0 for
            occlusion.
        picture: Weights of the picture's patches, shape (rows, columns); of its regions for
            occlusion. None without a picture.
        picture_class: Share of what the image encoder puts before the patches: class token,
            registers; 0 for occlusion.
        text_share: Share of words and special tokens; for occlusion the fall with all words hidden.
        picture_share: Share of the picture; for occlusion the fall without it.
        method: "attention" or "occlusion".
        label: The label whose score occlusion looks at.
        picture_box: The part of the picture that ``picture`` covers; less than the whole where the
            processor crops. None without a picture.
    """

    prediction: Prediction
    words: list[WordWeight]
    special: float
    picture: np.ndarray | None
    picture_class: float
    text_share: float
    picture_share: float
    method: str
    label: str
    picture_box: Box | None = None


def explain(
    pipe: Any,
    record: Mapping[str, Any],
    labels: Any = None,
    *,
    method: str = "attention",
    label: str | None = None,
    regions: int = 7,
    batch_size: int = 32,
    **options: Any,
) -> Explanation:
    """Explains the prediction for one input.

    Args:
        pipe: A :class:`ZeroShotTypingPipeline`.
        record: Mapping with the fields of the pipeline's inputs: ``text``, ``mention`` or
            ``spans``, and perhaps ``occurrence``, ``image`` and ``labels``.
        labels: Labels to choose from, as of the pipeline; the record's own go before.
        method: "attention" or "occlusion"; what they say is above, in the text of this module.
        label: Label whose score occlusion looks at; the predicted one by default.
        regions: Occlusion hides regions of a grid of that many rows and columns; each costs a pass
            of the image encoder.
        batch_size: Variants encoded at once for occlusion.
        **options: Further ones of the pipeline: ``seen``, ``top_k``, ``image_hosts``.

    Returns:
        The explanation.

    Raises:
        ValueError: Naming the argument and what was expected.
    """
    if method not in METHODS:
        raise ValueError(f"method: got {method!r}, expected 'attention' or 'occlusion'")
    for name, value in (("regions", regions), ("batch_size", batch_size)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: got {value!r}, expected 1 or more")
    call = pipe.parse_call({**options, "labels": labels, "on_error": "raise"})
    image = record.get("image") if isinstance(record, Mapping) else None
    if image is not None:  # opened here, once, as its size is needed
        image = fetch(image, call.image_hosts, "input.image") if is_url(image) else image
        image = open_image(image, "input.image")
        record = {**record, "image": image}
    query: Query = pipe.prepare(call, (record, "input"))
    candidates = query.labels or pipe.candidates(call.labels)
    if label is not None and label not in candidates.names:
        raise ValueError(f"label: got {label!r}, expected one of the labels to choose from")
    prediction = pipe.predict_batch([query], candidates, call)[0]
    label = prediction["label"] if label is None else label
    [marked] = pipe.processor.mark([query.text], [query.spans], with_offsets=True)
    words = _words(query.text, marked)
    if method == "attention":
        parts = _attention(pipe, query, marked, words)
    else:
        vector = pipe.label_vectors(candidates, call)[0][candidates.names.index(label)]
        parts = _occlusion(pipe, query, marked, words, vector, regions, batch_size)
    box = None if image is None else visible_box(pipe.processor.image_processor, image.size)
    return Explanation(prediction=prediction, method=method, label=label, picture_box=box, **parts)


@dataclass(frozen=True)
class _Word:
    """A word with the share of each of its tokens, as token index to share."""

    start: int
    end: int
    text: str
    tokens: dict[int, float]

    def weighing(self, weight: float) -> WordWeight:
        return WordWeight(self.start, self.end, self.text, weight)


def _kind(character: str) -> Any:
    """What a character belongs to; characters of one kind in a row make a word."""
    if character.isspace():
        return None
    group = category(character)[0]
    if group in "PS" or any(low <= character <= high for low, high in _IDEOGRAPHS):
        return object()  # equal to no other: stands by itself
    return "word"


def split_words(text: str, start: int = 0, end: int | None = None) -> list[Span]:
    """Splits a text into words, each punctuation mark and each ideograph by itself.

    Args:
        text: Text.
        start: Where to start.
        end: Where to end, exclusive.

    Returns:
        Character offsets of the words, end exclusive.
    """
    words, at = [], start
    for kind, characters in groupby(text[start:end], key=_kind):
        length = len(list(characters))
        if kind is not None:
            words.append((at, at + length))
        at += length
    return words


def _words(text: str, marked: MarkedText) -> list[_Word]:
    """The words that were kept of a text, with their tokens.

    A token that reaches over several words is shared out by characters.
    """
    spans = [
        span
        for start, end in marked.kept or [(0, len(text))]
        for span in split_words(text, start, end)
    ]
    starts = [start for start, _ in spans]
    found: list[dict[int, float]] = [{} for _ in spans]
    for index, offset in enumerate(marked.offsets or ()):
        if offset is None:
            continue
        first = max(bisect_right(starts, offset[0]) - 1, 0)
        overlaps = {}
        for word in range(first, len(spans)):
            start, end = spans[word]
            if start >= offset[1]:
                break
            if (common := min(end, offset[1]) - max(start, offset[0])) > 0:
                overlaps[word] = common
        for word, common in overlaps.items():
            found[word][index] = common / sum(overlaps.values())
    return [
        _Word(start, end, text[start:end], tokens)
        for (start, end), tokens in zip(spans, found, strict=True)
        if tokens
    ]


def _attention(pipe: Any, query: Query, marked: MarkedText, words: list[_Word]) -> dict[str, Any]:
    """The shares of the model's attention."""
    with torch.inference_mode():
        encoded = pipe.encode([query], [marked])
    if getattr(encoded, "attention", None) is None:  # an exported model, or a method without
        raise ValueError(
            "method: the model returns no attention (it is of the type "
            f"{pipe.model.config.model_type!r}), expected 'occlusion', which works with every model"
        )
    weights = encoded.attention[0].double().cpu()
    count = pipe.processor.pad([marked.ids])["input_ids"].shape[1]
    text, image = weights[:count], weights[count:]
    weighed = [
        word.weighing(sum(share * float(text[i]) for i, share in word.tokens.items()))
        for word in words
    ]
    parts: dict[str, Any] = {"picture": None, "picture_class": 0.0}
    if query.pixels is not None:
        config = pipe.model.config.vision_config
        rows, columns = patch_grid(config, len(image), *query.pixels.shape[-2:])
        prefix = len(image) - rows * columns
        parts["picture"] = image[prefix:].reshape(rows, columns).numpy()
        parts["picture_class"] = float(image[:prefix].sum())
    return {
        "words": weighed,
        "special": float(text.sum()) - math.fsum(word.weight for word in weighed),
        "text_share": float(text.sum()),
        "picture_share": float(image.sum()),
        **parts,
    }


def _occlusion(
    pipe: Any,
    query: Query,
    marked: MarkedText,
    words: list[_Word],
    vector: Tensor,
    regions: int,
    batch_size: int,
) -> dict[str, Any]:
    """The falls of a label's score with parts of the input hidden."""
    tokenizer = pipe.processor.tokenizer
    hidden = tokenizer.mask_token_id
    hidden = tokenizer.unk_token_id if hidden is None else hidden
    if hidden is None:
        raise ValueError("method: the tokenizer has no mask token, expected 'attention'")
    variants = [set[int](), *(set(word.tokens) for word in words)]
    variants.append(set().union(*variants))
    texts = [[hidden if i in gone else t for i, t in enumerate(marked.ids)] for gone in variants]
    pixels = query.pixels
    jobs: Iterable[tuple[list[int], Tensor | None]] = [(ids, pixels) for ids in texts]
    if pixels is not None:
        rows, columns = (min(regions, side) for side in pixels.shape[-2:])
        parts = ((marked.ids, part) for part in _hidden_regions(pixels, rows, columns))
        jobs = chain(jobs, [(marked.ids, None)], parts)
    scores = list(_scores(pipe, marked, jobs, vector, batch_size))
    falls = [scores[0] - score for score in scores[1:]]
    count = len(words)
    return {
        "words": [word.weighing(fall) for word, fall in zip(words, falls, strict=False)],
        "special": 0.0,
        "text_share": falls[count],
        "picture_share": 0.0 if pixels is None else falls[count + 1],
        "picture": None if pixels is None else np.array(falls[count + 2 :]).reshape(rows, columns),
        "picture_class": 0.0,
    }


def _hidden_regions(pixels: Tensor, rows: int, columns: int) -> Iterator[Tensor]:
    """The picture (1, 3, height, width) with a region at a time in the picture's mean colour."""
    mean = pixels.mean((2, 3), keepdim=True)
    height, width = pixels.shape[-2:]
    for row in range(rows):
        top, bottom = row * height // rows, (row + 1) * height // rows
        for column in range(columns):
            left, right = column * width // columns, (column + 1) * width // columns
            part = pixels.clone()
            part[..., top:bottom, left:right] = mean
            yield part


@torch.inference_mode()
def _scores(
    pipe: Any,
    marked: MarkedText,
    jobs: Iterable[tuple[list[int], Tensor | None]],
    vector: Tensor,
    batch_size: int,
) -> Iterator[float]:
    """Scores of pairs of token ids and picture against one label vector (d_p,), in order.

    gamma is the same in all of them and cancels in differences.
    """
    stream = iter(jobs)
    while part := list(islice(stream, batch_size)):
        # one object is one picture: the pipeline encodes each key once
        queries = [
            Query("", [], pixels, None if pixels is None else str(id(pixels)), None)
            for _, pixels in part
        ]
        texts = [MarkedText(ids, marked.positions, None) for ids, _ in part]
        encoded = pipe.encode(queries, texts)
        yield from pipe.model.score(encoded, vector.unsqueeze(0))[:, 0].double().tolist()


__all__ = ["METHODS", "Explanation", "WordWeight", "explain", "heat_over", "split_words"]
