"""What the processes of a distributed run compute, written to one JSON file per process."""

import json
import os
import sys
from pathlib import Path

import torch
from tiny_world import tiny_batch, tiny_label_sets, tiny_method, tiny_processor, tiny_records

from modeling_hmgrl import HMGRLTrainer, HMGRLTrainingArguments
from modeling_hmgrl.training.collectives import gather_with_gradient

RANK = int(os.environ.get("RANK", "0"))


def images_on_one_process() -> dict[str, object]:
    """Steps of several models in which only the first process has images."""
    torch.distributed.init_process_group("gloo")
    found = {
        f"{method} {freeze}": steps_of(method, freeze_vision=freeze)
        for method in ("hmgrl", "mg_vmoe")
        for freeze in (True, False)
    }
    torch.distributed.destroy_process_group()
    return found


def steps_of(method: str, **settings: object) -> dict[str, object]:
    """Losses of two steps; the images that there are have no mask."""
    model = tiny_method(method, **settings).train()
    model.gather = gather_with_gradient
    engine = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    losses = []
    for step in range(2):
        batch = tiny_batch(seed=10 * step + RANK, images=RANK == 0)
        batch.pop("image_mask", None)
        output = engine(**batch)
        output.loss.backward()
        losses.append({name: term.item() for name, term in output.loss_terms.items()})
    gradient = model.scorer.sample_projection.weight.grad
    return {"losses": losses, "gradient": gradient.abs().sum().item()}


def trainer(**arguments: object) -> dict[str, object]:
    """Noise and weights of a trainer that is about to start, and its precision."""
    data = tiny_records(48)
    settings = {"progress": False, "tracker": "none", "epochs": 1} | arguments
    run = HMGRLTrainer(
        tiny_method("hmgrl"),
        tiny_processor(),
        HMGRLTrainingArguments(str(FOLDER), feature_dir=str(FOLDER / "features"), **settings),
        tiny_label_sets(),
        data["train"],
        data["validation"],
    )
    weights = sum(p.double().abs().sum().item() for p in run.model.parameters())
    return {
        "noise": torch.randn(3).tolist(),
        "weights": weights,
        "used": run.accelerator.mixed_precision,
        "reported": run.arguments.mixed_precision,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    FOLDER, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    result = {"trainer": trainer, "images": images_on_one_process}[options.pop("what")](**options)
    (FOLDER / f"rank-{RANK}.json").write_text(json.dumps(result))
