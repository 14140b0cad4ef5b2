"""Models on the image encoders of every family, and on whole checkpoints of CLIP and SigLIP."""

import pytest
import torch
import transformers as hf
from encoder_world import (
    SMALL,
    VISION,
    both_folder,
    changed_by_a_step,
    image_processor,
    pipeline_of,
    text_folder,
    vision_folder,
)
from PIL import Image
from tiny_world import LABELS, tiny_batch, tiny_picture

from modeling_hmgrl import HMGRLForZeroShotTyping, HMGRLProcessor
from modeling_hmgrl.backbones import prefix_tokens, pretrained_encoder
from modeling_hmgrl.baselines import METHODS
from modeling_hmgrl.explanation import explain

FAMILIES = pytest.mark.parametrize("family", VISION)
INPUT = {"text": "anna sees the fox today", "mention": "fox"}


def make(family, folder, method="hmgrl", image=None, text="bert", length=64, **settings):
    text = text_folder(text, folder) if "/" not in text else text
    image = image or vision_folder(family, folder)
    processor = HMGRLProcessor.from_backbones(text, image, max_length=length)
    torch.manual_seed(0)
    if method == "hmgrl":
        settings = SMALL | settings
    model = METHODS[method].from_backbones(text, image, processor=processor, **settings)
    return model, processor


def awake(model):
    """Gives images an effect, which they have after training only."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.encoders.image_projection.weight.normal_(0, 0.3, generator=generator)
    return model


def scores(pipe, image):
    found = pipe(INPUT | {"image": image}, labels=LABELS, top_k=None)
    by_name = dict(zip(found["labels"], found["scores"], strict=True))
    return torch.tensor([by_name[label] for label in LABELS])


SETTINGS = {
    "frozen": {},
    "trained": {"freeze_vision": False},
    "checkpointing": {"freeze_vision": False},
    "bfloat16": {"freeze_vision": False},
}


@FAMILIES
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_training_step_and_a_prediction(family, setting, folder):
    model, processor = make(family, folder, **SETTINGS[setting])
    awake(model)
    if setting == "checkpointing":
        model.activation_checkpointing_enable({"use_reentrant": False})
    batch = tiny_batch(processor=processor)
    changed = changed_by_a_step(model, batch, setting == "bfloat16")
    vision = {n for n, _ in model.named_parameters() if ".vision_model." in n}
    if setting == "frozen":
        assert not vision & changed
    elif setting == "trained":
        unused = {
            n
            for n in vision - changed
            if "mask_token" not in n and "k_proj.bias" not in n and "key.bias" not in n
        }
        assert not unused, "every weight of an image encoder that is trained takes part"
    if setting == "bfloat16":
        model = model.to(torch.bfloat16)
    found = pipeline_of(model, processor)(INPUT | {"image": tiny_picture("animal")}, labels=LABELS)
    assert found["label"] in LABELS


@FAMILIES
@pytest.mark.parametrize("size", [(32, 32), (90, 50), (20, 60)])
def test_a_saved_model_predicts_the_same(family, size, folder, tmp_path):
    model, processor = make(family, folder)
    pipe = pipeline_of(awake(model), processor)
    image = tiny_picture("animal", size=size)
    wanted = scores(pipe, image)
    pipe.save_pretrained(tmp_path)
    loaded, info = HMGRLForZeroShotTyping.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    again = pipeline_of(loaded, HMGRLProcessor.from_pretrained(tmp_path))
    torch.testing.assert_close(scores(again, image), wanted)
    assert not torch.allclose(wanted, scores(pipe, tiny_picture("plant", size=size)))


@FAMILIES
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_implementations_agree(family, attention, folder, tmp_path):
    model, processor = make(family, folder)
    image = tiny_picture("animal")
    wanted = scores(pipeline_of(awake(model), processor), image)
    model.save_pretrained(tmp_path)
    loaded = HMGRLForZeroShotTyping.from_pretrained(tmp_path, attn_implementation=attention)
    found = scores(pipeline_of(loaded, processor), image)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@FAMILIES
def test_tokens_before_the_patches(family, folder):
    model, processor = make(family, folder)
    prefix = VISION[family][1]
    assert prefix_tokens(model.config.vision_config) == prefix
    pixels = processor.encode_images([tiny_picture("animal")], 1)["pixel_values"]
    assert model.encode_image(pixels).shape == (1, prefix + 16, 24)


@FAMILIES
def test_the_heatmap_shows_patches_alone(family, folder):
    model, processor = make(family, folder)
    with torch.no_grad():
        model.hmgrl.fusion.query.weight.normal_(0, 1.0)
    pipe = pipeline_of(awake(model), processor)
    image = tiny_picture("animal", size=(64, 32))
    found = explain(pipe, INPUT | {"image": image}, LABELS)
    assert found.image.shape == (4, 4)
    batch = processor([INPUT["text"]], [[(14, 17)]], [image])
    encoded = model.encode(**batch)
    weights = encoded.attention[0, batch["input_ids"].shape[1] :].detach()
    prefix = VISION[family][1]
    torch.testing.assert_close(
        torch.as_tensor(found.image).flatten().float(), weights[prefix:].float()
    )
    assert found.image_class == pytest.approx(float(weights[:prefix].sum()), abs=1e-6)
    crops = family == "clip" or family.startswith("dinov2")
    assert (found.image_box != (0, 0, 64, 32)) == crops
    if family == "clip":  # the shorter edge fills the crop
        assert found.image_box == pytest.approx((16, 0, 48, 32))


@FAMILIES
def test_regions_of_movcnet_are_patches(family, folder):
    model, processor = make(family, folder, "movcnet")
    states = torch.randn(2, VISION[family][1] + 16, 32)
    found = model.regions(states)
    patches = states[:, VISION[family][1] :]
    assert found.shape == (2, 16, 32)
    for row in range(2):
        assert {tuple(v.tolist()) for v in found[row]} == {tuple(v.tolist()) for v in patches[row]}
    model.eval()(**tiny_batch(processor=processor, generator=False))


@FAMILIES
@pytest.mark.parametrize("side", [24, 48, 44])
def test_images_of_another_size_interpolate_the_positions(family, side, folder, tmp_path):
    processor = image_processor(family)
    size = {"height": side, "width": side}
    processor.size = size if "height" in dict(processor.size) else {"shortest_edge": side}
    processor.crop_size = size
    source = vision_folder(family, folder)
    pretrained_encoder(source, "image").save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    model, made = make(family, folder, image=str(tmp_path))
    pixels = made.encode_images([tiny_picture("animal", size=(60, 50))], 1)["pixel_values"]
    assert pixels.shape == (1, 3, side, side)
    rows = side // 8
    assert model.encode_image(pixels).shape[1] == VISION[family][1] + rows * rows
    found = explain(pipeline_of(model, made), INPUT | {"image": tiny_picture("animal")}, LABELS)
    assert found.image.shape == (rows, rows)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_the_vision_tower_of_a_whole_checkpoint(family, folder):
    whole = both_folder(family, folder)
    tower = pretrained_encoder(whole, "image")
    assert tower.config.model_type == f"{family}_vision_model"
    expected = hf.AutoModel.from_pretrained(whole).eval()
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = expected.vision_model(pixel_values=pixels).last_hidden_state
        got = tower.eval()(pixel_values=pixels).last_hidden_state
        taken = pretrained_encoder(expected, "image")(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(taken, wanted)
    model, processor = make(family, folder, image=whole)
    pipe = pipeline_of(awake(model), processor)
    assert pipe(INPUT | {"image": Image.new("RGB", (40, 40))}, labels=LABELS)["label"] in LABELS
