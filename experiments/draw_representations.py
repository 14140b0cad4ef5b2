"""Draws where a trained model puts samples and labels: on a sphere and in the Poincaré disk.

    python experiments/draw_representations.py --run runs/quickstart --out drawings

Vectors are those that the model compares with labels, after its projection. Labels seen in
training and labels that were not are drawn apart; stars are the labels' own vectors, diamonds the
prototypes: means of training samples, or of samples that the autoencoder imagines of labels without
any. Writes a PNG and an SVG for each manifold and, in layout.json, coordinates and measures.

Needs matplotlib: pip install "hmgrl[report]".
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import pipeline
from transformers.utils import logging

from dataset_scripts import load_gzs
from dataset_scripts.arguments import add_source_arguments, source_choices
from modeling_hmgrl import lorentz
from modeling_hmgrl.pipeline_hmgrl import TASK
from modeling_hmgrl.projection import (
    MANIFOLDS,
    MAX_POINTS,
    Layout,
    layout,
    neighbour_accuracy,
    trustworthiness,
)
from modeling_hmgrl.projection_figure import Points, draw_layout
from modeling_hmgrl.prototypes import Prototypes
from modeling_hmgrl.sample_vectors import sample_vectors, similarity, squared_radius

NEIGHBOURS = 10
TITLES = {"sphere": "on a sphere", "poincare": "in the Poincaré disk", "plane": "in the plane"}
NOTES = {
    "sphere": "two halves in an equal-area projection, circles 30° apart",
    "poincare": "circles at the distances 1, 2, … from the centre, the rim at infinity",
    "plane": "Euclidean t-SNE",
}


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--run", required=True, help="folder of a trained model, or its name on the Hub")
    add("--out", required=True, help="folder for the drawings")
    add("--split", choices=("train", "validation", "test"), default="test")
    add("--split-seed", type=int, default=0, help="seed by which the labels were divided")
    add("--limit", type=int, default=3000, help="most samples drawn; of more, as many are chosen")
    add("--prototype-limit", type=int, default=5000, help="most training samples for prototypes")
    add("--manifolds", nargs="+", choices=MANIFOLDS, default=["sphere", "poincare"])
    add("--perplexity", type=float, default=30.0, help="effective number of neighbours")
    add("--steps", type=int, default=1000, help="steps of the descent")
    add("--seed", type=int, default=0, help="seed of the choice of samples and of the layout")
    add("--batch-size", type=int, default=32, help="samples encoded at once")
    add_source_arguments(parser)
    return parser.parse_args()


def chosen(data: Any, limit: int, seed: int) -> Any:
    """At most so many records, drawn by seed, in their order."""
    if len(data) <= limit:
        return data
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    return data.select(sorted(order[:limit].tolist()))


def distances_and_start(model: Any, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Distances of the model's vectors, (N, N), and vectors of a flat space to start from."""
    if model.config.score_function == "geodesic":
        flat = lorentz.logmap0(vectors, squared_radius(model))
        return -similarity(model, vectors, vectors), flat
    vectors = vectors.double()
    return torch.cdist(vectors, vectors), vectors


