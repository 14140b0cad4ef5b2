"""Errors of the runner name the file or argument."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx_world import processor_of
from tiny_world import tiny_batch, tiny_tokenizer
from transformers.dynamic_module_utils import get_relative_import_files

from modeling_hmgrl.onnx import modeling_onnx as onnx_runner
from modeling_hmgrl.onnx.export import export_onnx, quantize_onnx
from modeling_hmgrl.onnx.modeling_onnx import MANIFEST, ONNXZeroShotTyping


def test_a_text_only_model_takes_no_images(exported_text):
    runner = ONNXZeroShotTyping.from_pretrained(exported_text, threads=1)
    with pytest.raises(ValueError, match="pixel_values: this model has no image encoder"):
        runner.encode_image(torch.zeros(1, 3, 32, 32))
    batch = tiny_batch("relation", images=False)
    inputs = [batch[name] for name in ("input_ids", "attention_mask", "span_positions")]
    with pytest.raises(ValueError, match="image_features: this model has no image encoder"):
        runner.encode(*inputs, torch.zeros(4, 17, 24))
    with pytest.raises(ValueError, match=r"span_positions: got shape \(4, 1, 2\), expected \(B, 2"):
        runner.encode(*inputs[:2], inputs[2][:, :1])
    with pytest.raises(ValueError, match="got no labels, expected at least one"):
        runner.encode_labels(torch.zeros(0, 3, dtype=torch.long))


def spoil_manifest(folder, content):
    (folder / MANIFEST).write_text(content)


def swap_graphs(folder):
    shutil.copy(folder / "scores.onnx", folder / "label_vectors.onnx")


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda f: (f / MANIFEST).unlink(), FileNotFoundError, r"holds no onnx\.json, expected a"),
        (lambda f: spoil_manifest(f, "{"), ValueError, r"onnx\.json: damaged .* expected JSON"),
        (lambda f: spoil_manifest(f, "[" * 9999), ValueError, r"onnx\.json: damaged"),
        (lambda f: spoil_manifest(f, "[]"), ValueError, r"'format_version': got None, expected 1"),
        (
            lambda f: spoil_manifest(f, '{"format_version": 2}'),
            ValueError,
            r"got 2, expected 1; export the model again",
        ),
        (lambda f: (f / "scores.onnx").unlink(), FileNotFoundError, r"scores\.onnx: no such file"),
        (
            lambda f: (f / "scores.onnx").write_bytes(b"no graph"),
            ValueError,
            r"scores\.onnx: onnxruntime cannot use it",
        ),
        (
            swap_graphs,
            ValueError,
            r"label_vectors\.onnx: has inputs \['samples', 'vectors'\] .* expected \['encodings'\]",
        ),
    ],
)
def test_spoilt_folders(spoil, error, message, exported, copy_of):
    folder = copy_of(exported)
    spoil(folder)
    with pytest.raises(error, match=message):
        ONNXZeroShotTyping.from_pretrained(folder)


def spoil_weights(file):
    """Makes all weights of a graph infinite."""
    graph = onnx.load(file)
    for weight in graph.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            values = np.full_like(onnx.numpy_helper.to_array(weight), np.inf)
            weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(graph, file)


@pytest.mark.parametrize("graph", ["text_encoder", "image_encoder", "samples", "label_vectors"])
def test_weights_that_are_not_finite_are_named(graph, exported, copy_of):
    folder = copy_of(exported)
    spoil_weights(folder / f"{graph}.onnx")
    message = rf"{graph}\.onnx: the output .* NaN or infinite .* weights are not finite \(\w"
    with pytest.raises(ValueError, match=message):
        ONNXZeroShotTyping.from_pretrained(folder)


def test_a_row_of_an_embedding_that_is_not_finite_is_found_when_it_is_read(exported, copy_of):
    folder = copy_of(exported)
    file, size = folder / "text_encoder.onnx", len(tiny_tokenizer()) + 4
    graph = onnx.load(file)
    [table] = [weight for weight in graph.graph.initializer if weight.dims[:1] == [size]]
    values = onnx.numpy_helper.to_array(table).copy()
    values[-1] = np.nan  # the last marker
    table.CopyFrom(onnx.numpy_helper.from_array(values, table.name))
    onnx.save(graph, file)
    runner = ONNXZeroShotTyping.from_pretrained(folder, threads=1)
    with pytest.raises(FloatingPointError, match=r"text_encoder\.onnx: the output 'states'"):
        runner.encode_labels(torch.tensor([[size - 1]]))


def test_a_graph_that_lacks_a_weight_is_refused(exported, copy_of):
    folder = copy_of(exported)
    graph = onnx.load(folder / "samples.onnx")
    lost = graph.graph.initializer.pop().name
    onnx.save(graph, folder / "samples.onnx")
    with pytest.raises(ValueError, match=rf"samples\.onnx: onnxruntime cannot use it .*{lost}"):
        ONNXZeroShotTyping.from_pretrained(folder)


def test_graphs_that_do_not_fit_together_are_refused(exported, exported_text, copy_of):
    folder = copy_of(exported)
    shutil.copy(exported_text / "label_vectors.onnx", folder / "label_vectors.onnx")
    with pytest.raises(ValueError, match="the graphs cannot be used"):
        ONNXZeroShotTyping.from_pretrained(folder)


def test_an_absurd_configuration_is_refused(exported, copy_of):
    folder = copy_of(exported)
    content = json.loads((folder / "config.json").read_text())
    content["vision_config"]["image_size"] = 200_000
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"vision_config\.image_size: got 200000"):
        ONNXZeroShotTyping.from_pretrained(folder)


def test_wrong_arguments(exported, tmp_path):
    load = ONNXZeroShotTyping.from_pretrained
    with pytest.raises(FileNotFoundError, match="absent: no such folder, expected one, or a name"):
        load(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"providers: got \['Abacus'\], expected some of"):
        load(exported, providers=["Abacus"])
    with pytest.raises(ValueError, match="threads: got 0, expected 1 or more"):
        load(exported, threads=0)


def test_libraries_that_are_missing_are_named(exported, model, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)
        expected = r'onnxruntime: not installed, required .* pip install "hmgrl\[onnx\]"'
        with pytest.raises(ImportError, match=expected):
            ONNXZeroShotTyping.from_pretrained(exported)
        with pytest.raises(ImportError, match=expected):
            quantize_onnx(exported)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxscript", None)
        with pytest.raises(ImportError, match="onnxscript: not installed"):
            export_onnx(model, processor_of(model), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    monkeypatch.setattr("onnxruntime.__version__", "1.23.2")
    with pytest.raises(ImportError, match=r"onnxruntime: got 1\.23\.2, expected 1\.24 or later"):
        ONNXZeroShotTyping.from_pretrained(exported)


def test_the_runner_needs_no_modeling_code():
    # no import of the runner's own names the modeling code, nor does any file that these import
    root = Path(onnx_runner.__file__).parents[1]
    named = re.findall(r"^from \.\.(\w+) import", Path(onnx_runner.__file__).read_text(), re.M)
    needed = set(named)
    for name in named:
        needed |= {Path(file).stem for file in get_relative_import_files(root / f"{name}.py")}
    assert {"pipeline_hmgrl", "processing_hmgrl"} < needed
    assert not needed & {"modeling_hmgrl", "encoders", "variational", "scoring", "lorentz"}
