"""Benchmarks the pipeline against the bare encoders, and with many labels.

Each part is measured in a separate process. Compared variants alternate within one process and the
median of the rounds is reported, so that other load on the machine affects both equally.

    throughput   inputs with text and image, from decoded images and from encoded bytes, and texts
                 only, against the forward passes of the bare encoders on the same inputs:
                 precomputed pixels and token ids, in batches in the given order
    labels       cost of an input by number of labels, with cached label vectors
    many         a large number of labels: filling the cache, saving it, and single inputs scored
                 against all labels

On a shared machine, `--clock cpu` measures the CPU time of this process instead of wall-clock time.
CPU time is summed over threads, so its ratios are comparable to those of an idle machine only with
one thread (`--threads 1`).
"""

import argparse
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dataset_scripts import load_gzs
from modeling_hmgrl import HMGRLForZeroShotTyping, HMGRLProcessor, ZeroShotTypingPipeline

PARTS = ("throughput", "labels", "many")
COUNTS = (10, 100, 1_000)
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def make_pipeline(folder: str) -> ZeroShotTypingPipeline:
    """Loads a run, or an untrained model with the encoders of the quick start if there is none."""
    if Path(folder, "config.json").is_file():
        model = HMGRLForZeroShotTyping.from_pretrained(folder)
        processor = HMGRLProcessor.from_pretrained(folder)
    else:
        encoders = ("encoders/minilm", "encoders/vit-s")
        processor = HMGRLProcessor.from_backbones(*encoders)
        model = HMGRLForZeroShotTyping.from_backbones(*encoders, processor=processor)
    return ZeroShotTypingPipeline(model, processor, device="cpu")


def sample(count: int) -> list[dict[str, Any]]:
    """Returns inputs of the embedded sample's test split, with decoded images."""
    data = load_gzs("sample").splits["test"]
    rows = list(data.select(range(min(count, len(data)))))
    return [{"text": r["text"], "spans": r["spans"], "image": r["image"]} for r in rows]


def names(count: int) -> list[str]:
    """Returns label names of three to six word pieces."""
    kinds = ("bird", "tool", "vehicle", "dish", "instrument", "building", "plant", "garment")
    return [f"{kinds[index % len(kinds)]} of kind {index}" for index in range(count)]


