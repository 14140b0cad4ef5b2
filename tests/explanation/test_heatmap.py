"""Heatmaps: the grid of patches, the visible part of an image, colours."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    DeiTConfig,
    DeiTModel,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from modeling_hmgrl.explanation.heatmap import MAX_SIDE, overlay_heatmap, patch_grid, visible_box

# The grid of patches

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


@pytest.mark.parametrize(
    ("model", "size", "grid", "prefix"),
    [
        (ViTModel(ViTConfig(image_size=32, patch_size=8, **SMALL)), (32, 32), (4, 4), 1),
        (DeiTModel(DeiTConfig(image_size=32, patch_size=8, **SMALL)), (32, 32), (4, 4), 2),
        (
            Dinov2WithRegistersModel(
                Dinov2WithRegistersConfig(
                    image_size=56, patch_size=14, num_register_tokens=4, mlp_ratio=1,
                    hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                )
            ),
            (28, 42),  # not the size of the config, and not square
            (2, 3),
            5,
        ),
        (
            CLIPVisionModel(CLIPVisionConfig(image_size=32, patch_size=16, **SMALL)),
            (32, 32),
            (2, 2),
            1,
        ),
        (
            SiglipVisionModel(SiglipVisionConfig(image_size=32, patch_size=8, **SMALL)),
            (32, 32),
            (4, 4),
            0,
        ),
        (
            SwinModel(
                SwinConfig(image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1],
                           num_heads=[1, 1, 1], window_size=2)
            ),
            (64, 64),
            (4, 4),
            0,
        ),
    ],
    ids=["vit", "deit", "dinov2-registers", "clip", "siglip", "swin"],
)  # fmt: skip
def test_grid_of_encoders(model, size, grid, prefix):
    with torch.no_grad():
        states = model.eval()(pixel_values=torch.zeros(1, 3, *size)).last_hidden_state
    tokens = states.shape[1]
    assert patch_grid(model.config, tokens, *size) == grid
    assert tokens - grid[0] * grid[1] == prefix


@pytest.mark.parametrize(
    ("config", "tokens"),
    [(ViTConfig(patch_size=8), 3), (ViTConfig(patch_size=8), 60), (SMALL, 17)],
)
def test_no_grid_is_named(config, tokens):
    with pytest.raises(ValueError, match=rf"{tokens} tokens of 32 x 32 pixels .* no grid"):
        patch_grid(config, tokens, 32, 32)


def test_grid_of_oblong_patches():
    config = ViTConfig(patch_size=(4, 8))
    assert patch_grid(config, 33, 32, 32) == (8, 4)


# What of a picture is seen


@pytest.mark.parametrize(
    ("processor", "size", "box"),
    [
        (ViTImageProcessorPil(size={"height": 32, "width": 32}), (80, 40), (0, 0, 80, 40)),
        (CLIPImageProcessorPil(), (400, 200), (100, 0, 300, 200)),
        (
            CLIPImageProcessorPil(
                size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}
            ),
            (256, 512),
            (16, 144, 240, 368),
        ),
        (
            CLIPImageProcessorPil(
                size={"height": 64, "width": 128}, crop_size={"height": 32, "width": 32}
            ),
            (256, 128),
            (96, 32, 160, 96),
        ),
        (
            CLIPImageProcessorPil(do_resize=False, crop_size={"height": 32, "width": 32}),
            (48, 16),
            (8, -8, 40, 24),
        ),
    ],
    ids=["scaled", "square", "cropped", "to-a-size", "unscaled"],
)  # fmt: skip
def test_visible_box(processor, size, box):
    assert visible_box(processor, size) == pytest.approx(box)
    # a picture white inside the box, and a little beyond, is white to the model
    left, top, right, bottom = (round(side) for side in box)
    image = Image.new("RGB", size, "black")
    image.paste("white", (left - 2, top - 2, right + 2, bottom + 2))
    whole = Image.new("RGB", size, "white")
    seen, white = (processor(im, return_tensors="pt")["pixel_values"] for im in (image, whole))
    assert torch.equal(seen, white)
    # and one that is black along the inner side of its edges is not
    if left > 0:
        image.paste("black", (left, max(top, 0), left + 3, bottom))
        seen = processor(image, return_tensors="pt")["pixel_values"]
        assert not torch.equal(seen, white)


# Heat


def heated(weights, size=(40, 20), **options):
    image = Image.new("RGB", size, (100, 100, 100))
    return np.asarray(overlay_heatmap(image, np.array(weights), **options)).astype(int)


def test_heatmap_colours_what_weighs():
    pixels = heated([[0.0, 1.0], [0.0, -1.0]])
    assert pixels.shape == (20, 40, 3)
    red, _, blue = pixels[2, 37]
    assert red > 150 > blue
    red, _, blue = pixels[17, 37]
    assert blue > 130 > red
    np.testing.assert_allclose(pixels[:, 0], 100, atol=1)


def test_no_weight_has_no_colour():
    np.testing.assert_array_equal(heated(np.zeros((3, 3))), 100)


def test_heatmap_is_half_drained_of_colour():
    image = Image.new("RGB", (8, 8), (200, 0, 0))
    grey = float(np.asarray(image.convert("L"))[0, 0])
    pixel = np.asarray(overlay_heatmap(image, np.zeros((1, 1))))[0, 0]
    np.testing.assert_allclose(pixel, [(200 + grey) / 2, grey / 2, grey / 2], atol=1)


def test_scale_sets_the_weight_of_full_colour():
    full, half = heated([[0.5]]), heated([[0.5]], scale=1.0)
    np.testing.assert_allclose(full - 100, 2 * (half - 100), atol=2)
    np.testing.assert_array_equal(heated([[7.0]], scale=1.0), full)  # more than full is full


@pytest.mark.parametrize("box", [(10.0, 0.0, 30.0, 20.0), (-10.0, -5.0, 50.0, 25.0)])
def test_heatmap_stays_in_its_box(box):
    pixels = heated([[1.0]], box=box)
    inside = np.zeros((20, 40), bool)
    inside[:, max(int(box[0]), 0) : int(box[2])] = True
    assert ((pixels != 100).any(-1) == inside).all()


def test_a_large_image_is_scaled_down():
    image = Image.new("RGB", (3000, 600), "white")
    drawn = overlay_heatmap(image, np.ones((2, 2)), (1500.0, 0.0, 3000.0, 600.0))
    assert drawn.size == (MAX_SIDE, 205)
    pixels = np.asarray(drawn)
    assert (pixels[:, :500] == 255).all()
    assert (pixels[:, 520:, 2] < 128).all()


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ([1.0, 2.0], {}, r"^weights: got shape \(2,\), expected a matrix"),
        ([[np.nan]], {}, r"^weights: .* finite"),
        (np.zeros((0, 2)), {}, r"^weights: got shape \(0, 2\)"),
        ([[1.0]], {"strength": 2}, r"^strength: got 2, expected 0 to 1"),
        ([[1.0]], {"scale": 0}, r"^scale: got 0, expected more than 0"),
    ],
)
def test_unfit_heat_is_named(weights, options, message):
    with pytest.raises(ValueError, match=message):
        heated(weights, **options)
