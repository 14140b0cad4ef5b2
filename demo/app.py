"""A page to try a trained model: python demo/app.py --model runs/quickstart."""

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
        help="folder or name on the Hub; HMGRL_MODEL or runs/quickstart by default",
    )
    parser.add_argument("--host", help="address to listen at, 127.0.0.1 by default")
    parser.add_argument("--port", type=int, help="port, by default the first free from 7860 on")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that uploads are deleted
    with tempfile.TemporaryDirectory(prefix="hmgrl-demo-") as folder:
        # Read when Gradio is imported: its default is one folder for all pages of all users.
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

        import page  # noqa: PLC0415
        from predictor import Answers  # noqa: PLC0415
        from transformers import pipeline  # noqa: PLC0415

        from modeling_hmgrl.pipeline_hmgrl import TASK  # noqa: PLC0415

        built = page.build(Answers(pipeline(TASK, model=arguments.model)))
        page.launch(built, Path(folder), arguments.host, arguments.port)


if __name__ == "__main__":
    main()
