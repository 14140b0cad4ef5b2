"""Validates the inputs of the page, predicts, and returns the result or an error message."""

from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import rendering
from PIL import Image

from modeling_hmgrl.explanation.attribution import METHODS, Explanation, explain
from modeling_hmgrl.images import open_image
from modeling_hmgrl.pipeline_inputs import find_mentions

MAX_TEXT = 10_000
"""Maximum length of a sentence in characters."""

MAX_LABELS = 1_000
"""Maximum number of labels to choose from."""

MAX_LABEL = 200
"""Maximum length of a label in characters."""

_MAX_CACHED_LABELS = 20_000


class Predictor:
    """Predicts and explains for the page.

    Args:
        pipe: A :class:`ZeroShotTypingPipeline`.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        config = pipe.model.config
        self.relation: bool = config.task == "relation"
        self.reads_images: bool = config.vision_config is not None
        self.gamma: float = config.calibration_gamma
        self.seen: list[str] = list(config.seen_labels or ())
        known = dict.fromkeys([*self.seen, *(config.generator_labels or ())])
        self.labels: list[str] = list(known)[:MAX_LABELS]
        self._lock = Lock()

    def __call__(
        self,
        sentence: Any,
        mentions: Any,
        picture: Any = None,
        labels: Any = None,
        calibrated: Any = True,
        method: Any = "attention",
    ) -> tuple[dict[str, Any], str]:
        """Predicts and explains.

        Args:
            sentence: Text of at most 10,000 characters.
            mentions: Character offsets ``[[start, end]]``, end exclusive, or the words of the
                mention ``["heron"]`` if they occur once; two of them for relations, head first.
            picture: ``{"path": ...}`` of an uploaded image, or None.
            labels: At most 1,000 names.
            calibrated: Whether gamma is subtracted from the scores of seen labels.
            method: Method of the explanation, "attention" or "occlusion".

        Returns:
            The result, or ``{"error": message}``, as data and as HTML.
        """
        try:
            _check_text("sentence", sentence, MAX_TEXT)
            if not sentence.strip():
                raise ValueError("sentence: write one first")
            spans = self._spans(sentence, mentions)
            names = _check_labels(labels)
            image = self._open_image(picture)
            if method not in METHODS:
                raise ValueError(f"method: expected one of {', '.join(METHODS)}")
            found = self._explain(sentence, spans, image, names, bool(calibrated), method)
        except ValueError as error:
            message = str(error).removeprefix("input.")
            message = message[:1].upper() + message[1:]
            return {"error": message}, rendering.error(message)
        gamma = self.gamma if calibrated else None
        data = _as_data(found, set(self.seen), gamma)
        html = rendering.result(
            sentence, spans, image, found, self._token_counts(found), set(self.seen), gamma
        )
        return data, html

    def _explain(
        self,
        text: str,
        spans: list[list[int]],
        image: Image.Image | None,
        labels: list[str],
        calibrated: bool,
        method: str,
    ) -> Explanation:
        record = {"text": text, "spans": spans, "image": image}
        options = {} if calibrated else {"seen": ()}
        with self._lock:  # the cache must not be cleared while another prediction reads it
            if len(self.pipe.label_cache) > _MAX_CACHED_LABELS:
                self.pipe.label_cache.clear()
            return explain(self.pipe, record, labels, method=method, top_k=None, **options)

    def _token_counts(self, found: Explanation) -> list[int]:
        """Number of tokens of each word."""
        words = [word.text for word in found.words]
        if not words:
            return []
        tokenizer = self.pipe.processor.tokenizer
        ids = tokenizer(words, add_special_tokens=False, split_special_tokens=True).input_ids
        return [max(len(word), 1) for word in ids]

    def _spans(self, text: str, mentions: Any) -> list[list[int]]:
        expected = "two, a head and a tail" if self.relation else "one"
        if not mentions:
            raise ValueError(f"mention: none is marked, mark {expected} in the sentence")
        listed = [mentions] if isinstance(mentions, str) else mentions
        if not isinstance(listed, list):
            raise ValueError("mention: expected a list of [start, end] or of words of the sentence")
        given = sum(mention is not None for mention in listed)
        if given != (2 if self.relation else 1) or given != len(listed):
            raise ValueError(f"mention: {given} marked, this model requires {expected}")
        if all(isinstance(mention, str) for mention in listed):
            for mention in listed:
                _check_text("mention", mention, MAX_TEXT)
            return [list(span) for span in find_mentions(text, listed, "input")]
        for span in listed:
            if not isinstance(span, list) or not all(type(offset) is int for offset in span):
                raise ValueError("mention: expected [start, end] in characters")
        return listed

    def _open_image(self, upload: Any) -> Image.Image | None:
        if upload is None:
            return None
        if not self.reads_images:
            raise ValueError("picture: this model reads text only")
        # the middleware ensures that the path is that of an upload
        path = upload.get("path") if isinstance(upload, dict) else None
        if not isinstance(path, str):
            raise ValueError("picture: expected an uploaded file")
        try:
            content = Path(path).read_bytes()
        except OSError:
            raise ValueError("picture: the upload has been deleted, upload it again") from None
        return open_image(content, "picture")


def _check_text(name: str, value: Any, limit: int) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name}: got {type(value).__name__}, expected a text")
    if len(value) > limit:
        raise ValueError(f"{name}: {len(value):,} characters, expected at most {limit:,}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{name}: contains half a character (a lone surrogate)") from None


def _check_labels(labels: Any) -> list[str]:
    if not labels:
        raise ValueError("labels: none are chosen, add at least one")
    if not isinstance(labels, list):
        raise ValueError(f"labels: got {type(labels).__name__}, expected a list of texts")
    if len(labels) > MAX_LABELS:
        raise ValueError(f"labels: {len(labels):,} are chosen, expected at most {MAX_LABELS:,}")
    for label in labels:
        _check_text("label", label, MAX_LABEL)
    return labels


def _as_data(found: Explanation, seen: set[str], gamma: float | None) -> dict[str, Any]:
    """Returns the result as JSON values, rounded to five significant digits."""
    prediction = found.prediction
    return {
        "label": prediction["label"],
        "labels": [
            {"label": label, "probability": _round(p), "score": _round(s), "seen": label in seen}
            for label, p, s in zip(
                prediction["labels"],
                prediction["probabilities"],
                prediction["scores"],
                strict=True,
            )
        ],
        "gamma": None if gamma is None else _round(gamma),
        "window": prediction["window"],
        "warnings": prediction["warnings"],
        "explanation": {
            "method": found.method,
            "label": found.label,
            "words": [[word.start, word.end, _round(word.weight)] for word in found.words],
            "special": _round(found.special),
            "image": None
            if found.image is None
            else [[_round(v) for v in row] for row in np.asarray(found.image).tolist()],
            "image_class": _round(found.image_class),
            "text_share": _round(found.text_share),
            "image_share": _round(found.image_share),
        },
    }


def _round(value: float) -> float:
    return float(f"{value:.5g}")
