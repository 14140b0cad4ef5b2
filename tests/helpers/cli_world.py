"""Records of the tiny world as files, and a run trained on them by the command line."""

import io
import json
import random
from pathlib import Path

from tiny_world import LABELS, SEEN, TEST_UNSEEN, VALIDATION_UNSEEN, tiny_picture, tiny_sample

from hmgrl_cli.cli import main

GROUPS = {
    "seen": SEEN,
    "validation_unseen": VALIDATION_UNSEEN,
    "test_unseen": TEST_UNSEEN,
}


def records(count, seed=0):
    """Records that name a picture where their number is even; `note` is a field of their own."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        label = LABELS[number % len(LABELS)]
        record = {"id": f"r{number}", "label": label, "note": "né"}
        record |= tiny_sample(label, rng=rng)
        if number % 2 == 0:
            record["image"] = f"pictures/{label}.png"
        made.append(record)
    return made


def lines(made):
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in made).encode()


def write_data(folder: Path, count=96) -> Path:
    """Writes records with their pictures and the groups of labels; returns the records' file."""
    (folder / "pictures").mkdir(parents=True)
    for label in LABELS:
        tiny_picture(label).save(folder / "pictures" / f"{label}.png")
    (folder / "groups.json").write_text(json.dumps(GROUPS))
    (folder / "records.jsonl").write_bytes(lines(records(count)))
    return folder / "records.jsonl"


def data_options(data: Path) -> list[str]:
    options = ["--source", "records", "--data-dir", str(data)]
    return [*options, "--partition", str(data.parent / "groups.json")]


def train(data: Path, backbones, out: Path, *more) -> int:
    text, vision = backbones
    run = ["--output-dir", str(out), "--feature-dir", str(out.parent / "features")]
    run += ["--max-steps", "2", "--tracker", "none", "--no-progress", "--max-length", "64"]
    encoders = ["--text-encoder", text, "--vision-encoder", vision]
    return main(["train", *data_options(data), *encoders, *run, *more])


class Stdin:
    """A standard input of the given bytes; it may be interrupted when they end."""

    def __init__(self, content: bytes, interrupted: bool = False):
        self.buffer, self._stream, self._interrupted = self, io.BytesIO(content), interrupted

    def readline(self, size=-1):
        line = self._stream.readline(size)
        if not line and self._interrupted:
            raise KeyboardInterrupt
        return line
