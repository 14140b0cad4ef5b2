"""Export a trained HMGRL model to ONNX, to run it without torch."""

import argparse
from pathlib import Path

from .arguments import UsageError, add_model_arguments

EXAMPLES = """\
example:
  hmgrl export --model runs/sample --out onnx --quantize
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add_model_arguments(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="folder to write the model to"
    )
    parser.add_argument(
        "--quantize",
        action="store_true",
        help="quantize the weights of linear layers to 8-bit integers",
    )


def run(options: argparse.Namespace) -> None:
    """Exports the model and prints the written files.

    Raises:
        UsageError: If the target is a file.
        ValueError: If the model cannot be exported or is too large, or the target folder contains
            a model of torch.
        OSError: If the model does not exist, or the folder cannot be written.
        ImportError: If a required library is not installed.
    """
    out = options.out.expanduser()
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file, expected a folder")
    from modeling_hmgrl.onnx.export import export_onnx  # noqa: PLC0415 - takes seconds

    from .model_loading import load_model  # noqa: PLC0415

    model, processor = load_model(options.model, options.revision)
    export_onnx(model, processor, out, quantize=options.quantize)
    for path in sorted(path for path in out.iterdir() if path.is_file()):
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
