"""Explanation by example: the training samples and the label prototypes nearest to an input.

Samples and labels are compared in the space of the scores, see :mod:`sample_embeddings`. The
prototype of a label is the centroid of its training samples or, without any, of synthetic samples
that the conditional autoencoder (HMCVAE) generates, as in training.
"""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import lorentz
from ..entity_markers import Span
from ..pipeline_inputs import Query
from ..ranking import Prediction
from ..storage import TensorStore
from .sample_embeddings import centroid, check_method, sample_vectors, similarity, to_score_space

VECTORS_NAME = "prototypes.safetensors"
SAMPLES_NAME = "prototypes.json"

_STORE = TensorStore(
    VECTORS_NAME,
    SAMPLES_NAME,
    ("sums", "vectors"),
    ("counts", "samples"),
    "samples",
    "prototypes",
    "Prototypes.save",
)

# Number of synthetic samples of a label.
_DRAWS = 64


@dataclass(frozen=True)
class Neighbour:
    """A training sample close to an input.

    Attributes:
        id: Its id.
        text: Its text.
        spans: Character offsets of its mentions.
        label: Its label.
        similarity: Its similarity to the input; larger is closer.
    """

    id: str
    text: str
    spans: list[Span]
    label: str
    similarity: float


@dataclass(frozen=True)
class LabelEvidence:
    """Evidence for a label.

    Attributes:
        label: The label.
        score: Its calibrated score.
        seen: Whether gamma was subtracted from the score.
        to_label: Similarity of the input to the label's vector, from which the score is computed.
        to_prototype: Similarity of the input to the label's prototype.
        prototype: Samples of the prototype: "real" training samples, or "synthetic" ones.
        samples: Number of these samples.
    """

    label: str
    score: float
    seen: bool
    to_label: float
    to_prototype: float
    prototype: str
    samples: int


@dataclass(frozen=True)
class PrototypeExplanation:
    """Explanation of a prediction by example.

    Attributes:
        prediction: The prediction.
        neighbours: The nearest training samples, nearest first.
        labels: Evidence for the predicted labels, best first.
    """

    prediction: Prediction
    neighbours: list[Neighbour]
    labels: list[LabelEvidence]