def measures(distances: Tensor, placed: Layout, labels: Tensor) -> dict[str, float]:
    """How well a layout of the samples, the first points, keeps neighbours and labels."""
    count = len(labels)
    inside, near = placed.distances()[:count, :count], min(NEIGHBOURS, (count - 1) // 2)
    original = distances[:count, :count]
    return {
        "divergence": placed.divergence,
        "radius": placed.radius,
        "neighbours": near,
        "trustworthiness": trustworthiness(original, inside, near),
        "neighbour_accuracy": neighbour_accuracy(inside, labels, near),
        "neighbour_accuracy_original": neighbour_accuracy(original, labels, near),
    }


def main() -> None:
    """Encodes, lays out, measures, draws."""
    arguments = parse()
    if not 1 <= arguments.limit <= MAX_POINTS:
        raise SystemExit(f"--limit: got {arguments.limit}, expected 1 to {MAX_POINTS}")
    logging.disable_progress_bar()
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    pipe = pipeline(TASK, model=arguments.run)
    model, config = pipe.model, pipe.model.config
    data = load_gzs(seed=arguments.split_seed, **source_choices(arguments)).splits
    if config.vision_config is None:
        data = data.remove_columns("image")
    records = chosen(data[arguments.split], arguments.limit, arguments.seed)
    all_names = records.features["label"].names
    labels = [all_names[label] for label in records["label"]]
    known = set(config.seen_labels or ())
    names = sorted(known | set(labels))
    texts = {name: config.text_of(name) for name in names}
    if (total := len(labels) + 2 * len(names)) > MAX_POINTS:
        raise SystemExit(
            f"--limit: {len(labels)} samples and {len(names)} labels with prototypes make {total} "
            f"points, expected at most {MAX_POINTS}"
        )

    vectors = torch.stack([v for _, _, v in sample_vectors(pipe, records, arguments.batch_size)])
    train = chosen(data["train"], arguments.prototype_limit, arguments.seed)
    prototypes = Prototypes.of(pipe, train, keep=1, batch_size=arguments.batch_size)
    own = pipe.label_cache.vectors(list(texts.values())).float().cpu()
    with torch.inference_mode():
        scores = model.scorer.compare(vectors, own, model.hmgrl.curvature())
    scores = scores - config.calibration_gamma * torch.tensor([name in known for name in names])
    predicted = [names[place] for place in scores.argmax(1).tolist()]
    correct = [a == b for a, b in zip(labels, predicted, strict=True)]
    points = torch.cat([vectors, own, prototypes.prototypes(texts)])
    distances, start = distances_and_start(model, points)
    marks = Points(labels, correct, names, known)

    report: dict[str, Any] = {
        "run": arguments.run,
        "source": arguments.source,
        "split": arguments.split,
        "samples": len(labels),
        "settings": {
            name: getattr(arguments, name) for name in ("split_seed", "perplexity", "steps", "seed")
        },
        "accuracy": sum(correct) / len(correct),
        "layouts": {},
        "points": [
            {"id": str(record_id), "label": label, "seen": label in known, "predicted": found}
            for record_id, label, found in zip(records["id"], labels, predicted, strict=True)
        ]
        + [
            {"kind": kind, "label": name, "seen": name in known}
            for kind in ("label", "prototype")
            for name in names
        ],
    }
    numbers = torch.tensor([names.index(label) for label in labels])
    for manifold in arguments.manifolds:
        began = time.perf_counter()
        placed = layout(
            start,
            manifold,
            distances=distances,
            perplexity=arguments.perplexity,
            steps=arguments.steps,
            seed=arguments.seed,
        )
        found = measures(distances, placed, numbers)
        seconds = time.perf_counter() - began
        print(
            f"{manifold}: trustworthiness {found['trustworthiness']:.3f}, accuracy of "
            f"{found['neighbours']} neighbours {found['neighbour_accuracy']:.3f} (original space "
            f"{found['neighbour_accuracy_original']:.3f}), divergence {found['divergence']:.3f}, "
            f"{seconds:.0f} s"
        )
        coordinates = [[round(x, 6) for x in row] for row in placed.points.tolist()]
        report["layouts"][manifold] = {**found, "coordinates": coordinates}
        title = f"{len(labels):,} samples of {arguments.source}, {arguments.split} split"
        note = (
            f"t-SNE, perplexity {arguments.perplexity:g}; {NOTES[manifold]}; trustworthiness "
            f"{found['trustworthiness']:.3f}; accuracy of {found['neighbours']} neighbours "
            f"{found['neighbour_accuracy']:.3f}, in the original space "
            f"{found['neighbour_accuracy_original']:.3f}"
        )
        for kind in ("png", "svg"):
            drawn = draw_layout(placed, marks, f"{title}, {TITLES[manifold]}", note, kind)
            (out / f"{manifold}.{kind}").write_bytes(drawn)
    (out / "layout.json").write_text(
        json.dumps(report, ensure_ascii=False) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
