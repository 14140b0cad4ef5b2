"""Exported models compute what torch computes."""

import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from onnx_world import INPUTS, assert_equal, logits, processor_of, trained
from tiny_world import LABELS, tiny_batch, tiny_picture

from modeling_hmgrl import ZeroShotTypingPipeline
from modeling_hmgrl.onnx import export as onnx_export
from modeling_hmgrl.onnx.export import export_onnx, quantize_onnx
from modeling_hmgrl.onnx.modeling_onnx import ONNXZeroShotTyping

HEADS = ["samples", "label_encodings", "label_vectors", "scores"]
ENCODERS = ["text_encoder.onnx", "image_encoder.onnx"]

# Equality with torch


def test_equal_with_images(model, exported):
    sizes = [(1, True, 1), (2, True, 6), (7, True, 300), (4, False, 3), (1, False, 6)]
    assert_equal(model, exported, sizes)


def test_equal_for_text_only(text_model, exported_text):
    # 600 labels: geodesic scores are taken by 256
    assert_equal(text_model, exported_text, [(1, False, 1), (2, False, 6), (7, False, 600)])


def test_labels_by_parts_are_encoded_as_by_torch(text_model, exported_text):
    assert text_model.config.label_parts, "the default for relations"
    texts = ["anna; feeds the hen; boris", "anna feeds boris", "hen; likes; anna", "a; b"]
    labels = processor_of(text_model).encode_labels(texts)
    given = labels["candidate_input_ids"], labels["candidate_attention_mask"]
    with torch.no_grad():
        expected = text_model.encode_labels(*given)
        vectors = text_model.prepare_labels(expected)
    runner = ONNXZeroShotTyping.from_pretrained(exported_text, threads=1)
    found = runner.encode_labels(*given)
    assert found.shape == (4, text_model.config.label_width)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(runner.prepare_labels(found), vectors, rtol=1e-4, atol=1e-4)
    head, tail, _ = found.chunk(3, dim=1)
    assert not torch.allclose(head[0], tail[0])
    assert torch.equal(head[1], tail[1]), "a text without parts is compared as a whole"


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


def test_an_image_that_is_masked_is_none(runner):
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
