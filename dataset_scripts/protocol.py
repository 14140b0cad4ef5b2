"""The generalized zero-shot split protocol, in pure Python and without any reading or writing.

Source: HMGRL (arXiv 2603.16259), data protocol. The labels fall into three groups: *seen* labels
have training samples, *validation-unseen* and *test-unseen* labels have only their name at that
time. The samples follow their label:

    seen               70 % to train and validation (of these 90 % / 10 %), 30 % to test
    validation-unseen  all to validation
    test-unseen        all to test

Counts are cut to whole samples as `int()` does. Two things are chosen here: every draw has its own
generator seeded by a string, so that a split depends neither on the interpreter's hash seed nor on
the other labels; and samples are sorted by id before they are shuffled, so that it does not depend
on the order in which records lie in a file either.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Split = Literal["train", "validation", "test"]

SPLITS: tuple[Split, ...] = ("train", "validation", "test")

# Part of every cache key: raise it whenever a change here moves a sample to another split.
PROTOCOL_VERSION = "1"

FIT_SHARE = 0.7
TRAIN_SHARE = 0.9

# One sample each for train, validation and test; with three, int() leaves none of them empty.
MIN_SEEN_SAMPLES = 3


@dataclass(frozen=True)
class ClassPartition:
    """Which labels have training samples, and which are met first in validation or in test.

    Attributes:
        seen: Labels with training samples.
        validation_unseen: Labels first met in validation.
        test_unseen: Labels first met in test.

    Raises:
        TypeError: If a group is one string or holds something else than strings.
        ValueError: If a group is empty, or a label is given twice or in two groups.
    """

    seen: tuple[str, ...]
    validation_unseen: tuple[str, ...]
    test_unseen: tuple[str, ...]

    def __post_init__(self) -> None:
        group_of: dict[str, str] = {}
        for group in ("seen", "validation_unseen", "test_unseen"):
            labels = getattr(self, group)
            if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
                raise TypeError(f"{group}: expected a sequence of label names, got {labels!r}")
            # Lists are welcome as arguments; a frozen value must not hold one.
            object.__setattr__(self, group, tuple(labels))
            if not labels:
                raise ValueError(f"{group}: expected at least one label, got none")
            for label in labels:
                if label in group_of:
                    raise ValueError(
                        f"label {label!r} is given in {group_of[label]} and in {group}; "
                        "expected each label once"
                    )
                group_of[label] = group

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels, sorted; the order of the `ClassLabel` in every split."""
        return tuple(sorted(self.seen + self.validation_unseen + self.test_unseen))

    @property
    def group_of(self) -> dict[str, str]:
        """The group of each label, group after group: seen, validation-unseen or test-unseen."""
        groups = {
            "seen": self.seen,
            "validation-unseen": self.validation_unseen,
            "test-unseen": self.test_unseen,
        }
        return {label: name for name, labels in groups.items() for label in labels}


def even_counts(number_of_labels: int) -> tuple[int, int, int]:
    """Returns group sizes as equal as possible, the larger ones first.

    Args:
        number_of_labels: Number of labels to divide, at least 3.

    Returns:
        Sizes of seen, validation-unseen and test-unseen, e.g. 22 → (8, 7, 7).

    Raises:
        ValueError: If there are fewer than 3 labels.
    """
    if number_of_labels < 3:
        raise ValueError(
            "expected at least 3 labels, one each for seen, validation-unseen and test-unseen, "
            f"got {number_of_labels}"
        )
    share, rest = divmod(number_of_labels, 3)
    return (share + (rest > 0), share + (rest > 1), share)


def random_partition(labels: Sequence[str], counts: Sequence[int], seed: int) -> ClassPartition:
    """Divides labels into the three groups by a seeded shuffle.

    Args:
        labels: Distinct label names in any order; the result does not depend on it.
        counts: Number of seen, validation-unseen and test-unseen labels. Together they must be
            all labels, so that none is left out unnoticed.
        seed: Seed of the shuffle.

    Returns:
        The partition; each group is sorted.

    Raises:
        ValueError: If a label is given twice, or the counts do not fit.
    """
    names = sorted(labels)
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"expected distinct labels, got these more than once: {twice}")
    if len(counts) != 3 or any(count < 1 for count in counts):
        raise ValueError(
            "expected three positive counts (seen, validation-unseen, test-unseen), "
            f"got {tuple(counts)}"
        )
    if sum(counts) != len(names):
        raise ValueError(
            f"counts {tuple(counts)} add up to {sum(counts)}, but there are {len(names)} labels"
        )
    random.Random(f"hmgrl/labels/{seed}").shuffle(names)
    first, second = counts[0], counts[0] + counts[1]
    return ClassPartition(
        seen=tuple(sorted(names[:first])),
        validation_unseen=tuple(sorted(names[first:second])),
        test_unseen=tuple(sorted(names[second:])),
    )


