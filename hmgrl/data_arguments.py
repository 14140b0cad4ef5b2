"""The options that say which data are used, and the splits they stand for."""

import argparse

from dataset_scripts import GZSData, load_gzs
from dataset_scripts.arguments import add_source_arguments, source_choices
from dataset_scripts.export import load_exported

from .arguments import UsageError


def add_split_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds the options of data and splits.

    Returns:
        The group of the splits, for what a command adds to it.
    """
    add_source_arguments(parser, "exported")
    group = parser.add_argument_group("splits")
    group.add_argument(
        "--split-seed", type=int, default=0, metavar="SEED", help="seed of the split"
    )
    group.add_argument(
        "--data-config",
        metavar="NAME",
        help="configuration of --source exported, whose --data-dir is a folder or repository",
    )
    group.add_argument("--no-images", action="store_true", help="leave pictures out")
    return group


def load_data(options: argparse.Namespace) -> GZSData:
    """Loads a source and splits it, or loads exported splits as they are.

    Raises:
        UsageError: If options do not go together.
        ValueError: If the data or a choice about them is faulty.
        OSError: If files are absent.
    """
    choices = source_choices(options)
    if options.source == "exported":
        if options.data_dir is None:
            raise UsageError("--source exported: expected --data-dir, a folder or repository")
        fixed = ("image_dir", "counts", "seen", "rotation", "label_descriptions")
        if any(choices.get(name) is not None for name in fixed) or options.group_by != "none":
            raise UsageError(
                "--source exported: the splits are made; expected no --image-dir, --counts, "
                "--partition, --rotation, --group-by or --label-descriptions"
            )
        return load_exported(options.data_dir, options.data_config)
    try:
        return load_gzs(**choices, seed=options.split_seed)
    except TypeError as error:  # how `SourceOptions` names what is of another type
        raise ValueError(str(error)) from error
