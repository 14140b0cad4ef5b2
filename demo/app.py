"""Serve a demo page for a trained model, e.g. `python demo/app.py --model runs/quickstart`."""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Loads the model and serves the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model",
        default=os.environ.get("HMGRL_MODEL", "runs/quickstart"),
        help="folder of a training run, or name of a model on the Hub (default: the environment "
        "variable HMGRL_MODEL, or runs/quickstart)",
    )
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port (default: first free port from 7860 on)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # exit normally, to delete uploads
    with tempfile.TemporaryDirectory(prefix="hmgrl-demo-") as folder:
        # Read when Gradio is imported. Its default folder is shared by all pages and users.
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

        import page  # noqa: PLC0415
        from predictor import Predictor  # noqa: PLC0415
        from transformers import pipeline  # noqa: PLC0415

        from modeling_hmgrl.pipeline_hmgrl import TASK  # noqa: PLC0415

        blocks = page.build(Predictor(pipeline(TASK, model=arguments.model)))
        page.launch(blocks, Path(folder), arguments.host, arguments.port)


if __name__ == "__main__":
    main()
