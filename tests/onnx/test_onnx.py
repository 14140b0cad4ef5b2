import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hub_server import HubServer
from onnx import TensorProto, helper
from tiny_world import (
    LABELS,
    tiny_batch,
    tiny_method,
    tiny_model,
    tiny_picture,
    tiny_processor,
)
from transformers.dynamic_module_utils import get_relative_import_files

from modeling_hmgrl import ZeroShotTypingPipeline, lorentz
from modeling_hmgrl.baselines import METHODS
from modeling_hmgrl.onnx import export as onnx_export
from modeling_hmgrl.onnx import modeling_onnx as onnx_runner
from modeling_hmgrl.onnx.export import export_onnx, quantize_onnx
from modeling_hmgrl.onnx.modeling_onnx import MANIFEST, ONNXZeroShotTyping

METHOD_CASES = [(name, m.tasks[-1]) for name, m in METHODS.items() if name != "hmgrl"]
HEADS = ["samples", "label_encodings", "label_vectors", "scores"]
ENCODERS = ["text_encoder.onnx", "image_encoder.onnx"]
TEXTS = ["anna sees the fox", "the bus near boris", "chen sees the old oak today", "tea"]
MENTIONS = ["fox", "bus", "oak", "tea"]
PICTURES = [tiny_picture("animal"), None, tiny_picture("plant", 3), None]
INPUTS = [
    {"text": text, "mention": mention, "image": picture}
    for text, mention, picture in zip(TEXTS, MENTIONS, PICTURES, strict=True)
]


def trained(task="typing", **settings):
    """A model whose every part takes part in its scores, as after training."""
    model = tiny_model(task, **settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "text_model" in name or "vision_model" in name or "log_scale" in name:
                continue
            if name.endswith("log_c"):
                value.fill_(0.7)
            elif name.endswith("translation"):
                offset = torch.randn(len(value) - 1, generator=generator) * 0.1
                value.copy_(lorentz.expmap0(offset, model.config.squared_radius))
            else:
                value.add_(torch.randn(value.shape, generator=generator) * 0.05)
    model.config.seen_labels, model.config.calibration_gamma = LABELS[:4], 0.5
    return model


def processor_of(model):
    images = model.config.vision_config is not None
    return tiny_processor(model.config.task, use_images=images)


def logits(model, processor, batch, labels):
    """Scores by the contract that the pipeline uses, of torch's model or of the runner."""
    names = processor.encode_labels(labels)
    with torch.no_grad():
        image = model.encode_image(batch["pixel_values"]) if "pixel_values" in batch else None
        encoded = model.encode(
            batch["input_ids"], batch["attention_mask"], batch["span_positions"],
            image_features=image, image_mask=batch.get("image_mask"),
        )  # fmt: skip
        encodings = model.encode_labels(
            names["candidate_input_ids"], names["candidate_attention_mask"]
        )
        return model.score(encoded, model.prepare_labels(encodings))


def assert_equal(model, folder, sizes):
    """Compares torch and runner for (samples, with pictures or not, labels)."""
    processor, runner = processor_of(model), ONNXZeroShotTyping.from_pretrained(folder, threads=1)
    for batch_size, images, count in sizes:
        batch = tiny_batch(
            model.config.task, batch_size, batch_size, images=images, processor=processor
        )
        labels = [f"{LABELS[i % len(LABELS)]} {i % 7}" for i in range(count)]
        wanted = logits(model, processor, batch, labels)
        got = logits(runner, processor, batch, labels)
        assert got.shape == (batch_size, count)
        assert wanted.numel() == 1 or wanted.std() > 0.1
        # scores of geodesics are squared distances times 20: rounding alone is above 1e-4
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-6)


@pytest.fixture(scope="module")
def model():
    return trained()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """Folder of an export with pictures."""
    return export_onnx(model, processor_of(model), tmp_path_factory.mktemp("onnx") / "typing")


@pytest.fixture(scope="module")
def quantized(exported):
    folder = exported.parent / "quantized"
    shutil.copytree(exported, folder)
    quantize_onnx(folder)
    return folder


@pytest.fixture(scope="module")
def runner(exported):
    return ONNXZeroShotTyping.from_pretrained(exported, threads=1)


@pytest.fixture(scope="module")
def text_model():
    return trained(
        "relation",
        vision=False,
        score_function="geodesic",
        hvib_layer="fully_lorentz",
        hyperbolic_translation=True,
        squared_radius=2.0,
        residual_bottleneck=False,
        mask_padding=False,
    )


