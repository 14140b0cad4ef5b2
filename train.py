"""Trains HMGRL, as `hmgrl train` does. Run by `python` or by `accelerate launch`."""

import sys

from hmgrl.train import main

if __name__ == "__main__":
    sys.exit(main())
