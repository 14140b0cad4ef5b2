"""Exported graphs of encoders with their own kind of positions or tokens, against torch."""

import pytest
import torch
from encoder_world import SMALL, text_folder, vision_folder

from modeling_hmgrl import HMGRLForZeroShotTyping, HMGRLProcessor
from modeling_hmgrl.onnx import export
from modeling_hmgrl.onnx.modeling_onnx import IMAGE_ENCODER, TEXT_ENCODER

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow


def graph_of(name, text, vision, folder, path):
    """Exports one graph of a model; returns its step in torch and a session of its runtime."""
    names = [text_folder(text, folder), vision and vision_folder(vision, folder)]
    processor = HMGRLProcessor.from_backbones(*names, max_length=64)
    model = HMGRLForZeroShotTyping.from_backbones(*names, processor=processor, **SMALL)
    examples, dims = export._examples(model, processor)[name], export._dims(model, processor)
    step = export._Graph(model, export._STEPS[name]).eval()
    shapes = {key: dims[key] for key in examples}
    export._export(step, examples, shapes, export.GRAPHS[name][1], export.OPSET).save(path)
    session = onnxruntime.InferenceSession(path)

    def run(**inputs):
        [found] = session.run(None, {key: value.numpy() for key, value in inputs.items()})
        with torch.no_grad():
            return torch.from_numpy(found), step(*inputs.values())

    return run


@pytest.mark.parametrize("family", ["mpnet", "modernbert", "xlm-r", "deberta-v3", "clip"])
def test_text_encoders(family, folder, tmp_path):
    run = graph_of(TEXT_ENCODER, family, None, folder, tmp_path / "graph.onnx")
    generator = torch.Generator().manual_seed(0)
    for batch, tokens in ((1, 5), (3, 17), (2, 64)):
        ids = torch.randint(8, 90, (batch, tokens), generator=generator)
        mask = torch.ones_like(ids)
        mask[-1, tokens - 2 :] = 0
        got, wanted = run(input_ids=ids, attention_mask=mask)
        torch.testing.assert_close(got[mask.bool()], wanted[mask.bool()], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["dinov2-registers", "clip", "siglip"])
def test_image_encoders(family, folder, tmp_path):
    run = graph_of(IMAGE_ENCODER, "bert", family, folder, tmp_path / "graph.onnx")
    generator = torch.Generator().manual_seed(0)
    for batch in (1, 4):
        got, wanted = run(pixel_values=torch.randn(batch, 3, 32, 32, generator=generator))
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
