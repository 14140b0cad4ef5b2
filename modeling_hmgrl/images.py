"""Opens pictures from where they may lie; their size is bounded before anything is decoded."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 64_000_000
"""Largest picture that is decoded, in pixels (8000 x 8000)."""


def open_image(image: Any, name: str = "image", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens a picture as RGB.

    Args:
        image: A path, encoded bytes, a PIL picture, an array (height, width[, 3 or 4]) of uint8, or
            the ``{"path", "bytes"}`` of an undecoded datasets column. URLs are not fetched.
        name: How errors name the argument.
        max_pixels: Bound on width times height, checked on the header before decoding.

    Returns:
        The picture, RGB; transparency is laid over white, more than 8 bits are scaled to 8.

    Raises:
        ValueError: If it is too large, cut off, no picture, a URL, or of another kind.
        FileNotFoundError: If there is no such file.
    """
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, np.ndarray):
        fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
        if image.dtype != np.uint8 or not fits or not image.size:
            raise ValueError(
                f"{name}: got an array of {image.dtype} and shape {image.shape}, expected uint8 of "
                "shape (height, width), (height, width, 3) or (height, width, 4)"
            )
        image = Image.fromarray(image)
    if isinstance(image, Image.Image):
        _check_size(image, name, max_pixels)
        return _rgb(image, name)
    if isinstance(image, str) and "://" in image:
        raise ValueError(f"{name}: got a URL, expected a file; download {image[:200]!r} first")
    if isinstance(image, bytes | bytearray):
        source: Any = io.BytesIO(image)
    elif isinstance(image, str | Path):
        name, source = f"{name} {str(image)[:200]!r}", Path(image)
    else:
        raise ValueError(
            f"{name}: got {type(image).__name__}, expected a path, bytes, a PIL picture or an array"
        )
    with _open(source, name, max_pixels) as opened:
        _check_size(opened, name, max_pixels)
        return _rgb(opened, name)


def _open(source: Any, name: str, max_pixels: int) -> Image.Image:
    """Reads the header."""
    try:
        if isinstance(source, Path) and not source.is_file():
            raise FileNotFoundError(f"{name}: no such file")
        return Image.open(source)
    except FileNotFoundError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError(f"{name}: not a picture that Pillow can read") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name}: larger than the bound of {max_pixels} pixels") from error
    except Exception as error:  # a header that ends too soon, a name too long; readers raise any
        raise ValueError(f"{name}: cannot be read ({str(error)[:200]})") from error


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(
            f"{name}: {width} x {height} pixels, expected at most {max_pixels} pixels in all"
        )


def _rgb(image: Image.Image, name: str) -> Image.Image:
    try:
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            layered = image.convert("RGBA")
            white = Image.new("RGBA", layered.size, "white")
            return Image.alpha_composite(white, layered).convert("RGB")
        if image.mode.startswith("I;16"):  # converting as it is would cut at 255
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
        image.load()
        # what is RGB already is passed on, not copied: a picture may come through here twice
        return image if image.mode == "RGB" else image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise any
        raise ValueError(f"{name}: cut off or damaged ({str(error)[:200]})") from error
