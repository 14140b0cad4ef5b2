"""Command line options that select and configure a data source, shared by all commands."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from .files import load_json
from .label_texts import LabelText
from .leakage import GroupBy
from .options import ON_ERROR_NAMES, Joiner, OnError
from .protocol import WIKIDIVERSE_PARTITIONS
from .splitting import SOURCES

_GROUPS = ("seen", "validation_unseen", "test_unseen")


def add_source_arguments(parser: argparse.ArgumentParser, *others: str) -> None:
    """Adds the options that select the data and how they are split.

    Args:
        parser: The parser.
        *others: Sources that the command accepts in addition to those of `load_gzs`.
    """
    group = parser.add_argument_group("data")
    add = group.add_argument
    add(
        "--source",
        choices=sorted((*SOURCES, *others)),
        default="sample",
        help="data set or format of the data",
    )
    add("--data-dir", metavar="PATH", help="folder of the text files, or a single file")
    add(
        "--image-dir",
        metavar="FOLDER",
        help="folder of the images, some of which may be missing (default: for records, the folder "
        "of the file)",
    )
    add(
        "--counts",
        type=int,
        nargs=3,
        metavar=("SEEN", "VALIDATION", "TEST"),
        help="number of seen, validation-unseen and test-unseen labels",
    )
    add(
        "--partition",
        metavar="FILE",
        help=f"JSON file with an object of three label lists: {', '.join(_GROUPS)}",
    )
    add(
        "--rotation",
        type=int,
        choices=sorted(WIKIDIVERSE_PARTITIONS),
        help="one of the three fixed partitions of WikiDiverse's types",
    )
    add(
        "--group-by",
        choices=get_args(GroupBy),
        default="none",
        help="keep samples that share a sentence, an image or either in the same split (not the "
        "paper's protocol)",
    )
    add(
        "--label-text",
        choices=get_args(LabelText),
        help="label text to encode: label names (raw), names in words (verbalised), relations in "
        'three parts ("head; relation; tail"), or descriptions (default: auto, parts where a '
        "name defines them and words otherwise)",
    )
    add(
        "--label-descriptions",
        metavar="FILE",
        help="JSON file with an object that maps labels to descriptions",
    )
    add(
        "--joiner",
        choices=get_args(Joiner),
        default="auto",
        help="separator between the tokens of tagged files",
    )
    add(
        "--on-error",
        choices=get_args(OnError),
        type=lambda text: ON_ERROR_NAMES.get(text, text),
        default="raise",
        help="stop at the first invalid record, or skip and count invalid records",
    )


def source_choices(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the keyword arguments of `load_gzs`, except for the seed.

    Raises:
        FileNotFoundError: If the partition file does not exist.
        ValueError: If the partition file is invalid.
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
    choices["label_text"] = choices["label_text"] or "auto"
    if arguments.partition is not None:
        choices |= read_partition(arguments.partition)
    return choices


def read_partition(path: str) -> dict[str, list[str]]:
    """Reads the three label lists of a JSON file.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not a JSON object of exactly these three lists of strings.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; expected JSON with {', '.join(_GROUPS)}")
    expected = f"a JSON object of the label lists {', '.join(_GROUPS)}"
    try:
        values = load_json(file)
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
