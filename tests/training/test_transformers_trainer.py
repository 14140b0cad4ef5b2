"""The Trainer of transformers evaluates the model without being told which inputs are labels."""

import numpy as np
import pytest
import torch
from tiny_world import tiny_batch, tiny_model
from transformers import Trainer, TrainingArguments


@pytest.mark.parametrize("true", [0, 3], ids=["seen", "unseen"])
def test_it_evaluates_with_a_finite_loss(tmp_path, true):
    model = tiny_model()
    batch = tiny_batch()
    batch["labels"] = torch.full_like(batch["labels"], true)
    assert bool(batch["seen_mask"][true]) == (true == 0)
    met = []

    def measure(prediction):
        met.append(prediction)
        return {
            "accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())
        }

    arguments = TrainingArguments(
        str(tmp_path), per_device_eval_batch_size=4, report_to=[], use_cpu=True, disable_tqdm=True
    )
    trainer = Trainer(
        model,
        arguments,
        eval_dataset=list(range(4)),
        data_collator=lambda _: dict(batch),
        compute_metrics=measure,
    )
    assert trainer.label_names == ["labels"]
    scores = trainer.evaluate()
    assert np.isfinite(scores["eval_loss"])
    assert 0 <= scores["eval_accuracy"] <= 1
    [prediction] = met
    assert isinstance(prediction.predictions, np.ndarray)
    assert prediction.predictions.shape == (4, len(batch["seen_mask"]))
    assert prediction.label_ids.shape == (4,)
