"""Label texts in parts, "head; relation; tail"."""

from collections.abc import Iterable, Sequence
from typing import Any

from transformers.utils import logging

from .entity_markers import tokenize_pieces

logger = logging.get_logger(__name__)

SEPARATOR = ";"
"""Separator of the parts of a label's text: "person; is a member of; organization"."""


def unsplit_texts(texts: Iterable[str]) -> list[str]:
    """Returns the texts that contain a separator and yet are not of the form "a; b; c"."""
    return [
        text
        for text in texts
        if SEPARATOR in text
        and (text.count(SEPARATOR) != 2 or not all(p.strip() for p in text.split(SEPARATOR)))
    ]


def warn_of_unsplit_texts(texts: Iterable[str], reported: set[str]) -> None:
    """Logs label texts that are compared as a whole although they contain a separator.

    Args:
        texts: Label texts of a model with ``label_parts``.
        reported: Texts that are not logged again; those logged now are added.
    """
    unsplit = [text for text in dict.fromkeys(unsplit_texts(texts)) if text not in reported]
    if unsplit:
        reported.update(unsplit)
        more = f" and {len(unsplit) - 5} more" if len(unsplit) > 5 else ""
        logger.warning(
            f"label texts: {', '.join(map(repr, unsplit[:5]))}{more} compared as a whole, expected "
            "'head; relation; tail' for a comparison by parts"
        )


def tokenize_labels(tokenizer: Any, labels: Sequence[str], separator_id: int) -> list[list[int]]:
    """Tokenises label texts such that each separator is a token of its own.

    Args:
        tokenizer: A fast tokenizer.
        labels: Label texts.
        separator_id: Token id of the separator.

    Returns:
        Token ids of each label, without special tokens.
    """
    parts = [label.split(SEPARATOR) for label in labels]
    rows, _ = tokenize_pieces(tokenizer, [part.rstrip() for row in parts for part in row])
    stream = iter(rows)
    ids: list[list[int]] = []
    for row in parts:
        joined = list(next(stream))
        for _ in row[1:]:
            joined += [separator_id, *next(stream)]
        ids.append(joined)
    return ids


__all__ = ["SEPARATOR", "tokenize_labels", "unsplit_texts", "warn_of_unsplit_texts"]
