"""Benchmarks training and evaluation: the original implementation, this package, and the limit.

All variants train the same model (settings and encoder sizes of the paper, random weights) on texts
with realistic lengths.

    original   every label encoded again for every sample, texts padded to 128 tokens and labels to
               16, the image encoder in every step, plain AdamW
    ours       each distinct label encoded once, batches of texts of similar length, the image
               encoder's states read from the disk cache, fused AdamW
    limit      forward and backward pass of the bare text encoder on the same tokens as ours; no
               images, no heads, no optimizer

Evaluation scores texts against 22 labels: ours against the forward pass of the bare text encoder on
the same batches. Each variant runs in a separate process, which measures its own peak memory.
"""

import argparse
import ast
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, BertConfig, ViTConfig

from dataset_scripts.label_texts import CLAUSES
from modeling_hmgrl import HMGRLConfig, HMGRLForZeroShotTyping
from modeling_hmgrl.training.batching import Batches, by_length
from modeling_hmgrl.training.feature_cache import StateCache
from modeling_hmgrl.training.frozen_features import read_batch

SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "paper": (
        {},  # BERT-base
        {"image_size": 384},  # ViT-B/16 at 384
    ),
    "small": (  # MiniLM and ViT-S/14, as in the quick start
        {
            "hidden_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 12,
            "intermediate_size": 1536,
        },
        {
            "hidden_size": 384,
            "num_attention_heads": 6,
            "intermediate_size": 1536,
            "patch_size": 14,
        },
    ),
}
WAYS = ("original", "ours", "limit")
SEEN = 8  # of the 22 relations; the generator is given the others
IMAGES = 64  # in the cache; their number does not affect how many bytes a step reads


def text_lengths(arguments: argparse.Namespace, part: str) -> list[int]:
    """Returns lengths of MNRE texts in word pieces with entity markers, or similar random ones."""
    if arguments.data_dir is None:
        rng = random.Random(0)
        return [min(128, max(10, round(rng.gauss(31, 11)))) for _ in range(1600)]
    path = Path(arguments.data_dir) / f"mnre_{part}.txt"
    rows = [ast.literal_eval(line) for line in path.read_text(encoding="utf-8").splitlines()]
    texts = [" ".join(row["token"]) for row in rows if row["relation"] != "None"]
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    # a text with two mentions has four entity markers
    return [min(128, len(ids) + 4) for ids in tokenizer(texts).input_ids]


def make_batch(lengths: list[int], padded: int | None) -> dict[str, torch.Tensor]:
    """Makes a batch of random tokens of the given lengths, with two spans."""
    width = padded or max(lengths)
    ids = torch.randint(1000, 28000, (len(lengths), width))
    mask = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
    positions = torch.tensor([[1, 3], [4, 6]]).expand(len(lengths), 2, 2)
    return {"input_ids": ids * mask, "attention_mask": mask.long(), "span_positions": positions}