class Prototypes:
    """Training samples and label prototypes of one model, created by :meth:`of` or :meth:`load`.

    Args:
        pipe: The pipeline whose model embedded the samples.
        sums: Sum of the embeddings of each label's samples, float64, shape (K, d_p).
        counts: Number of samples of each label, by name, in the order of ``sums``.
        vectors: Embeddings of the samples kept, shape (N, d_p).
        samples: Their id, text, spans and label.

    Attributes:
        counts: Number of samples of each label, by name.
        samples: The samples kept.

    Examples:
        >>> from transformers import BertConfig, BertTokenizer, ViTImageProcessorPil
        >>> from modeling_hmgrl import HMGRLConfig, HMGRLForZeroShotTyping
        >>> from modeling_hmgrl import HMGRLProcessor, ZeroShotTypingPipeline
        >>> words = "[PAD] [UNK] [CLS] [SEP] [MASK] * the fox saw oak animal tool plant".split()
        >>> tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
        >>> processor = HMGRLProcessor(ViTImageProcessorPil(), tokenizer, use_images=False)
        >>> text_config = BertConfig(
        ...     vocab_size=len(words), hidden_size=16, num_attention_heads=2, num_hidden_layers=1
        ... )
        >>> model = HMGRLForZeroShotTyping(HMGRLConfig(text_config=text_config)).eval()
        >>> model.add_markers(processor)
        >>> pipe = ZeroShotTypingPipeline(model, processor, device="cpu")
        >>> fox = {"text": "the fox", "mention": "fox", "label": "animal"}
        >>> saw = {"text": "the saw", "mention": "saw", "label": "tool"}
        >>> prototypes = Prototypes.of(pipe, [fox, saw])
        >>> found = prototypes.explain(fox, k=1, labels=["animal", "tool", "plant"])
        >>> found.neighbours[0].text
        'the fox'
        >>> sorted((label.label, label.prototype) for label in found.labels)
        [('animal', 'real'), ('plant', 'synthetic'), ('tool', 'real')]
    """

    def __init__(
        self,
        pipe: Any,
        sums: Tensor,
        counts: dict[str, int],
        vectors: Tensor,
        samples: list[dict[str, Any]],
    ) -> None:
        self.pipe, self.counts, self.samples = pipe, counts, samples
        self._sums, self._vectors = sums, vectors
        self._rows = {name: row for row, name in enumerate(counts)}
        # Synthetic prototypes by text of the label, number of samples and seed.
        self._generated: dict[tuple[str, int, int], Tensor] = {}

    @classmethod
    def of(
        cls,
        pipe: Any,
        records: Iterable[Mapping[str, Any]],
        label_names: Sequence[str] | None = None,
        keep: int = 100_000,
        batch_size: int = 32,
        seed: int = 0,
    ) -> "Prototypes":
        """Places training samples.

        Args:
            pipe: A :class:`ZeroShotTypingPipeline`.
            records: Training records with text, spans or mention, label, perhaps image and id; a
                Dataset, a list, or anything that is iterated once.
            label_names: Names of labels that are given as numbers; those of a Dataset's ClassLabel
                by default.
            keep: Maximum number of samples kept for the search of the nearest; of more samples, a
                random subset is kept, while prototypes are computed from all. 100,000 embeddings of
                width 384 take 0.15 GB.
            batch_size: Number of samples encoded at once.
            seed: Seed of the random subset.

        Returns:
            The prototypes.

        Raises:
            ValueError: If there are no records, or one has no usable label.
        """
        if keep < 1:
            raise ValueError(f"keep: got {keep!r}, expected 1 or more")
        if label_names is None:
            features = getattr(records, "features", None) or {}
            label_names = getattr(features.get("label"), "names", None)
        draw, total = random.Random(seed), 0
        counts: Counter[str] = Counter()
        sums: dict[str, Tensor] = {}
        kept: list[Tensor] = []
        samples: list[dict[str, Any]] = []
        for record, spans, vector in sample_vectors(pipe, records, batch_size):
            name = _label_name(record, label_names, f"records[{total}]")
            counts[name] += 1
            sums[name] = sums.get(name, 0) + vector.double()
            sample = {
                "id": str(record.get("id", total)),
                "text": record["text"],
                "spans": spans,
                "label": name,
            }
            # Every record is kept with the same probability (reservoir sampling, algorithm R).
            slot = total if total < keep else draw.randrange(total + 1)
            if slot == len(kept):
                samples.append(sample)
                kept.append(vector.clone())  # without the rest of its batch
            elif slot < keep:
                samples[slot] = sample
                kept[slot] = vector.clone()
            total += 1
        if not total:
            raise ValueError("records: got none, expected at least one")
        stacked = torch.stack([sums[name] for name in counts])
        return cls(pipe, stacked, dict(counts), torch.stack(kept), samples)

    def prototypes(self, labels: Mapping[str, str], draws: int = _DRAWS, seed: int = 0) -> Tensor:
        """Computes prototypes of labels from training samples or, without any, synthetic samples.

        Synthetic prototypes are kept for later calls.

        Args:
            labels: Names of K labels, each with its encoder input.
            draws: Number of synthetic samples of a label.
            seed: Seed of their noise, which is the same for each label.

        Returns:
            Prototypes, shape (K, d_p).
        """
        model = self.pipe.model
        found: dict[str, Tensor] = {}
        for name in labels:
            if name in self._rows:
                row = self._rows[name]
                mean = self._sums[row] / self.counts[name]
                found[name] = centroid(model, mean.unsqueeze(0)).float()[0]
        missing = [name for name in labels if name not in found]
        keys = {name: (labels[name], draws, seed) for name in missing}
        new = [key for key in dict.fromkeys(keys.values()) if key not in self._generated]
        for start in range(0, len(new), 256):
            part = new[start : start + 256]
            synthetic = self._synthetic([text for text, _, _ in part], draws, seed)
            self._generated |= zip(part, synthetic, strict=True)
        found |= {name: self._generated[key] for name, key in keys.items()}
        return torch.stack([found[name] for name in labels])

    @torch.inference_mode()
    def _synthetic(self, texts: list[str], draws: int, seed: int) -> Tensor:
        """Prototypes from synthetic samples of labels, (U, d_p)."""
        model = self.pipe.model
        inputs = self.pipe.processor.encode_labels(texts)
        encodings = lorentz.wide(
            model.encode_labels(
                inputs["candidate_input_ids"].to(model.device),
                inputs["candidate_attention_mask"].to(model.device),
            )
        )
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(draws, model.hmcvae.latent, generator=generator)
        noise = noise.to(encodings).expand(len(texts), -1, -1)
        vectors = to_score_space(model, model.hmcvae.generate(encodings, draws, noise))
        return centroid(model, vectors.double().mean(1)).float()

    def explain(
        self, record: Mapping[str, Any], k: int = 3, labels: Any = None, **options: Any
    ) -> PrototypeExplanation:
        """Explains the prediction for one input by the samples and prototypes nearest to it.

        Args:
            record: Input, as for the pipeline.
            k: Number of training samples to return.
            labels: Candidate labels, as for the pipeline; those of the record take precedence.
            **options: Further options of the pipeline: ``seen``, ``top_k``, ``image_hosts``.

        Returns:
            The explanation, with evidence for the ``top_k`` best labels.

        Raises:
            ValueError: If an argument or a field of the record is invalid.
        """
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"k: got {k!r}, expected 1 or more")
        pipe = self.pipe
        call = pipe.parse_call({**options, "labels": labels, "on_error": "raise"})
        query: Query = pipe.prepare(call, (record, "input"))
        candidates = query.labels or pipe.candidates(call.labels)
        check_method(pipe)
        with torch.inference_mode():
            encoded = pipe.encode([query], pipe.processor.mark([query.text], [query.spans]))
            vector = to_score_space(pipe.model, encoded.representation)
        prediction: Prediction = pipe.predict_batch([query], candidates, call, encoded)[0]
        similarities = similarity(pipe.model, vector, self._vectors)[0]
        values, rows = similarities.topk(min(k, len(similarities)))
        neighbours = [
            Neighbour(similarity=value, **self.samples[row])
            for value, row in zip(values.tolist(), rows.tolist(), strict=True)
        ]
        text_of = dict(zip(candidates.names, candidates.texts, strict=True))
        shown = {name: text_of[name] for name in prediction["labels"]}
        own = pipe.label_cache.vectors(list(shown.values())).float().cpu()
        to_label = similarity(pipe.model, vector, own)[0].tolist()
        to_prototype = similarity(pipe.model, vector, self.prototypes(shown))[0].tolist()
        evidence = [
            LabelEvidence(
                label=name,
                score=prediction["scores"][rank],
                seen=prediction["seen"][rank],
                to_label=to_label[rank],
                to_prototype=to_prototype[rank],
                prototype="real" if name in self.counts else "synthetic",
                samples=self.counts.get(name, _DRAWS),
            )
            for rank, name in enumerate(shown)
        ]
        return PrototypeExplanation(prediction, neighbours, evidence)

    def save(self, folder: str | Path) -> None:
        """Saves the embeddings as safetensors and the rest as JSON.

        Args:
            folder: Folder, created if it does not exist. The files contain texts of the training
                samples.
        """
        content = {
            "model": self.pipe.label_cache.key(),
            "counts": self.counts,
            "samples": [
                {**sample, "spans": list(map(list, sample["spans"]))} for sample in self.samples
            ],
        }
        _STORE.save(folder, {"sums": self._sums, "vectors": self._vectors}, content)

    @classmethod
    def load(cls, pipe: Any, folder: str | Path) -> "Prototypes":
        """Loads prototypes that :meth:`save` wrote.

        Args:
            pipe: A pipeline with the same model.
            folder: The folder.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If the prototypes are of another model, or the files are damaged or of
                different saves.
        """
        cache = pipe.label_cache
        [sums, vectors], content = _STORE.load(folder, cache.key(), cache.width())
        try:
            counts, samples = content["counts"], content["samples"]
            for sample in samples:
                sample["spans"] = [(start, end) for start, end in sample["spans"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder}: damaged ({error!r}), expected saved prototypes") from error
        return cls(pipe, sums, counts, vectors, samples)


def _label_name(record: Mapping[str, Any], names: Sequence[str] | None, place: str) -> str:
    """Label of a record, which may be an index among the names."""
    label = record.get("label")
    if isinstance(label, str) and label.strip():
        return label
    if names is not None and isinstance(label, int) and 0 <= label < len(names):
        return names[label]
    expected = "a name" if names is None else f"a name, or a number below {len(names)}"
    raise ValueError(f"{place}.label: got {label!r}, expected {expected}")


__all__ = [
    "LabelEvidence",
    "Neighbour",
    "PrototypeExplanation",
    "Prototypes",
    "sample_vectors",
]
