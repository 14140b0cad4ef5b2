"""Training, its report and what it leaves behind, on a world that can be learnt."""

import json
import math

import numpy as np
import pytest
import torch
from tiny_world import tiny_label_sets, tiny_model, tiny_processor, tiny_records
from transformers import pipeline

from modeling_hmgrl import HMGRLForZeroShotTyping, HMGRLTrainer, HMGRLTrainingArguments
from modeling_hmgrl.baselines import label_similarity, majority
from modeling_hmgrl.metrics.label_sets import LabelSets
from modeling_hmgrl.outputs import local
from modeling_hmgrl.reports.model_card import make_card

PARTS = ("seen", "unseen", "overall")


def make_trainer(folder, images=True, vision=True, tracker="none", **arguments):
    data = tiny_records(48, images=images)
    settings = {"epochs": 6, "batch_size": 16, "learning_rate": 3e-3, "head_learning_rate": 3e-3}
    settings |= {"progress": False, "tracker": tracker, "feature_dir": str(folder / "features")}
    processor = tiny_processor(use_images=vision)
    return HMGRLTrainer(
        tiny_model(vision=vision),
        processor,
        HMGRLTrainingArguments(str(folder / "run"), **(settings | arguments)),
        tiny_label_sets(),
        data["train"],
        data["validation"],
        data["test"],
        data_report={"source": "tiny", "records_out": 96},
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    trainer = make_trainer(folder, tracker="tensorboard", epochs=40, patience=0)
    return trainer, trainer.train({"references": {}}), folder / "run"


def test_it_learns_and_reports(finished):
    trainer, report, folder = finished
    assert report == json.loads((folder / "report.json").read_text())
    assert report["test"]["seen"]["accuracy"] > 0.8
    for split in ("validation", "test"):
        for part in PARTS:
            assert set(report[split][part]) == {"accuracy", "f1", "macro_accuracy"}
        assert 0 <= report[split]["ausuc"] <= 1
        assert report[split]["gamma"] == report["gamma"]
    wanted = {"method", "task", "seed", "gamma", "labels", "data", "versions", "command"}
    assert wanted <= set(report)
    assert report["labels"]["known_to_generator"] == list(trainer.labels.generator)
    assert report["images_used"] is True
    assert list((folder / "logs").rglob("events*"))
    best = max(report["history"], key=lambda epoch: epoch["overall"]["f1"])
    assert report["validation"]["overall"]["f1"] == pytest.approx(best["overall"]["f1"])


def test_the_checkpoint_is_the_best_one_and_predicts(finished):
    trainer, report, folder = finished
    model = HMGRLForZeroShotTyping.from_pretrained(folder)
    assert model.config.calibration_gamma == report["gamma"]
    assert model.config.seen_labels == list(trainer.labels.seen)
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    row = tiny_records(48)["test"][0]
    pipe = pipeline("multimodal-zero-shot-typing", model=str(folder))
    result = pipe(row["text"], spans=[row["spans"][0]])
    assert result["label"] in model.config.seen_labels + model.config.generator_labels


def test_cached_features_score_like_images(finished):
    trainer, _, _ = finished
    scores, truth = trainer.scores("test")
    model, processor = trainer.model, trainer.processor
    rows = list(tiny_records(48)["test"])
    labels = processor.encode_labels(trainer.labels.candidates("test"))
    batch = processor(
        [r["text"] for r in rows], [r["spans"] for r in rows], [r["image"] for r in rows]
    )
    with torch.no_grad():
        direct = model(**batch, **labels).logits.numpy()
    assert np.abs(direct - scores).max() < 0.05  # the cache keeps half precision
    assert len(truth) == len(rows)


def test_two_runs_of_one_seed_are_equal(tmp_path):
    reports, weights = [], []
    for name in "ab":
        trainer = make_trainer(tmp_path / name, epochs=2)
        reports.append(trainer.train())
        weights.append(trainer.model.state_dict())
    assert reports[0]["history"] == reports[1]["history"]
    assert reports[0]["test"] == reports[1]["test"]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_text_only_and_absent_images(tmp_path):
    for name, options in {
        "no pictures": {"images": False},
        "no encoder": {"vision": False},
    }.items():
        trainer = make_trainer(tmp_path / name, epochs=1, **options)
        report = trainer.train()
        assert report["images_used"] is False
        assert math.isfinite(report["test"]["ausuc"])


def test_checkpointing_accumulation_and_shuffling_run(tmp_path):
    trainer = make_trainer(
        tmp_path, epochs=2, batch_size=8, gradient_checkpointing=True,
        gradient_accumulation_steps=2, balanced=False, weight_decay=0.1,
    )  # fmt: skip
    history = trainer.train()["history"]
    assert [epoch["step"] for epoch in history] == [3, 6]


def test_early_stopping_and_max_steps(tmp_path):
    trainer = make_trainer(tmp_path / "a", epochs=50, patience=1, learning_rate=1e-9)
    trainer.arguments.head_learning_rate = 1e-9  # nothing moves, so nothing gets better
    assert len(trainer.train()["history"]) == 2
    report = make_trainer(tmp_path / "b", max_steps=4).train()
    assert report["history"][-1]["step"] == 4


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    trainer = make_trainer(tmp_path, log_steps=1)
    with torch.no_grad():
        trainer.model.scorer.log_scale.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="step 1: the loss is nan"):
        trainer.train()


