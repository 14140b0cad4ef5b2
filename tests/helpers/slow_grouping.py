"""The assignment of groups to splits as it was first written, with a search through all groups."""

from dataset_scripts import SPLITS
from dataset_scripts.protocol import _GroupAssignment


class SlowAssignment(_GroupAssignment):
    """Searches all groups for those of a label, and moves all that remain with each that is taken.

    These are the two steps whose time grew with the number of groups times labels.
    """

    def _groups_with(self, label):
        groups = [group for group in self.order if label in self.labels_of[group]]
        return groups, [group for group in groups if group not in self.split_of]

    def _fill(self, split, size, remaining, label, assigned):
        later = SPLITS[SPLITS.index(split) + 1 :]
        while remaining and (assigned[split] < size or split == "test"):
            if assigned[split] and len(remaining) <= sum(not assigned[s] for s in later):
                break
            group = remaining.pop(0)
            self.split_of[group] = split
            assigned[split] += self.labels_of[group][label]
        return remaining
