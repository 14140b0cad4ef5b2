"""Time and memory of a training step: the original's way against this package's, in one run.

Both ways train the same model (paper's settings, same encoders' sizes, random weights, real or
generated texts). The original's way: every label is encoded again for every sample of the batch,
texts are padded to 128 tokens, the image encoder runs in every step. This package's way: each
distinct label once, padding to the longest text, the frozen image encoder's states at hand (its
first and only pass is timed by itself). Each way is measured in a process of its own, so that its
peak memory is its own.
"""

import argparse
import ast
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, ViTConfig

from dataset_scripts.label_texts import READINGS
from modeling_hmgrl import HMGRLConfig, HMGRLForZeroShotTyping

SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "paper": (
        {},  # BERT-base
        {"image_size": 384},  # ViT-B/16 at 384
    ),
    "small": (
        {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536},
        {
            "hidden_size": 384,
            "num_attention_heads": 6,
            "intermediate_size": 1536,
            "patch_size": 14,
        },
    ),
}
WAYS = ("original", "ours", "encoder forward")
SEEN = 8  # of the 22 relations; the generator sees the others


def text_lengths(data_dir: str | None, count: int) -> list[int]:
    """Lengths of real MNRE texts in word pieces, or of generated ones of about that length."""
    if data_dir is None:
        rng = random.Random(0)
        return [min(100, max(8, round(rng.gauss(31, 9)))) for _ in range(count)]
    lines = (Path(data_dir) / "mnre_train.txt").read_text(encoding="utf-8").splitlines()[:count]
    words = [len(ast.literal_eval(line)["token"]) for line in lines]
    # a word of a tweet is about 1.7 word pieces; two special tokens and four markers come on top
    return [min(128, round(1.7 * count) + 6) for count in words]


def make_batch(size: int, lengths: list[int], padded: int | None) -> dict[str, torch.Tensor]:
    """A batch of random tokens of the given lengths, with relation markers."""
    width = padded or max(lengths)
    ids = torch.randint(1000, 28000, (size, width))
    mask = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
    positions = torch.tensor([[1, 3], [4, 6]]).expand(size, 2, 2)
    return {"input_ids": ids * mask, "attention_mask": mask.long(), "span_positions": positions}


def original_step(model: Any, batch: dict[str, Any], pixels: torch.Tensor, labels: Any) -> Any:
    """Loss the original's way: labels encoded for each sample, pictures in each step."""
    size = len(pixels)
    ids, mask, targets = labels
    repeated = [x.repeat(size, 1) for x in (ids, mask)]
    # one pass over all copies, as the original makes; what is scored is the first sample's
    embeddings = model.hmgrl.encode_labels(*repeated, chunk=len(repeated[0]))
    embeddings = embeddings.view(size, len(ids), -1).mean(0)
    with torch.no_grad():
        features = model.hmgrl.encode_image(pixels)
    return model(
        **batch,
        image_features=features,
        label_embeddings=embeddings[:SEEN],
        generator_label_embeddings=embeddings[SEEN:],
        labels=targets,
    ).loss


def measure(way: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Measures one way; called in a process of its own."""
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    text, vision = SIZES[arguments.size]
    config = HMGRLConfig.paper(
        task="relation", text_config=BertConfig(**text), vision_config=ViTConfig(**vision)
    )
    model = HMGRLForZeroShotTyping(config).train()
    size, edge = arguments.batch_size, config.vision_config.image_size
    tokens = (edge // config.vision_config.patch_size) ** 2 + 1
    lengths = text_lengths(arguments.data_dir, size * (arguments.steps + 1))
    label_lengths = [len(text.split()) + 3 for text in READINGS.values()]
    targets = torch.arange(size) % SEEN
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    times = []
    for step in range(arguments.steps + 1):  # the first one warms up
        own = lengths[step * size : (step + 1) * size]
        batch = make_batch(size, own, 128 if way == "original" else None)
        width = 16 if way == "original" else max(label_lengths)
        ids = torch.randint(1000, 28000, (len(label_lengths), width))
        mask = (torch.arange(width) < torch.tensor(label_lengths).unsqueeze(1)).long()
        start = time.perf_counter()
        if way == "encoder forward":
            with torch.inference_mode():
                model.hmgrl.encode_image(torch.randn(size, 3, edge, edge))
        else:
            if way == "original":
                pixels = torch.randn(size, 3, edge, edge)
                loss = original_step(model, batch, pixels, (ids, mask, targets))
            else:
                features = torch.randn(size, tokens, config.vision_config.hidden_size).half()
                loss = model(
                    **batch,
                    image_features=features,
                    label_input_ids=ids[:SEEN],
                    label_attention_mask=mask[:SEEN],
                    generator_label_input_ids=ids[SEEN:],
                    generator_label_attention_mask=mask[SEEN:],
                    labels=targets,
                ).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        if step:
            times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": statistics.median(times),
        "peak": peak,
        "tokens": sum(lengths) / len(lengths),
    }


def main() -> None:
    """Measures all ways and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sorted(SIZES), default="paper", help="encoders' sizes")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3, help="steps measured, after one more")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data-dir", help="folder of MNRE, for the lengths of real texts")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments.way, arguments)))
        return
    rows = {}
    for way in WAYS:
        command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows[way] = json.loads(output.splitlines()[-1])
    print(
        f"{arguments.size} sizes, batch {arguments.batch_size}, {len(READINGS)} labels, "
        f"{rows['ours']['tokens']:.0f} tokens a text, {arguments.threads} threads, median of "
        f"{arguments.steps} steps"
    )
    print("| way | seconds a step | peak memory |\n|---|---|---|")
    names = {"encoder forward": "image encoder alone, once a picture"}
    for way, row in rows.items():
        print(f"| {names.get(way, way)} | {row['seconds']:.2f} | {row['peak'] / 1e9:.2f} GB |")
    ratio = rows["original"]["seconds"] / rows["ours"]["seconds"]
    print(f"ours is {ratio:.1f} times as fast a step")


if __name__ == "__main__":
    main()
