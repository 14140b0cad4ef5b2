"""What an export writes, and which models it refuses."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx_world import processor_of
from tiny_world import tiny_method, tiny_model, tiny_processor

from modeling_hmgrl.baselines import METHODS
from modeling_hmgrl.onnx import export as onnx_export
from modeling_hmgrl.onnx import modeling_onnx as onnx_runner
from modeling_hmgrl.onnx.export import export_onnx
from modeling_hmgrl.onnx.modeling_onnx import MANIFEST, ONNXZeroShotTyping

METHOD_CASES = [(name, m.tasks[-1]) for name, m in METHODS.items() if name != "hmgrl"]


def test_files_say_nothing_of_this_machine_and_carry_no_code(exported):
    names = sorted(path.name for path in exported.iterdir())
    graphs = [f"{name}.onnx" for name in onnx_runner.GRAPHS]
    settings = ["config.json", MANIFEST, "processor_config.json", "tokenizer.json"]
    assert names == sorted([*graphs, *settings, "tokenizer_config.json"])
    for path in exported.iterdir():
        content = path.read_bytes()
        for place in (Path(onnx_export.__file__).parent.parent, sys.prefix, exported):
            assert str(place).encode() not in content, path
    assert "auto_map" not in json.loads((exported / "config.json").read_text())


def test_manifest(exported_text):
    content = json.loads((exported_text / MANIFEST).read_text())
    assert content.pop("versions").keys() == {"torch", "transformers", "onnx"}
    assert content == {
        "format_version": 1, "opset": 23, "task": "relation", "images": False, "quantized": False,
    }  # fmt: skip
    assert not (exported_text / "image_encoder.onnx").exists()


def test_no_weights_are_written_twice(exported, model):
    found = {}
    for path in exported.glob("*.onnx"):
        for value in onnx.load(path).graph.initializer:
            if np.prod(value.dims) > 64:
                array = np.sort(onnx.numpy_helper.to_array(value).ravel())  # however it lies
                found.setdefault(hashlib.sha256(array.tobytes()).hexdigest(), []).append(path.stem)
    assert all(len(places) == 1 for places in found.values())
    assert found
    size = sum(path.stat().st_size for path in exported.glob("*.onnx"))
    unused = sum(p.numel() for p in model.hmcvae.parameters())
    assert size < 4 * (sum(p.numel() for p in model.parameters()) - unused) + 100_000


def test_axes_are_open_and_named(exported):
    def axes(value):
        return [one.dim_param or one.dim_value for one in value.type.tensor_type.shape.dim]

    graph = onnx.load(exported / "samples.onnx").graph
    assert {value.name: axes(value) for value in graph.input} == {
        "states": ["batch", "tokens", 32],
        "span_positions": ["batch", 1, 2],
        "attention_mask": ["batch", "tokens"],
        "image_states": ["batch", "patches", 24],
        "image_mask": ["batch"],
    }
    graph = onnx.load(exported / "scores.onnx").graph
    assert axes(graph.output[0]) == ["batch", "labels"]


def test_a_model_is_exported_in_float32_and_left_as_it_is():
    model = tiny_model().to(torch.bfloat16).train()
    plain = onnx_export._prepared(model)
    assert not plain.training
    assert {value.dtype for value in plain.parameters()} == {torch.float32}
    assert model.training
    assert torch.bfloat16 in {value.dtype for value in model.parameters()}
    ready = tiny_model()
    assert onnx_export._prepared(ready) is ready


def test_export_does_not_replace_a_model(tmp_path):
    model, processor = tiny_model(), tiny_processor()
    model.save_pretrained(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ValueError, match=r"holds a model of torch.*expected another folder"):
        export_onnx(model, processor, tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize(("name", "task"), METHOD_CASES)
def test_other_methods_are_refused(name, task, tmp_path):
    model, processor = tiny_method(name, task), tiny_processor(task)
    expected = f"model: got the method '{model.config.model_type}', expected 'hmgrl'"
    with pytest.raises(ValueError, match=expected):
        export_onnx(model, processor, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_opset_that_torch_does_not_write(tmp_path):
    with pytest.raises(ValueError, match="opset: got 17, expected 18 or later"):
        export_onnx(tiny_model(), tiny_processor(), tmp_path / "none", opset=17)
    assert not (tmp_path / "none").exists()


def test_an_export_that_fails_leaves_nothing_that_loads(exported, model, copy_of, monkeypatch):
    folder = copy_of(exported)
    monkeypatch.setattr(onnx_export, "_MAX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"text_encoder\.onnx: weights of .* one file can hold"):
        export_onnx(model, processor_of(model), folder)
    with pytest.raises(FileNotFoundError, match=f"holds no {MANIFEST}"):
        ONNXZeroShotTyping.from_pretrained(folder)
