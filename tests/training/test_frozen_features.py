"""States of frozen encoders: their keys, what is encoded how often, and that scores stay."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import concatenate_datasets
from tiny_world import (
    LABELS,
    VALIDATION_UNSEEN,
    save_backbones,
    tiny_config,
    tiny_label_sets,
    tiny_model,
    tiny_picture,
    tiny_processor,
    tiny_records,
)

from modeling_hmgrl import (
    HMGRLForZeroShotTyping,
    HMGRLModel,
    HMGRLProcessor,
    HMGRLTrainer,
    HMGRLTrainingArguments,
)
from modeling_hmgrl.training.feature_cache import StateCache
from modeling_hmgrl.training.frozen_features import (
    encoder_key,
    image_bytes,
    image_features,
    image_key,
    read_batch,
    text_features,
    text_key,
)


def make_trainer(folder, model=None, processor=None, data=None, **arguments):
    data = data or tiny_records(48)
    settings = {"batch_size": 16, "head_learning_rate": 3e-3, "progress": False, "tracker": "none"}
    settings |= {"epochs": 2, "feature_dir": str(folder / "features")}
    return HMGRLTrainer(
        model or tiny_model(),
        processor or tiny_processor(),
        HMGRLTrainingArguments(str(folder / "run"), **(settings | arguments)),
        tiny_label_sets(),
        data["train"],
        data["validation"],
        data["test"],
    )


def count_calls(monkeypatch, owner, name, size=lambda first, *rest: len(first)):
    """List that gets the number of items of each call of a method."""
    calls, method = [], getattr(owner, name)

    def counted(self, *args, **kwargs):
        calls.append(size(*args, **kwargs))
        return method(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return calls


def test_an_image_has_one_key_wherever_it_lies(tmp_path):
    for name in ("a.png", "b.png"):
        tiny_picture("animal", 1).save(tmp_path / name)
    tiny_picture("animal", 2).save(tmp_path / "c.png")
    content = (tmp_path / "a.png").read_bytes()
    lying = {name: {"bytes": None, "path": str(tmp_path / name)} for name in ("a.png", "b.png")}
    held = {"bytes": content, "path": None}
    assert {image_key(image) for image in (*lying.values(), held)} == {image_key(held)}
    assert image_bytes(lying["b.png"]) == image_bytes(held) == content
    assert image_key({"bytes": content, "path": str(tmp_path / "c.png")}) == image_key(held)
    assert image_key({"bytes": None, "path": str(tmp_path / "c.png")}) != image_key(held)


def test_text_keys_tell_token_ids_apart():
    keys = [text_key(ids) for ids in ([1, 23], [12, 3], [1, 2, 3], [3, 2, 1])]
    assert len(set(keys)) == 4
    assert text_key((1, 23)) == keys[0]


def test_encoder_key_knows_weights_settings_and_preprocessing():
    def key(model, preprocessing="a"):
        return encoder_key(model.hmgrl.vision_model, preprocessing)

    model, twin = tiny_model(), tiny_model()
    assert key(model) == key(twin)
    assert key(model) != key(model, "b")
    assert key(model) != key(tiny_model(seed=1))
    assert key(model) != key(tiny_model().to(torch.bfloat16))
    with torch.no_grad():
        list(twin.hmgrl.vision_model.parameters())[-1].view(-1)[0] += 1e-4
    assert key(model) != key(twin)
    twin = tiny_model()  # the same weights, divided among other heads
    twin.hmgrl.vision_model.config.num_attention_heads = 2
    assert key(model) != key(twin)


def test_a_saved_encoder_has_the_key_it_had(tmp_path, monkeypatch):
    """A checkpoint is evaluated, and an encoder moved, without encoding anything again."""
    text, vision = save_backbones(tmp_path / "first")
    processor = HMGRLProcessor.from_backbones(text, vision, max_length=64)
    model = HMGRLForZeroShotTyping.from_backbones(
        text, vision, processor=processor, freeze_text=True
    )
    make_trainer(tmp_path, model, processor).train()
    pictures = count_calls(monkeypatch, HMGRLModel, "encode_image")
    texts = count_calls(monkeypatch, HMGRLModel, "encode_text")
    saved = tmp_path / "run"
    again = HMGRLForZeroShotTyping.from_pretrained(saved)
    make_trainer(tmp_path, again, HMGRLProcessor.from_pretrained(saved))
    text, vision = save_backbones(tmp_path / "moved")
    processor = HMGRLProcessor.from_backbones(text, vision, max_length=64)
    moved = HMGRLForZeroShotTyping.from_backbones(
        text, vision, processor=processor, freeze_text=True
    )
    make_trainer(tmp_path, moved, processor)
    assert pictures == texts == []


def test_distinct_images_are_encoded_once_over_all_runs(tmp_path, monkeypatch):
    calls = count_calls(monkeypatch, HMGRLModel, "encode_image")
    data = tiny_records(30)
    data["train"] = concatenate_datasets([data["train"], data["train"]])
    small = {**data, "train": data["train"].select(range(10))}
    pictures = [row["image"] for records in data.values() for row in records]
    distinct = len({picture.tobytes() for picture in pictures if picture is not None})
    trainer = make_trainer(tmp_path, data=small)
    first = sum(calls)
    assert len(trainer.prepared.images) == first < distinct
    make_trainer(tmp_path, data=data, eval_batch_size=5)  # more pictures
    assert sum(calls) == distinct
    assert max(calls[1:]) <= 5
    make_trainer(tmp_path, data=small)  # fewer
    others = {"train": data["train"], "validation": data["validation"], "test": None}
    trainer = make_trainer(tmp_path, data=others, seed=1)
    trainer.train()
    assert sum(calls) == distinct
    assert len(list((tmp_path / "features").iterdir())) == 1
    make_trainer(tmp_path, model=tiny_model(seed=1), data=small)  # another encoder
    assert sum(calls) == distinct + first


def test_a_cached_image_is_what_the_encoder_says(tmp_path):
    model, processor = tiny_model().hmgrl, tiny_processor()
    pictures = {f"p{i}": tiny_picture("tool", i) for i in range(5)}
    images = {key: partial(dict, bytes=_png(p, tmp_path), path=None) for key, p in pictures.items()}
    cache = image_features(model, processor, images, tmp_path / "f", 2, show_progress=False)
    states, mask = read_batch(cache, ["p3", None, "p0"])
    pixels = processor.encode_images([pictures["p3"], pictures["p0"]], 2)["pixel_values"]
    with torch.no_grad():
        wanted = model.encode_image(pixels)
    assert mask.tolist() == [True, False, True]
    assert torch.allclose(states[mask].float(), wanted, atol=5e-3)
    assert not states[1].any()


def _png(picture, folder):
    picture.save(folder / "picture.png")
    return Path(folder / "picture.png").read_bytes()


def direct_scores(trainer, split="test"):
    """Scores of the model given texts and pictures."""
    rows = list(tiny_records(48)[split])
    labels = trainer.processor.encode_labels(trainer.labels.candidates(split))
    batch = trainer.processor(
        [r["text"] for r in rows], [r["spans"] for r in rows], [r["image"] for r in rows]
    )
    with torch.no_grad():
        return trainer.model(**batch, **labels).logits.numpy()


def test_texts_of_a_frozen_encoder_are_encoded_once_and_score_the_same(tmp_path, monkeypatch):
    texts = count_calls(monkeypatch, HMGRLModel, "encode_text")
    trainer = make_trainer(tmp_path, tiny_model(freeze_text=True))
    distinct = {tuple(t.ids) for s in trainer.prepared.samples.values() for t in s.texts}
    assert sum(texts) == len(trainer.prepared.texts) == len(distinct) < 96
    texts.clear()
    trainer.train()
    scores, _ = trainer.scores("test")
    assert max(texts) <= len(LABELS)  # nothing but label texts
    assert np.abs(direct_scores(trainer) - scores).max() < 5e-3
    texts.clear()
    make_trainer(tmp_path, tiny_model(freeze_text=True), seed=3)
    assert texts == []


def test_a_new_models_frozen_encoders_do_not_drop_out(tmp_path):
    """A model that was never put into evaluation mode must not spoil the cache."""
    dropping = {"hidden_dropout_prob": 0.5}
    states = []
    for name in ("fresh", "evaluated"):
        torch.manual_seed(0)
        config = tiny_config(freeze_text=True)
        config.vision_config.update(dropping)
        model = HMGRLForZeroShotTyping(config)
        model.add_markers(tiny_processor())
        assert model.hmgrl.text_model.training
        if name == "evaluated":
            model.eval()
        prepared = make_trainer(tmp_path / name, model).prepared
        key = text_key(prepared.samples["train"].texts[0].ids)
        picture = prepared.samples["train"].keys[0]
        states.append([read_batch(prepared.texts, [key]), read_batch(prepared.images, [picture])])
    for fresh, evaluated in zip(*states, strict=True):
        assert torch.allclose(fresh[0].float(), evaluated[0].float(), atol=2e-3)


@pytest.mark.parametrize("settings", [{"freeze_text": True, "mask_padding": False}, {}])
def test_texts_are_not_kept_where_their_states_depend_on_the_batch(tmp_path, settings):
    trainer = make_trainer(tmp_path, tiny_model(**settings), epochs=1)
    assert trainer.prepared.texts is None
    loader = trainer._loader("test", [[0, 1]])
    assert "text_features" not in next(iter(loader))
    trainer.train()


@pytest.mark.parametrize("frozen", [True, False])
def test_labels_are_encoded_once_only_if_frozen(tmp_path, monkeypatch, frozen):
    calls = count_calls(monkeypatch, HMGRLForZeroShotTyping, "encode_labels")
    trainer = make_trainer(tmp_path, tiny_model(freeze_text=frozen), epochs=2)
    trainer.train()
    validated, seen, generated = 2 + 1, len(trainer.labels.seen), len(trainer.labels.generator)
    steps = trainer.history[-1]["step"]
    assert steps == 6
    wanted = [seen, generated] * (1 if frozen else steps)
    wanted += [seen + len(VALIDATION_UNSEEN)] * validated  # two validations and the test
    assert sorted(calls) == sorted(wanted)


def test_cached_texts_are_cut_to_their_own_length(tmp_path):
    model, processor = tiny_model().hmgrl, tiny_processor(pad_to_max_length=True)
    rows = [[2, 7, 3], [2, 7, 8, 9, 3], [2, 7, 3]]
    cache = text_features(model, processor, rows, tmp_path, batch_size=2, show_progress=False)
    assert len(cache) == 2
    states, mask = read_batch(cache, [text_key(row) for row in rows[:2]])
    assert states.shape == (2, 5, 32)
    assert mask.all()
    with torch.no_grad():
        wanted = model.encode_text(torch.tensor([rows[0]]))[0]
    assert torch.allclose(states[0, :3].float(), wanted, atol=5e-3)
    assert not states[0, 3:].any()


def test_a_batch_is_padded_and_masked(tmp_path):
    cache = StateCache(tmp_path)
    items = {key: np.full((rows, 3), rows, np.float16) for key, rows in (("a", 2), ("b", 4))}
    cache.fill(items, lambda keys: [items[key] for key in keys], 2, "", show_progress=False)
    states, mask = read_batch(cache, ["a", None, "b", "a"])
    assert states.dtype == torch.float16
    assert mask.dtype == torch.bool
    assert mask.tolist() == [True, False, True, True]
    assert states.shape == (4, 4, 3)
    assert states[:, :, 0].tolist() == [[2, 2, 0, 0], [0] * 4, [4] * 4, [2, 2, 0, 0]]
    assert read_batch(cache, ["a"])[0].shape == (1, 2, 3)
