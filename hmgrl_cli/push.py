"""Push a training run to the Hub: model, processor, scores and model card."""

import argparse
import os

from .arguments import UsageError, existing_folder

EXAMPLES = """\
The token is read from the environment (HF_TOKEN) or from `hf auth login`. It cannot be passed as an
option, because the shell's history would store it.

examples:
  hmgrl push --folder runs/sample --repo user/name --private
  hmgrl push --folder runs/seed-0 --runs runs/seed-1 runs/seed-2 --repo user/name
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add = parser.add_argument
    add("--folder", type=existing_folder, required=True, help="folder of a finished training run")
    add(
        "--repo",
        required=True,
        metavar="USER/NAME",
        help="repository on the Hub; created if it does not exist",
    )
    add("--private", action="store_true", help="create a new repository as private")
    add(
        "--runs",
        nargs="+",
        default=[],
        type=existing_folder,
        metavar="FOLDER",
        help="folders of runs with other seeds or splits, for mean and standard deviation in the "
        "model card",
    )
    add("--dataset", metavar="USER/NAME", help="training data set on the Hub, for the model card")
    add(
        "--token-env",
        metavar="VARIABLE",
        help="environment variable that contains the token, instead of HF_TOKEN",
    )


def run(options: argparse.Namespace) -> None:
    """Pushes the run and prints the URL of the commit.

    Raises:
        UsageError: If the environment variable contains no token.
        FileNotFoundError: If the folder contains no finished run.
        OSError: If the Hub rejects the request or cannot be reached.
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
