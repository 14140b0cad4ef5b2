"""What all subcommands share: exit codes, wrong usage, the look of their help."""

import argparse
import re
from pathlib import Path

DONE, FAILED, MISUSED, BAD_LINES, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes."""


class UsageError(Exception):
    """A wrong use that argparse cannot see, such as two options that do not go together."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Leaves examples as they are and adds the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        said = action.default not in (None, False, argparse.SUPPRESS, [])
        if not action.option_strings or not said or "default" in text:
            return text
        return f"{text} (default: %(default)s)"


def attribute_docs(documented: type) -> dict[str, str]:
    """Texts of the section "Attributes" of a class's docstring, as help of its options.

    Args:
        documented: The class.

    Returns:
        Text by name of the attribute, in one line each.
    """
    section = (documented.__doc__ or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^ {8}(\w+): (.+(?:\n {12}.+)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that name a trained model."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        required=True,
        metavar="NAME",
        help="folder of a training run, or name on the Hub",
    )
    group.add_argument("--revision", help="branch, tag or commit on the Hub")


def positive(text: str) -> int:
    """Reads a whole number of 1 or more, as a type of argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number of 1 or more")
    return int(text)


def existing_folder(text: str) -> Path:
    """Reads the path of a folder that exists, as a type of argparse."""
    path = Path(text).expanduser()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: no such folder")
    return path
