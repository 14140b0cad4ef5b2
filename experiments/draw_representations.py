"""Draws a model's representations of samples and labels on a sphere and in the Poincaré disk.

    python experiments/draw_representations.py --run runs/quickstart --out drawings

The vectors are the sample embeddings after projection, as the model compares them with labels. Seen
and unseen labels have different colours; stars are label vectors, diamonds are prototypes: means of
training samples, or of synthetic samples of the autoencoder for labels without any. Writes a PNG
and an SVG for each manifold, and coordinates and measures to layout.json.

Requires matplotlib: pip install "hmgrl[report]".
"""

import argparse
import importlib.util
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import pipeline
from transformers.utils import logging
from tsne import MANIFOLDS, MAX_POINTS, Layout, layout, neighbour_accuracy, trustworthiness
from tsne_figure import Points, draw_layout

from dataset_scripts import load_gzs
from dataset_scripts.arguments import add_source_arguments, source_choices
from hmgrl_cli.model_loading import read_run_report
from modeling_hmgrl import lorentz
from modeling_hmgrl.explanation.prototypes import Prototypes
from modeling_hmgrl.explanation.sample_embeddings import (
    sample_vectors,
    similarity,
    squared_radius,
)
from modeling_hmgrl.pipeline_hmgrl import TASK
from modeling_hmgrl.storage import write_atomically

NEIGHBOURS = 10
TITLES = {"sphere": "on a sphere", "poincare": "in the Poincaré disk", "plane": "in the plane"}
NOTES = {
    "sphere": "two hemispheres in an equal-area projection, circles 30° apart",
    "poincare": "circles at the distances 1, 2, … from the centre, the boundary at infinity",
    "plane": "Euclidean t-SNE",
}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--run", required=True, help="folder of a trained model, or its name on the Hub")
    add("--out", required=True, help="folder to write the figures to")
    add("--split", choices=("train", "validation", "test"), default="test", help="split to draw")
    add("--split-seed", type=int, help="seed of the split (default: as in training, or 0)")
    add("--limit", type=int, default=3000, help="maximum number of samples, selected at random")
    add("--prototype-limit", type=int, default=5000, help="maximum training samples for prototypes")
    add(
        "--manifolds",
        nargs="+",
        choices=MANIFOLDS,
        default=["sphere", "poincare"],
        help="manifolds to draw on",
    )
    add("--perplexity", type=float, default=30.0, help="effective number of neighbours")
    add("--steps", type=int, default=1000, help="number of optimisation steps")
    add("--seed", type=int, default=0, help="seed of the sample selection and of the layout")
    add("--batch-size", type=int, default=32, help="number of samples in a batch")
    add_source_arguments(parser)
    return parser.parse_args(argv)


def select(data: Any, limit: int, seed: int) -> Any:
    """Selects at most ``limit`` records at random, in their original order."""
    if len(data) <= limit:
        return data
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    return data.select(sorted(order[:limit].tolist()))


