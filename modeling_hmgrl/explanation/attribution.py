"""Attribution of predictions to words and image regions, by attention or by occlusion.

The two methods answer different questions:

* "attention" returns the weights with which the model pools tokens: of text and image in the fusion
  of HMGRL and MG-VMoE, of the text in other methods. It is not available for methods that pool
  without attention or with separate attention for each label. The weights state what enters the
  representation, not what determines the prediction: a token of high weight may be irrelevant to
  the label, the encoders have mixed the tokens before, and mentions also enter the representation
  without pooling. With ``config.attention == "additive"``, as in the paper, the weights do not even
  depend on the mention (it cancels in the softmax).
* "occlusion" hides one word or one region of the image at a time and measures by how much the score
  of the label decreases. Each costs one forward pass. If two parts are redundant, hiding one of
  them changes the score little. It is available for every method.
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
from ..fetching import fetch, is_url
from ..images import open_image
from ..pipeline_inputs import Query
from ..ranking import Prediction
from .heatmap import Box, overlay_heatmap, patch_grid, visible_box

METHODS = ("attention", "occlusion")

# Scripts without spaces that tokenizers split into characters, including kana.
_IDEOGRAPHS = (("\u2e80", "\u9fff"), ("\uf900", "\ufaff"), ("\U00020000", "\U0003ffff"))


@dataclass(frozen=True)
class WordWeight:
    """A word and its weight.

    Attributes:
        start: Start in the text, in characters.
        end: End in the text, exclusive.
        text: The word.
        weight: Its share of the attention, or the decrease of the score without it.
    """

    start: int
    end: int
    text: str
    weight: float


@dataclass(frozen=True)
class Explanation:
    """Attribution of a prediction.

    With ``method == "attention"``, all weights are shares: ``words``, ``special``, ``image`` and
    ``image_class`` sum to 1. With "occlusion", they are decreases of the label's calibrated
    score; negative if the score increased.

    Attributes:
        prediction: The prediction.
        words: Words of the model's input, in the order of the text. Words beyond the maximum length
            are omitted (``prediction["window"]``).
        special: Share of markers and special tokens, and of padding if it is not masked; 0 for
            occlusion.
        image: Weights of the image's patches, or of its regions for occlusion, shape
            (rows, columns); None without an image.
        image_class: Share of the image tokens before the patches (class token, registers); 0 for
            occlusion.
        text_share: Share of words and special tokens; for occlusion, the decrease with all words
            hidden.
        image_share: Share of the image; for occlusion, the decrease without it.
        method: "attention" or "occlusion".
        label: Label whose score occlusion measures.
        image_box: Part of the image that ``image`` covers, smaller than the image if the
            processor crops; None without an image.
    """

    prediction: Prediction
    words: list[WordWeight]
    special: float
    image: np.ndarray | None
    image_class: float
    text_share: float
    image_share: float
    method: str
    label: str
    image_box: Box | None = None


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
            ``spans``, and optionally ``occurrence``, ``image`` and ``labels``.
        labels: Candidate labels, as for the pipeline; those of the record take precedence.
        method: "attention" or "occlusion", described in :mod:`attribution`.
        label: Label whose score occlusion measures; the predicted one by default.
        regions: Number of rows and of columns of the grid of image regions for occlusion; each
            region costs a pass of the image encoder.
        batch_size: Number of variants encoded at once for occlusion.
        **options: Further options of the pipeline: ``seen``, ``top_k``, ``image_hosts``.

    Returns:
        The explanation.

    Raises:
        ValueError: If an argument or a field of the record is invalid.

    Examples:
        >>> from transformers import BertConfig, BertTokenizer, ViTImageProcessorPil
        >>> from modeling_hmgrl import HMGRLConfig, HMGRLForZeroShotTyping
        >>> from modeling_hmgrl import HMGRLProcessor, ZeroShotTypingPipeline
        >>> words = "[PAD] [UNK] [CLS] [SEP] [MASK] * the fox saw animal tool".split()
        >>> tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
        >>> processor = HMGRLProcessor(ViTImageProcessorPil(), tokenizer, use_images=False)
        >>> text_config = BertConfig(
        ...     vocab_size=len(words), hidden_size=16, num_attention_heads=2, num_hidden_layers=1
        ... )
        >>> model = HMGRLForZeroShotTyping(HMGRLConfig(text_config=text_config)).eval()
        >>> model.add_markers(processor)
        >>> pipe = ZeroShotTypingPipeline(model, processor, device="cpu")
        >>> found = explain(pipe, {"text": "the fox", "mention": "fox"}, ["animal", "tool"])
        >>> [word.text for word in found.words], round(found.text_share, 3)
        (['the', 'fox'], 1.0)
    """
    if method not in METHODS:
        raise ValueError(f"method: got {method!r}, expected 'attention' or 'occlusion'")
    for name, value in (("regions", regions), ("batch_size", batch_size)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: got {value!r}, expected 1 or more")
    call = pipe.parse_call({**options, "labels": labels, "on_error": "raise"})
    image = record.get("image") if isinstance(record, Mapping) else None
    if image is not None:  # opened once, as its size is required below
        if is_url(image):
            image = fetch(
                image,
                call.image_hosts,
                "input.image",
                allow_private_addresses=call.allow_private_addresses,
            )
        image = open_image(image, "input.image")
        record = {**record, "image": image}
    query: Query = pipe.prepare(call, (record, "input"))
    candidates = query.labels or pipe.candidates(call.labels)
    if label is not None and label not in candidates.names:
        raise ValueError(f"label: got {label!r}, expected one of the candidate labels")
    [marked] = pipe.processor.mark([query.text], [query.spans], with_offsets=True)
    with torch.inference_mode():
        encoded = pipe.encode([query], [marked])
    [prediction] = pipe.predict_batch([query], candidates, call, encoded)
    label = prediction["label"] if label is None else label
    words = _words(query.text, marked)
    if method == "attention":
        parts = _attention(pipe, query, marked, words, encoded)
    else:
        vector = pipe.label_vectors(candidates, call)[0][candidates.names.index(label)]
        parts = _occlusion(pipe, query, marked, words, encoded, vector, regions, batch_size)
    box = None if image is None else visible_box(pipe.processor.image_processor, image.size)
    return Explanation(prediction=prediction, method=method, label=label, image_box=box, **parts)


@dataclass(frozen=True)
class _Word:
    """A word with the share of each of its tokens, by token index."""

    start: int
    end: int
    text: str
    tokens: dict[int, float]

    def with_weight(self, weight: float) -> WordWeight:
        return WordWeight(self.start, self.end, self.text, weight)


def _kind(character: str) -> Any:
    """Kind of a character; consecutive characters of equal kind form a word."""
    if character.isspace():
        return None
    group = category(character)[0]
    if group in "PS" or any(low <= character <= high for low, high in _IDEOGRAPHS):
        return object()  # equal to no other, so that the character is a word of its own
    return "word"


def split_words(text: str, start: int = 0, end: int | None = None) -> list[Span]:
    """Splits a text into words; punctuation marks and ideographs are separate words.

    Args:
        text: Text.
        start: Character offset of the part to split.
        end: Its end, exclusive.

    Returns:
        Character offsets of the words, end exclusive.

    Examples:
        >>> split_words("a fox, 狐狸")
        [(0, 1), (2, 5), (5, 6), (7, 8), (8, 9)]
    """
    words, at = [], start
    for kind, characters in groupby(text[start:end], key=_kind):
        length = len(list(characters))
        if kind is not None:
            words.append((at, at + length))
        at += length
    return words


def _words(text: str, marked: MarkedText) -> list[_Word]:
    """Words of the model's input with their tokens.

    A token that covers several words is divided among them by number of characters.
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


def _attention(
    pipe: Any, query: Query, marked: MarkedText, words: list[_Word], encoded: Any
) -> dict[str, Any]:
    """Shares of the model's attention in an encoded input."""
    if getattr(encoded, "attention", None) is None:  # an exported model or another method
        raise ValueError(
            "method: the model returns no attention (it is of the type "
            f"{pipe.model.config.model_type!r}), expected 'occlusion', which is available for "
            "every model"
        )
    weights = encoded.attention[0].double().cpu()
    count = pipe.processor.pad([marked.ids])["input_ids"].shape[1]
    text, image = weights[:count], weights[count:]
    weighted = [
        word.with_weight(sum(share * float(text[i]) for i, share in word.tokens.items()))
        for word in words
    ]
    parts: dict[str, Any] = {"image": None, "image_class": 0.0}
    if query.pixels is not None:
        config = pipe.model.config.vision_config
        rows, columns = patch_grid(config, len(image), *query.pixels.shape[-2:])
        prefix = len(image) - rows * columns
        parts["image"] = image[prefix:].reshape(rows, columns).numpy()
        parts["image_class"] = float(image[:prefix].sum())
    return {
        "words": weighted,
        "special": float(text.sum()) - math.fsum(word.weight for word in weighted),
        "text_share": float(text.sum()),
        "image_share": float(image.sum()),
        **parts,
    }


def _occlusion(
    pipe: Any,
    query: Query,
    marked: MarkedText,
    words: list[_Word],
    encoded: Any,
    vector: Tensor,
    regions: int,
    batch_size: int,
) -> dict[str, Any]:
    """Decreases of a label's score with parts of the input hidden."""
    tokenizer = pipe.processor.tokenizer
    mask = tokenizer.mask_token_id
    mask = tokenizer.unk_token_id if mask is None else mask
    if mask is None:
        raise ValueError("method: the tokenizer has no mask token, expected 'attention'")
    variants = [set(word.tokens) for word in words]
    variants.append(set().union(*variants))
    texts = [[mask if i in hidden else t for i, t in enumerate(marked.ids)] for hidden in variants]
    pixels = query.pixels
    jobs: Iterable[tuple[list[int], Tensor | None]] = [(ids, pixels) for ids in texts]
    if pixels is not None:
        rows, columns = (min(regions, side) for side in pixels.shape[-2:])
        parts = ((marked.ids, part) for part in _hidden_regions(pixels, rows, columns))
        jobs = chain(jobs, [(marked.ids, None)], parts)
    with torch.inference_mode():
        whole = float(pipe.model.score(encoded, vector.unsqueeze(0))[0, 0])
    drops = [whole - score for score in _scores(pipe, marked, jobs, vector, batch_size)]
    count = len(words)
    return {
        "words": [word.with_weight(drop) for word, drop in zip(words, drops, strict=False)],
        "special": 0.0,
        "text_share": drops[count],
        "image_share": 0.0 if pixels is None else drops[count + 1],
        "image": None if pixels is None else np.array(drops[count + 2 :]).reshape(rows, columns),
        "image_class": 0.0,
    }


def _hidden_regions(pixels: Tensor, rows: int, columns: int) -> Iterator[Tensor]:
    """The image (1, 3, height, width) with one region at a time replaced by its mean colour."""
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
    """Scores of pairs of token ids and image against one label vector (d_p,), in order.

    gamma is not subtracted, as it cancels in differences of scores.
    """
    stream = iter(jobs)
    while part := list(islice(stream, batch_size)):
        # Identical objects share a key, as the pipeline encodes the image of each key once.
        queries = [
            Query("", [], pixels, None if pixels is None else str(id(pixels)), None)
            for _, pixels in part
        ]
        texts = [MarkedText(ids, marked.positions, None) for ids, _ in part]
        encoded = pipe.encode(queries, texts)
        yield from pipe.model.score(encoded, vector.unsqueeze(0))[:, 0].double().tolist()


__all__ = ["METHODS", "Explanation", "WordWeight", "explain", "overlay_heatmap", "split_words"]