@pytest.fixture(scope="module")
def exported_text(text_model, tmp_path_factory):
    """Folder of an export of text alone, for relations, with the other settings."""
    folder = tmp_path_factory.mktemp("onnx") / "text"
    return export_onnx(text_model, processor_of(text_model), folder)


@pytest.fixture
def copy_of(tmp_path):
    """Copies a folder, so that it can be spoilt."""
    return lambda folder: Path(shutil.copytree(folder, tmp_path / "copy"))


# Equality with torch


def test_equal_with_pictures(model, exported):
    sizes = [(1, True, 1), (2, True, 6), (7, True, 300), (4, False, 3), (1, False, 6)]
    assert_equal(model, exported, sizes)


def test_equal_for_texts_alone(text_model, exported_text):
    # 600 labels: geodesic scores are taken by 256
    assert_equal(text_model, exported_text, [(1, False, 1), (2, False, 6), (7, False, 600)])


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("relation", {"paper": True, "hvib_layer": "euclidean"}),
        (
            "typing",
            {
                "score_function": "geodesic",
                "learnable_curvature": True,
                "span_pooling": "marker",
                "projection_size": 20,
            },
        ),
    ],
    ids=["paper", "curvature"],
)
def test_equal_for_other_settings(task, settings, model, exported, tmp_path, monkeypatch):
    """The encoders, which no setting changes, are those of the fixture."""
    other = trained(task, **settings)
    for part in ("text_model", "vision_model"):
        weights = getattr(model.hmgrl, part).state_dict()
        getattr(other.hmgrl, part).load_state_dict(weights)
    monkeypatch.setattr(onnx_export, "graph_names", lambda _: HEADS)
    folder = export_onnx(other, processor_of(other), tmp_path / "other")
    for name in ENCODERS:
        shutil.copy(exported / name, folder)
    assert_equal(other, folder, [(1, True, 1), (5, True, 6), (3, False, 2)])


def test_no_mask_counts_all_tokens(model, runner):
    batch = tiny_batch(batch_size=2, images=False)
    ids, spans = batch["input_ids"], batch["span_positions"]
    all_tokens = torch.ones_like(ids)
    with torch.no_grad():
        wanted = model.encode_labels(ids, all_tokens)
    torch.testing.assert_close(runner.encode_labels(ids), wanted, atol=1e-5, rtol=1e-5)
    without = runner.encode(ids, None, spans).samples
    assert torch.equal(without, runner.encode(ids, all_tokens, spans).samples)


def test_a_picture_that_is_masked_is_none(runner):
    batch = tiny_batch(batch_size=3)
    inputs = [batch[name] for name in ("input_ids", "attention_mask", "span_positions")]
    features = runner.encode_image(batch["pixel_values"])
    mask = torch.tensor([True, False, True])
    mixed = runner.encode(*inputs, features, mask).samples
    alone, every = runner.encode(*inputs).samples, runner.encode(*inputs, features).samples
    torch.testing.assert_close(mixed[1], alone[1])
    torch.testing.assert_close(mixed[[0, 2]], every[[0, 2]])
    assert not torch.allclose(mixed[0], alone[0], atol=1e-3)


# In the pipeline


def test_pipeline_predicts_as_with_torch(model, runner):
    processor = processor_of(model)
    torch_pipe = ZeroShotTypingPipeline(model=model, processor=processor, device="cpu")
    for pipe in (runner.pipeline(), ZeroShotTypingPipeline(model=runner, processor=processor)):
        for batch_size in (1, 2, 32):  # of 32, half are with pictures
            got = pipe(INPUTS, labels=LABELS, top_k=None, batch_size=batch_size)
            wanted = torch_pipe(INPUTS, labels=LABELS, top_k=None, batch_size=batch_size)
            for one, other in zip(got, wanted, strict=True):
                np.testing.assert_allclose(one.pop("scores"), other.pop("scores"), atol=1e-4)
                chances = one.pop("probabilities"), other.pop("probabilities")
                np.testing.assert_allclose(*chances, atol=1e-5)
                assert one == other
                assert [name for name, seen in zip(one["labels"], one["seen"], strict=True)
                        if not seen] != []  # fmt: skip
    assert len({one["label"] for one in wanted}) > 1


