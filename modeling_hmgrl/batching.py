"""From records to batches: label-balanced sampling and the collator."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from .features import ImageFeatures
from .processing_hmgrl import HMGRLProcessor


class LabelBalancedSampler(Sampler[int]):
    """Draws every label equally often, cycling through the labels in a random order.

    Within a label samples come in a random order and start again when they are used up, so a rare
    label's samples are seen more often and none is skipped in favour of a repeated one. The order
    depends on seed and epoch alone.

    Args:
        labels: Label of each sample.
        seed: Seed.
        length: Draws in an epoch; as many as there are samples if None.
    """

    def __init__(self, labels: Sequence[int], seed: int = 0, length: int | None = None) -> None:
        self.pools: dict[int, list[int]] = {}
        for index, label in enumerate(labels):
            self.pools.setdefault(int(label), []).append(index)
        self.seed, self.epoch, self.length = seed, 0, length or len(labels)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch, on which the order depends."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f"balanced-{self.seed}-{self.epoch}")
        order = sorted(self.pools)
        queues: dict[int, list[int]] = {label: [] for label in order}
        for drawn in range(self.length):
            turn = drawn % len(order)
            if turn == 0:
                rng.shuffle(order)
            queue = queues[order[turn]]
            if not queue:
                queue.extend(rng.sample(self.pools[order[turn]], len(self.pools[order[turn]])))
            yield queue.pop()


class Collator:
    """Makes model inputs of records.

    Args:
        processor: Processor.
        candidates: For each label id of the records its index among the labels scored; None where
            the records' labels are not wanted.
        features: Cached states of the pictures; pictures are opened and encoded if None.
        use_images: Whether pictures are used at all.
    """

    def __init__(
        self,
        processor: HMGRLProcessor,
        candidates: dict[int, int] | None = None,
        features: ImageFeatures | None = None,
        use_images: bool = True,
    ) -> None:
        self.processor, self.candidates = processor, candidates
        self.features, self.use_images = features, use_images

    def __call__(self, records: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Collates records with text, spans, image (or image_key) and label.

        Returns:
            Inputs of the model, padded to the longest text, with ``labels`` (B,).
        """
        spans = [[(start, end) for start, end in record["spans"]] for record in records]
        batch, _ = self.processor.encode_texts([record["text"] for record in records], spans)
        if self.use_images and self.features is not None:
            batch.update(self.features.batch(record["image_key"] for record in records))
        elif self.use_images:
            images = [record["image"] for record in records]
            batch.update(self.processor.encode_images(images, len(records)))
        if self.candidates is not None:
            batch["labels"] = torch.tensor([self.candidates[r["label"]] for r in records])
        return batch
