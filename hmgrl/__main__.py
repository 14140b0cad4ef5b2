"""Runs the command line: `hmgrl`, `python -m hmgrl` or `accelerate launch -m hmgrl`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.argv[0] = "hmgrl"  # as reports name the command; it is the path of this file otherwise
    sys.exit(main())
