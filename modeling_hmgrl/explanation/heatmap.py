"""Weights of patches over a picture: their grid, the part they cover, the drawing."""

from typing import Any

import numpy as np
from PIL import Image

from ..images import open_image

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of a picture."""

MAX_SIDE = 1024
"""Longer side, in pixels, of the largest picture that is drawn."""

# More tokens before the patches than any encoder has (class, distillation, up to 16 registers).
_MOST_PREFIX_TOKENS = 32
# Vermillion and blue of Okabe and Ito's palette, told apart with any kind of colour blindness.
_GAIN, _LOSS = (213, 94, 0), (0, 114, 178)


def patch_grid(config: Any, tokens: int, height: int, width: int) -> tuple[int, int]:
    """The grid of patches among an image encoder's tokens, of which the last ones are patches.

    Args:
        config: The image encoder's config; its ``patch_size`` is read.
        tokens: How many tokens it returns, those before the patches included: class token,
            distillation token, registers.
        height: Height of the pixels it is given.
        width: Their width.

    Returns:
        Rows and columns. Encoders that merge patches as they go (2 x 2, repeatedly) are known by
        the number of their tokens.

    Raises:
        ValueError: If the tokens are no grid.
    """
    patch = getattr(config, "patch_size", None)
    sides = (patch, patch) if isinstance(patch, int) else tuple(patch or ())
    if len(sides) == 2:
        for merged in (1, 2, 4, 8, 16):
            rows, columns = height // (sides[0] * merged), width // (sides[1] * merged)
            prefix = tokens - rows * columns
            # encoders that merge patches put nothing before them
            if rows * columns and 0 <= prefix <= (_MOST_PREFIX_TOKENS if merged == 1 else 0):
                return rows, columns
    raise ValueError(
        f"image encoder {getattr(config, 'model_type', type(config).__name__)!r}: {tokens} tokens "
        f"of {height} x {width} pixels with patch_size {patch!r} are no grid of patches, expected "
        "an encoder of patches"
    )


def visible_box(image_processor: Any, size: tuple[int, int]) -> Box:
    """The part of a picture that the model sees.

    Scaling, to a fixed size or by the shortest edge, shows all of a picture; a center crop after it
    does not. Processors that pad or tile pictures are not covered.

    Args:
        image_processor: An image processor of transformers.
        size: Width and height of the picture in pixels.

    Returns:
        Left, top, right, bottom in pixels of the picture. With a crop larger than the picture,
        which is then padded, they lie outside of it.
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


def heat_over(
    image: Any,
    weights: np.ndarray,
    box: Box | None = None,
    strength: float = 0.75,
    scale: float | None = None,
) -> Image.Image:
    """Lays weights over a picture as heat: orange for positive ones, blue for negative ones.

    A weight of 0 has no colour.

    Args:
        image: The picture, as of :func:`images.open_image`.
        weights: Shape (rows, columns), as of :attr:`Explanation.picture`.
        box: What of the picture they cover, :attr:`Explanation.picture_box`; all of it if None.
        strength: Cover of the full colour, from 0 to 1.
        scale: Weight that has the full colour; the largest one by default, which makes tiny weights
            look as strong as large ones.

    Returns:
        The picture in RGB, half drained of colour, scaled down to at most ``MAX_SIDE``.

    Raises:
        ValueError: If the weights are no finite matrix, or an argument is out of its range.
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
    # linear between patches: a smoother filter overshoots into colours that no patch has
    heat = Image.fromarray(values).resize(size, Image.Resampling.BILINEAR)
    canvas = Image.new("F", opened.size)
    canvas.paste(heat, (left, top))  # what lies outside is cut off
    level = np.clip(np.asarray(canvas), -1, 1)[..., None]
    grey = np.asarray(opened.convert("L"), dtype=np.float32)[..., None]
    base = (np.asarray(opened, dtype=np.float32) + grey) / 2
    colour = np.where(level > 0, _GAIN, _LOSS)
    cover = strength * np.abs(level)
    return Image.fromarray((base * (1 - cover) + colour * cover).round().astype(np.uint8))


__all__ = ["Box", "heat_over", "patch_grid", "visible_box"]
