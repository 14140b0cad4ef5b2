"""Time and memory of training and evaluation: the original's way, this package's, and the limit.

All ways train the same model (paper's settings, same encoders' sizes, random weights) on texts of
the lengths of real ones.

    original   every label encoded again for every sample, texts padded to 128 tokens and labels to
               16, the image encoder in every step, plain AdamW
    ours       each distinct label once, batches of texts of like length, the image encoder's states
               read from the disk cache, fused AdamW
    limit      the bare text encoder, forward and backward, on the same tokens as ours; no image
               work, no heads, no optimizer

Evaluation scores texts over 22 labels: ours against the bare text encoder's forward pass on the
same batches. Each way is measured in a process of its own, so that its peak memory is its own.
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
SEEN = 8  # of the 22 relations; the generator sees the others
PICTURES = 64  # in the cache; a step reads as many bytes however many there are


def text_lengths(arguments: argparse.Namespace, part: str) -> list[int]:
    """Lengths of real MNRE texts in word pieces with markers, or of generated ones like them."""
    if arguments.data_dir is None:
        rng = random.Random(0)
        return [min(128, max(10, round(rng.gauss(31, 11)))) for _ in range(1600)]
    path = Path(arguments.data_dir) / f"mnre_{part}.txt"
    rows = [ast.literal_eval(line) for line in path.read_text(encoding="utf-8").splitlines()]
    texts = [" ".join(row["token"]) for row in rows if row["relation"] != "None"]
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    # four markers stand in a text of two mentions
    return [min(128, len(ids) + 4) for ids in tokenizer(texts).input_ids]


def make_batch(lengths: list[int], padded: int | None) -> dict[str, torch.Tensor]:
    """A batch of random tokens of the given lengths, with relation markers."""
    width = padded or max(lengths)
    ids = torch.randint(1000, 28000, (len(lengths), width))
    mask = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
    positions = torch.tensor([[1, 3], [4, 6]]).expand(len(lengths), 2, 2)
    return {"input_ids": ids * mask, "attention_mask": mask.long(), "span_positions": positions}


def make_labels(width: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The 22 relations as random tokens of their real lengths."""
    lengths = [len(text.split()) + 2 for text in CLAUSES.values()]
    width = width or max(lengths)
    ids = torch.randint(1000, 28000, (len(lengths), width))
    return ids, (torch.arange(width) < torch.tensor(lengths).unsqueeze(1)).long()


def original_loss(model: Any, batch: dict[str, Any], targets: torch.Tensor) -> torch.Tensor:
    """Loss the original's way: labels encoded for each sample, pictures in each step."""
    size, edge = len(targets), model.config.vision_config.image_size
    ids, mask = make_labels(16)
    repeated = [x.repeat(size, 1) for x in (ids, mask)]
    # one pass over all copies, as the original makes; what is scored is the first sample's
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
    """Loss this package's way."""
    ids, mask = make_labels(None)
    features, present = read_batch(cache, [str(index % PICTURES) for index in range(len(targets))])
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
    """A number that needs the encoder's passes over the same tokens, and nothing else."""
    encode = model.hmgrl.text_model
    ids, mask = make_labels(None)
    with torch.no_grad():
        encode(input_ids=ids[SEEN:], attention_mask=mask[SEEN:])
    parts = [(batch["input_ids"], batch["attention_mask"]), (ids[:SEEN], mask[:SEEN])]
    states = [encode(input_ids=i, attention_mask=m).last_hidden_state for i, m in parts]
    return sum(state.mean() for state in states)  # type: ignore[return-value]


def make_cache(folder: str, tokens: int, width: int) -> StateCache:
    """A cache of random picture states."""
    cache = StateCache(folder)
    keys = [str(index) for index in range(PICTURES)]
    cache.fill(keys, lambda part: [torch.randn(tokens, width).half().numpy() for _ in part], 8, "")
    return cache


def measure(way: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Measures one way; called in a process of its own."""
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
        for step in range(arguments.steps + 2):  # the first two warm up
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
    """Seconds to score test texts, without pictures."""
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
    """Measures all ways and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sorted(SIZES), default="paper", help="encoders' sizes")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6, help="steps measured, after two more")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--evaluated", type=int, default=640, help="texts that are scored")
    parser.add_argument("--data-dir", help="folder of MNRE, for the lengths of real texts")
    parser.add_argument("--tokenizer", default="encoders/minilm", help="counts word pieces")
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
        f"{mean:.0f} tokens a text, {arguments.threads} threads, mean of {arguments.steps} steps; "
        f"evaluation of {arguments.evaluated} texts"
    )
    print("| way | seconds a step | tokens/s | peak memory | evaluation, s |")
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
        f"original's way and takes {ours['seconds'] / rows['limit']['seconds']:.2f} times the "
        f"limit; evaluation takes {ours['evaluation'] / rows['limit']['evaluation']:.2f} times it"
    )


if __name__ == "__main__":
    main()
