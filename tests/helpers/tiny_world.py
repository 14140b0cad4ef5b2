"""A tiny world for the tests: encoders, tokenizer, processor, models and records made in code."""

import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Sequence, Value
from datasets import Image as ImageFeature
from PIL import Image
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from modeling_hmgrl import (
    HMGRLConfig,
    HMGRLForZeroShotTyping,
    HMGRLProcessor,
    ZeroShotTypingPipeline,
)
from modeling_hmgrl.baselines import METHODS
from modeling_hmgrl.metrics.label_sets import LabelSets

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
PUNCTUATION = "\"*[]/.,:;!?'-_()"

THINGS: dict[str, list[str]] = {
    "animal": ["fox", "hen", "cat", "dog"],
    "vehicle": ["bus", "van", "tram", "ship"],
    "plant": ["oak", "fern", "moss", "rose"],
    "tool": ["saw", "file", "axe", "drill"],
    "drink": ["tea", "milk", "juice", "cider"],
    "place": ["town", "lake", "hill", "port"],
}
"""Label: the mentions that carry it."""

VERBS = {
    "animal": "feeds",
    "vehicle": "drives",
    "plant": "waters",
    "tool": "sharpens",
    "drink": "pours",
    "place": "visits",
}
"""Label of a relation: the verb between head and tail."""

COLOURS = {
    "animal": (220, 40, 40),
    "vehicle": (40, 220, 40),
    "plant": (40, 40, 220),
    "tool": (220, 220, 40),
    "drink": (220, 40, 220),
    "place": (40, 220, 220),
}
"""Label: the colour of its pictures."""

NAMES = ["anna", "boris", "chen", "dara"]
FILLERS = ["today", "again", "near", "old", "quietly"]
LABELS = list(THINGS)
SEEN, VALIDATION_UNSEEN, TEST_UNSEEN = LABELS[:2], LABELS[2:4], LABELS[4:]


@cache
def vocabulary() -> dict[str, int]:
    """Every token of the tiny tokenizer with its id; any ASCII word can be spelt."""
    words = [*LABELS, *VERBS.values(), *NAMES, *FILLERS, *(t for ts in THINGS.values() for t in ts)]
    words += ["the", "sees", "one", "two", "three", "of"]
    tokens = [*SPECIAL, *LETTERS, *(f"##{c}" for c in LETTERS), *PUNCTUATION, *words]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def tiny_tokenizer() -> BertTokenizer:
    """A fast WordPiece tokenizer, without markers."""
    return BertTokenizer(vocab=dict(vocabulary()), do_lower_case=True)


def tiny_text_config() -> BertConfig:
    """A BERT of width 32 and two layers, whose weights are large enough to tell inputs apart."""
    return BertConfig(
        vocab_size=len(vocabulary()),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=128,
        initializer_range=0.2,
    )


def tiny_vision_config() -> ViTConfig:
    """A ViT of width 24 and two layers; a picture of 32 x 32 makes 17 tokens."""
    return ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=36,
        image_size=32,
        patch_size=8,
        initializer_range=0.2,
    )


def tiny_image_processor() -> ViTImageProcessorPil:
    """Scales pictures to 32 x 32."""
    return ViTImageProcessorPil(size={"height": 32, "width": 32})


def tiny_processor(task: str = "typing", **settings: Any) -> HMGRLProcessor:
    """A processor of tiny tokenizer and tiny pictures; ``settings`` are its arguments."""
    return HMGRLProcessor(
        tiny_image_processor(), tiny_tokenizer(), **{"task": task, "max_length": 64, **settings}
    )


def tiny_config(
    task: str = "typing", vision: bool = True, paper: bool = False, **settings: Any
) -> HMGRLConfig:
    """A configuration of the tiny encoders with small layers; ``settings`` are its fields."""
    make = HMGRLConfig.paper if paper else HMGRLConfig
    small = {"bottleneck_size": 12, "generator_latent_size": 10}
    if paper:
        small["projection_size"] = 20
    return make(
        text_config=tiny_text_config(),
        vision_config=tiny_vision_config() if vision else None,
        **{"task": task, **small, **settings},
    )


