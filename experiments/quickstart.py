"""The quick start: trains HMGRL on the embedded sample, then predicts in a new process.

Prints the scores beside two references that need no training and types three mentions, one of them
against labels that exist nowhere in the data.
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

# Text, mention, labels to choose from, and the picture of the sample that is shown with it.
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
    """Trains with `train.py`, as a user would."""
    command = [
        sys.executable, "train.py", "--source", "sample",
        "--text-encoder", "encoders/minilm", "--vision-encoder", "encoders/vit-s",
        "--output-dir", output_dir, "--epochs", "4", "--references", *options,
    ]  # fmt: skip
    print("$", " ".join(["python", *command[1:]]), flush=True)
    subprocess.run(command, cwd=ROOT, check=True)


def predict(output_dir: str) -> None:
    """Loads the run and predicts; called in a process of its own."""
    data = load_gzs("sample").splits["test"]
    names = data.features["label"].names
    pipe = pipeline(TASK, model=output_dir)
    report = json.loads((Path(output_dir) / "report.json").read_text(encoding="utf-8"))
    seen, unseen = report["labels"]["seen"], report["labels"]["test_unseen"]
    print(f"\nPredictions of a new process (labels: {len(seen)} seen, {len(unseen)} unseen):")
    for text, mention, labels, picture in INPUTS:
        image = None
        if picture is not None:
            row = list(data["label"]).index(names.index(picture))
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
        asked = f" among {labels}" if labels else ""
        source = f"with a picture of the test set's {picture}" if picture else "without a picture"
        print(f"  {text!r}, mention {mention!r}, {source}{asked}\n    -> {shown}")


def main() -> None:
    """Trains and predicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", default="runs/quickstart", help="folder of the run")
    parser.add_argument("--predict-only", action="store_true", help="predict with a finished run")
    arguments, rest = parser.parse_known_args()
    if not arguments.predict_only:
        train(arguments.output_dir, rest)
        command = [sys.executable, __file__, "--predict-only"]
        subprocess.run([*command, "--output-dir", arguments.output_dir], cwd=ROOT, check=True)
    else:
        predict(arguments.output_dir)


if __name__ == "__main__":
    main()