def test_pipeline_of_relations(text_model, exported_text):
    text = {"text": "anna feeds boris", "mention": ["anna", "boris"], "labels": LABELS}
    pipe = ONNXZeroShotTyping.from_pretrained(exported_text, threads=1).pipeline(top_k=2)
    wanted = ZeroShotTypingPipeline(
        model=text_model, processor=processor_of(text_model), device="cpu", top_k=2
    )(text)
    got = pipe(text)
    assert got["labels"] == wanted["labels"]
    np.testing.assert_allclose(got["scores"], wanted["scores"], rtol=1e-6)
    with pytest.raises(ValueError, match="image"):
        pipe({**text, "image": tiny_picture("animal")})


def test_label_cache_is_saved_and_loaded(runner, quantized, tmp_path):
    pipe = runner.pipeline()
    before = pipe(INPUTS[0], labels=LABELS)
    pipe.label_cache.save(tmp_path)
    again = ONNXZeroShotTyping.from_pretrained(runner.folder, threads=1).pipeline()
    again.label_cache.load(tmp_path)
    again.model.encode_labels = None  # not called any more
    assert again(INPUTS[0], labels=LABELS) == before
    other = ONNXZeroShotTyping.from_pretrained(quantized, threads=1).pipeline()
    with pytest.raises(ValueError, match="other weights"):
        other.label_cache.load(tmp_path)


# In 8 bits


def test_quantized_stays_close(model, exported, quantized):
    for name in ENCODERS:
        assert (quantized / name).stat().st_size < 0.8 * (exported / name).stat().st_size
    kinds = [value.data_type for value in onnx.load(quantized / ENCODERS[0]).graph.initializer]
    assert kinds.count(TensorProto.INT8) >= 12
    processor = processor_of(model)
    runner = ONNXZeroShotTyping.from_pretrained(quantized, threads=1)
    assert runner.manifest["quantized"]
    batch = tiny_batch(batch_size=8)
    wanted, got = (logits(one, processor, batch, LABELS) for one in (model, runner))
    assert 1e-4 < (got - wanted).abs().max() < 0.1 * (wanted.max() - wanted.min())
    with pytest.raises(ValueError, match=r"quantized: quantized already, expected .* float32"):
        quantize_onnx(quantized)


# What is written


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
    plain = onnx_export._plain(model)
    assert not plain.training
    assert {value.dtype for value in plain.parameters()} == {torch.float32}
    assert model.training
    assert torch.bfloat16 in {value.dtype for value in model.parameters()}
    ready = tiny_model()
    assert onnx_export._plain(ready) is ready


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


def test_labels_by_parts_are_refused(tmp_path):
    model = tiny_model("relation", label_parts=True)
    with pytest.raises(ValueError, match=r"model: compares labels by parts \(label_parts\)"):
        export_onnx(model, tiny_processor("relation"), tmp_path / "none")
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


# Errors


def test_texts_alone_take_no_pictures(exported_text):
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
            r"label_vectors\.onnx: takes \['samples', 'vectors'\] .* expected \['encodings'\]",
        ),
    ],
)
def test_spoilt_folders(spoil, error, message, exported, copy_of):
    folder = copy_of(exported)
    spoil(folder)
    with pytest.raises(error, match=message):
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
        expected = r'onnxruntime: not installed, expected .* pip install "hmgrl\[onnx\]"'
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


# Files of others


