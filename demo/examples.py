"""Examples on the page: records of the embedded sample, and sentences written for the page."""

from dataclasses import dataclass

from PIL import Image
from pyarrow import parquet

from dataset_scripts.sources import sample
from modeling_hmgrl.images import open_image

CREDITS = (
    "Sentences with pictures: WordNet 3.0 © 2006 Princeton University. Pictures: Noto Color Emoji, "
    "Google, Apache-2.0, put on white, scaled and reduced to 64 colours. "
    "Licences: dataset_scripts/sample_data/README.md."
)

# Not in the training split of seed 0.
_IDS = ("70f140107446", "3376dc423df2", "8b495c9657d3", "d8346dbfeccf", "d18de187546d")


@dataclass(frozen=True)
class Example:
    """An example.

    Attributes:
        text: The sentence.
        spans: Its mentions, as character offsets.
        image: Content of a PNG file, or None.
        labels: Labels to choose from; None for those known to the model.
    """

    text: str
    spans: list[list[int]]
    image: bytes | None = None
    labels: list[str] | None = None

    def load_image(self) -> Image.Image | None:
        """Opens the image."""
        return None if self.image is None else open_image(self.image)


_TYPING = (
    Example(
        "She bought a croissant on her way to the office",
        [[13, 22]],
        labels=["baked goods", "public transport", "legal document", "place of work"],
    ),
)
_RELATION = (
    Example("Marie Curie was born in Warsaw", [[0, 11], [24, 30]]),
    Example("Lena moved to Porto to study at the old university", [[0, 4], [14, 19]]),
    Example(
        "The bakery on the corner belongs to Omar",
        [[36, 40], [4, 10]],
        labels=["owner of", "employed by", "sibling of"],
    ),
)


def examples(task: str) -> list[Example]:
    """Returns the examples of a task.

    Args:
        task: "typing" or "relation".
    """
    if task == "relation":
        return list(_RELATION)
    table = parquet.read_table(
        sample.FOLDER / sample.ROWS,
        columns=["id", "text", "image", "spans"],
        filters=[("id", "in", _IDS)],
    )
    rows = {row["id"]: row for row in table.to_pylist()}
    found = [
        Example(row["text"], row["spans"], row["image"]["bytes"])
        for row in (rows[name] for name in _IDS)
    ]
    return [*found, *_TYPING]
