"""The quick start: trains HMGRL on the embedded sample, then predicts in a new process.

Prints the scores together with those of two training-free baselines, and predicts the types of
three mentions, one of them among labels that do not occur in the data.
"""

import argparse
import io
import json
import subprocess
import sys
from pathlib import Path

from transformers import pipeline

from dataset_scripts import load_gzs
from modeling_hmgrl.pipeline_hmgrl import TASK

ROOT = Path(__file__).resolve().parent.parent

# Text, mention, labels to choose from, and the label of the sample whose image is used.
INPUTS = [
    ("We saw a heron at the edge of the pond", "heron", None, "bird"),
    ("He oiled the old cello before the concert", "cello", None, "musical instrument"),
    (
        "She bought a croissant on her way to the office",
        "croissant",
        ["baked goods", "public transport", "legal document"],
        None,
    ),
]


def train(output_dir: str, options: list[str]) -> None:
    """Trains with `train.py`."""
    command = [
        sys.executable, "train.py", "--source", "sample",
        "--text-encoder", "encoders/minilm", "--vision-encoder", "encoders/vit-s",
        "--output-dir", output_dir, "--epochs", "4", "--references", *options,
    ]  # fmt: skip
    print("$", " ".join(["python", *command[1:]]), flush=True)
    subprocess.run(command, cwd=ROOT, check=True)


def predict(output_dir: str) -> None:
    """Loads the run and predicts; called in a separate process."""
    data = load_gzs("sample").splits["test"]
    names = data.features["label"].names
    pipe = pipeline(TASK, model=output_dir)
    report = json.loads((Path(output_dir) / "report.json").read_text(encoding="utf-8"))
    seen, unseen = report["labels"]["seen"], report["labels"]["test_unseen"]
    print(f"\nPredictions of a new process (labels: {len(seen)} seen, {len(unseen)} unseen):")
    for text, mention, labels, image_label in INPUTS:
        image = None
        if image_label is not None:
            row = list(data["label"]).index(names.index(image_label))
            buffer = io.BytesIO()
            data[row]["image"].save(buffer, format="PNG")
            image = buffer.getvalue()
        known = [*seen, *unseen] if labels is None else labels
        result = pipe(text, mention=mention, image=image, labels=known, top_k=3)
        shown = ", ".join(
            f"{label} {100 * p:.0f} %{'' if was_seen else ' (unseen)'}"
            for label, p, was_seen in zip(
                result["labels"], result["probabilities"], result["seen"], strict=True
            )
        )
        among = f" among {labels}" if labels else ""
        source = f"with a test image of {image_label!r}" if image_label else "without an image"
        print(f"  {text!r}, mention {mention!r}, {source}{among}\n    -> {shown}")


def main() -> None:
    """Trains and predicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", default="runs/quickstart", help="folder of the run")
    parser.add_argument("--predict-only", action="store_true", help="predict with an existing run")
    arguments, rest = parser.parse_known_args()
    if not arguments.predict_only:
        train(arguments.output_dir, rest)
        command = [sys.executable, __file__, "--predict-only"]
        subprocess.run([*command, "--output-dir", arguments.output_dir], cwd=ROOT, check=True)
    else:
        predict(arguments.output_dir)


if __name__ == "__main__":
    main()
