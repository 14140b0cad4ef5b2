"""Checkpoints that lack weights, or hold others than the model's, are refused with their names."""

import json
import math
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_world import (
    save_backbones,
    tiny_method,
    tiny_model,
    tiny_pipeline,
    tiny_processor,
)
from transformers import AutoModel, BertModel, pipeline

from modeling_hmgrl import HMGRLForZeroShotTyping, HMGRLModel, LabelCache
from modeling_hmgrl.baselines import METHODS
from modeling_hmgrl.explanation.prototypes import Prototypes
from modeling_hmgrl.pipeline_hmgrl import TASK

WEIGHT = "hmgrl.fusion.key.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checks") / "model"
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder, load_file(folder / "model.safetensors")


def rewritten(saved, tmp_path, **changed):
    """A copy with other weights; None removes one."""
    folder, state = saved
    copy = shutil.copytree(folder, tmp_path / "copy")
    state = {name: value for name, value in (state | changed).items() if value is not None}
    save_file(state, copy / "model.safetensors", {"format": "pt"})
    return copy


def spoilt(value, bad):
    value = value.clone()
    value.view(-1)[-1] = bad
    return value


WAYS = {
    "class": HMGRLForZeroShotTyping.from_pretrained,
    "auto class": AutoModel.from_pretrained,
    "pipeline": lambda folder: pipeline(TASK, model=str(folder)),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_missing_weights_are_refused_however_a_model_is_loaded(way, saved, tmp_path):
    names = sorted(saved[1])[::3]
    folder = rewritten(saved, tmp_path, **dict.fromkeys(names))
    total = len(saved[1])
    with pytest.raises(ValueError, match=rf"{len(names)} of {total} weights \({names[0]}, .*, …\)"):
        way(folder)


SPOILT = {
    "missing": (lambda value: None, rf"1 of \d+ weights \({WEIGHT}\) is missing"),
    "NaN": (lambda value: spoilt(value, math.nan), rf"\({WEIGHT}\) is not finite"),
    "infinite": (lambda value: spoilt(value, -math.inf), rf"\({WEIGHT}\) is not finite"),
    "shape": (lambda value: value[:5].clone(), r"key.weight \(5 x 32 instead of 32 x 32\)\) is of"),
    "integer": (lambda value: value.to(torch.int8), r"key.weight \(I8\)\) is of another type"),
    "complex": (lambda value: value.to(torch.complex64), r"key.weight \(C64\)\) is of another"),
    "8-bit": (lambda value: value.to(torch.float8_e4m3fn), r"\(F8_E4M3\)\) is of another type"),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILT.values(), ids=SPOILT)
def test_a_spoilt_weight_is_named(spoil, message, saved, tmp_path):
    folder = rewritten(saved, tmp_path, **{WEIGHT: spoil(saved[1][WEIGHT])})
    with pytest.raises(ValueError, match=message):
        HMGRLForZeroShotTyping.from_pretrained(folder)


def test_an_integer_in_an_encoder_whose_names_differ_in_files_is_refused(saved, tmp_path):
    name = "hmgrl.vision_model.embeddings.patch_embeddings.projection.bias"
    folder = rewritten(saved, tmp_path, **{name: saved[1][name].to(torch.int32)})
    with pytest.raises(ValueError, match=r"projection\.bias \(I32\)"):
        HMGRLForZeroShotTyping.from_pretrained(folder)


def test_a_damaged_file_is_named(saved, tmp_path):
    folder = shutil.copytree(saved[0], tmp_path / "copy")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-8])
    with pytest.raises(ValueError, match=r"model\.safetensors: the weights are damaged"):
        HMGRLForZeroShotTyping.from_pretrained(folder)


def test_mismatched_sizes_are_ignored_where_asked_for(saved, tmp_path):
    folder = rewritten(saved, tmp_path, **{WEIGHT: saved[1][WEIGHT][:5].clone()})
    model = HMGRLForZeroShotTyping.from_pretrained(folder, ignore_mismatched_sizes=True)
    assert model.hmgrl.fusion.key.weight.shape == (32, 32)
    folder = rewritten(saved, tmp_path / "missing", **{WEIGHT: None})
    with pytest.raises(ValueError, match="is missing"):
        HMGRLForZeroShotTyping.from_pretrained(folder, ignore_mismatched_sizes=True)


