"""Renders results as HTML. All user text is escaped by :func:`html.escape`."""

import base64
import io
from collections.abc import Sequence
from html import escape
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from PIL import Image

from modeling_hmgrl.explanation.attribution import Explanation, overlay_heatmap

SHOWN_LABELS = 10
"""Number of labels with a bar."""

# Minimum excess over an even share, and minimum fraction of the largest fall, for full colour.
_MIN_EXCESS, _MIN_FALL = 0.02, 0.1
_NEARLY_EVEN = 1.1  # maximum multiple of an even share for which weights are called nearly even

# Sides of the heatmap in pixels, and the maximum enlargement.
_MIN_SIDE, _MAX_SIDE, _MAX_ENLARGEMENT = 320, 768, 4.0
_JPEG_QUALITY = 88
_MAX_OUTSIDE = 80  # characters shown on each side of the window


def placeholder() -> str:
    """Returns the placeholder of the result."""
    return (
        '<div class="hm-empty"><p><strong>No prediction yet.</strong></p><p>Mark a mention, choose '
        "labels and press “Predict”, or select one of the examples.</p></div>"
    )


def error(message: str) -> str:
    """Returns an error message."""
    return (
        '<div class="hm-error" role="alert"><strong>No prediction.</strong> '
        f"{escape(message)}</div>"
    )


def result(
    text: str,
    spans: Sequence[Sequence[int]],
    image: Image.Image | None,
    found: Explanation,
    lengths: Sequence[int],
    seen: set[str],
    gamma: float | None,
) -> str:
    """Renders a prediction and its explanation.

    Args:
        text: The sentence.
        spans: Its mentions, as character offsets.
        image: The image.
        found: The explained prediction.
        lengths: Number of tokens of each word, to which its even share is proportional.
        seen: Labels seen in training.
        gamma: Value subtracted from the scores of seen labels; None if uncalibrated.
    """
    parts = [
        _prediction(found, seen),
        _warnings(found.prediction["warnings"]),
        _window(text, found.prediction["window"]),
        _bars(found, seen, gamma),
        _explanation(text, spans, image, found, lengths),
    ]
    return f'<div class="hm-result" role="status">{"".join(parts)}</div>'


def _prediction(found: Explanation, seen: set[str]) -> str:
    prediction = found.prediction
    label = prediction["label"]
    probability = _percent(prediction["probabilities"][0])
    kind = "seen in training" if label in seen else "no sample seen in training"
    return (
        f'<p class="hm-answer"><span class="hm-label" dir="auto">{escape(label)}</span> '
        f'<span class="hm-chance">{probability}</span> '
        f'<span class="hm-kind {_kind(label, seen)}">{kind}</span></p>'
    )


def _warnings(warnings: Sequence[str]) -> str:
    return "".join(
        f'<p class="hm-note" dir="auto"><strong>Caution:</strong> {escape(warning)}</p>'
        for warning in warnings
    )


def _window(text: str, window: Sequence[Sequence[int]] | None) -> str:
    if window is None:
        return ""
    kept = sum(end - start for start, end in window)
    return (
        '<p class="hm-note"><strong>Long text:</strong> the model read only a window around the '
        f"mention, {kept:,} of {len(text):,} characters. The rest is grey below.</p>"
    )


def _bars(found: Explanation, seen: set[str], gamma: float | None) -> str:
    prediction = found.prediction
    rows = []
    for label, probability in zip(
        prediction["labels"][:SHOWN_LABELS], prediction["probabilities"], strict=False
    ):
        kind = _kind(label, seen)
        rows.append(
            f'<li class="{kind}"><span class="hm-name" dir="auto">{escape(label)}</span>'
            f'<span class="hm-share">{_percent(probability)}</span>'
            f'<span class="hm-track"><span style="width:{100 * probability:.2f}%"></span></span>'
            f'<span class="hm-sr">{kind}</span></li>'
        )
    rest = len(prediction["labels"]) - SHOWN_LABELS
    more = ""
    if rest > 0:
        left = _percent(sum(prediction["probabilities"][SHOWN_LABELS:]))
        labels = "label" if rest == 1 else "labels"
        more = f'<p class="hm-more">{rest:,} more {labels}, together {left}</p>'
    if gamma is None:
        calibration = "uncalibrated"
    else:
        calibration = f"calibrated: γ = {gamma:.3g} subtracted from the scores of seen labels"
    return (
        "<h3>Probabilities</h3>"
        f'<ol class="hm-bars">{"".join(rows)}</ol>{more}'
        '<p class="hm-legend"><span class="seen">seen in training</span> '
        f'<span class="unseen">no sample seen in training</span> <span>{calibration}</span></p>'
    )


def _explanation(
    text: str,
    spans: Sequence[Sequence[int]],
    image: Image.Image | None,
    found: Explanation,
    lengths: Sequence[int],
) -> str:
    words = np.array([word.weight for word in found.words])
    patches = np.zeros((0, 0)) if found.image is None else np.asarray(found.image)
    if found.method == "attention":
        title = "Attention"
        summary = "All of it is on the text."
        if patches.size:
            summary = (
                f"{_percent(found.text_share)} of it is on the text, "
                f"{_percent(found.image_share)} on the picture."
            )
        words, patches = _relative(words, np.array(lengths)), _relative(patches)
        summary += f" Orange: more than an even share. {_range('Words', words)}"
        caption = _range("Parts of the picture", patches)
        levels = [_scale((part - 1).clip(min=0), _MIN_EXCESS) for part in (words, patches)]
    else:
        title = f"Occlusion: score of “{found.label}”"
        summary = f"Without the words it {_change(found.text_share)}"
        if patches.size:
            summary += f", without the picture it {_change(found.image_share)}"
        summary += ". Orange: falls without this part; blue: rises."
        low, high = -patches.max(initial=-np.inf), -patches.min(initial=np.inf)
        caption = f"With one part hidden it changes by {low:+.2g} to {high:+.2g}."
        # a common scale, so that irrelevant parts of either modality are not highlighted
        largest = max(float(np.abs(part).max(initial=0.0)) for part in (words, patches))
        levels = [_scale(part, _MIN_FALL * largest) for part in (words, patches)]
    parts = [
        f"<h3>{escape(title)}</h3>",
        f'<p class="hm-shares">{escape(summary)}</p>',
        _words(text, spans, found, levels[0]),
    ]
    if image is not None and patches.size:
        parts.append(_heatmap(image, found, levels[1], caption))
    return f'<section class="hm-looks">{"".join(parts)}</section>'