def seen_sizes(number_of_samples: int) -> tuple[int, int, int]:
    """Returns how many samples of one seen label go to train, validation and test.

    The products are taken in floating point on purpose: 0.7 · 90 is 62.99… there, and cutting it
    gives 62, as the original protocol's `int()` does; exact arithmetic would give 63.

    Args:
        number_of_samples: Number of samples of the label.

    Returns:
        The three sizes; they add up to `number_of_samples`.
    """
    fit = int(FIT_SHARE * number_of_samples)
    train = int(TRAIN_SHARE * fit)
    return train, fit - train, number_of_samples - fit


def split_samples(
    labels_of_samples: Sequence[str],
    partition: ClassPartition,
    seed: int,
    ids: Sequence[str] | None = None,
) -> list[Split | None]:
    """Assigns every sample to train, validation or test.

    Args:
        labels_of_samples: Label of each of N samples.
        partition: The groups of labels.
        seed: Seed of the shuffles.
        ids: N distinct ids. With them the split of a sample does not depend on the order of the
            samples; without them a sample is known by its position.

    Returns:
        N entries: the split of each sample, or None where its label is in no group.

    Raises:
        ValueError: If ids are not distinct or not N; if a label of the partition has no sample,
            or a seen label fewer than 3.
    """
    if ids is not None and len(ids) != len(labels_of_samples):
        raise ValueError(f"got {len(ids)} ids for {len(labels_of_samples)} samples")
    if ids is not None and len(set(ids)) != len(ids):
        raise ValueError("expected distinct ids, got the same id for several samples")

    members: dict[str, list[int]] = {label: [] for label in partition.labels}
    for index, label in enumerate(labels_of_samples):
        if label in members:
            members[label].append(index)

    assignment: list[Split | None] = [None] * len(labels_of_samples)
    for label in partition.labels:
        indices = members[label]
        if not indices:
            raise ValueError(f"label {label!r} of the partition has no sample")
        if label in partition.validation_unseen:
            sizes = (0, len(indices), 0)
        elif label in partition.test_unseen:
            sizes = (0, 0, len(indices))
        else:
            if len(indices) < MIN_SEEN_SAMPLES:
                raise ValueError(
                    f"seen label {label!r} has {len(indices)} sample(s); expected at least "
                    f"{MIN_SEEN_SAMPLES}, one each for train, validation and test"
                )
            sizes = seen_sizes(len(indices))
            if ids is not None:
                indices = sorted(indices, key=ids.__getitem__)
            random.Random(f"hmgrl/samples/{seed}/{label}").shuffle(indices)
        parts = [split for split, size in zip(SPLITS, sizes, strict=True) for _ in range(size)]
        for index, split in zip(indices, parts, strict=True):
            assignment[index] = split
    return assignment


def split_groups(
    labels_of_samples: Sequence[str],
    groups_of_samples: Sequence[int],
    partition: ClassPartition,
    seed: int,
    ids: Sequence[str],
) -> list[Split | None]:
    """Assigns whole groups of samples, so that no group stands in two splits.

    This is not the paper's protocol, which lets samples of one sentence or picture stand on both
    sides. A group goes to one split, and its samples of labels that may not stand there (say, of a
    test-unseen label in train) are left out. Groups are chosen so that few samples are lost and
    each seen label comes near the paper's shares; where no label is unseen and each sample is a
    group of its own, these are met exactly.

    Args:
        labels_of_samples: Label of each of N samples.
        groups_of_samples: Group of each sample.
        partition: The groups of labels.
        seed: Seed of the shuffles.
        ids: N distinct ids; the split of a sample does not depend on the order of the samples.

    Returns:
        N entries: the split of each sample, or None where its label is in no group of labels or
        may not stand where its group of samples went.

    Raises:
        ValueError: If the lengths differ or ids are not distinct, or if a label ends without a
            sample in a split where the protocol wants one.
    """
    if not len(labels_of_samples) == len(groups_of_samples) == len(ids):
        raise ValueError(
            f"got {len(labels_of_samples)} labels, {len(groups_of_samples)} groups, {len(ids)} ids"
        )
    if len(set(ids)) != len(ids):
        raise ValueError("expected distinct ids, got the same id for several samples")
    wanted: dict[Split, frozenset[str]] = {
        "train": frozenset(partition.seen),
        "validation": frozenset((*partition.seen, *partition.validation_unseen)),
        "test": frozenset((*partition.seen, *partition.test_unseen)),
    }
    labels_of_group: dict[int, Counter[str]] = {}
    for _, label, group in sorted(zip(ids, labels_of_samples, groups_of_samples, strict=True)):
        if label in partition.labels:
            labels_of_group.setdefault(group, Counter())[label] += 1
    losses = {
        group: {s: sum(n for label, n in c.items() if label not in wanted[s]) for s in SPLITS}
        for group, c in labels_of_group.items()
    }
    placement = _Placement(labels_of_group, losses)
    random.Random(f"hmgrl/groups/{seed}").shuffle(placement.groups)
    totals: Counter[str] = Counter()
    for counts in labels_of_group.values():
        totals.update(counts)

    # Rare labels first: they have the least choice.
    for label in sorted(partition.seen, key=lambda name: (totals[name], name)):
        placement.place_seen(label)
    homes: dict[str, Split] = dict.fromkeys(partition.validation_unseen, "validation")
    homes |= dict.fromkeys(partition.test_unseen, "test")
    for label in sorted(homes, key=lambda name: (totals[name], name)):
        placement.place_unseen(label, homes[label])
    placement.place_rest()

    assignment: list[Split | None] = []
    for label, group in zip(labels_of_samples, groups_of_samples, strict=True):
        place = placement.split_of.get(group)
        assignment.append(place if place is not None and label in wanted[place] else None)
    _check_coverage(labels_of_samples, assignment, partition)
    return assignment


