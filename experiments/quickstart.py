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

from datasets import DatasetDict
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
    report = json.loads((Path(output_dir) / "report.json").read_text(encoding="utf-8"))
    split = report["data"]["settings"]
    options = {"seed": split["seed"], "group_by": split["group_by"], **split["partition"]}
    splits = load_gzs("sample", **options).splits
    pipe = pipeline(TASK, model=output_dir)
    seen, unseen = report["labels"]["seen"], report["labels"]["test_unseen"]
    print(f"\nPredictions of a new process (labels: {len(seen)} seen, {len(unseen)} unseen):")
    for text, mention, labels, image_label in INPUTS:
        image, source = None, "without an image"
        if image_label is not None:
            image, name = image_of(splits, image_label)
            source = f"with a {name} image of {image_label!r}"
        known = [*seen, *unseen] if labels is None else labels
        result = pipe(text, mention=mention, image=image, labels=known, top_k=3)
        shown = ", ".join(
            f"{label} {100 * p:.0f} %{'' if was_seen else ' (unseen)'}"
            for label, p, was_seen in zip(
                result["labels"], result["probabilities"], result["seen"], strict=True
            )
        )
        among = f" among {labels}" if labels else ""
        print(f"  {text!r}, mention {mention!r}, {source}{among}\n    -> {shown}")


def image_of(splits: DatasetDict, label: str) -> tuple[bytes, str]:
    """Returns the first image of a label and the name of its split, if possible that of the test.

    Samples of a label that is unseen until validation are in no other split.
    """
    index = splits["test"].features["label"].names.index(label)
    for name in ("test", "validation"):
        labels = list(splits[name]["label"])
        if index in labels:
            buffer = io.BytesIO()
            splits[name][labels.index(index)]["image"].save(buffer, format="PNG")
            return buffer.getvalue(), name
    raise ValueError(f"{label}: expected samples in the test or validation split, found none")


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
