"""Training-free baselines: similarity of encodings, and label frequencies.

Both score the candidate labels and are calibrated on validation like every method.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbones import max_tokens
from ..metrics.calibration import Metric, best_gamma
from ..metrics.gzs_scores import evaluate_scores
from ..metrics.label_sets import LabelSets
from ..pooling import masked_mean

VARIANTS = ("mention", "mention alone", "sentence", "mention + sentence")
"""Encodings compared with the label: the mention's tokens in its sentence, the mention encoded by
itself, all tokens of the sentence, or the sum of the first and the third after normalisation."""


@torch.inference_mode()
def _encode(
    encoder: Any, tokenizer: Any, texts: list[str], spans: list[Any] | None, batch_size: int = 64
) -> tuple[Tensor, Tensor | None]:
    """Mean token states of texts, (N, d), and those of their mentions."""
    whole, inner = [], []
    device = next(encoder.parameters()).device
    for start in range(0, len(texts), batch_size):
        batch = tokenizer(
            texts[start : start + batch_size],
            padding=True,
            truncation=True,
            max_length=min(256, max_tokens(encoder) or 256),
            return_tensors="pt",
            return_offsets_mapping=True,
        ).to(device)
        offsets = batch.pop("offset_mapping")
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        states = encoder(**inputs).last_hidden_state.float()
        mask = batch["attention_mask"].bool()
        whole.append(masked_mean(states, mask))
        if spans is not None:
            inside = torch.zeros_like(mask)
            for row, sample in enumerate(spans[start : start + batch_size]):
                for a, b in sample:
                    token = (offsets[row, :, 0] < b) & (offsets[row, :, 1] > a)
                    inside[row] |= token & mask[row]
            # A mention beyond the maximum length is represented by its sentence.
            inside |= ~inside.any(1, keepdim=True) & mask
            inner.append(masked_mean(states, inside))
    return torch.cat(whole), torch.cat(inner) if inner else None


def label_similarity(
    encoder: Any,
    tokenizer: Any,
    labels: LabelSets,
    validation: Any,
    test: Any,
    metric: Metric = "f1",
) -> dict[str, Any]:
    """Scores labels by the cosine of mention or sentence with the label's text.

    All :data:`VARIANTS` are evaluated; variant and gamma are chosen on validation.

    Args:
        encoder: Text encoder without fine-tuning.
        tokenizer: Its fast tokenizer.
        labels: Label sets.
        validation: Records with text, spans, label.
        test: Records with text, spans, label.
        metric: Overall metric by which variant and gamma are chosen.

    Returns:
        ``variant``, ``gamma`` and the scores of ``validation`` and ``test``; ``variants`` holds the
        overall metric of each variant on validation.
    """
    encoder.eval()
    scores, truths = {}, {}
    for split, data in (("validation", validation), ("test", test)):
        scores[split], truths[split] = _similarities(encoder, tokenizer, labels, split, data)
    mask = labels.seen_mask("validation")
    tried = {
        variant: best_gamma(scores["validation"][variant], truths["validation"], mask, metric)
        for variant in VARIANTS
    }
    best = max(VARIANTS, key=lambda variant: tried[variant].value)
    chosen = {split: scores[split][best] for split in scores}
    return {
        "variant": best,
        "variants": {variant: found.value for variant, found in tried.items()},
        **_evaluated(labels, chosen, truths, float(tried[best].gamma)),
    }


def _evaluated(
    labels: LabelSets, scores: dict[str, np.ndarray], truths: dict[str, np.ndarray], gamma: float
) -> dict[str, Any]:
    """``gamma`` and the scores of each split under it."""
    return {"gamma": gamma} | {
        split: evaluate_scores(scores[split], truths[split], labels.seen_mask(split), gamma)
        for split in scores
    }


def _similarities(
    encoder: Any, tokenizer: Any, labels: LabelSets, split: str, data: Any
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Scores of each variant, (N, K), and indices of the true labels, (N,)."""
    names = labels.candidates(split)
    texts, spans = list(data["text"]), list(data["spans"])
    sentence, mention = _encode(encoder, tokenizer, texts, spans)
    assert mention is not None
    # The mentions of a relation are joined to "head tail".
    strings = [
        " ".join(text[start:end] for start, end in sample)
        for text, sample in zip(texts, spans, strict=True)
    ]
    alone, _ = _encode(encoder, tokenizer, strings, None)
    label, _ = _encode(encoder, tokenizer, labels.texts_of(names), None)
    queries = [F.normalize(query, dim=-1) for query in (mention, alone, sentence)]
    queries.append(F.normalize(queries[0] + queries[2], dim=-1))
    label = F.normalize(label, dim=-1)
    scores = {v: (q @ label.T).cpu().numpy() for v, q in zip(VARIANTS, queries, strict=True)}
    return scores, _truth(data, names)


def _truth(data: Any, names: list[str]) -> np.ndarray:
    of_record = data.features["label"].names
    return np.array([names.index(of_record[label]) for label in data["label"]])


def majority(labels: LabelSets, train: Any, validation: Any, test: Any) -> dict[str, Any]:
    """Scores labels by their frequency in training, the same for every sample.

    Args:
        labels: Label sets.
        train: Records with label.
        validation: Records with label.
        test: Records with label.

    Returns:
        ``gamma`` and the scores of ``validation`` and ``test``.

    Examples:
        >>> from datasets import ClassLabel, Dataset, Features
        >>> features = Features({"label": ClassLabel(names=["animal", "tool", "plant"])})
        >>> def records(*labels):
        ...     return Dataset.from_dict({"label": labels}, features=features)
        >>> sets = LabelSets.of(("animal", "tool"), (), ("plant",))
        >>> found = majority(sets, records(0, 0, 1), records(0, 1), records(0, 1, 2, 2))
        >>> found["test"]["seen"]["accuracy"], found["test"]["unseen"]["accuracy"]
        (0.5, 0.0)
    """
    of_record = train.features["label"].names
    counts = np.bincount(list(train["label"]), minlength=len(of_record)) / len(train)
    share = dict(zip(of_record, counts, strict=True))
    scores, truths = {}, {}
    for split, data in (("validation", validation), ("test", test)):
        names = labels.candidates(split)
        scores[split] = np.tile([share.get(name, 0.0) for name in names], (len(data), 1))
        truths[split] = _truth(data, names)
    mask = labels.seen_mask("validation")
    gamma = float(best_gamma(scores["validation"], truths["validation"], mask).gamma)
    return _evaluated(labels, scores, truths, gamma)