class _Placement:
    """Gives groups of samples to splits, label by label.

    Attributes:
        groups: All groups, in the order in which they are taken.
        split_of: Split of each group that was placed.
    """

    def __init__(
        self,
        labels_of: Mapping[int, Counter[str]],
        losses: Mapping[int, Mapping[Split, int]],
    ) -> None:
        self.labels_of, self.losses = labels_of, losses
        self.groups = list(labels_of)
        self.split_of: dict[int, Split] = {}

    def _holders(self, label: str) -> tuple[list[int], list[int]]:
        """Returns the groups that hold a label, and those of them that are open."""
        holders = [group for group in self.groups if label in self.labels_of[group]]
        return holders, [group for group in holders if group not in self.split_of]

    def place_seen(self, label: str) -> None:
        """Gives the open groups of a seen label to the splits, near the protocol's shares."""
        holders, open_groups = self._holders(label)
        placed: Counter[str] = Counter()
        for group in holders:
            if group in self.split_of:
                placed[self.split_of[group]] += self.labels_of[group][label]
        total = sum(self.labels_of[group][label] for group in holders)
        losses = self.losses
        for split, size in zip(SPLITS, seen_sizes(total), strict=True):
            others = [s for s in SPLITS if s != split]
            open_groups.sort(key=lambda g: losses[g][split] - min(losses[g][s] for s in others))
            later = SPLITS[SPLITS.index(split) + 1 :]
            while open_groups and (placed[split] < size or split == "test"):
                if placed[split] and len(open_groups) <= sum(not placed[s] for s in later):
                    break
                group = open_groups.pop(0)
                self.split_of[group] = split
                placed[split] += self.labels_of[group][label]

    def place_unseen(self, label: str, home: Split) -> None:
        """Gives one group to the split of an unseen label that has none there yet."""
        holders, open_groups = self._holders(label)
        if open_groups and all(self.split_of.get(group) != home for group in holders):
            least = min(open_groups, key=lambda group: self.losses[group][home])
            self.split_of[least] = home

    def place_rest(self) -> None:
        """Gives every open group, none of which has a seen label, to where it loses least."""
        for group in self.groups:
            if group not in self.split_of:
                loss = self.losses[group]
                self.split_of[group] = min(("validation", "test"), key=lambda s: loss[s])


def _check_coverage(
    labels_of_samples: Sequence[str],
    assignment: Sequence[Split | None],
    partition: ClassPartition,
) -> None:
    """Makes sure that each label has a sample wherever the protocol wants one."""
    there = set(zip(labels_of_samples, assignment, strict=True))
    needed: list[tuple[str, Split]] = [
        (label, split) for label in partition.seen for split in SPLITS
    ]
    needed += [(label, "validation") for label in partition.validation_unseen]
    needed += [(label, "test") for label in partition.test_unseen]
    for label, split in needed:
        if (label, split) not in there:
            raise ValueError(
                f"label {label!r} has no sample for {split!r} when samples that share a sentence "
                "or a picture stay together; expected more such groups, or no grouping"
            )


# WikiDiverse's twelve types ("Other" is dropped) in three fixed groups, and their rotations.
_GROUP_A = ("People", "Site", "Building", "Currency")
_GROUP_B = ("Location", "Event", "Book", "Music")
_GROUP_C = ("Organization", "Country", "APP", "Movie")

WIKIDIVERSE_PARTITIONS: MappingProxyType[int, ClassPartition] = MappingProxyType(
    {
        1: ClassPartition(seen=_GROUP_A, validation_unseen=_GROUP_B, test_unseen=_GROUP_C),
        2: ClassPartition(seen=_GROUP_B, validation_unseen=_GROUP_C, test_unseen=_GROUP_A),
        3: ClassPartition(seen=_GROUP_C, validation_unseen=_GROUP_A, test_unseen=_GROUP_B),
    }
)
