"""The generalized zero-shot split protocol, in pure Python and without file access.

Source: HMGRL (arXiv 2603.16259), data protocol. The labels are divided into three groups: *seen*
labels have training samples; of *validation-unseen* and *test-unseen* labels, only the name is
known in training. Samples are assigned by their label:

    seen               70 % to train and validation (of these 90 % / 10 %), 30 % to test
    validation-unseen  all to validation
    test-unseen        all to test

Counts are truncated by `int()`. Two choices are specific to this implementation: every shuffle has
its own generator seeded by a string, so a split depends neither on the interpreter's hash seed nor
on other labels; and samples are sorted by id before they are shuffled, so a split is independent of
the order of the records in a file.
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

# Part of every cache key: increase it whenever a change here moves a sample to another split.
PROTOCOL_VERSION = "1"

FIT_SHARE = 0.7
TRAIN_SHARE = 0.9

# One sample each for train, validation and test; with three, int() leaves none of them empty.
MIN_SEEN_SAMPLES = 3


@dataclass(frozen=True)
class ClassPartition:
    """Partition of the labels into seen, validation-unseen and test-unseen labels.

    Attributes:
        seen: Labels with training samples.
        validation_unseen: Labels that occur in validation only.
        test_unseen: Labels that occur in test only.

    Raises:
        TypeError: If a group is a string, or contains anything but strings.
        ValueError: If a group is empty, or a label is repeated.
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
            # Lists are accepted as arguments, but a frozen dataclass must not contain one.
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
        """The group of each label, ordered by group: seen, validation-unseen, test-unseen."""
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
        labels: Distinct label names; the result does not depend on their order.
        counts: Number of seen, validation-unseen and test-unseen labels. They must add up to the
            number of labels, so that no label is omitted silently.
        seed: Seed of the shuffle.

    Returns:
        The partition; each group is sorted.

    Raises:
        ValueError: If a label is repeated, or the counts are invalid.
    """
    names = sorted(labels)
    if len(set(names)) != len(names):
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"expected distinct labels, got repeated labels {repeated}")
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
    """Returns how many samples of a seen label are assigned to train, validation and test.

    The products are deliberately computed in floating point: 0.7 · 90 is 62.99…, which `int()`
    truncates to 62 as in the original protocol; exact arithmetic would give 63.

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
        ids: N distinct ids, which make the splits independent of the order of the samples. Without
            ids, samples are identified by their position.

    Returns:
        The split of each of the N samples, or None if its label is in no group.

    Raises:
        ValueError: If there are not N distinct ids, a label of the partition has no sample, or a
            seen label has fewer than 3.
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
    """Assigns groups of samples as a whole, so that no group occurs in two splits.

    This differs from the paper's protocol, which allows samples of the same sentence or image in
    different splits. Each group is assigned to one split; its samples with labels not allowed there
    (e.g. a test-unseen label in train) are left out. The assignment keeps such losses small and the
    proportions of each seen label close to those of the paper; if no label is unseen and each
    sample is its own group, the proportions are exact.

    Args:
        labels_of_samples: Label of each of N samples.
        groups_of_samples: Group of each sample.
        partition: The groups of labels.
        seed: Seed of the shuffles.
        ids: N distinct ids, which make the splits independent of the order of the samples.

    Returns:
        The split of each of the N samples, or None if its label is in no group of labels or not
        allowed in the split of its group.

    Raises:
        ValueError: If the lengths differ, ids are not distinct, or a label has no sample in a split
            where the protocol requires one.
    """
    if not len(labels_of_samples) == len(groups_of_samples) == len(ids):
        raise ValueError(
            f"got {len(labels_of_samples)} labels, {len(groups_of_samples)} groups, {len(ids)} ids"
        )
    if len(set(ids)) != len(ids):
        raise ValueError("expected distinct ids, got the same id for several samples")
    allowed: dict[Split, frozenset[str]] = {
        "train": frozenset(partition.seen),
        "validation": frozenset((*partition.seen, *partition.validation_unseen)),
        "test": frozenset((*partition.seen, *partition.test_unseen)),
    }
    known = frozenset(partition.labels)
    labels_of_group: dict[int, Counter[str]] = {}
    for _, label, group in sorted(zip(ids, labels_of_samples, groups_of_samples, strict=True)):
        if label in known:
            labels_of_group.setdefault(group, Counter())[label] += 1
    losses = {
        group: {s: sum(n for label, n in c.items() if label not in allowed[s]) for s in SPLITS}
        for group, c in labels_of_group.items()
    }
    order = list(labels_of_group)
    random.Random(f"hmgrl/groups/{seed}").shuffle(order)
    groups = _GroupAssignment(order, labels_of_group, losses)
    totals: Counter[str] = Counter()
    for counts in labels_of_group.values():
        totals.update(counts)

    # Rare labels are assigned first, because they have the fewest alternatives.
    for label in sorted(partition.seen, key=lambda name: (totals[name], name)):
        groups.assign_seen(label)
    split_of_unseen: dict[str, Split] = dict.fromkeys(partition.validation_unseen, "validation")
    split_of_unseen |= dict.fromkeys(partition.test_unseen, "test")
    for label in sorted(split_of_unseen, key=lambda name: (totals[name], name)):
        groups.assign_unseen(label, split_of_unseen[label])
    groups.assign_rest()

    assignment: list[Split | None] = []
    for label, group in zip(labels_of_samples, groups_of_samples, strict=True):
        split = groups.split_of.get(group)
        assignment.append(split if split is not None and label in allowed[split] else None)
    _check_coverage(labels_of_samples, assignment, partition)
    return assignment