def test_every_other_way_to_load_whole_weights_is_open(saved, tmp_path):
    folder, state = saved
    assert HMGRLModel.from_pretrained(folder) is not None  # a part of the file
    half = tiny_model().half()
    half.save_pretrained(tmp_path / "half")
    assert HMGRLForZeroShotTyping.from_pretrained(tmp_path / "half") is not None
    tiny_model().save_pretrained(tmp_path / "shards", max_shard_size="20kB")
    assert HMGRLForZeroShotTyping.from_pretrained(tmp_path / "shards") is not None
    config = tiny_model().config
    model = HMGRLForZeroShotTyping.from_pretrained(None, config=config, state_dict=dict(state))
    assert torch.equal(model.hmgrl.fusion.key.weight, state[WEIGHT])
    del state[WEIGHT]
    with pytest.raises(ValueError, match=rf"state_dict: .*{WEIGHT}\) is missing"):
        HMGRLForZeroShotTyping.from_pretrained(None, config=config, state_dict=state)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_loads_whole_and_refuses_missing_weights(name, tmp_path):
    method = METHODS[name]
    task = "typing" if "typing" in method.tasks else "relation"
    tiny_method(name, task).save_pretrained(tmp_path)
    assert method.from_pretrained(tmp_path) is not None
    state = load_file(tmp_path / "model.safetensors")
    lost = next(key for key in state if "text_model" in key)
    del state[lost]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="is missing"):
        method.from_pretrained(tmp_path)


def test_encoders_of_a_plain_checkpoint(tmp_path):
    text, vision = save_backbones(tmp_path)
    sizes = {"bottleneck_size": 12, "generator_latent_size": 10}
    assert HMGRLForZeroShotTyping.from_backbones(text, vision, **sizes) is not None
    path = tmp_path / "tiny-text" / "model.safetensors"
    state = load_file(path)
    # the pooling layer is not used, and early versions of BERT stored their positions
    plain = {key: value for key, value in state.items() if "pooler" not in key}
    plain["embeddings.position_ids"] = torch.arange(128).unsqueeze(0)
    save_file(plain, path, {"format": "pt"})
    assert (
        type(HMGRLForZeroShotTyping.from_backbones(text, **sizes).encoders.text_model) is BertModel
    )
    name = "encoder.layer.1.output.dense.weight"
    for changed, message in (
        ({key: value for key, value in plain.items() if key != name}, "is missing"),
        (plain | {name: plain[name][:3].clone()}, "is of another shape"),
        (plain | {name: spoilt(plain[name], math.nan)}, "is not finite"),
    ):
        save_file(changed, path, {"format": "pt"})
        with pytest.raises(ValueError, match=rf"encoder '.*\({name}.*\) {message}"):
            HMGRLForZeroShotTyping.from_backbones(text, vision, **sizes)


def changed_store(file, **tensors):
    """Rewrites tensors of a store and keeps what ties its two files together."""
    with safe_open(file, framework="pt") as content:
        metadata = content.metadata()
    save_file(load_file(file) | tensors, file, metadata)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda value: spoilt(value, math.nan), r"\(vectors\) is not finite"),
        (
            lambda value: value[:1].clone(),
            r"vectors is torch.float32 of shape \(1, \d+\), expected",
        ),
        (lambda value: value.to(torch.int32), "vectors is torch.int32"),
        (lambda value: value[:, :3].clone(), r"shape \(2, 3\), expected"),
    ],
)
def test_stores_refuse_spoilt_vectors(spoil, message, tmp_path):
    pipe = tiny_pipeline(vision=False)
    cache = LabelCache(pipe.model, pipe.processor)
    cache.vectors(["animal", "tool"])
    cache.save(tmp_path / "labels")
    prototypes = Prototypes.of(pipe, [
        {"text": "the fox", "mention": "fox", "label": "animal"},
        {"text": "the saw", "mention": "saw", "label": "tool"},
    ])  # fmt: skip
    prototypes.save(tmp_path / "samples")
    files = [
        (tmp_path / "labels" / "label_vectors.safetensors", cache.load),
        (tmp_path / "samples" / "prototypes.safetensors", lambda f: Prototypes.load(pipe, f)),
    ]
    for file, load in files:
        load(file.parent)
        changed_store(file, vectors=spoil(load_file(file)["vectors"]))
        with pytest.raises(ValueError, match=message):
            load(file.parent)


def test_a_store_without_an_object_is_damaged(tmp_path):
    pipe = tiny_pipeline(vision=False)
    pipe.label_cache.vectors(["animal"])
    pipe.label_cache.save(tmp_path)
    (tmp_path / "labels.json").write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="do not match"):
        pipe.label_cache.load(tmp_path)
