"""The label sets of a generalized zero-shot run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class LabelSets:
    """Which labels are seen, which are met first in validation or test, which are imagined.

    Attributes:
        seen: Labels with training samples.
        validation_unseen: Labels first met in validation.
        test_unseen: Labels first met in test.
        generator: Labels without samples whose names the generator sees in training. The paper's
            protocol gives it those of validation and test (class-transductive).
        texts: Text shown to the encoder for a label, where it is not the label itself.

    Raises:
        ValueError: If the three groups overlap or no label is seen, or the generator is given a
            seen label.
    """

    seen: tuple[str, ...]
    validation_unseen: tuple[str, ...]
    test_unseen: tuple[str, ...]
    generator: tuple[str, ...]
    texts: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        groups = [*self.seen, *self.validation_unseen, *self.test_unseen]
        if len(set(groups)) < len(groups):
            double = sorted({label for label in groups if groups.count(label) > 1})
            raise ValueError(f"labels: {double} stand in more than one group, expected one each")
        if not self.seen:
            raise ValueError("labels: no label is seen, expected at least one")
        if both := set(self.generator) & set(self.seen):
            raise ValueError(f"generator: {sorted(both)} are seen, expected labels without samples")

    @classmethod
    def of(
        cls,
        seen: tuple[str, ...],
        validation_unseen: tuple[str, ...],
        test_unseen: tuple[str, ...],
        vocabulary: Literal["transductive", "inductive"] | Sequence[str] = "transductive",
        texts: dict[str, str] | None = None,
    ) -> "LabelSets":
        """Makes label sets with the generator's vocabulary by name of the protocol.

        Args:
            seen: Labels with training samples.
            validation_unseen: Labels first met in validation.
            test_unseen: Labels first met in test.
            vocabulary: "transductive": the generator sees the names of validation and test (paper);
                "inductive": those of validation alone; or a list of the names that it sees.
            texts: Text shown to the encoder for a label.

        Raises:
            ValueError: If the vocabulary is another word, or as for the class.
        """
        if vocabulary == "transductive":
            generator = (*validation_unseen, *test_unseen)
        elif vocabulary == "inductive":
            generator = validation_unseen
        elif isinstance(vocabulary, str):
            raise ValueError(
                f"vocabulary: got {vocabulary!r}, expected 'transductive', 'inductive' or a list"
            )
        else:
            generator = tuple(vocabulary)
        return cls(seen, validation_unseen, test_unseen, generator, texts or {})

    def candidates(self, split: str) -> list[str]:
        """Labels that are scored in "train", "validation" or "test", the seen ones first."""
        unseen = {"train": (), "validation": self.validation_unseen, "test": self.test_unseen}
        return [*self.seen, *unseen[split]]

    def seen_mask(self, split: str) -> np.ndarray:
        """Which of :meth:`candidates` are seen, bool, shape (K,)."""
        return np.array([label in self.seen for label in self.candidates(split)])

    def texts_of(self, labels: list[str] | tuple[str, ...]) -> list[str]:
        """Texts shown to the encoder for label names."""
        return [self.texts.get(label, label) for label in labels]
