"""Gathers what a Space on the Hub needs in one folder."""

import argparse
import shutil
from pathlib import Path

_DEMO = Path(__file__).resolve().parent
_PACKAGES = ("modeling_hmgrl", "dataset_scripts")


def gather(out: Path, model: str) -> None:
    """Copies the page and the packages that it imports.

    Args:
        out: Folder, which must not exist.
        model: Name of the model on the Hub, for the Space's page.

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
    """Gathers the folder and says what to do with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder, made anew")
    parser.add_argument("--model", required=True, help="name of the model on the Hub")
    arguments = parser.parse_args()
    try:
        gather(arguments.out, arguments.model)
    except FileExistsError:
        parser.error(f"--out: {arguments.out} exists, expected the name of a new folder")
    print(f"{arguments.out} is ready. Next, for a Space of the name user/page:")
    print("  hf repos create user/page --type space --sdk gradio")
    print(f"  hf spaces variables add user/page --env HMGRL_MODEL={arguments.model}")
    print(f"  hf upload user/page {arguments.out} . --type space")


if __name__ == "__main__":
    main()