def tiny_model(
    task: str = "typing",
    seed: int = 0,
    vision: bool = True,
    paper: bool = False,
    **settings: Any,
) -> HMGRLForZeroShotTyping:
    """A model with marker embeddings, in evaluation mode; the global generator is left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = HMGRLForZeroShotTyping(tiny_config(task, vision, paper, **settings))
        model.add_markers(tiny_processor(task))
    return model.eval()


def tiny_method(
    name: str, task: str = "typing", seed: int = 0, paper: bool = False, **settings: Any
) -> Any:
    """A method of :data:`baselines.METHODS` on the tiny encoders, in evaluation mode."""
    method = METHODS[name]
    make = method.config_class.paper if paper else method.config_class
    small = {"bottleneck_size": 12, "generator_latent_size": 10}
    small = {key: size for key, size in small.items() if key in method.config_class.field_names()}
    if paper:
        small["projection_size"] = 20
    config = make(
        text_config=tiny_text_config(),
        vision_config=tiny_vision_config() if method.uses_images else None,
        **{"task": task, **small, **settings},
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = method(config)
        model.add_markers(tiny_processor(task))
    return model.eval()


def tiny_pipeline(
    task: str = "typing", vision: bool = True, paper: bool = False, **settings: Any
) -> ZeroShotTypingPipeline:
    """A pipeline whose scores differ between texts and between pictures."""
    model = tiny_model(task, vision=vision, paper=paper, **settings)
    if vision:
        weight = model.hmgrl.image_projection.weight
        with torch.no_grad():
            weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    processor = tiny_processor(task, use_images=vision, pad_to_max_length=paper)
    return ZeroShotTypingPipeline(model, processor, device="cpu")


def save_backbones(folder: str | Path, seed: int = 0) -> tuple[str, str]:
    """Saves a tiny BERT with its tokenizer and a tiny ViT with its image processor.

    Returns:
        The two folders.
    """
    text, vision = Path(folder) / "tiny-text", Path(folder) / "tiny-vision"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertModel(tiny_text_config()).save_pretrained(text)
        ViTModel(tiny_vision_config()).save_pretrained(vision)
    tiny_tokenizer().save_pretrained(text)
    tiny_image_processor().save_pretrained(vision)
    return str(text), str(vision)


def tiny_picture(label: str, seed: int = 0, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """A noisy picture in the colour of a label."""
    noise = np.random.default_rng(seed).integers(-20, 20, (*size[::-1], 3))
    return Image.fromarray((np.array(COLOURS[label]) + noise).clip(0, 255).astype(np.uint8))


def tiny_sample(label: str, task: str = "typing", rng: random.Random | None = None) -> dict:
    """Text and spans whose mention (typing) or verb (relation) tells the label."""
    rng = rng or random.Random(0)
    head, thing = rng.choice(NAMES), rng.choice(THINGS[label])
    tail = "".join(f" {word}" for word in rng.sample(FILLERS, rng.randint(0, 3)))
    if task == "typing":
        text = f"{head} sees the {thing}{tail}"
        spans = [(text.index(f" {thing}") + 1, text.index(f" {thing}") + 1 + len(thing))]
    else:
        other = rng.choice([name for name in NAMES if name != head])
        text = f"{head} {VERBS[label]} {other}{tail}"
        spans = [(0, len(head)), (text.index(f" {other}") + 1, text.index(f" {other}") + 1)]
        spans[1] = (spans[1][0], spans[1][0] + len(other))
    return {"text": text, "spans": spans}


def tiny_batch(
    task: str = "typing",
    batch_size: int = 4,
    seed: int = 0,
    images: bool = True,
    generator: bool = True,
    processor: HMGRLProcessor | None = None,
) -> dict[str, torch.Tensor]:
    """Inputs of a model, with labels: three seen ones and an unseen one are scored.

    Every third sample from the second on has no picture; three names make the generator's labels.
    """
    rng = random.Random(seed)
    names = LABELS[:4]
    truth = [(seed + i) % 3 for i in range(batch_size)]
    samples = [tiny_sample(names[label], task, rng) for label in truth]
    pictures = [
        None if i % 3 == 1 else tiny_picture(names[label], seed + i)
        for i, label in enumerate(truth)
    ]
    processor = processor or tiny_processor(task)
    batch = processor(
        [sample["text"] for sample in samples],
        [sample["spans"] for sample in samples],
        pictures if images else None,
        labels=names,
        generator_labels=LABELS[3:] if generator else None,
    )
    return {
        **batch,
        "seen_mask": torch.tensor([True, True, True, False]),
        "labels": torch.tensor(truth),
    }


def tiny_label_sets() -> LabelSets:
    """Two seen labels, two first met in validation, two first met in test."""
    return LabelSets.of(tuple(SEEN), tuple(VALIDATION_UNSEEN), tuple(TEST_UNSEEN))


def tiny_records(
    n: int = 48, seed: int = 0, task: str = "typing", images: bool = True
) -> DatasetDict:
    """A DatasetDict of the package's schema whose labels can be learnt from text and picture.

    Args:
        n: Training samples, of the seen labels; validation and test hold half as many, of seen and
            unseen labels in turn.
        seed: Seed.
        task: "typing" or "relation".
        images: Whether there are pictures; each tenth sample has none.
    """
    features = Features(
        {
            "id": Value("string"),
            "text": Value("string"),
            "image": ImageFeature(),
            "spans": Sequence(Sequence(Value("int32"))),
            "label": ClassLabel(names=LABELS),
            "seen": Value("bool"),
            "split": Value("string"),
        }
    )
    rng = random.Random(seed)
    unseen = {"train": [], "validation": VALIDATION_UNSEEN, "test": TEST_UNSEEN}
    splits = {}
    for split, extra in unseen.items():
        names = [*SEEN, *extra]
        rows = []
        for i in range(n if split == "train" else n // 2):
            label = names[i % len(names)]
            picture = tiny_picture(label, rng.randrange(10**6)) if images and i % 10 < 9 else None
            sample = tiny_sample(label, task, rng)
            rows.append(
                {
                    "id": f"{split}-{i}",
                    "text": sample["text"],
                    "image": picture,
                    "spans": [list(span) for span in sample["spans"]],
                    "label": LABELS.index(label),
                    "seen": label in SEEN,
                    "split": split,
                }
            )
        splits[split] = Dataset.from_list(rows, features=features)
    return DatasetDict(splits)