def seconds(ways: dict[str, Callable[[], Any]], repeats: int, clock: str) -> dict[str, float]:
    """Returns the median seconds of each variant, measured in rounds after a warm-up round."""
    now = CLOCKS[clock]
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, way in ways.items():
            start = now()
            way()
            times[name].append(now() - start)
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def encode_images(inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the inputs with images as PNG files in memory."""
    rows = []
    for row in inputs:
        buffer = io.BytesIO()
        row["image"].save(buffer, format="PNG")
        rows.append(row | {"image": buffer.getvalue()})
    return rows


@torch.inference_mode()
def throughput(arguments: argparse.Namespace) -> dict[str, float]:
    """Measures inputs per second of the pipeline and of the bare encoders."""
    pipe, size = make_pipeline(arguments.model), arguments.batch_size
    inputs = sample(arguments.inputs)
    files = encode_images(inputs)
    texts = [{"text": row["text"], "spans": row["spans"]} for row in sample(arguments.texts)]
    text_model, vision_model = pipe.model.hmgrl.text_model, pipe.model.hmgrl.vision_model

    def token_batches(rows: list[dict[str, Any]]) -> list[dict[str, torch.Tensor]]:
        marked = pipe.processor.mark(
            [row["text"] for row in rows], [[tuple(s) for s in row["spans"]] for row in rows]
        )
        ids = [sample.ids for sample in marked]
        return [dict(pipe.processor.pad(ids[i : i + size])) for i in range(0, len(ids), size)]

    def pixel_batches(rows: list[Any]) -> list[torch.Tensor]:
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        return [pipe.processor.encode_images(part, len(part))["pixel_values"] for part in parts]

    # with distinct images, so that the pipeline must encode each of them
    distinct = list({row["image"].tobytes(): row for row in inputs}.values())
    tokens, pixels = token_batches(inputs), pixel_batches([row["image"] for row in inputs])
    own_tokens = token_batches(distinct)
    own_pixels = pixel_batches([row["image"] for row in distinct])
    text_tokens = token_batches(texts)

    def bare(token_parts: list[dict[str, torch.Tensor]], pixel_parts: list[torch.Tensor]) -> None:
        for batch in token_parts:
            text_model(**batch)
        for batch_pixels in pixel_parts:
            vision_model(pixel_values=batch_pixels)

    def ours(rows: list[dict[str, Any]]) -> None:
        pipe(rows, batch_size=size)

    found = seconds(
        {
            "bare": lambda: bare(tokens, pixels),
            "opened": lambda: ours(inputs),
            "bytes": lambda: ours(files),
            "bare distinct": lambda: bare(own_tokens, own_pixels),
            "distinct": lambda: ours(distinct),
        },
        arguments.repeats,
        arguments.clock,
    )
    found |= seconds(
        {"bare texts": lambda: bare(text_tokens, []), "texts": lambda: ours(texts)},
        arguments.repeats,
        arguments.clock,
    )
    counts = {"inputs": len(inputs), "distinct_inputs": len(distinct), "text_inputs": len(texts)}
    return found | counts


def labels(arguments: argparse.Namespace) -> dict[str, float]:
    """Measures milliseconds per input with 10, 100 and 1,000 labels."""
    pipe, inputs = make_pipeline(arguments.model), sample(arguments.texts)
    for row in inputs:
        row["image"] = None  # encoding images would dominate the cost of the labels
    ways: dict[str, Callable[[], Any]] = {
        str(count): partial(pipe, inputs, labels=names(count), batch_size=arguments.batch_size)
        for count in COUNTS
    }
    found = seconds(ways, arguments.repeats, arguments.clock)
    return {name: 1000 * value / len(inputs) for name, value in found.items()}


def many(arguments: argparse.Namespace) -> dict[str, float]:
    """Measures a large number of labels."""
    pipe = make_pipeline(arguments.model)
    given = names(arguments.labels)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    pipe.label_cache.vectors(given)
    filled = time.perf_counter() - start
    single = {"inputs": "We saw a heron at the edge of the pond", "mention": "heron", "top_k": 5}
    few = partial(pipe, **single, labels=given[:10])
    over_all = partial(pipe, **single, labels=given)
    turns, clock = arguments.calls, arguments.clock
    found = seconds({"few": few, "other": over_all}, turns, clock)
    # the same list in every call, as in a loop over inputs
    found |= seconds({"same": over_all}, turns, clock) | seconds({"few": few}, turns, clock)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        pipe.label_cache.save(folder)
        saved = time.perf_counter() - start
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        pipe.label_cache.clear()
        start = time.perf_counter()
        pipe.label_cache.load(folder)
        loaded = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "fill": filled,
        "few": 1000 * found["few"],
        "other": 1000 * found["other"],
        "same": 1000 * found["same"],
        "save": saved,
        "load": loaded,
        "size": size,
        "before": 1024 * before,
        "peak": 1024 * peak,
    }


def show(part: str, row: dict[str, float], arguments: argparse.Namespace) -> None:
    """Prints the results of a part."""
    if part == "throughput":
        print(
            f"throughput, batches of {arguments.batch_size}: {row['inputs']:.0f} inputs with "
            f"{row['distinct_inputs']:.0f} distinct images, {row['text_inputs']:.0f} texts only"
        )
        print("| inputs | pipeline, inputs/s | bare encoders, inputs/s | ratio |")
        print("|---|---|---|---|")
        count = row["inputs"]
        for title, ours, bare, number in (
            ("decoded images", "opened", "bare", count),
            ("encoded images", "bytes", "bare", count),
            ("decoded images, all distinct", "distinct", "bare distinct", row["distinct_inputs"]),
            ("texts only", "texts", "bare texts", row["text_inputs"]),
        ):
            rates = number / row[ours], number / row[bare]
            print(f"| {title} | {rates[0]:.1f} | {rates[1]:.1f} | {rates[0] / rates[1]:.2f} |")
    elif part == "labels":
        first = row[str(COUNTS[0])]
        print("\ncost of a text by number of labels, label vectors cached")
        print("| labels | ms per input | ratio |\n|---|---|---|")
        for name, value in row.items():
            print(f"| {name} | {value:.2f} | {value / first:.2f} |")
    else:
        print(
            f"\n{arguments.labels} labels: {row['fill']:.0f} s to fill the cache, saved in "
            f"{row['save']:.1f} s ({row['size'] / 1e6:.0f} MB), loaded in {row['load']:.1f} s\n"
            f"a single text, top 5: {row['few']:.1f} ms with 10 labels, {row['same']:.1f} ms with "
            f"all (+{row['same'] - row['few']:.1f}), {row['other']:.1f} ms if the labels change in "
            f"each call\n"
            f"peak memory {row['peak'] / 1e9:.2f} GB, {row['before'] / 1e9:.2f} before"
        )


def main() -> None:
    """Measures the parts and prints the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="runs/quickstart", help="folder of a run")
    parser.add_argument("--batch-size", type=int, default=32, help="number of inputs in a batch")
    parser.add_argument("--threads", type=int, default=2, help="number of threads")
    parser.add_argument("--inputs", type=int, default=64, help="number of inputs with an image")
    parser.add_argument("--texts", type=int, default=512, help="number of inputs with text only")
    parser.add_argument("--repeats", type=int, default=5, help="number of rounds")
    parser.add_argument("--labels", type=int, default=100_000, help="number of labels of part many")
    parser.add_argument("--calls", type=int, default=20, help="number of calls of part many")
    parser.add_argument(
        "--clock", choices=sorted(CLOCKS), default="wall", help="wall-clock or CPU time"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        torch.set_num_threads(arguments.threads)
        print(
            json.dumps(
                {p.__name__: p for p in (throughput, labels, many)}[arguments.part](arguments)
            )
        )
        return
    print(
        f"{arguments.threads} threads, {arguments.clock} time, median of {arguments.repeats} rounds"
    )
    for part in arguments.parts:
        command = [sys.executable, __file__, *sys.argv[1:], "--part", part]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        show(part, json.loads(output.splitlines()[-1]), arguments)


if __name__ == "__main__":
    main()
