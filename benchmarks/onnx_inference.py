"""Compares a torch model with its ONNX export in float32 and int8: results, size and speed.

Exports a trained run, predicts the test split of the sample with all three models, alternating
between them, and prints the differences. All use the same pipeline, so the speed includes loading
images and tokenizing texts.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataset_scripts import load_gzs
from modeling_hmgrl import HMGRLForZeroShotTyping, HMGRLProcessor, ZeroShotTypingPipeline
from modeling_hmgrl.metrics.gzs_scores import evaluate_scores
from modeling_hmgrl.onnx.export import export_onnx, quantize_onnx
from modeling_hmgrl.onnx.modeling_onnx import ONNXZeroShotTyping

TORCH, FLOAT, INT8 = "torch", "ONNX float32", "ONNX int8"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
ALONE = 64  # number of samples that are also predicted individually


def make_pipelines(
    run: str, folder: Path, threads: int
) -> tuple[dict[str, ZeroShotTypingPipeline], dict[str, float]]:
    """Returns the three pipelines, and the size of each model in MB."""
    model = HMGRLForZeroShotTyping.from_pretrained(run)
    processor = HMGRLProcessor.from_pretrained(run)
    start = time.perf_counter()
    export_onnx(model, processor, folder / FLOAT)
    exported = time.perf_counter()
    shutil.copytree(folder / FLOAT, folder / INT8)
    quantize_onnx(folder / INT8)
    print(f"export {exported - start:.0f} s, quantization {time.perf_counter() - exported:.0f} s")
    pipelines = {TORCH: ZeroShotTypingPipeline(model=model, processor=processor, device="cpu")}
    sizes = {TORCH: (Path(run) / "model.safetensors").stat().st_size / 1e6}
    for name in (FLOAT, INT8):
        runner = ONNXZeroShotTyping.from_pretrained(folder / name, threads=threads)
        pipelines[name] = runner.pipeline()
        sizes[name] = sum(f.stat().st_size for f in (folder / name).glob("*.onnx")) / 1e6
    return pipelines, sizes


def read_samples(run: str, images: bool) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """Returns the inputs of the test split, their labels, and all candidates, seen labels first.

    The split is that of the run, whose seed may differ from the run's own.
    """
    report = json.loads((Path(run) / "report.json").read_text(encoding="utf-8"))
    labels, split = report["labels"], report["data"]["settings"]
    options = {"seed": split["seed"], "group_by": split["group_by"], **split["partition"]}
    data = load_gzs("sample", **options).splits["test"]
    names = data.features["label"].names
    inputs = [
        {"text": row["text"], "spans": row["spans"], "image": row["image"] if images else None}
        for row in data
    ]
    candidates = [*labels["seen"], *labels["test_unseen"]]
    return inputs, [names[label] for label in data["label"]], candidates


def score(
    pipe: ZeroShotTypingPipeline,
    inputs: list[Any],
    labels: list[str],
    batch_size: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[np.ndarray, float]:
    """Returns logits (N, K) without gamma, and the time in seconds."""
    start = clock()
    found = pipe(inputs, labels=labels, seen=[], top_k=None, batch_size=batch_size)
    seconds = clock() - start
    rows = [dict(zip(one["labels"], one["scores"], strict=True)) for one in found]
    return np.array([[row[label] for label in labels] for row in rows]), seconds


def measure(arguments: argparse.Namespace, images: bool, pipelines: Any, sizes: Any) -> None:
    inputs, truth, labels = read_samples(arguments.model, images)
    if arguments.samples:
        chosen = np.random.default_rng(0).permutation(len(inputs))[: arguments.samples]
        inputs, truth = [inputs[i] for i in chosen], [truth[i] for i in chosen]
    scores: dict[str, list[np.ndarray]] = {name: [] for name in pipelines}
    seconds: dict[str, list[float]] = {name: [] for name in pipelines}
    for pipe in pipelines.values():  # warm-up: encodes labels and allocates memory
        score(pipe, inputs[: arguments.batch_size], labels, arguments.batch_size)
    step, order = 4 * arguments.batch_size, list(pipelines)
    for start in range(0, len(inputs), step):
        part = inputs[start : start + step]
        for name in order:
            pipe = pipelines[name]
            found, spent = score(pipe, part, labels, arguments.batch_size, CLOCKS[arguments.clock])
            scores[name].append(found)
            if len(part) == step:
                seconds[name].append(spent)
        order = order[1:] + order[:1]  # rotated, so that no model is always first
    config = pipelines[TORCH].model.config
    seen = np.array([label in config.seen_labels for label in labels])
    targets = np.array([labels.index(label) for label in truth])
    logits = {name: np.concatenate(parts) for name, parts in scores.items()}
    chosen = {name: (x - config.calibration_gamma * seen).argmax(1) for name, x in logits.items()}
    print(
        f"\n{len(inputs)} samples of the test split {'with' if images else 'without'} images, "
        f"{len(labels)} labels, batches of {arguments.batch_size}, {arguments.threads} threads, "
        f"seconds of {arguments.clock} time, load {os.getloadavg()[1]:.1f}"
    )
    print(
        "| | MB | samples/s | relative to torch, median (range) | overall acc | overall F1 | AUSUC "
        "| same label | largest difference of logits | difference of single and batched samples |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, x in logits.items():
        result = evaluate_scores(x, targets, seen, config.calibration_gamma, labels)
        ratios = [t / own for t, own in zip(seconds[TORCH], seconds[name], strict=True)]
        shown = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
        alone, _ = score(pipelines[name], inputs[:ALONE], labels, batch_size=1)
        same = 100 * (chosen[name] == chosen[TORCH]).mean()
        print(
            f"| {name} | {sizes[name]:.0f} | {step / statistics.median(seconds[name]):.1f} "
            f"| {shown} | {100 * result['overall']['accuracy']:.2f} "
            f"| {100 * result['overall']['f1']:.2f} | {100 * result['ausuc']:.2f} "
            f"| {same:.2f} % | {np.abs(x - logits[TORCH]).max():.1e} "
            f"| {np.abs(x[:ALONE] - alone).max():.1e} |"
        )


def main() -> None:
    """Exports, measures with and without pictures, and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="runs/quickstart", help="folder of a run on the sample")
    parser.add_argument("--batch-size", type=int, default=32, help="number of samples in a batch")
    parser.add_argument("--threads", type=int, default=2, help="number of threads")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="wall-clock time, or CPU time for one thread on a shared machine",
    )
    parser.add_argument("--samples", type=int, help="number of random samples (default: all)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        pipelines, sizes = make_pipelines(arguments.model, Path(folder), arguments.threads)
        for images in (True, False):
            measure(arguments, images, pipelines, sizes)


if __name__ == "__main__":
    main()
