"""Runs the code of pages as a reader does: every block in order, in one shell and one folder.

    python docs/run_pages.py --folder build/pages/readme README.md

The folder must contain `.venv`, an environment with the package, and `encoders`. `make quickstart`
is replaced by the training that it runs, and consecutive Python blocks are one script.
Installations are skipped, as they would change the environment, and pushes to the Hub, as they
require a token. The first command that fails ends the run with its exit code.
"""

import argparse
import re
import subprocess
import sys
from itertools import groupby
from pathlib import Path

_FENCE = re.compile(r"^```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Functions take precedence over programs; `command` calls the program.
_PREAMBLE = """\
set -eu -o pipefail
skip() { echo "skipped: $*"; }
pip() { skip pip "$@"; }
make() {
  if [ "$1" = quickstart ] && [ ! -e runs/quickstart/report.json ]; then
    .venv/bin/hmgrl train --source sample --epochs 4 --references --output-dir runs/quickstart \\
      --text-encoder encoders/minilm --vision-encoder encoders/vit-s
  else
    skip make "$@"
  fi
}
hmgrl() { if [ "$1" = push ]; then skip hmgrl "$@"; else command hmgrl "$@"; fi; }
set -x
"""


def script_of(pages: list[Path], folder: Path) -> str:
    """Converts the code of pages to one bash script.

    Args:
        pages: Markdown files, in the order in which they are read.
        folder: Folder to write the Python blocks to.

    Returns:
        The script.
    """
    parts = [_PREAMBLE]
    for page in pages:
        found = _FENCE.findall(page.read_text(encoding="utf-8"))
        for number, (language, blocks) in enumerate(groupby(found, key=lambda block: block[0])):
            code = "\n".join(code for _, code in blocks)
            if language == "python":
                file = folder / f"{page.stem}-{number}.py"
                file.write_text(code, encoding="utf-8")
                code = f"python {file.name}\n"
            parts.append(code)
    return "\n".join(parts)


def main() -> None:
    """Runs the pages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="+", type=Path, help="Markdown files, in reading order")
    parser.add_argument("--folder", type=Path, required=True, help="folder to run in")
    arguments = parser.parse_args()
    for name in (".venv/bin/hmgrl", "encoders"):
        if not (arguments.folder / name).exists():
            parser.error(f"--folder {arguments.folder}: contains no {name}")
    script = script_of(arguments.pages, arguments.folder)
    done = subprocess.run(
        ["bash", "-c", script], cwd=arguments.folder, stdin=subprocess.DEVNULL, check=False
    )
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
