"""Collect the files of a Space on the Hub in a folder."""

import argparse
import shutil
from pathlib import Path

_DEMO = Path(__file__).resolve().parent
_PACKAGES = ("modeling_hmgrl", "dataset_scripts")


def collect(out: Path, model: str) -> None:
    """Copies the demo page and the packages that it imports.

    Args:
        out: Folder to create; it must not exist.
        model: Name of the model on the Hub, for the metadata of the Space.

    Raises:
        FileExistsError: If the folder exists.
    """
    ignored = shutil.ignore_patterns("__pycache__", "space.py")
    shutil.copytree(_DEMO, out, ignore=ignored)
    for package in _PACKAGES:
        shutil.copytree(_DEMO.parent / package, out / package, ignore=ignored)
    shutil.copy(_DEMO.parent / "LICENSE", out)
    page = out / "README.md"
    _, header, text = page.read_text(encoding="utf-8").split("---\n", 2)
    page.write_text(f"---\n{header}models:\n- {model}\n---\n{text}", encoding="utf-8")


def main() -> None:
    """Collects the files and prints the commands that create the Space."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to create")
    parser.add_argument("--model", required=True, help="name of the model on the Hub")
    arguments = parser.parse_args()
    try:
        collect(arguments.out, arguments.model)
    except FileExistsError:
        parser.error(f"--out: {arguments.out} exists already, expected a new folder")
    print(f"Written: {arguments.out}. To create a Space named user/page, run:")
    print("  hf repos create user/page --type space --sdk gradio")
    print(f"  hf spaces variables add user/page --env HMGRL_MODEL={arguments.model}")
    print(f"  hf upload user/page {arguments.out} . --type space")


if __name__ == "__main__":
    main()
