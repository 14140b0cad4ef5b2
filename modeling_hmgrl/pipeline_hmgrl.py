"""Prediction on raw text, mentions and pictures, against any label names given at call time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .calibration import calibrated
from .images import open_image
from .marking import Span, check_spans
from .modeling_hmgrl import HMGRLForZeroShotTyping
from .processing_hmgrl import HMGRLProcessor


@dataclass(frozen=True)
class Prediction:
    """What was predicted for one sample.

    Attributes:
        label: Name of the best label.
        labels: Names of the best labels, best first.
        scores: Their calibrated scores.
        probabilities: Softmax of the calibrated scores over all labels given.
        seen: Whether each was seen in training, with gamma taken off its score.
        window: None, or the character ranges that were kept of a text that was too long.
    """

    label: str
    labels: list[str]
    scores: list[float]
    probabilities: list[float]
    seen: list[bool]
    window: list[Span] | None


class HMGRLPredictor:
    """Model and processor, ready to type mentions or relations.

    Args:
        model: Trained model.
        processor: Its processor.
        device: Where to run; the model's device if None.
    """

    def __init__(
        self,
        model: HMGRLForZeroShotTyping,
        processor: HMGRLProcessor,
        device: str | torch.device | None = None,
    ) -> None:
        self.model = model.eval() if device is None else model.to(device).eval()
        self.processor = processor

    @classmethod
    def from_pretrained(
        cls, name: str, device: str | torch.device | None = None, **options: Any
    ) -> "HMGRLPredictor":
        """Loads model and processor from a folder or the Hub.

        Args:
            name: Folder or Hub name.
            device: Where to run.
            **options: Options of both ``from_pretrained``, as ``revision`` or ``token``.
        """
        model = HMGRLForZeroShotTyping.from_pretrained(name, **options)
        return cls(model, HMGRLProcessor.from_pretrained(name, **options), device)

    @torch.inference_mode()
    def __call__(
        self,
        text: str | Sequence[str],
        spans: Sequence[Any] | None = None,
        images: Any = None,
        labels: Sequence[str] | None = None,
        *,
        mentions: Any = None,
        seen: Sequence[str] | None = None,
        top_k: int | None = 5,
        batch_size: int = 32,
    ) -> Prediction | list[Prediction]:
        """Predicts labels.

        Args:
            text: One text, or several.
            spans: For each text its mentions as character offsets [[start, end], ...].
            images: For each text a picture (path, bytes, PIL picture, array) or None.
            labels: Label names to choose from; all labels known from training if None.
            mentions: In place of spans, for each text its mentions as strings: one for typing, a
                pair (head, tail) for relations. Each must occur exactly once.
            seen: Which labels were seen in training; those of the config if None.
            top_k: Labels returned; all if None.
            batch_size: Samples encoded at once.

        Returns:
            One :class:`Prediction` for one text, a list for several.

        Raises:
            ValueError: Naming the sample, the argument and what was expected.
        """
        single = isinstance(text, str)
        texts = [text] if isinstance(text, str) else list(text)
        for option, value in (("top_k", top_k), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"{option}: got {value}, expected 1 or more")
        checked = self._spans(texts, spans, mentions, single)
        pictures = _of_texts("images", images, len(texts), single)
        names = self._label_names(labels)
        if isinstance(seen, str):
            raise ValueError(f"seen: got {seen!r}, expected a list of label names")
        known = set(self.model.config.seen_labels or ()) if seen is None else set(seen)
        seen_mask = np.array([name in known for name in names])
        encodings = self._encode_labels(names)
        results: list[Prediction] = []
        for start in range(0, len(texts), batch_size):
            part = slice(start, start + batch_size)
            opened = pictures and [
                None if image is None else open_image(image, f"sample {i}.image")
                for i, image in enumerate(pictures[part], start)
            ]
            batch = self.processor(texts[part], checked[part], opened)
            inputs = {name: value.to(self.model.device) for name, value in batch.items()}
            logits = self.model(**inputs, label_embeddings=encodings).logits.float().cpu().numpy()
            scores = calibrated(logits, seen_mask, self.model.config.calibration_gamma)
            for row, window in zip(scores, batch.windows, strict=True):
                results.append(_prediction(row, names, seen_mask, top_k, window))
        return results[0] if single else results

    def _spans(self, texts: list[str], spans: Any, mentions: Any, single: bool) -> list[list[Span]]:
        """The mentions of every text as checked spans; errors count over all texts given."""
        if (spans is None) == (mentions is None):
            raise ValueError("spans, mentions: expected exactly one of them")
        given = _of_texts("spans", spans, len(texts), single)
        if given is None:
            strings = _of_texts("mentions", mentions, len(texts), single) or []
            given = [find_mentions(t, strings[i], f"sample {i}") for i, t in enumerate(texts)]
        count = self.processor.num_spans
        return [check_spans(t, given[i], count, f"sample {i}") for i, t in enumerate(texts)]

    def _label_names(self, labels: Sequence[str] | None) -> list[str]:
        if isinstance(labels, str):
            raise ValueError(f"labels: got {labels!r}, expected a list of label names")
        if labels is not None:
            return list(labels)
        config = self.model.config
        names = [*(config.seen_labels or ()), *(config.generator_labels or ())]
        if not names:
            raise ValueError(
                "labels: the model's config names none, expected a list of label names"
            )
        return names

    def _encode_labels(self, names: list[str]) -> torch.Tensor:
        texts = [self.model.config.text_of(name) for name in names]
        encoded = self.processor.encode_labels(texts)
        return self.model.encode_labels(
            encoded["label_input_ids"].to(self.model.device),
            encoded["label_attention_mask"].to(self.model.device),
        )


def _of_texts(name: str, values: Any, count: int, single: bool) -> list[Any] | None:
    """What was given for each of ``count`` texts, or for a single one, as a list."""
    if values is None or single:
        return None if values is None else [values]
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        raise ValueError(f"{name}: got {type(values).__name__}, expected a list over texts")
    if len(values) != count:
        raise ValueError(f"{name}: got {len(values)}, expected {count} as of text")
    return list(values)


def _prediction(
    scores: np.ndarray,
    names: list[str],
    seen: np.ndarray,
    top_k: int | None,
    window: list[Span] | None,
) -> Prediction:
    exponential = np.exp(scores - scores.max())
    probabilities = exponential / exponential.sum()
    best = np.argsort(-scores, kind="stable")[:top_k]
    return Prediction(
        label=names[best[0]],
        labels=[names[k] for k in best],
        scores=[float(scores[k]) for k in best],
        probabilities=[float(probabilities[k]) for k in best],
        seen=[bool(seen[k]) for k in best],
        window=window,
    )


def find_mentions(text: str, mentions: str | Sequence[str], place: str = "text") -> list[Span]:
    """Finds mentions in a text as character offsets.

    Args:
        text: Text.
        mentions: One mention, or several.
        place: How errors name the sample.

    Returns:
        One (start, end) for each mention.

    Raises:
        ValueError: If a mention does not occur, or occurs several times; the places are listed.
    """
    found = []
    listed = [mentions] if isinstance(mentions, str) else mentions
    if not isinstance(listed, Sequence) or not all(isinstance(m, str) for m in listed):
        raise ValueError(f"{place}: mention {mentions!r}, expected a string, or a pair of them")
    for mention in listed:
        starts = []
        at = text.find(mention) if mention else -1
        while at >= 0:
            starts.append(at)
            at = text.find(mention, at + 1)
        if len(starts) != 1:
            places = f"at {starts}" if starts else "nowhere"
            raise ValueError(
                f"{place}: mention {mention!r} occurs {places}, expected exactly one place; give "
                "spans instead"
            )
        found.append((starts[0], starts[0] + len(mention)))
    return found


__all__ = ["HMGRLPredictor", "Prediction", "find_mentions"]
