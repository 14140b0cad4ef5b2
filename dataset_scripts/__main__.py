"""Inspect, convert and share data sets; the same commands as `hmgrl data`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import datasets

from .arguments import add_source_arguments, source_choices
from .builder import load_gzs_seeds
from .convert import convert
from .export import export, push_export
from .options import SourceOptions


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="hmgrl data", description=__doc__)
    add_commands(parser)
    return parser.parse_args(argv)


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Adds the commands to a parser, to be run by :func:`run_command`."""
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True
    )

    def add_command(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            formatter_class=parser.formatter_class,
        )
        add_source_arguments(command)
        command.add_argument("--no-progress", action="store_true", help="disable progress bars")
        return command

    seeds: dict[str, Any] = {
        "type": int,
        "nargs": "+",
        "default": [0],
        "metavar": "SEED",
        "help": "seeds of the split; the source is read only once",
    }
    report = add_command("report", "summarise a data set and its splits as JSON, page and figure")
    report.add_argument("--seeds", **seeds)
    report.add_argument(
        "--out", default="data-report", metavar="FOLDER", help="folder to write the report to"
    )
    report.add_argument(
        "--examples",
        type=int,
        default=12,
        metavar="N",
        help="number of samples to show on the page",
    )
    share = add_command(
        "export", "write splits as Parquet with a dataset card, and optionally push them to the Hub"
    )
    share.add_argument("--seeds", **seeds)
    share.add_argument(
        "--out",
        required=True,
        metavar="FOLDER",
        help="folder to create, with one configuration per seed",
    )
    share.add_argument(
        "--license", default="unknown", help="licence of the source, as an identifier of the Hub"
    )
    share.add_argument("--title", help="title of the dataset card")
    share.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    share.add_argument(
        "--push-to-hub", metavar="USER/NAME", help="repository on the Hub to push the folder to"
    )
    share.add_argument("--private", action="store_true", help="create a new repository as private")
    lines = add_command("convert", "write the records of a data set, without splits, as JSON Lines")
    lines.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="JSON Lines file to write, in whose folder, or beside it, its images are found",
    )


def main(argv: list[str] | None = None) -> None:
    """Runs a command; invalid data end it with a one-line message and exit code 1."""
    arguments = parse_arguments(argv)
    try:
        run_command(arguments)
    except (ValueError, TypeError, OSError, ImportError) as error:
        sys.exit(f"hmgrl data {arguments.command}: {error}")


def run_command(arguments: argparse.Namespace) -> None:
    """Runs the selected command.

    Raises:
        ValueError: If options contradict each other, or the data are invalid.
    """
    if arguments.command == "export" and arguments.private and not arguments.push_to_hub:
        raise ValueError("--private: expected only with --push-to-hub")
    if arguments.no_progress:
        datasets.disable_progress_bars()
    choices = source_choices(arguments)
    if arguments.command == "convert":
        source = choices.pop("source")
        print(convert(source, SourceOptions(**choices), arguments.out).summary())
        print(f"Written: {arguments.out}")
        return
    data = load_gzs_seeds(arguments.seeds, **choices)
    for seed, gzs in data.items():
        print(f"seed {seed}\n{gzs.report.summary()}")
    if arguments.command == "report":
        from .report.page import FIGURE_FILE, NO_FIGURE, save_report  # noqa: PLC0415 - only here

        for seed, gzs in data.items():
            folder = Path(arguments.out)
            if len(data) > 1:
                folder /= f"seed-{seed}"
            paths = save_report(gzs, folder, arguments.examples)
            for path in paths:
                print(f"Written: {path}")
        if FIGURE_FILE not in {path.name for path in paths}:
            print(NO_FIGURE)
        return
    named = {f"seed-{seed}": gzs for seed, gzs in data.items()}
    folder = export(
        named,
        arguments.out,
        title=arguments.title,
        license=arguments.license,
        overwrite=arguments.overwrite,
    )
    print(f"Written: {folder}")
    if arguments.push_to_hub:
        print(f"Pushed: {push_export(folder, arguments.push_to_hub, arguments.private)}")


if __name__ == "__main__":
    main()
