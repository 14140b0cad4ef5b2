"""Batches of records: tokenised once, balanced over labels, grouped by length and sharded."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from tqdm.auto import tqdm

from ..entity_markers import MarkedText
from ..processing_hmgrl import HMGRLProcessor
from .feature_cache import StateCache
from .frozen_features import read_batch, text_key

# Number of batches among which texts are sorted by length: large enough for texts of similar length
# in a batch, small enough to keep the order of an epoch nearly random.
WINDOW = 32

_TOKENISED_AT_ONCE = 1024


class Samples(Dataset[dict[str, Any]]):
    """Tokenised samples of a split, for :class:`Collator`.

    Args:
        data: Records with text, spans and label, and optionally image (undecoded) or image_key.
        processor: Processor.
        show_progress: Whether to show a progress bar if there are many texts.
    """

    def __init__(self, data: Any, processor: HMGRLProcessor, show_progress: bool = False) -> None:
        self.texts: list[MarkedText] = []
        starts = range(0, len(data), _TOKENISED_AT_ONCE)
        disable = not show_progress or len(starts) < 2
        bare = data.select_columns(["text", "spans"])
        for start in tqdm(starts, desc="Tokenising", disable=disable):
            part = bare[start : start + _TOKENISED_AT_ONCE]
            spans = [[(first, end) for first, end in pair] for pair in part["spans"]]
            self.texts += processor.mark(part["text"], spans)
        self.labels: list[int] = list(data["label"])
        self.keys = list(data["image_key"]) if "image_key" in data.column_names else None
        self.images = data.select_columns("image") if "image" in data.column_names else None

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of each sample's text."""
        return [len(text.ids) for text in self.texts]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        text = self.texts[index]
        sample = {
            "index": index,
            "ids": text.ids,
            "positions": text.positions,
            "label": self.labels[index],
        }
        if self.keys is not None:
            sample["image_key"] = self.keys[index]
        if self.images is not None:
            sample["image"] = self.images[index]["image"]
        return sample


