"""Runs the command line as `python -m hmgrl` or `accelerate launch -m hmgrl`."""

import sys

from hmgrl_cli.cli import main

if __name__ == "__main__":
    sys.argv[0] = "hmgrl"  # the command's name in reports; otherwise the path of this file
    sys.exit(main())
