"""From records to batches: tokenised once, balanced over labels, of like length, exactly shared."""

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

# Batches among which texts are sorted by length. Enough to make batches even, few enough that the
# order of an epoch stays close to a random one.
WINDOW = 32

_TOKENISED_AT_ONCE = 1024


class Samples(Dataset[dict[str, Any]]):
    """A split as samples that the collator takes.

    Args:
        data: Records with text, spans and label; with image (undecoded) or image_key, where used.
        processor: Processor.
        show_progress: Whether to show a progress bar over many texts.
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
        """Tokens of each sample's text."""
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
    """Batches of training, the part of one process.

    With ``balanced`` every label is drawn equally often, cycling through the labels in a random
    order. Within a label samples come in a random order and start again when they are used up, so a
    rare label's samples are seen more often and none is skipped in favour of a repeated one.
    Otherwise every sample is drawn once and the last batch is filled up from the epoch's start.

    Within a window of batches each label's draws are sorted by length and dealt to the batches in
    that order, so that a batch holds texts of like length and still as many of each label.

    The order depends on seed and epoch alone: a batch of two processes together is the batch of
    one process of twice the size, and any place of an epoch can be taken up again.

    Args:
        labels: Label of each sample.
        lengths: Length of each sample.
        batch_size: Samples in a batch of this process.
        seed: Seed.
        balanced: Whether to balance labels.
        multiple: The number of batches in an epoch is a multiple of this.
        process: Number of this process.
        processes: Number of processes.
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
        """Chooses the epoch and the first of its batches that is wanted."""
        self.epoch, self.first = epoch, batch

    def __len__(self) -> int:
        return self.count - self.first

    def __iter__(self) -> Iterator[list[int]]:
        rng = random.Random(f"batches-{self.seed}-{self.epoch}")
        draws = self._draws(rng)
        at = self.process * self.batch_size
        for number in range(0, self.count, WINDOW):
            size = min(WINDOW, self.count - number)
            window = [next(draws) for _ in range(size * self.whole)]
            batches = self._deal(window, size, rng)
            rng.shuffle(batches)
            for place, batch in enumerate(batches, number):
                if place >= self.first:
                    yield batch[at : at + self.batch_size]

    def _draws(self, rng: random.Random) -> Iterator[int]:
        if not self.balanced:
            order = rng.sample(range(len(self.labels)), len(self.labels))
            while True:
                yield from order
        pools: dict[int, list[int]] = {}
        for index, label in enumerate(self.labels):
            pools.setdefault(label, []).append(index)
        turns = sorted(pools)
        queues: dict[int, list[int]] = {label: [] for label in turns}
        while True:
            rng.shuffle(turns)
            for label in turns:
                if not queues[label]:
                    queues[label] = rng.sample(pools[label], len(pools[label]))
                yield queues[label].pop()

    def _deal(self, window: list[int], count: int, rng: random.Random) -> list[list[int]]:
        """Divides draws into ``count`` batches of like length and of the same labels."""
        order = sorted(window, key=lambda index: self.lengths[index])
        if self.balanced:
            # The k-th shortest draws of all labels stand together, whatever their own lengths.
            rank: dict[int, int] = {}
            total = Counter(self.labels[index] for index in window)
            places = []
            for index in order:
                label = self.labels[index]
                rank[label] = rank.get(label, -1) + 1
                places.append(((rank[label] + 0.5) / total[label], label, index))
            order = [index for _, _, index in sorted(places)]
        batches = [order[start * self.whole : (start + 1) * self.whole] for start in range(count)]
        for batch in batches:
            rng.shuffle(batch)
        return batches


def by_length(
    lengths: Sequence[int], size: int, process: int = 0, processes: int = 1
) -> list[list[int]]:
    """Batches of a whole split for evaluation, of texts of like length.

    All processes get equally many batches of one size, so that they can gather them: the last ones
    are filled up with samples that are scored twice, to the same result.

    Args:
        lengths: Length of each sample.
        size: Most samples in a batch.
        process: Number of this process.
        processes: Number of processes.

    Returns:
        This process's batches, as indices of samples.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    size = min(size, -(-len(order) // processes))
    whole = size * processes
    order += order[-1:] * (-len(order) % whole)
    at = process * size
    return [order[start + at : start + at + size] for start in range(0, len(order), whole)]


class Collator:
    """Makes model inputs of samples.

    Args:
        processor: Processor.
        candidates: For each label id of the records its index among the labels scored; None where
            the records' labels are not wanted.
        images: Cached states of the pictures; pictures are opened and encoded if None.
        texts: Cached states of the texts, if the text encoder is frozen.
        use_images: Whether pictures are used at all.
        always_images: Whether a batch without any picture has image inputs all the same (all masked
            out): processes that train together must compute the same terms.
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
        # Image processors name their size in many ways; a picture shows it.
        pixels = self.processor.encode_images([Image.new("RGB", (8, 8))], 1)["pixel_values"]
        return absent | {"pixel_values": torch.zeros(len(samples), *pixels.shape[1:])}
