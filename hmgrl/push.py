"""Shares a training run on the Hub: model, processor, scores and a card filled from them."""

import argparse
import os

from .arguments import UsageError, existing_folder

EXAMPLES = """\
The token is taken from the environment (HF_TOKEN) or from `hf auth login`; there is no option for
the token itself, which would stand in the shell's history.

examples:
  hmgrl push --folder runs/sample --repo user/name --private
  hmgrl push --folder runs/seed-0 --runs runs/seed-1 runs/seed-2 --repo user/name
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add = parser.add_argument
    add("--folder", type=existing_folder, required=True, help="folder of a finished training run")
    add("--repo", required=True, metavar="USER/NAME", help="repository; made if it does not exist")
    add("--private", action="store_true", help="make a new repository private")
    add(
        "--runs",
        nargs="+",
        default=[],
        type=existing_folder,
        metavar="FOLDER",
        help="repetitions with other seeds or splits, for mean and spread in the card",
    )
    add("--dataset", metavar="USER/NAME", help="the data set on the Hub that was trained on")
    add(
        "--token-env",
        metavar="VARIABLE",
        help="environment variable that holds the token, in place of HF_TOKEN",
    )


def run(options: argparse.Namespace) -> None:
    """Pushes and prints the address of the commit.

    Raises:
        UsageError: If the variable holds no token.
        FileNotFoundError: If the folder holds no finished run.
        OSError: If the Hub refuses or cannot be reached.
    """
    token = None
    if options.token_env is not None:
        token = os.environ.get(options.token_env)
        if not token:
            raise UsageError(f"--token-env {options.token_env}: no such variable, or it is empty")
    from modeling_hmgrl.reports.push import push_run  # noqa: PLC0415 - takes seconds

    url = push_run(
        options.folder,
        options.repo,
        private=options.private or None,
        token=token,
        runs=options.runs,
        dataset=options.dataset,
    )
    print(url)
