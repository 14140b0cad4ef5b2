"""Looks at data, converts them, and shares their splits: `hmgrl data`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

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
    """Adds the commands to a parser, for :func:`run_command`."""
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=text,
            description=text,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        add_source_arguments(made)
        return made

    seeds: dict[str, Any] = {
        "type": int,
        "nargs": "+",
        "default": [0],
        "metavar": "SEED",
        "help": "seeds of the split; files are read once for all",
    }
    report = command("report", "print and save what became of each record, with pictures")
    report.add_argument("--seeds", **seeds)
    report.add_argument("--out", default="data-report", help="folder for the report")
    report.add_argument("--examples", type=int, default=12, help="samples shown on the page")
    share = command("export", "write splits as Parquet with a dataset card, and push them if asked")
    share.add_argument("--seeds", **seeds)
    share.add_argument("--out", required=True, help="folder to make; one configuration a seed")
    share.add_argument("--license", default="unknown", help="licence of the source, as on the Hub")
    share.add_argument("--title", help="heading of the card")
    share.add_argument("--overwrite", action="store_true", help="replace the folder")
    share.add_argument("--push-to-hub", metavar="USER/NAME", help="repository to push it to")
    share.add_argument("--private", action="store_true", help="make a new repository private")
    lines = command("convert", "write the records as JSON Lines, not split")
    lines.add_argument("--out", required=True, help="file to write")


def main(argv: list[str] | None = None) -> None:
    """Runs one command; a fault of the data ends it with one line and status 1."""
    arguments = parse_arguments(argv)
    try:
        run_command(arguments)
    except (ValueError, TypeError, OSError, ImportError) as error:
        sys.exit(f"hmgrl data {arguments.command}: {error}")


def run_command(arguments: argparse.Namespace) -> None:
    """Runs the command that was chosen."""
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
        from .report.page import save_report  # noqa: PLC0415 - needs matplotlib

        for seed, gzs in data.items():
            folder = Path(arguments.out)
            if len(data) > 1:
                folder /= f"seed-{seed}"
            for path in save_report(gzs, folder, arguments.examples):
                print(f"Written: {path}")
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