class Batches(Sampler[list[int]]):
    """Training batches of one process.

    With ``balanced``, every label is drawn equally often, in cycles of random order. The samples of
    a label are drawn in random order and without replacement until all have been used. Samples of
    rare labels are therefore drawn more often, and none is repeated before all of its label have
    occurred. Without ``balanced``, every sample is drawn once, and the last batch is filled with
    the first samples of the epoch.

    Within a window of batches, the samples of each label are sorted by length and distributed over
    the batches in that order: a batch contains texts of similar length and equally many of each
    label.

    The order depends only on seed and epoch: the batches of two processes together equal the batch
    of one process of twice the size, and an epoch can be resumed at any batch.

    Args:
        labels: Label of each sample.
        lengths: Length of each sample.
        batch_size: Number of samples in a batch of this process.
        seed: Seed.
        balanced: Whether to balance labels.
        multiple: Number of which the number of batches in an epoch is a multiple.
        process: Index of this process.
        processes: Number of processes.

    Examples:
        >>> labels = [0, 0, 0, 0, 0, 1]  # the sample of the rare label is drawn in every batch
        >>> batches = Batches(labels, lengths=[3] * 6, batch_size=2)
        >>> [sorted(labels[index] for index in batch) for batch in batches]
        [[0, 1], [0, 1], [0, 1]]
    """

    def __init__(
        self,
        labels: Sequence[int],
        lengths: Sequence[int],
        batch_size: int,
        seed: int = 0,
        balanced: bool = True,
        multiple: int = 1,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.labels, self.lengths = [int(label) for label in labels], list(lengths)
        self.batch_size, self.whole = batch_size, batch_size * processes
        self.seed, self.balanced, self.process = seed, balanced, process
        self.count = -(-len(self.labels) // (self.whole * multiple)) * multiple
        self.epoch, self.first = 0, 0

    def start_at(self, epoch: int, batch: int = 0) -> None:
        """Sets the epoch and the first of its batches to iterate over."""
        self.epoch, self.first = epoch, batch

    def __len__(self) -> int:
        return self.count - self.first

    def __iter__(self) -> Iterator[list[int]]:
        rng = random.Random(f"batches-{self.seed}-{self.epoch}")
        samples = self._sample_indices(rng)
        at = self.process * self.batch_size
        for start in range(0, self.count, WINDOW):
            size = min(WINDOW, self.count - start)
            window = [next(samples) for _ in range(size * self.whole)]
            batches = self._split_window(window, size, rng)
            rng.shuffle(batches)
            for number, batch in enumerate(batches, start):
                if number >= self.first:
                    yield batch[at : at + self.batch_size]

    def _sample_indices(self, rng: random.Random) -> Iterator[int]:
        """Infinite sequence of samples in the order in which they are drawn."""
        if not self.balanced:
            order = rng.sample(range(len(self.labels)), len(self.labels))
            while True:
                yield from order
        pools: dict[int, list[int]] = {}
        for index, label in enumerate(self.labels):
            pools.setdefault(label, []).append(index)
        cycle = sorted(pools)
        queues: dict[int, list[int]] = {label: [] for label in cycle}
        while True:
            rng.shuffle(cycle)
            for label in cycle:
                if not queues[label]:
                    queues[label] = rng.sample(pools[label], len(pools[label]))
                yield queues[label].pop()

    def _split_window(self, window: list[int], count: int, rng: random.Random) -> list[list[int]]:
        """Splits a window into ``count`` batches of similar length and the same label counts."""
        order = sorted(window, key=lambda index: self.lengths[index])
        if self.balanced:
            # Sorted by their rank within the label, so that every batch has the same label counts.
            rank: dict[int, int] = {}
            total = Counter(self.labels[index] for index in window)
            quantiles = []
            for index in order:
                label = self.labels[index]
                rank[label] = rank.get(label, -1) + 1
                quantiles.append(((rank[label] + 0.5) / total[label], label, index))
            order = [index for _, _, index in sorted(quantiles)]
        batches = [order[start * self.whole : (start + 1) * self.whole] for start in range(count)]
        for batch in batches:
            rng.shuffle(batch)
        return batches


def by_length(
    lengths: Sequence[int], size: int, process: int = 0, processes: int = 1
) -> list[list[int]]:
    """Splits the samples of an evaluation into batches of similar length.

    All processes have the same number of batches of the same size, as gathering requires. To that
    end the last sample is repeated, which does not change the result.

    Args:
        lengths: Length of each sample.
        size: Maximum number of samples in a batch.
        process: Index of this process.
        processes: Number of processes.

    Returns:
        Batches of this process, as indices of samples.

    Examples:
        >>> by_length([9, 4, 7, 5], size=2)
        [[1, 3], [2, 0]]
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    size = min(size, -(-len(order) // processes))
    whole = size * processes
    order += order[-1:] * (-len(order) % whole)
    at = process * size
    return [order[start + at : start + at + size] for start in range(0, len(order), whole)]


class Collator:
    """Collates samples to model inputs.

    Args:
        processor: Processor.
        candidates: Index among the candidate labels for each label id of the records; None to omit
            ``labels`` from the inputs.
        images: Cached states of the images; if None, images are opened and processed.
        texts: Cached states of the texts, if the text encoder is frozen.
        use_images: Whether images are used.
        always_images: Whether a batch without images has image inputs, all of them masked: all
            processes must compute the same loss terms.
    """

    def __init__(
        self,
        processor: HMGRLProcessor,
        candidates: dict[int, int] | None = None,
        images: StateCache | None = None,
        texts: StateCache | None = None,
        use_images: bool = True,
        always_images: bool = False,
    ) -> None:
        self.processor, self.candidates = processor, candidates
        self.images, self.texts, self.use_images = images, texts, use_images
        self.always_images = always_images

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Collates samples of :class:`Samples`.

        Returns:
            Inputs of the model, padded to the longest text, with ``labels`` (B,).
        """
        batch = dict(self.processor.pad([sample["ids"] for sample in samples]))
        batch["span_positions"] = torch.tensor([sample["positions"] for sample in samples])
        if self.texts is not None:
            states, _ = read_batch(self.texts, [text_key(sample["ids"]) for sample in samples])
            missing = batch["input_ids"].shape[1] - states.shape[1]  # padded to a fixed length
            batch["text_features"] = torch.nn.functional.pad(states, (0, 0, 0, missing))
        if self.use_images:
            batch.update(self._images(samples))
        if self.candidates is not None:
            batch["labels"] = torch.tensor([self.candidates[s["label"]] for s in samples])
        return batch

    def _images(self, samples: list[dict[str, Any]]) -> dict[str, Tensor]:
        absent = {"image_mask": torch.zeros(len(samples), dtype=torch.bool)}
        if self.images is not None:
            keys = [sample["image_key"] for sample in samples]
            if any(key is not None for key in keys):
                states, mask = read_batch(self.images, keys)
                return {"image_features": states, "image_mask": mask}
            states = torch.zeros(len(samples), 1, self.images.width or 1, dtype=torch.float16)
            return absent | {"image_features": states} if self.always_images else {}
        images = [sample["image"] for sample in samples]
        batch = self.processor.encode_images(images, len(samples))
        if batch or not self.always_images:
            return batch
        # Image processors specify their size in different ways; processing an image reveals it.
        pixels = self.processor.encode_images([Image.new("RGB", (8, 8))], 1)["pixel_values"]
        return absent | {"pixel_values": torch.zeros(len(samples), *pixels.shape[1:])}
