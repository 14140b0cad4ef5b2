"""Measures and prevents leakage: samples of different splits that share a sentence or an image.

The paper's protocol assigns each sample independently, so a sentence or an image of the training
set may recur in the test set with another mention. Every data report counts such samples;
`group_samples` makes the groups with which `split_groups` prevents them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from .protocol import ClassPartition, Split
from .schema import Record

GroupBy = Literal["none", "text", "image", "both"]


def group_samples(records: Sequence[Record], by: GroupBy) -> list[int]:
    """Groups records that share a sentence or an image.

    Args:
        records: N records. A record without an image shares none.
        by: What links records: `"text"`, `"image"`, or `"both"`, which also joins records linked
            through a chain of sentences and images. `"none"` makes each record its own group.

    Returns:
        N group indices, equal for records of the same group.
    """
    parents = list(range(len(records)))

    def root_of(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    first: dict[tuple[str, str], int] = {}
    for index, record in enumerate(records):
        links = []
        if by in ("text", "both"):
            links.append(("text", record.text))
        if by in ("image", "both") and record.image is not None:
            links.append(("image", record.image))
        for link in links:
            parents[root_of(index)] = root_of(first.setdefault(link, index))
    return [root_of(index) for index in range(len(records))]


def measure_overlap(
    records: Sequence[Record], assignment: Sequence[Split | None], partition: ClassPartition
) -> dict[str, dict[str, int]]:
    """Counts the samples of validation and test that share a sentence or an image with training.

    Args:
        records: N records.
        assignment: The split of each record, or None.
        partition: The groups of labels.

    Returns:
        The counts, in the format of `DataReport.overlap`.
    """
    training = [r for r, split in zip(records, assignment, strict=True) if split == "train"]
    texts = {record.text for record in training}
    images = {record.image for record in training} - {None}
    counts = {
        name: dict.fromkeys(("samples", "text", "image", "either"), 0)
        for name in ("validation", "validation_seen", "test", "test_seen")
    }
    seen = frozenset(partition.seen)
    for record, split in zip(records, assignment, strict=True):
        if split is None or split == "train":
            continue
        same_text, same_image = record.text in texts, record.image in images
        for name in (split, f"{split}_seen") if record.label in seen else (split,):
            counts[name]["samples"] += 1
            counts[name]["text"] += same_text
            counts[name]["image"] += same_image
            counts[name]["either"] += same_text or same_image
    return counts
