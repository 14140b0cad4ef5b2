"""Heatmaps of patch weights over an image: the grid of patches, the visible part, the overlay."""

from typing import Any

import numpy as np
from PIL import Image

from ..images import open_image

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels of an image."""

MAX_SIDE = 1024
"""Maximum length of the longer side of a heatmap, in pixels."""

# Upper bound on the tokens before the patches (class, distillation, up to 16 registers).
_MOST_PREFIX_TOKENS = 32
# Vermillion and blue of Okabe and Ito's palette, which remain distinct in colour blindness.
_GAIN, _LOSS = (213, 94, 0), (0, 114, 178)


def patch_grid(config: Any, tokens: int, height: int, width: int) -> tuple[int, int]:
    """Infers the grid of patches from the number of an image encoder's tokens.

    Args:
        config: The image encoder's config, whose ``patch_size`` is read.
        tokens: Number of tokens that it returns, including those before the patches (class token,
            distillation token, registers).
        height: Height of its input in pixels.
        width: Width of its input in pixels.

    Returns:
        Rows and columns. Repeated merging of 2 x 2 patches is inferred from the number of tokens.

    Raises:
        ValueError: If the tokens do not form a grid.

    Examples:
        >>> from transformers import ViTConfig
        >>> patch_grid(ViTConfig(patch_size=16), tokens=1 + 14 * 14, height=224, width=224)
        (14, 14)
    """
    patch = getattr(config, "patch_size", None)
    sides = (patch, patch) if isinstance(patch, int) else tuple(patch or ())
    if len(sides) == 2:
        for merged in (1, 2, 4, 8, 16):
            rows, columns = height // (sides[0] * merged), width // (sides[1] * merged)
            prefix = tokens - rows * columns
            # Encoders that merge patches have no tokens before them.
            if rows * columns and 0 <= prefix <= (_MOST_PREFIX_TOKENS if merged == 1 else 0):
                return rows, columns
    raise ValueError(
        f"image encoder {getattr(config, 'model_type', type(config).__name__)!r}: {tokens} tokens "
        f"of {height} x {width} pixels with patch_size {patch!r} form no grid of patches, expected "
        "an encoder of patches"
    )


def visible_box(image_processor: Any, size: tuple[int, int]) -> Box:
    """Returns the part of an image that the model sees.

    Resizing, to a fixed size or by the shortest edge, preserves the whole image; a subsequent
    center crop does not. Processors that pad or tile images are not supported.

    Args:
        image_processor: An image processor of transformers.
        size: Width and height of the image in pixels.

    Returns:
        Left, top, right and bottom in pixels of the image. They lie outside it if the crop is
        larger than the image, which is then padded.

    Examples:
        >>> from transformers import ViTImageProcessorPil
        >>> visible_box(ViTImageProcessorPil(), (640, 480))
        (0.0, 0.0, 640.0, 480.0)
    """
    width, height = size
    if not getattr(image_processor, "do_center_crop", False):
        return 0.0, 0.0, float(width), float(height)
    scaled_width, scaled_height = float(width), float(height)
    if getattr(image_processor, "do_resize", False):
        target = dict(image_processor.size)
        if shortest := target.get("shortest_edge"):
            factor = shortest / min(width, height)
            if longest := target.get("longest_edge"):
                factor = min(factor, longest / max(width, height))
            scaled_width, scaled_height = width * factor, height * factor
        else:
            scaled_width, scaled_height = target["width"], target["height"]
    crop = dict(image_processor.crop_size)
    x, y = crop["width"] / scaled_width / 2, crop["height"] / scaled_height / 2
    return (0.5 - x) * width, (0.5 - y) * height, (0.5 + x) * width, (0.5 + y) * height


def overlay_heatmap(
    image: Any,
    weights: np.ndarray,
    box: Box | None = None,
    strength: float = 0.75,
    scale: float | None = None,
) -> Image.Image:
    """Overlays an image with a heatmap: orange for positive weights, blue for negative ones.

    A weight of 0 is transparent.

    Args:
        image: The image, as for :func:`images.open_image`.
        weights: Shape (rows, columns), such as :attr:`Explanation.image`.
        box: Part of the image that they cover, such as :attr:`Explanation.image_box`; the whole
            image if None.
        strength: Opacity of the full colour, in [0, 1].
        scale: Absolute weight of the full colour; by default the largest one, which shows small
            weights as strongly as large ones.

    Returns:
        The image in RGB with reduced saturation, scaled down to at most ``MAX_SIDE``.

    Raises:
        ValueError: If the weights are not a finite matrix, or an argument is out of range.

    Examples:
        >>> image = Image.new("RGB", (96, 64))
        >>> overlay_heatmap(image, np.array([[0.0, 0.5], [-0.25, 1.0]])).size
        (96, 64)
    """
    opened = open_image(image)
    values = np.asarray(weights, dtype=np.float32)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"weights: got shape {values.shape}, expected a matrix of finite numbers")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength: got {strength!r}, expected 0 to 1")
    if scale is not None and not scale > 0:
        raise ValueError(f"scale: got {scale!r}, expected more than 0")
    factor = min(1.0, MAX_SIDE / max(opened.size))
    covered = (0, 0, *opened.size) if box is None else box
    left, top, right, bottom = (round(factor * side) for side in covered)
    if factor < 1:
        width, height = opened.size
        opened = opened.resize((max(round(factor * width), 1), max(round(factor * height), 1)))
    size = (max(right - left, 1), max(bottom - top, 1))
    largest = float(np.abs(values).max()) if scale is None else scale
    values = values / max(largest, float(np.finfo(np.float32).tiny))  # weights may all be 0
    # Bilinear, as smoother filters overshoot the weights of the patches.
    heatmap = Image.fromarray(values).resize(size, Image.Resampling.BILINEAR)
    canvas = Image.new("F", opened.size)
    canvas.paste(heatmap, (left, top))  # clips the part outside the image
    level = np.clip(np.asarray(canvas), -1, 1)[..., None]
    grey = np.asarray(opened.convert("L"), dtype=np.float32)[..., None]
    base = (np.asarray(opened, dtype=np.float32) + grey) / 2
    colour = np.where(level > 0, _GAIN, _LOSS)
    opacity = strength * np.abs(level)
    return Image.fromarray((base * (1 - opacity) + colour * opacity).round().astype(np.uint8))


__all__ = ["Box", "overlay_heatmap", "patch_grid", "visible_box"]