def _relative(weights: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
    """Returns weights as multiples of an even share, which is proportional to the length."""
    lengths = np.ones(weights.shape) if lengths is None else lengths
    even = weights.sum() / max(lengths.sum(), 1) * lengths
    return weights / np.maximum(even, np.finfo(np.float32).tiny)


def _range(name: str, times: np.ndarray) -> str:
    if not times.size:
        return ""
    text = f"{name} get {times.min():.2f} to {times.max():.2f} times an even share"
    nearly = times.max() < _NEARLY_EVEN
    return f"{text}: nearly even, the colours are stretched." if nearly else f"{text}."


def _scale(values: np.ndarray, least: float) -> np.ndarray:
    """Divides values by the largest magnitude, but at least ``least``; results are in [-1, 1]."""
    largest = max(least, float(np.abs(values).max(initial=0.0)))
    return values / largest if largest > 0 else values


def _words(
    text: str, spans: Sequence[Sequence[int]], found: Explanation, levels: np.ndarray
) -> str:
    """Renders the sentence with coloured words and framed mentions."""
    level_of = {word.start: (word, level) for word, level in zip(found.words, levels, strict=True)}
    window = found.prediction["window"]
    cuts = {0, len(text), *level_of, *(word.end for word in found.words)}
    cuts |= {offset for span in spans for offset in span}
    cuts |= {offset for kept in window or () for offset in kept}
    bounds = sorted(cuts)
    pieces: list[tuple[list[str], str]] = []
    current = None  # the word that contains a piece; a mention may start inside a word
    for start, end in pairwise(bounds):
        current = level_of.get(start, current if current and start < current[0].end else None)
        piece = escape(text[start:end])
        if current is not None:
            word, level = current
            is_share = found.method == "attention"
            weight = _percent(word.weight) if is_share else _change(word.weight)
            piece = (
                f'<span class="hm-word {"loss" if level < 0 else "gain"}" style="--heat:'
                f'{abs(level):.3f}" title="{escape(word.text)}: {weight}">{piece}</span>'
            )
        elif window is not None and not any(a <= start and end <= b for a, b in window):
            cut = _abridge(text[start:end], start == 0, end == len(text))
            piece = f'<span class="hm-cut">{escape(cut)}</span>'
        kinds = ("head", "tail") if len(spans) > 1 else ("mention",)
        marks = [kind for kind, (a, b) in zip(kinds, spans, strict=True) if a <= start and end <= b]
        pieces.append((marks, piece))
    shown = ""
    for marks, group in groupby(pieces, key=lambda entry: entry[0]):
        inside = "".join(piece for _, piece in group)
        for kind in marks:
            inside = f'<mark class="hm-mark {kind}">{inside}</mark>'
        shown += inside
    return f'<p class="hm-words" dir="auto">{shown}</p>'


def _heatmap(image: Image.Image, found: Explanation, levels: np.ndarray, caption: str) -> str:
    """Renders the image with a heatmap, scaled to a suitable size."""
    factor = min(1.0, _MAX_SIDE / max(image.size))
    factor = max(factor, min(_MIN_SIDE / max(image.size), _MAX_ENLARGEMENT))
    size = [max(round(factor * side), 1) for side in image.size]
    box = None if found.image_box is None else [factor * side for side in found.image_box]
    drawn = overlay_heatmap(image.resize(size, Image.Resampling.LANCZOS), levels, box, scale=1.0)
    buffer = io.BytesIO()
    drawn.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    content = base64.b64encode(buffer.getvalue()).decode("ascii")
    row, column = np.unravel_index(int(levels.argmax()), levels.shape)
    position = f"{_third(row, levels.shape[0], 'upper', 'middle', 'lower')} " + _third(
        column, levels.shape[1], "left", "centre", "right"
    )
    return (
        f'<figure class="hm-heat"><img src="data:image/jpeg;base64,{content}" '
        f'alt="Heatmap over the picture, strongest in the {position}" '
        f'width="{drawn.width}" height="{drawn.height}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _third(index: Any, count: int, *names: str) -> str:
    return names[min(3 * int(index) // count, 2)]


def _kind(label: str, seen: set[str]) -> str:
    return "seen" if label in seen else "unseen"


def _percent(share: float) -> str:
    if 0 < share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


def _change(fall: float) -> str:
    return f"{'falls' if fall >= 0 else 'rises'} by {abs(fall):.2g}"


def _abridge(text: str, is_first: bool, is_last: bool) -> str:
    """Shortens text outside the window to its parts next to the window."""
    if len(text) <= 2 * _MAX_OUTSIDE:
        return text
    before = "" if is_first else f"{text[:_MAX_OUTSIDE]} "
    after = "" if is_last else f" {text[-_MAX_OUTSIDE:]}"
    return f"{before}[…]{after}"
