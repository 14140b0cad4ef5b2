"""Measures how well text and images of the sample predict its types, separately and combined.

A logistic regression is trained on features of frozen encoders: the mean token vectors of sentence
and mention, and the class token of the image. The last rows are training-free and predict the type
whose name is most similar to the sentence or to the mention.

    python experiments/sample_modalities.py --text-encoder DIR --vision-encoder DIR

Requires scikit-learn. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pyarrow import parquet
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from modeling_hmgrl.images import open_image

SAMPLE = Path(__file__).parents[1] / "dataset_scripts" / "sample_data" / "sample.parquet"


@torch.inference_mode()
def encode_texts(texts: Sequence[str], folder: str, batch_size: int) -> np.ndarray:
    """Returns the mean token vector of each text, normalised to length 1."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    vectors = np.empty((len(texts), model.config.hidden_size), np.float32)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer(
            [texts[row] for row in rows],
            padding=True,
            truncation=True,
            max_length=128,
            return_tensors="pt",
        )
        hidden = model(**batch).last_hidden_state  # (batch, tokens, width)
        mask = batch["attention_mask"].unsqueeze(-1)
        mean = (hidden * mask).sum(1) / mask.sum(1)
        vectors[rows] = torch.nn.functional.normalize(mean, dim=-1).numpy()
    return vectors


@torch.inference_mode()
def encode_images(contents: Sequence[bytes], folder: str, batch_size: int) -> np.ndarray:
    """Returns the class token of each image; equal images are encoded once."""
    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    distinct = list(dict.fromkeys(contents))
    vectors = []
    for start in range(0, len(distinct), batch_size):
        images = [open_image(content) for content in distinct[start : start + batch_size]]
        batch = processor(images, return_tensors="pt")
        vectors.append(model(**batch).last_hidden_state[:, 0].numpy())
    row_of = {content: row for row, content in enumerate(distinct)}
    return np.concatenate(vectors)[[row_of[content] for content in contents]]


def probe(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    splits: int,
    seed: int,
) -> list[tuple[float, float]]:
    """Returns accuracy and macro F1 on 30 % of the records for each split."""
    splitter: ShuffleSplit | GroupShuffleSplit
    if groups is None:
        splitter = ShuffleSplit(splits, test_size=0.3, random_state=seed)
    else:
        splitter = GroupShuffleSplit(splits, test_size=0.3, random_state=seed)
    scores = []
    for train, test in splitter.split(features, labels, groups):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
        model.fit(features[train], labels[train])
        guess = model.predict(features[test])
        accuracy = float((guess == labels[test]).mean())
        scores.append((accuracy, f1_score(labels[test], guess, average="macro", zero_division=0)))
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Measure how well text and images of the sample predict its types.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--sample", type=Path, default=SAMPLE, help="Parquet file of the sample")
    parser.add_argument("--text-encoder", default="encoders/minilm", help="folder or Hub name")
    parser.add_argument("--vision-encoder", default="encoders/vit-s", help="folder or Hub name")
    parser.add_argument("--splits", type=int, default=5, help="number of random splits")
    parser.add_argument("--batch-size", type=int, default=32, help="number of inputs in a batch")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random splits")
    args = parser.parse_args()

    rows = parquet.read_table(args.sample).to_pylist()
    labels = np.array([row["label"] for row in rows])
    mentions = [row["mention"] for row in rows]
    images = np.array([row["picture"] for row in rows])
    words = np.array([mention.lower() for mention in mentions])
    names = sorted(set(labels))

    sentence = encode_texts([row["text"] for row in rows], args.text_encoder, args.batch_size)
    mention = encode_texts(mentions, args.text_encoder, args.batch_size)
    name = encode_texts(names, args.text_encoder, args.batch_size)
    image = encode_images(
        [row["image"]["bytes"] for row in rows], args.vision_encoder, args.batch_size
    )
    text = np.concatenate([sentence, mention], axis=1)
    both = np.concatenate([text, image], axis=1)

    print("| Features | Not shared with training | Accuracy | Macro F1 |")
    print("|---|---|---|---|")
    for title, features, groups, apart in (
        ("sentence", sentence, None, "text"),
        ("sentence + mention", text, None, "text"),
        ("image", image, None, "text"),
        ("sentence + mention + image", both, None, "text"),
        ("sentence + mention", text, words, "mention"),
        ("sentence + mention + image", both, words, "mention"),
        ("sentence + mention", text, images, "image"),
        ("image", image, images, "image"),
        ("sentence + mention + image", both, images, "image"),
    ):
        scores = np.array(probe(features, labels, groups, args.splits, args.seed))
        cells = [
            f"{100 * mean:.1f} ± {100 * spread:.1f}"
            for mean, spread in zip(scores.mean(0), scores.std(0), strict=True)
        ]
        print(f"| {title} | {apart} | {cells[0]} | {cells[1]} |", flush=True)
    for title, features in (("sentence", sentence), ("mention", mention)):
        guess = np.array(names)[(features @ name.T).argmax(1)]
        f1 = f1_score(labels, guess, average="macro", zero_division=0)
        print(
            f"| {title}, cosine to the type's name | (training-free) "
            f"| {100 * (guess == labels).mean():.1f} | {100 * f1:.1f} |"
        )
    print(f"\n{len(rows)} records, {len(names)} types, {args.splits} splits, seed {args.seed}")


if __name__ == "__main__":
    main()
