"""Samples that share a sentence or a picture: counted across splits, or kept together.

The paper's protocol draws samples one by one, so that a sentence or a picture of the training set
may come back in the test set with another mention. How often it does is part of every data report;
`group_samples` is what `split_groups` needs to rule it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from .protocol import ClassPartition, Split
from .schema import Record

GroupBy = Literal["none", "text", "image", "both"]


def group_samples(records: Sequence[Record], by: GroupBy) -> list[int]:
    """Numbers the groups of records that are linked by a common sentence or picture.

    Args:
        records: N records. A record without a picture shares none.
        by: What links records: `"text"`, `"image"`, or `"both"`, where a chain of sentences and
            pictures is one group. `"none"` makes each record a group of its own.

    Returns:
        N numbers, the same for records of one group.
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
    """Counts the samples of validation and test that share sentence or picture with training.

    Args:
        records: N records.
        assignment: The split of each, or None.
        partition: The groups of labels.

    Returns:
        The counts of `DataReport.overlap`.
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
