"""The label sets of a generalized zero-shot run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class LabelSets:
    """Seen labels, labels unseen until validation or test, and labels of the generator.

    Attributes:
        seen: Labels with training samples.
        validation_unseen: Labels that first occur in validation.
        test_unseen: Labels that first occur in test.
        generator: Labels without training samples for which the generator synthesises samples in
            training. In the paper's protocol, those of validation and test (class-transductive).
        texts: Encoder input of a label, where it differs from the label itself.

    Raises:
        ValueError: If the first three groups overlap, no label is seen, or ``generator`` contains a
            seen label.

    Examples:
        >>> labels = LabelSets.of(("animal", "tool"), ("plant",), ("drink",))
        >>> labels.generator
        ('plant', 'drink')
        >>> labels.candidates("test")
        ['animal', 'tool', 'drink']
        >>> labels.seen_mask("test")
        array([ True,  True, False])
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
            raise ValueError(f"labels: {double} are in more than one group, expected one each")
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
        """Creates label sets, with the labels of the generator chosen by the protocol.

        Args:
            seen: Labels with training samples.
            validation_unseen: Labels that first occur in validation.
            test_unseen: Labels that first occur in test.
            vocabulary: Labels of the generator: "transductive" for those of validation and test
                (paper), "inductive" for those of validation alone, or a list of labels.
            texts: Encoder input of a label, where it differs from the label itself.

        Raises:
            ValueError: If the vocabulary is another string, or as for the class.
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
        """Labels that are scored in "train", "validation" or "test", seen ones first."""
        unseen = {"train": (), "validation": self.validation_unseen, "test": self.test_unseen}
        return [*self.seen, *unseen[split]]

    def seen_mask(self, split: str) -> np.ndarray:
        """Mask of the seen labels among :meth:`candidates`, bool, shape (K,)."""
        return np.array([label in self.seen for label in self.candidates(split)])

    def texts_of(self, labels: list[str] | tuple[str, ...]) -> list[str]:
        """Encoder inputs of labels."""
        return [self.texts.get(label, label) for label in labels]
