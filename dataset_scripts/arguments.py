"""The choices about a source as options of a command line; one place for all commands."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, get_args

from .label_texts import LabelText
from .leakage import GroupBy
from .options import Joiner, OnError
from .protocol import WIKIDIVERSE_PARTITIONS
from .splitting import SOURCES

_GROUPS = ("seen", "validation_unseen", "test_unseen")


def add_source_arguments(parser: argparse.ArgumentParser, *others: str) -> None:
    """Adds the options that say which data are read and how they are divided.

    Args:
        parser: The parser.
        *others: Sources that the command knows besides those of `load_gzs`.
    """
    group = parser.add_argument_group("data")
    add = group.add_argument
    add("--source", choices=sorted((*SOURCES, *others)), default="sample", help="form of the data")
    add("--data-dir", help="folder of the text files, or the file itself")
    add("--image-dir", help="folder of the pictures; it may be incomplete")
    add(
        "--counts",
        type=int,
        nargs=3,
        metavar=("SEEN", "VALIDATION", "TEST"),
        help="numbers of seen, validation-unseen and test-unseen labels",
    )
    add("--partition", metavar="FILE", help=f"JSON object of label lists: {', '.join(_GROUPS)}")
    add(
        "--rotation",
        type=int,
        choices=sorted(WIKIDIVERSE_PARTITIONS),
        help="fixed division of WikiDiverse's types",
    )
    add(
        "--group-by",
        choices=get_args(GroupBy),
        default="none",
        help="keep samples of the same sentence, picture or either in one split (not the paper's "
        "protocol)",
    )
    add(
        "--label-text",
        choices=get_args(LabelText),
        default="raw",
        help="what the encoder is shown: label names, names in words, relations in three parts "
        '("head; relation; tail"), or descriptions',
    )
    add("--label-descriptions", metavar="FILE", help="JSON object of label: description")
    add(
        "--joiner",
        choices=get_args(Joiner),
        default="auto",
        help="what stands between the tokens of tagged files",
    )
    add(
        "--on-error",
        choices=get_args(OnError),
        default="raise",
        help="stop at a faulty record, or leave it out and count it",
    )


def source_choices(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the keyword arguments of `load_gzs` (all but the seed) that were given.

    Raises:
        FileNotFoundError: If the file of the partition does not exist.
        ValueError: If it holds something else.
    """
    names = (
        "source",
        "data_dir",
        "image_dir",
        "counts",
        "rotation",
        "group_by",
        "label_text",
        "label_descriptions",
        "joiner",
        "on_error",
    )
    choices = {name: getattr(arguments, name) for name in names}
    if arguments.partition is not None:
        choices |= read_partition(arguments.partition)
    return choices


def read_partition(path: str) -> dict[str, list[str]]:
    """Returns the three label lists of a JSON file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no JSON object of just these three lists of strings.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; expected JSON with {', '.join(_GROUPS)}")
    expected = f"a JSON object of the label lists {', '.join(_GROUPS)}"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: expected {expected}, got: {error}") from None
    if (
        not isinstance(values, dict)
        or set(values) != set(_GROUPS)
        or not all(
            isinstance(labels, list) and labels and all(isinstance(label, str) for label in labels)
            for labels in values.values()
        )
    ):
        raise ValueError(f"{file}: expected {expected}, got {str(values)[:200]}")
    return values
