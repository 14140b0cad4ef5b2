"""The parser of `hmgrl`, and what becomes of errors."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from types import ModuleType

from .arguments import DONE, FAILED, INTERRUPTED, MISUSED, HelpFormatter, UsageError

COMMANDS = {
    "train": ("train", "train a model and test it"),
    "evaluate": ("evaluation", "score a trained model on the splits of a data set"),
    "predict": ("predict", "type mentions: JSON Lines in, JSON Lines out"),
    "export": ("export", "write a model as ONNX"),
    "data": ("data", "look at data, convert them, share their splits"),
    "push": ("push", "share a training run on the Hub, with its card"),
}
"""Subcommands: their module, and what they do."""

_DESCRIPTION = """\
Generalized zero-shot typing of entities and naming of relations, from text and picture.

Results go to the standard output, all else to the standard error.
"""

_EPILOG = """\
examples:
  hmgrl data report --source sample --out report
  hmgrl train --source sample --output-dir runs/sample
  hmgrl evaluate --model runs/sample --source sample
  hmgrl predict --model runs/sample --input lines.jsonl --output answers.jsonl

On several processes: accelerate launch -m hmgrl train ...

exit codes:
  0 done    1 the run or the data failed    2 wrong usage
  3 predict --on-error skip left bad lines  130 stopped by Ctrl-C

hmgrl COMMAND --help says more.
"""


def make_parser(asked: str | None = None) -> argparse.ArgumentParser:
    """Makes the parser.

    Args:
        asked: The subcommand whose options it shall know; the modules of the others would only
            make it slow.
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
        The options; `run` is the subcommand's function, `interrupted` says how to go on after it
        was stopped, `program` is the name that errors are told under.

    Raises:
        SystemExit: With 2 on wrong usage; with 0 after help or version.
    """
    asked = next((word for word in argv if word in COMMANDS), None)
    return make_parser(asked).parse_args(argv)


def _fill(parser: argparse.ArgumentParser, module: ModuleType) -> None:
    parser.description, parser.epilog = module.__doc__, module.EXAMPLES
    module.add_arguments(parser)
    parser.add_argument(
        "--debug", action="store_true", help="show where in the code an error came from"
    )
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
    """Parses and runs; what is wrong with the data or the machine ends in one line."""
    options = argparse.Namespace(program=program, interrupted="", debug=True)
    try:
        options = parse()  # libraries are imported in it
        code = options.run(options)
        sys.stdout.flush()
        return DONE if code is None else code
    except KeyboardInterrupt:
        return _end(options, INTERRUPTED, f"stopped. {options.interrupted}".rstrip())
    except UsageError as error:
        return _end(options, MISUSED, f"{error} (see {options.program} --help)")
    except BrokenPipeError:
        # What is still in the buffer has nowhere to go; the interpreter would try once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _end(options, FAILED, "the standard output was closed before all was written")
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
