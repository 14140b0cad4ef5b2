"""Inspect, convert and share data sets."""

import argparse

from dataset_scripts.__main__ import add_commands, run_command

EXAMPLES = """\
examples:
  hmgrl data report --source bio --data-dir CP-MNER --image-dir CP-MNER/images --out report
  hmgrl data convert --source mnre --data-dir MNRE/mnre_txt --out mnre.jsonl
  hmgrl data export --source records --data-dir mydata --seeds 0 1 2 --out shared

Run `hmgrl data COMMAND --help` for the options of a command.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the commands of `dataset_scripts`."""
    add_commands(parser)


def run(options: argparse.Namespace) -> None:
    """Runs the selected command.

    Raises:
        ValueError: If the data or an option about them are invalid.
        OSError: If files do not exist or cannot be written.
    """
    try:
        run_command(options)
    except TypeError as error:  # `SourceOptions` raises it for values of the wrong type
        raise ValueError(str(error)) from error
