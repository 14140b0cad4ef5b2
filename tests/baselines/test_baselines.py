"""What every trainable method must do, whatever its mechanism."""

import pytest
import torch
from tiny_world import (
    LABELS,
    tiny_batch,
    tiny_label_sets,
    tiny_method,
    tiny_picture,
    tiny_processor,
    tiny_records,
)
from transformers import AutoModel, pipeline

from modeling_hmgrl import HMGRLTrainer, HMGRLTrainingArguments
from modeling_hmgrl.baselines import METHODS

CASES = [
    pytest.param(name, task, id=f"{name}-{task}")
    for name, method in METHODS.items()
    for task in method.tasks
]
SETTINGS = {
    "published": {"paper": True},
    "corrected": {},
    "geodesic": {"score_function": "geodesic", "projection_init": "random"},
}


def processor_for(name_or_model, task, **options):
    method = METHODS.get(name_or_model) if isinstance(name_or_model, str) else name_or_model
    return tiny_processor(task, **method.processor_settings, **options)


def batch_for(model, task, **options):
    batch = tiny_batch(task, processor=processor_for(model, task), **options)
    if not model.uses_images:
        batch = {name: value for name, value in batch.items() if "image" not in name}
        batch.pop("pixel_values", None)
    return batch


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize(("name", "task"), CASES)
def test_every_loss_is_finite_and_reaches_every_trained_weight(name, task, settings):
    model = tiny_method(name, task, **settings).train()
    total = torch.zeros(())
    for seed in range(2):
        output = model(**batch_for(model, task, batch_size=6, seed=seed))
        total = total + output.loss
        assert "classification" in output.loss_terms
        for term, value in output.loss_terms.items():
            assert torch.isfinite(value), term
            assert hasattr(model.config, f"weight_{term}")
    total.backward()
    idle = {
        key
        for key, value in model.named_parameters()
        if value.requires_grad and (value.grad is None or not torch.isfinite(value.grad).all())
    }
    # positions beyond the texts and the like are within tensors; whole tensors all take part
    assert idle == set()


@pytest.mark.parametrize(("name", "task"), CASES)
def test_saved_and_loaded_it_scores_the_same(name, task, tmp_path):
    model = tiny_method(name, task, calibration_gamma=0.5)
    batch = batch_for(model, task)
    with torch.no_grad():
        before = model(**batch).logits
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert loaded.config.calibration_gamma == 0.5
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, before)
    assert {k for k, p in loaded.named_parameters() if p.requires_grad} == {
        k for k, p in model.named_parameters() if p.requires_grad
    }


@pytest.mark.parametrize(("name", "task"), CASES)
def test_a_sample_scores_the_same_alone_and_in_a_batch(name, task):
    model = tiny_method(name, task)
    together = batch_for(model, task, batch_size=5)
    labels = {key: value for key, value in together.items() if key.startswith("candidate_")}
    with torch.no_grad():
        whole = model(**together).logits
        for row in range(5):
            alone = {
                key: value[row : row + 1]
                for key, value in together.items()
                if key not in labels and key not in ("labels", "seen_mask")
                and not key.startswith("synthetic")
            }  # fmt: skip
            length = int(alone["attention_mask"].sum())
            alone |= {key: alone[key][:, :length] for key in ("input_ids", "attention_mask")}
            torch.testing.assert_close(
                model(**alone, **labels).logits[0], whole[row], rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize(("name", "task"), CASES)
def test_a_label_scores_the_same_beside_others_in_any_order(name, task):
    model, processor = tiny_method(name, task), processor_for(name, task)
    batch = batch_for(model, task, generator=False)
    samples = {
        k: v for k, v in batch.items() if not k.startswith(("candidate", "synthetic", "labels"))
    }
    samples.pop("seen_mask")

    def scores(names):
        with torch.no_grad():
            return model(**samples, **processor.encode_labels(names)).logits

    whole = scores(LABELS)
    order = [3, 0, 5, 1, 1]
    torch.testing.assert_close(
        scores([LABELS[k] for k in order]), whole[:, order], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("settings", [{}, {"score_function": "dot", "projection_init": "random"}])
@pytest.mark.parametrize(("name", "task"), CASES)
def test_it_fits_64_samples(name, task, settings):
    model = tiny_method(name, task, dropout=0.0, **settings).train()
    model.encoders.text_model.eval()  # whose dropout drowns so small a model
    batch = batch_for(model, task, batch_size=64)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(60):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        logits = model(**batch).logits.masked_fill(~batch["seen_mask"], -torch.inf)
    assert (logits.argmax(1) == batch["labels"]).float().mean() > 0.95


@pytest.mark.parametrize(("name", "task"), CASES)
def test_the_trainer_and_the_pipeline_take_it(name, task, tmp_path):
    model = tiny_method(name, task, freeze_text=True)
    with_images = model.uses_images
    processor = processor_for(name, task, use_images=with_images)
    data = tiny_records(24, task=task, images=with_images)
    arguments = HMGRLTrainingArguments(
        str(tmp_path / "run"), epochs=1, tracker="none", progress=False, save_epochs=0,
        feature_dir=str(tmp_path / "features"), head_learning_rate=1e-3,
    )  # fmt: skip
    report = HMGRLTrainer(
        model, processor, arguments, tiny_label_sets(),
        data["train"], data["validation"], data["test"], method=name,
    ).train()  # fmt: skip
    assert report["method"] == name
    assert 0 <= report["test"]["ausuc"] <= 1
    pipe = pipeline("multimodal-zero-shot-typing", model=str(tmp_path / "run"))
    row = data["test"][0]
    record = {"text": row["text"], "spans": row["spans"]}
    if with_images:
        record["image"] = tiny_picture("tool")
    one, two = pipe([record, {**record, "labels": ["tool", "a drink"]}])
    assert one["label"] in LABELS
    assert two["label"] in ("tool", "a drink")


@pytest.mark.parametrize("settings", [{}, {"paper": True}], ids=["corrected", "published"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("name", "task"), CASES)
def test_cast_as_a_whole_it_predicts_and_trains(name, task, dtype, settings):
    model = tiny_method(name, task, **settings)
    batch = batch_for(model, task)
    with torch.no_grad():
        expected = model(**batch).logits
        found = model.to(dtype)(**batch).logits
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()
    loss = model.train()(**batch).loss
    assert loss.dtype == torch.float32
    loss.backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all(), parameter_name
