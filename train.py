"""Trains HMGRL like `hmgrl train`; run it with `python` or `accelerate launch`."""

import sys

from hmgrl_cli.train import main

if __name__ == "__main__":
    sys.exit(main())