def test_samples_of_a_label_out_of_place_are_refused(tmp_path):
    data = tiny_records(48)
    with pytest.raises(ValueError, match="train: has samples of"):
        HMGRLTrainer(
            tiny_model(), tiny_processor(), HMGRLTrainingArguments(str(tmp_path), tracker="none"),
            tiny_label_sets(), data["validation"], data["validation"],
        )  # fmt: skip


def test_references_and_card(finished):
    trainer, report, _ = finished
    data = tiny_records(48)
    model = tiny_model()
    reference = label_similarity(
        model.hmgrl.text_model, trainer.processor.tokenizer, trainer.labels,
        data["validation"], data["test"],
    )  # fmt: skip
    assert reference["variants"][reference["variant"]] == max(reference["variants"].values())
    counts = majority(trainer.labels, data["train"], data["validation"], data["test"])
    assert counts["test"]["unseen"]["accuracy"] == 0
    assert 0 < counts["test"]["seen"]["accuracy"] < 1
    card = str(make_card(report | {"references": {"majority": counts}}, model.config, "me/m"))
    assert "class-transductive" in card
    assert "| majority" in card
    assert 'model="me/m"' in card
    assert "{{" not in card


def test_label_sets():
    sets = LabelSets.of(("a",), ("b",), ("c",), "inductive", {"b": "the letter b"})
    assert sets.generator == ("b",)
    assert sets.candidates("test") == ["a", "c"]
    assert sets.seen_mask("test").tolist() == [True, False]
    assert sets.texts_of(["a", "b"]) == ["a", "the letter b"]
    for wrong, message in (
        ((("a",), ("a",), ()), "more than one group"),
        (((), ("b",), ()), "no label is seen"),
    ):
        with pytest.raises(ValueError, match=message):
            LabelSets.of(*wrong)


def test_arguments_are_checked():
    for wrong in ({"epochs": 0}, {"learning_rate": 0.0}, {"warmup_ratio": 1.0}, {"patience": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            HMGRLTrainingArguments("run", **wrong)
    assert HMGRLTrainingArguments.paper("typing")["batch_size"] == 14


def test_after_a_run_losses_gather_nothing(tmp_path):
    trainer = make_trainer(tmp_path / "a", epochs=1)
    trainer.train()
    assert trainer.model.gather is local
    broken = make_trainer(tmp_path / "b", log_steps=1)
    with torch.no_grad():
        broken.model.scorer.log_scale.fill_(math.nan)
    with pytest.raises(FloatingPointError):
        broken.train()
    assert broken.model.gather is local
