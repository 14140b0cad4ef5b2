"""The assignment of groups to splits as it was first written, with a search through all groups."""

from collections import Counter
from collections.abc import Mapping

from dataset_scripts import SPLITS
from dataset_scripts.protocol import Split, seen_sizes


class SlowAssignment:
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
        self.labels_of, self.losses = labels_of, losses
        self.order = order
        self.split_of: dict[int, Split] = {}

    def _groups_with(self, label: str) -> tuple[list[int], list[int]]:
        """Returns the groups that contain a label, and the unassigned ones among them."""
        groups = [group for group in self.order if label in self.labels_of[group]]
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
            later = SPLITS[SPLITS.index(split) + 1 :]
            while remaining and (assigned[split] < size or split == "test"):
                if assigned[split] and len(remaining) <= sum(not assigned[s] for s in later):
                    break
                group = remaining.pop(0)
                self.split_of[group] = split
                assigned[split] += self.labels_of[group][label]

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
