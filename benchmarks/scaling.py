"""Benchmarks a training step by its size, and the memory use of the feature cache.

`labels`, `generated`, `samples`, `patches`: seconds and peak memory of a step (small text encoder,
texts of 31 tokens; by default 10 seen labels, 14 unseen labels of the generator, 8 samples, no
images) for increasing numbers of them, each in a separate process. Labels are encoded, and
synthetic samples of unseen labels are scored, in chunks.

`cache`: writes random states of images (by default 9,201 of 577 x 768, the size of MNRE with
ViT-B/16 at 384: 8.2 GB) to a temporary folder and reads them in batches, as training does.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
from training_step import SIZES, make_batch
from transformers import BertConfig, ViTConfig

from modeling_hmgrl import HMGRLConfig, HMGRLForZeroShotTyping
from modeling_hmgrl.training.feature_cache import StateCache
from modeling_hmgrl.training.frozen_features import read_batch

NUMBERS = {
    "labels": (10, 100, 1000, 10_000),
    "generated": (14, 100, 1000, 10_000),
    "samples": (8, 32, 128),
    "patches": (50, 257, 577, 1370),
}


def peak_memory() -> float:
    """Returns the peak memory of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def resident_memory() -> float:
    """Returns the current memory of this process in GB, including pages of mapped files."""
    with open("/proc/self/status") as status:  # noqa: PTH123 - a file of the kernel
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024 / 1e9


def step_with(
    labels: int = 10, generated: int = 14, samples: int = 8, patches: int = 0
) -> dict[str, float]:
    """Measures training steps of a given size; the first of three is the warm-up."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
    text, vision = SIZES["small"]
    config = HMGRLConfig(
        task="relation",
        text_config=BertConfig(**text),
        vision_config=ViTConfig(**vision) if patches else None,
    )
    model = HMGRLForZeroShotTyping(config).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    image = torch.randn(samples, patches, vision["hidden_size"]).half() if patches else None
    ids, mask = torch.randint(1000, 28000, (labels, 9)), torch.ones(labels, 9, dtype=torch.long)
    unseen = torch.randint(1000, 28000, (generated, 9))
    times = []
    for _ in range(3):
        start = time.perf_counter()
        output = model(
            **make_batch([31] * samples, None),
            image_features=image,
            candidate_input_ids=ids,
            candidate_attention_mask=mask,
            synthetic_input_ids=unseen,
            synthetic_attention_mask=torch.ones_like(unseen),
            labels=torch.arange(samples) % labels,
        )
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    return {"seconds": min(times[1:]), "peak": peak_memory()}


def read_cache(images: int, tokens: int, width: int) -> None:
    """Writes and reads a cache of image states, and prints time and memory."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((tokens, width)).astype(np.float16)
    with tempfile.TemporaryDirectory() as folder:
        keys = [str(index) for index in range(images)]
        start = time.perf_counter()
        StateCache(folder).fill(keys, lambda part: [noise for _ in part], 32, "Writing")
        written = time.perf_counter() - start
        cache = StateCache(folder)
        before, start = resident_memory(), time.perf_counter()
        highest = before
        order = rng.permutation(images)
        for first in range(0, images, 32):
            read_batch(cache, [keys[index] for index in order[first : first + 32]])
            highest = max(highest, resident_memory())
        read = time.perf_counter() - start
    size = images * tokens * width * 2 / 1e9
    print(
        f"{images:,} images of {tokens} x {width}: {size:.1f} GB on disk, written in "
        f"{written:.0f} s, read in random order in {read:.0f} s ({1e3 * read / images:.1f} ms per "
        f"image); memory grew from {before:.2f} to at most {highest:.2f} GB"
    )


def main() -> None:
    """Measures and prints the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=(*NUMBERS, "cache"), help="benchmark to run")
    parser.add_argument("--numbers", type=int, nargs="+", help="numbers to measure")
    parser.add_argument("--pictures", type=int, default=9201, help="number of cached images")
    parser.add_argument("--tokens", type=int, default=577, help="number of states per image")
    parser.add_argument("--width", type=int, default=768, help="width of each state")
    parser.add_argument("--alone", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        print(json.dumps(step_with(**{arguments.what: arguments.alone})))
    elif arguments.what == "cache":
        read_cache(arguments.pictures, arguments.tokens, arguments.width)
    else:
        print(
            f"| {arguments.what} | seconds per step | seconds each | peak memory |\n"
            "|---|---|---|---|"
        )
        for number in arguments.numbers or NUMBERS[arguments.what]:
            command = [sys.executable, __file__, arguments.what, "--alone", str(number)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            row = json.loads(output.splitlines()[-1])
            each = row["seconds"] / number
            print(f"| {number:,} | {row['seconds']:.2f} | {each:.4f} | {row['peak']:.2f} GB |")


if __name__ == "__main__":
    main()
