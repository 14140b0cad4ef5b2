"""Models to export, and comparisons of an export with torch."""

import torch
from tiny_world import LABELS, tiny_batch, tiny_model, tiny_picture, tiny_processor

from modeling_hmgrl import lorentz
from modeling_hmgrl.onnx.modeling_onnx import ONNXZeroShotTyping

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