def distances_and_start(model: Any, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the distances of the model's vectors, (N, N), and Euclidean vectors to start from."""
    if model.config.score_function == "geodesic":
        flat = lorentz.logmap0(vectors, squared_radius(model))
        return -similarity(model, vectors, vectors), flat
    vectors = vectors.double()
    return torch.cdist(vectors, vectors), vectors


def measure(distances: Tensor, drawn: Layout, labels: Tensor) -> dict[str, float]:
    """Measures how well a layout preserves neighbours and labels of the samples."""
    count = len(labels)
    inside, near = drawn.distances()[:count, :count], min(NEIGHBOURS, (count - 1) // 2)
    original = distances[:count, :count]
    return {
        "divergence": drawn.divergence,
        "radius": drawn.radius,
        "neighbours": near,
        "trustworthiness": trustworthiness(original, inside, near),
        "neighbour_accuracy": neighbour_accuracy(inside, labels, near),
        "neighbour_accuracy_original": neighbour_accuracy(original, labels, near),
    }


@dataclass
class Scene:
    """The samples, label vectors and prototypes of a model."""

    model: Any
    vectors: Tensor
    points: Points
    ids: list[str]
    predicted: list[str]


def encode(arguments: argparse.Namespace) -> Scene:
    """Encodes samples, labels and prototypes."""
    pipe = pipeline(TASK, model=arguments.run)
    model, config = pipe.model, pipe.model.config
    if arguments.split_seed is None:
        settings = (read_run_report(arguments.run) or {}).get("data", {}).get("settings", {})
        arguments.split_seed = settings.get("seed", 0)
    data = load_gzs(seed=arguments.split_seed, **source_choices(arguments)).splits
    if config.vision_config is None:
        data = data.remove_columns("image")
    records = select(data[arguments.split], arguments.limit, arguments.seed)
    all_names = records.features["label"].names
    labels = [all_names[label] for label in records["label"]]
    known = set(config.seen_labels or ())
    names = sorted(known | set(labels))
    texts = {name: config.text_of(name) for name in names}
    check_sizes(len(labels), len(names), arguments.perplexity)

    shown = tqdm(records, desc="Samples", leave=False)
    vectors = torch.stack([v for _, _, v in sample_vectors(pipe, shown, arguments.batch_size)])
    train = select(data["train"], arguments.prototype_limit, arguments.seed)
    shown = tqdm(train, desc="Prototypes", leave=False)
    prototypes = Prototypes.of(pipe, shown, all_names, keep=1, batch_size=arguments.batch_size)
    own = pipe.label_cache.vectors(list(texts.values())).float()
    with torch.inference_mode():
        samples = vectors.to(own.device)
        scores = model.scorer.compare(samples, own, model.hmgrl.curvature()).cpu()
    scores = scores - config.calibration_gamma * torch.tensor([name in known for name in names])
    predicted = [names[index] for index in scores.argmax(1).tolist()]
    correct = [a == b for a, b in zip(labels, predicted, strict=True)]
    return Scene(
        model,
        torch.cat([vectors, own.cpu(), prototypes.prototypes(texts)]),
        Points(labels, correct, names, known),
        [str(name) for name in records["id"]],
        predicted,
    )


def check_sizes(samples: int, labels: int, perplexity: float) -> None:
    """Checks the number of points before anything is encoded."""
    total = samples + 2 * labels
    if total > MAX_POINTS:
        raise SystemExit(
            f"--limit: {samples} samples and {labels} labels with prototypes make {total} points, "
            f"expected at most {MAX_POINTS}"
        )
    if not 1 <= perplexity <= (total - 1) / 3:
        raise SystemExit(
            f"--perplexity: got {perplexity:g}, expected 1 to {(total - 1) // 3} for {total} points"
        )


def describe(scene: Scene) -> list[dict[str, Any]]:
    """Describes the points as JSON values, in the order of the coordinates."""
    points = scene.points
    samples = [
        {"id": name, "label": label, "seen": label in points.seen, "predicted": found}
        for name, label, found in zip(scene.ids, points.labels, scene.predicted, strict=True)
    ]
    return samples + [
        {"kind": kind, "label": name, "seen": name in points.seen}
        for kind in ("label", "prototype")
        for name in points.names
    ]


def main(argv: list[str] | None = None) -> None:
    """Encodes, computes the layouts, measures and draws them."""
    arguments = parse(argv)
    if not 1 <= arguments.limit <= MAX_POINTS:
        raise SystemExit(f"--limit: got {arguments.limit}, expected 1 to {MAX_POINTS}")
    if importlib.util.find_spec("matplotlib") is None:
        raise SystemExit('drawing requires matplotlib: pip install "hmgrl[report]"')
    logging.disable_progress_bar()
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    scene = encode(arguments)
    points = scene.points
    distances, start = distances_and_start(scene.model, scene.vectors)
    settings = ("split_seed", "perplexity", "steps", "seed")
    report: dict[str, Any] = {
        "run": arguments.run,
        "source": arguments.source,
        "split": arguments.split,
        "samples": len(points.labels),
        "settings": {name: getattr(arguments, name) for name in settings},
        "accuracy": sum(points.correct) / len(points.correct),
        "layouts": {},
        "points": describe(scene),
    }
    numbers = torch.tensor([points.names.index(label) for label in points.labels])
    for manifold in arguments.manifolds:
        began = time.perf_counter()
        result = layout(
            start,
            manifold,
            distances=distances,
            perplexity=arguments.perplexity,
            steps=arguments.steps,
            seed=arguments.seed,
        )
        found = measure(distances, result, numbers)
        seconds = time.perf_counter() - began
        quality = (
            f"trustworthiness {found['trustworthiness']:.3f}; accuracy of {found['neighbours']} "
            f"neighbours {found['neighbour_accuracy']:.3f}, in the original space "
            f"{found['neighbour_accuracy_original']:.3f}"
        )
        print(
            f"{manifold}: {quality}; divergence {found['divergence']:.3f}; {seconds:.0f} s",
            flush=True,
        )
        coordinates = [[round(x, 6) for x in row] for row in result.points.tolist()]
        report["layouts"][manifold] = {**found, "coordinates": coordinates}
        title = f"{arguments.source}, {arguments.split} split: {len(points.labels):,} samples"
        title = f"{title}, {TITLES[manifold]}"
        note = f"t-SNE, perplexity {arguments.perplexity:g}; {NOTES[manifold]}\n{quality}"
        for kind in ("png", "svg"):
            content = draw_layout(result, points, title, note, kind)
            write_atomically(out / f"{manifold}.{kind}", content)
    text = json.dumps(report, ensure_ascii=False) + "\n"
    write_atomically(out / "layout.json", text.encode())


if __name__ == "__main__":
    main()