def make_labels(width: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Makes random tokens with the real lengths of the 22 relations."""
    lengths = [len(text.split()) + 2 for text in CLAUSES.values()]
    width = width or max(lengths)
    ids = torch.randint(1000, 28000, (len(lengths), width))
    return ids, (torch.arange(width) < torch.tensor(lengths).unsqueeze(1)).long()


def original_loss(model: Any, batch: dict[str, Any], targets: torch.Tensor) -> torch.Tensor:
    """Computes the loss as the original does: labels encoded per sample, images in each step."""
    size, edge = len(targets), model.config.vision_config.image_size
    ids, mask = make_labels(16)
    repeated = [x.repeat(size, 1) for x in (ids, mask)]
    # one pass over all copies, as in the original
    embeddings = model.hmgrl.encode_labels(*repeated, chunk=len(repeated[0]))
    embeddings = embeddings.view(size, len(ids), -1).mean(0)
    with torch.no_grad():
        features = model.hmgrl.encode_image(torch.randn(size, 3, edge, edge))
    return model(
        **batch,
        image_features=features,
        candidate_embeddings=embeddings[:SEEN],
        synthetic_embeddings=embeddings[SEEN:],
        labels=targets,
    ).loss


def our_loss(model: Any, batch: dict[str, Any], targets: torch.Tensor, cache: Any) -> Any:
    """Computes the loss as this package does."""
    ids, mask = make_labels(None)
    features, present = read_batch(cache, [str(index % IMAGES) for index in range(len(targets))])
    return model(
        **batch,
        image_features=features,
        image_mask=present,
        candidate_input_ids=ids[:SEEN],
        candidate_attention_mask=mask[:SEEN],
        synthetic_input_ids=ids[SEEN:],
        synthetic_attention_mask=mask[SEEN:],
        labels=targets,
    ).loss


def limit_loss(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Computes a loss that requires only the text encoder's passes over the same tokens."""
    encode = model.hmgrl.text_model
    ids, mask = make_labels(None)
    with torch.no_grad():
        encode(input_ids=ids[SEEN:], attention_mask=mask[SEEN:])
    parts = [(batch["input_ids"], batch["attention_mask"]), (ids[:SEEN], mask[:SEEN])]
    states = [encode(input_ids=i, attention_mask=m).last_hidden_state for i, m in parts]
    return sum(state.mean() for state in states)  # type: ignore[return-value]


def make_cache(folder: str, tokens: int, width: int) -> StateCache:
    """Makes a cache of random image states."""
    cache = StateCache(folder)
    keys = [str(index) for index in range(IMAGES)]
    cache.fill(keys, lambda part: [torch.randn(tokens, width).half().numpy() for _ in part], 8, "")
    return cache


def measure(way: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Measures one variant; called in a separate process."""
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    text, vision = SIZES[arguments.size]
    config = HMGRLConfig.paper(
        task="relation", text_config=BertConfig(**text), vision_config=ViTConfig(**vision)
    )
    model = HMGRLForZeroShotTyping(config).train()
    size, vision_config = arguments.batch_size, config.vision_config
    tokens = (vision_config.image_size // vision_config.patch_size) ** 2 + 1
    lengths = text_lengths(arguments, "train")
    labels = [index % SEEN for index in range(len(lengths))]
    batches = iter(Batches(labels, lengths, size))
    order = random.Random(0).sample(range(len(lengths)), len(lengths))
    targets = torch.arange(size) % SEEN
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=way != "original")
    times, seen = [], []
    with tempfile.TemporaryDirectory() as folder:
        cache = make_cache(folder, tokens, vision_config.hidden_size) if way == "ours" else None
        for step in range(arguments.steps + 2):  # the first two steps are the warm-up
            rows = order[step * size :][:size] if way == "original" else next(batches)
            own = [lengths[row] for row in rows]
            batch = make_batch(own, 128 if way == "original" else None)
            start = time.perf_counter()
            if way == "original":
                loss = original_loss(model, batch, targets)
            elif way == "ours":
                loss = our_loss(model, batch, targets, cache)
            else:
                loss = limit_loss(model, batch)
            loss.backward()
            if way != "limit":
                optimizer.step()
            optimizer.zero_grad()
            if step > 1:
                times.append(time.perf_counter() - start)
                seen.append(sum(own))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = {"seconds": statistics.mean(times), "peak": peak, "tokens": sum(seen)}
    return result | {"evaluation": evaluate(way, model, arguments) if way != "original" else 0.0}


@torch.no_grad()
def evaluate(way: str, model: Any, arguments: argparse.Namespace) -> float:
    """Returns the seconds to score test texts, without images."""
    model.eval()
    lengths = text_lengths(arguments, "test")[: arguments.evaluated]
    start = time.perf_counter()
    ids, mask = make_labels(None)
    embeddings = model.encode_labels(ids, mask) if way == "ours" else None
    for rows in by_length(lengths, 64):
        batch = make_batch([lengths[row] for row in rows], None)
        if way == "ours":
            model(**batch, candidate_embeddings=embeddings)
        else:
            model.hmgrl.encode_text(batch["input_ids"], batch["attention_mask"])
    return time.perf_counter() - start


def main() -> None:
    """Measures all variants and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", choices=sorted(SIZES), default="paper", help="sizes of the encoders"
    )
    parser.add_argument("--batch-size", type=int, default=8, help="number of samples in a batch")
    parser.add_argument("--steps", type=int, default=6, help="measured steps, after two of warm-up")
    parser.add_argument("--threads", type=int, default=2, help="number of threads")
    parser.add_argument("--evaluated", type=int, default=640, help="number of texts to evaluate")
    parser.add_argument("--data-dir", help="folder of MNRE, for the lengths of real texts")
    parser.add_argument("--tokenizer", default="encoders/minilm", help="tokenizer for the lengths")
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
    mean = rows["ours"]["tokens"] / arguments.steps / arguments.batch_size
    print(
        f"{arguments.size} sizes, batch {arguments.batch_size}, {len(CLAUSES)} labels, "
        f"{mean:.0f} tokens per text, {arguments.threads} threads, mean of {arguments.steps} "
        f"steps; evaluation of {arguments.evaluated} texts"
    )
    print("| variant | seconds per step | tokens/s | peak memory | evaluation, s |")
    print("|---|---|---|---|---|")
    for way, row in rows.items():
        rate = row["tokens"] / arguments.steps / row["seconds"]
        scored = f"{row['evaluation']:.1f}" if row["evaluation"] else ""
        print(
            f"| {way} | {row['seconds']:.2f} | {rate:.0f} | {row['peak'] / 1e9:.2f} GB | {scored} |"
        )
    ours = rows["ours"]
    print(
        f"ours is {rows['original']['seconds'] / ours['seconds']:.1f} times as fast as the "
        f"original and takes {ours['seconds'] / rows['limit']['seconds']:.2f} times the limit; "
        f"evaluation takes {ours['evaluation'] / rows['limit']['evaluation']:.2f} times the limit"
    )


if __name__ == "__main__":
    main()
