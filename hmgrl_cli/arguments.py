"""Exit codes, usage errors, argument types and the help format, shared by all subcommands."""

import argparse
import re
from pathlib import Path

DONE, FAILED, MISUSED, BAD_LINES, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes."""


class UsageError(Exception):
    """Wrong usage that argparse cannot detect, such as options that contradict each other."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the layout of descriptions and appends defaults, except for empty ones."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        is_empty = action.default in (None, False, argparse.SUPPRESS, [])
        if not action.option_strings or is_empty or "default" in text:
            return text
        if isinstance(action.default, list | tuple):
            return f"{text} (default: {' '.join(map(str, action.default))})"
        return f"{text} (default: %(default)s)"


def attribute_docs(documented: type) -> dict[str, str]:
    """Reads the section "Attributes" of a class's docstring, to serve as help of options.

    Args:
        documented: The class.

    Returns:
        The description of each attribute as one line, by name.
    """
    following = (documented.__doc__ or "").partition("Attributes:\n")[2]
    section = re.split(r"\n {0,4}\w", following)[0]
    entries = re.findall(r"^ {8}(\w+): (.+(?:\n {12}.+)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that select a trained model."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        required=True,
        metavar="NAME",
        help="folder of a training run, or name of a model on the Hub",
    )
    group.add_argument("--revision", help="branch, tag or commit on the Hub")


def disable_progress_bars() -> None:
    """Disables the progress bars of all libraries in this process."""
    import datasets  # noqa: PLC0415 - takes seconds, like these
    import huggingface_hub  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    datasets.disable_progress_bars()
    huggingface_hub.utils.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()


def positive_integer(text: str) -> int:
    """Parses a positive integer; an argument type for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a positive integer")
    return int(text)


def existing_folder(text: str) -> Path:
    """Parses the path of an existing folder; an argument type for argparse."""
    path = Path(text).expanduser()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: no such folder")
    return path
