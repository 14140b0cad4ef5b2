"""Options that select data and splits, and loading of the selected splits."""

import argparse

from dataset_scripts import GZSData, load_gzs
from dataset_scripts.arguments import add_source_arguments, source_choices
from dataset_scripts.export import load_exported

from .arguments import UsageError

FIXED = {
    "split_seed": None,
    "image_dir": None,
    "counts": None,
    "partition": None,
    "rotation": None,
    "group_by": "none",
    "label_text": None,
    "label_descriptions": None,
    "joiner": "auto",
    "on_error": "raise",
}
"""Options that exported splits determine, with their defaults."""


def add_split_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds the options that select data and splits.

    Returns:
        The argument group of the splits, to which a command may add options.
    """
    add_source_arguments(parser, "exported")
    group = parser.add_argument_group("splits")
    group.add_argument(
        "--split-seed", type=int, metavar="SEED", help="seed of the split (default: 0)"
    )
    group.add_argument(
        "--data-config",
        metavar="NAME",
        help="configuration to load with --source exported, where --data-dir is a folder or a "
        "repository on the Hub",
    )
    group.add_argument("--no-images", action="store_true", help="ignore images")
    return group


def load_data(options: argparse.Namespace) -> GZSData:
    """Loads a source and splits it, or loads exported splits unchanged.

    Raises:
        UsageError: If options contradict each other.
        ValueError: If the data or an option about them are invalid.
        OSError: If files do not exist.
    """
    choices = source_choices(options)
    if options.source == "exported":
        if options.data_dir is None:
            raise UsageError("--source exported: expected --data-dir, a folder or repository")
        given = {name: getattr(options, name) not in (None, usual) for name, usual in FIXED.items()}
        if wrong := [f"--{name.replace('_', '-')}" for name, wrong in given.items() if wrong]:
            raise UsageError(
                f"--source exported: the splits are fixed; expected no {', '.join(wrong)}"
            )
        return load_exported(options.data_dir, options.data_config)
    if options.data_config is not None:
        raise UsageError(
            f"--data-config: expected only with --source exported, got {options.source}"
        )
    try:
        return load_gzs(**choices, seed=options.split_seed or 0)
    except TypeError as error:  # `SourceOptions` raises it for values of the wrong type
        raise ValueError(str(error)) from error