class _GroupAssignment:
    """Assigns groups of samples to splits, label by label.

    Attributes:
        order: All groups, in the order in which they are assigned.
        split_of: Split of each assigned group.
    """

    def __init__(
        self,
        order: list[int],
        labels_of: Mapping[int, Counter[str]],
        losses: Mapping[int, Mapping[Split, int]],
    ) -> None:
        self.order, self.labels_of, self.losses = order, labels_of, losses
        self.split_of: dict[int, Split] = {}
        self._groups_of: dict[str, list[int]] = {}  # those of each label, in the same order
        for group in order:
            for label in labels_of[group]:
                self._groups_of.setdefault(label, []).append(group)

    def _groups_with(self, label: str) -> tuple[list[int], list[int]]:
        """Returns the groups that contain a label, and the unassigned ones among them."""
        groups = self._groups_of.get(label, [])
        return groups, [group for group in groups if group not in self.split_of]

    def assign_seen(self, label: str) -> None:
        """Assigns the remaining groups of a seen label, close to the protocol's proportions."""
        groups, remaining = self._groups_with(label)
        assigned: Counter[str] = Counter()
        for group in groups:
            if group in self.split_of:
                assigned[self.split_of[group]] += self.labels_of[group][label]
        total = sum(self.labels_of[group][label] for group in groups)
        losses = self.losses
        for split, size in zip(SPLITS, seen_sizes(total), strict=True):
            others = [s for s in SPLITS if s != split]
            remaining.sort(key=lambda g: losses[g][split] - min(losses[g][s] for s in others))
            remaining = self._fill(split, size, remaining, label, assigned)

    def _fill(
        self, split: Split, size: int, remaining: list[int], label: str, assigned: Counter[str]
    ) -> list[int]:
        """Assigns groups to a split up to its size, and returns those that still remain."""
        later = SPLITS[SPLITS.index(split) + 1 :]
        taken = 0
        while taken < len(remaining) and (assigned[split] < size or split == "test"):
            left = len(remaining) - taken
            if assigned[split] and left <= sum(not assigned[s] for s in later):
                break
            group = remaining[taken]
            self.split_of[group] = split
            assigned[split] += self.labels_of[group][label]
            taken += 1
        return remaining[taken:]

    def assign_unseen(self, label: str, split: Split) -> None:
        """Assigns a group to the split of an unseen label, unless one is assigned already."""
        groups, remaining = self._groups_with(label)
        if remaining and all(self.split_of.get(group) != split for group in groups):
            least = min(remaining, key=lambda group: self.losses[group][split])
            self.split_of[least] = split

    def assign_rest(self) -> None:
        """Assigns the remaining groups, which have no seen label, to the split of least loss."""
        for group in self.order:
            if group not in self.split_of:
                loss = self.losses[group]
                self.split_of[group] = min(("validation", "test"), key=lambda s: loss[s])


def _check_coverage(
    labels_of_samples: Sequence[str],
    assignment: Sequence[Split | None],
    partition: ClassPartition,
) -> None:
    """Checks that each label has a sample in every split where the protocol requires one."""
    present = set(zip(labels_of_samples, assignment, strict=True))
    required: list[tuple[str, Split]] = [
        (label, split) for label in partition.seen for split in SPLITS
    ]
    required += [(label, "validation") for label in partition.validation_unseen]
    required += [(label, "test") for label in partition.test_unseen]
    for label, split in required:
        if (label, split) not in present:
            raise ValueError(
                f"label {label!r} has no sample for {split!r} when samples that share a sentence "
                "or an image stay together; expected more such groups, or no grouping"
            )


# WikiDiverse's twelve types (without "Other") in three fixed groups, and their rotations.
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
