"""The Trainer of transformers evaluates the model without being told which inputs are labels."""

import numpy as np
import pytest
import torch
from tiny_world import tiny_batch, tiny_model
from transformers import Trainer, TrainingArguments

from modeling_hmgrl import lorentz


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
    [prediction] = met
    assert isinstance(prediction.predictions, np.ndarray)
    assert prediction.predictions.shape == (4, len(batch["seen_mask"]))
    assert prediction.label_ids.shape == (4,)


def test_it_trains_every_part_and_leaves_a_learnt_point_on_its_manifold(tmp_path):
    model = tiny_model(hvib_layer="fully_lorentz", hyperbolic_translation=True)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=4, max_steps=3, learning_rate=1e-2,
        weight_decay=0.1, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    batch = tiny_batch()
    trainer = Trainer(
        model, arguments, train_dataset=list(range(16)), data_collator=lambda _: dict(batch)
    )
    assert np.isfinite(trainer.train().training_loss)
    layer = model.hmgrl.hvib.lorentz_mu
    for name, weight in model.named_parameters():
        if name.startswith(("hmgrl.hvib", "hmcvae", "scorer")):
            assert not torch.equal(weight, before[name]), name
    point = lorentz.project(layer.translation.detach(), layer.c).double()
    assert abs(lorentz.inner(point, point).item() + layer.c) < 1e-5
    with torch.no_grad():
        expected = layer(torch.ones(1, layer.in_features))
        layer.translation.copy_(point)
        torch.testing.assert_close(layer(torch.ones(1, layer.in_features)), expected)
