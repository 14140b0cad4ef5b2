"""The parser of `hmgrl`, and the handling of errors."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from types import ModuleType

from .arguments import (
    DONE,
    FAILED,
    INTERRUPTED,
    MISUSED,
    HelpFormatter,
    UsageError,
    disable_progress_bars,
)

COMMANDS = {
    "train": ("train", "train a model and test it"),
    "evaluate": ("evaluation", "score a trained model on the splits of a data set"),
    "predict": ("predict", "predict types or relations, JSON Lines to JSON Lines"),
    "export": ("export", "write a model as ONNX"),
    "data": ("data", "inspect and convert data, share splits"),
    "push": ("push", "share a training run on the Hub, with its card"),
}
"""Subcommands, with their module and help text."""

_DESCRIPTION = """\
Generalized zero-shot entity typing and relation extraction from texts and images.

Results are written to standard output, all other messages to standard error.
"""

_EPILOG = """\
examples:
  hmgrl data report --source sample --out report
  hmgrl train --source sample --output-dir runs/sample
  hmgrl evaluate --model runs/sample --source sample
  hmgrl predict --model runs/sample --input lines.jsonl --output answers.jsonl

On several processes: accelerate launch -m hmgrl train ...

exit codes:
  0 success    1 error in the run or the data    2 wrong usage
  3 predict --on-error skip found invalid lines  130 interrupted by Ctrl-C

See hmgrl COMMAND --help for the options of a command.
"""


def make_parser(asked: str | None = None) -> argparse.ArgumentParser:
    """Makes the parser.

    Args:
        asked: The subcommand whose options are added. The modules of the others are not imported,
            to keep the start fast.
    """
    parser = argparse.ArgumentParser(
        "hmgrl", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=HelpFormatter
    )
    version = f"hmgrl {metadata.version('hmgrl')}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, formatter_class=HelpFormatter)
        if name == asked:
            _fill(command, import_module(f".{module}", __package__))
    return parser


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parses a command line.

    Args:
        argv: What follows the program's name.

    Returns:
        The options; `run` is the subcommand's function, `interrupted` the advice after an
        interruption, `program` the name that precedes error messages.

    Raises:
        SystemExit: With 2 on wrong usage; with 0 after help or version.
    """
    asked = next((word for word in argv if word in COMMANDS), None)
    return make_parser(asked).parse_args(argv)


def _fill(parser: argparse.ArgumentParser, module: ModuleType) -> None:
    parser.description, parser.epilog = module.__doc__, module.EXAMPLES
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    interrupted = getattr(module, "INTERRUPTED", "")
    parser.set_defaults(run=module.run, interrupted=interrupted, program=parser.prog)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand.

    Args:
        argv: What follows the program's name; that of this process if None.

    Returns:
        The exit code.
    """
    return _run("hmgrl", lambda: parse_arguments(sys.argv[1:] if argv is None else argv))


def run_alone(command: str, program: str, argv: Sequence[str]) -> int:
    """Runs one subcommand as a program of its own.

    Args:
        command: The subcommand.
        program: Name of the program.
        argv: What follows it.

    Returns:
        The exit code.
    """

    def parse() -> argparse.Namespace:
        parser = argparse.ArgumentParser(program, formatter_class=HelpFormatter)
        _fill(parser, import_module(f".{COMMANDS[command][0]}", __package__))
        return parser.parse_args(argv)

    return _run(program, parse)


def _run(program: str, parse: Callable[[], argparse.Namespace]) -> int:
    """Parses and runs; errors of data or machine end in one line on standard error."""
    options = argparse.Namespace(program=program, interrupted="", debug=True)
    try:
        options = parse()  # libraries are imported in it
        if getattr(options, "no_progress", False) or not getattr(options, "progress", True):
            disable_progress_bars()
        code = options.run(options)
        sys.stdout.flush()
        return DONE if code is None else code
    except KeyboardInterrupt:
        return _end(options, INTERRUPTED, f"interrupted. {options.interrupted}".rstrip())
    except UsageError as error:
        return _end(options, MISUSED, f"{error} (see {options.program} --help)")
    except BrokenPipeError:
        # The interpreter would try to flush the rest of the buffer at exit, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _end(options, FAILED, "standard output was closed before all results were written")
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        if options.debug:
            raise
        return _end(options, FAILED, " ".join(str(error).split()) or type(error).__name__)
    except Exception as error:
        if options.debug or not _is_of_network(error):
            raise
        return _end(options, FAILED, f"the Hub cannot be reached ({error})")


def _is_of_network(error: Exception) -> bool:
    from huggingface_hub.errors import HTTPError  # noqa: PLC0415 - that of the client it uses

    return isinstance(error, HTTPError)


def _end(options: argparse.Namespace, code: int, message: str) -> int:
    print(f"{options.program}: {message}", file=sys.stderr)
    return code