def graph_with(weight, operator="Add", domain=""):
    """A graph in the place of label_vectors.onnx that adds a weight of 32 numbers."""
    node = helper.make_node(operator, ["encodings", "weight"], ["vectors"], domain=domain)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["labels", 32])
        for name in ("encodings", "vectors")
    ]
    graph = helper.make_graph([node], "graph", ends[:1], ends[1:], [weight])
    opsets = [helper.make_opsetid("", 20)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def elsewhere(location):
    """A weight whose numbers lie in another file."""
    weight = TensorProto(
        name="weight", data_type=TensorProto.FLOAT, dims=[32], data_location=TensorProto.EXTERNAL
    )
    for key, value in (("location", location), ("offset", "0"), ("length", "128")):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    return weight


@pytest.mark.parametrize("way", ["up", "absolute", "link", "memory"])
def test_weights_outside_of_the_folder_are_not_read(way, exported, copy_of, tmp_path):
    folder, secret = copy_of(exported), tmp_path / "secret.bin"
    np.full(32, 7, np.float32).tofile(secret)
    (folder / "link.bin").symlink_to(secret)
    locations = {
        "up": "../secret.bin",
        "absolute": str(secret),
        "link": "link.bin",
        "memory": "*/_ORT_MEM_ADDR_/*",
    }
    onnx.save(graph_with(elsewhere(locations[way])), folder / "label_vectors.onnx")
    with pytest.raises(ValueError, match=r"label_vectors\.onnx: onnxruntime cannot use it"):
        ONNXZeroShotTyping.from_pretrained(folder)


def test_operators_of_others_are_not_run(exported, copy_of):
    folder = copy_of(exported)
    weight = onnx.numpy_helper.from_array(np.ones(32, np.float32), "weight")
    onnx.save(graph_with(weight, "Shell", "evil"), folder / "label_vectors.onnx")
    with pytest.raises(ValueError, match=r"cannot use it .*evil"):
        ONNXZeroShotTyping.from_pretrained(folder)
    onnx.save(graph_with(weight), folder / "label_vectors.onnx")  # else it would have been used
    runner = ONNXZeroShotTyping.from_pretrained(folder)
    assert torch.equal(runner.prepare_labels(torch.zeros(1, 32)), torch.ones(1, 32))


def test_code_beside_the_graphs_is_not_run(exported, copy_of, tmp_path):
    folder, mark = copy_of(exported), tmp_path / "executed"
    (folder / "trap.py").write_text(
        f"from pathlib import Path\nPath({str(mark)!r}).touch()\nclass Trap:\n    pass\n"
    )
    traps = dict.fromkeys(("AutoConfig", "AutoProcessor", "AutoImageProcessor"), "trap.Trap")
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        content = json.loads((folder / name).read_text())
        for part in (content, *(v for v in content.values() if isinstance(v, dict))):
            part["auto_map"] = traps | {"AutoTokenizer": ["trap.Trap", "trap.Trap"]}
        if "image_processor" in content:  # a class that only the folder has
            content["image_processor"]["image_processor_type"] = "Trap"
        (folder / name).write_text(json.dumps(content))
    runner = ONNXZeroShotTyping.from_pretrained(folder, threads=1)
    with pytest.raises(ValueError, match="contains custom code"):
        runner.pipeline()
    assert not mark.exists()


HUB = """
import json, sys
from pathlib import Path
from huggingface_hub import HfApi
from modeling_hmgrl.onnx.modeling_onnx import ONNXZeroShotTyping
folder, api = Path(sys.argv[1]), HfApi()
api.create_repo("me/model", private=True)
url = api.upload_folder(repo_id="me/model", folder_path=str(folder), path_in_repo="onnx")
api.create_tag("me/model", tag="v1", revision=url.oid)
for name in ("trap.py", "onnx/trap.py", "onnx/weights.bin", "onnx/deep/more.json", "other.onnx"):
    api.upload_file(repo_id="me/model", path_or_fileobj=b"raise", path_in_repo=name)
load = ONNXZeroShotTyping.from_pretrained
runner = load("me/model", subfolder="onnx", threads=1)
files = sorted(str(path.relative_to(runner.folder.parent))
               for path in runner.folder.parent.rglob("*") if path.is_file())
tagged = load("me/model", subfolder="onnx", revision="v1", token="x")
result = tagged.pipeline()("anna sees the fox", mention="fox", labels=["animal", "tool"])
errors = {}
for name, options in {
    "root": {}, "revision": {"subfolder": "onnx", "revision": "v7"},
    "token": {"subfolder": "onnx", "token": "wrong", "cache_dir": f"{folder}-other"},
}.items():
    try:
        load("me/model", **options)
    except OSError as error:
        errors[name] = type(error).__name__
print(json.dumps([files, result["scores"], errors]))
"""


def test_from_the_hub(runner, exported, tmp_path):
    with HubServer() as server:
        last = server.run_client(HUB, exported, tmp_path / "home")
    files, scores, errors = json.loads(last)
    assert files == sorted(f"onnx/{path.name}" for path in exported.iterdir())
    wanted = runner.pipeline()("anna sees the fox", mention="fox", labels=["animal", "tool"])
    assert scores == pytest.approx(wanted["scores"], abs=1e-5)
    assert errors == {
        "root": "FileNotFoundError",
        "revision": "RevisionNotFoundError",
        "token": "HfHubHTTPError",
    }
