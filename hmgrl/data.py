"""Looks at data, converts them, and shares their splits."""

import argparse

from dataset_scripts.__main__ import add_commands, run_command

EXAMPLES = """\
examples:
  hmgrl data report --source bio --data-dir CP-MNER --image-dir CP-MNER/images --out report
  hmgrl data convert --source mnre --data-dir MNRE/mnre_txt --out mnre.jsonl
  hmgrl data export --source records --data-dir mydata --seeds 0 1 2 --out shared

hmgrl data COMMAND --help says more.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the commands of `dataset_scripts`."""
    add_commands(parser)


def run(options: argparse.Namespace) -> None:
    """Runs one of them.

    Raises:
        ValueError: If the data or a choice about them is faulty.
        OSError: If files are absent or cannot be written.
        ImportError: If a library that a report needs is not installed.
    """
    try:
        run_command(options)
    except TypeError as error:  # how `SourceOptions` names what is of another type
        raise ValueError(str(error)) from error
