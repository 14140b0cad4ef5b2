"""Opens images from files, bytes and arrays; the number of pixels is checked before decoding."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Supported formats, by Pillow's names. Others run an external program (EPS) or are rare."""

MAX_PIXELS = 64_000_000
"""Maximum number of pixels of an image (8000 x 8000)."""

MAX_FILE_BYTES = 256_000_000
"""Largest file that is read."""

_MAX_SCANS = 100  # of a progressive JPEG: cameras write about 10, and each is decoded in full
_MAX_GIF_COMMENTS = 100_000  # bytes before the first frame, which Pillow joins one by one
_MAX_UNREDUCED_PIXELS = 16_000_000  # larger images are reduced during decoding
_STRIP_PIXELS = 4_000_000  # pixels converted at once
_ORIENTATION = 0x0112
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(
    image: Any, name: str = "image", max_pixels: int = MAX_PIXELS, side: int | None = None
) -> Image.Image:
    """Opens an image as RGB in its upright orientation.

    Args:
        image: A path, encoded bytes, a PIL image, an array (height, width[, 3 or 4]) of uint8, or
            the ``{"path", "bytes"}`` of an undecoded datasets column. URLs are not fetched.
        name: Name of the argument in errors.
        max_pixels: Bound on width times height, checked on the header before decoding.
        side: Required length of the shorter side in pixels, such as that of a model's input. An
            image of more than 16 megapixels is then reduced during decoding, to at least twice that
            length. None keeps the size.

    Returns:
        The RGB image: rotated according to its orientation tag, transparency composited on white,
        16-bit and floating-point values scaled to 8 bits.

    Raises:
        ValueError: If the image is too large, truncated, not of :data:`IMAGE_FORMATS`, a URL, or of
            another type.
        FileNotFoundError: If the file does not exist.
    """
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, np.ndarray):
        valid_shape = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
        if image.dtype != np.uint8 or not valid_shape or not image.size:
            raise ValueError(
                f"{name}: got an array of {image.dtype} and shape {image.shape}, expected uint8 of "
                "shape (height, width), (height, width, 3) or (height, width, 4)"
            )
        image = Image.fromarray(image)
    if isinstance(image, Image.Image):
        _check_size(image, name, max_pixels)
        if getattr(image, "tile", None):  # opened, but not decoded yet
            _check_format(image, name)
            _check_layout(image, name, max_pixels)
        return _rgb(image, name, side)
    if isinstance(image, str) and "://" in image:
        raise ValueError(f"{name}: got a URL, expected a file; download {image[:200]!r} first")
    if isinstance(image, str | Path):
        name = f"{name} {str(image)[:200]!r}"
        image = _read(Path(image), name)
    if not isinstance(image, bytes | bytearray):
        raise ValueError(
            f"{name}: got {type(image).__name__}, expected a path, bytes, a PIL image or an array"
        )
    _check_bytes(image, name)
    with _open(io.BytesIO(image), name, max_pixels) as opened:
        _check_size(opened, name, max_pixels)
        _check_layout(opened, name, max_pixels)
        return _rgb(opened, name, side)


def _read(path: Path, name: str) -> bytes:
    """Reads a file of bounded size."""
    try:
        size = path.stat().st_size if path.is_file() else None
        if size is not None and size <= MAX_FILE_BYTES:
            return path.read_bytes()
    except OSError as error:  # a name that is too long, missing permission
        raise ValueError(f"{name}: cannot be read as an image") from error
    if size is None:
        raise FileNotFoundError(f"{name}: no such file")
    raise ValueError(f"{name}: {size} bytes, expected at most {MAX_FILE_BYTES}")


def _check_bytes(content: bytes | bytearray, name: str) -> None:
    """Refuses files whose decoding takes time out of proportion to their size."""
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"{name}: {len(content)} bytes, expected at most {MAX_FILE_BYTES}")
    if content[:2] == b"\xff\xd8" and content.count(b"\xff\xda") > _MAX_SCANS:
        raise ValueError(f"{name}: a JPEG of more than {_MAX_SCANS} scans, expected fewer")
    if content[:3] == b"GIF" and _gif_comments(content) > _MAX_GIF_COMMENTS:
        raise ValueError(
            f"{name}: a GIF with more than {_MAX_GIF_COMMENTS} bytes before its image, expected "
            "fewer"
        )


def _gif_comments(content: bytes | bytearray) -> int:
    """Number of bytes in the extension blocks before the first frame of a GIF."""
    flags = content[10] if len(content) > 10 else 0
    at = 13 + (3 * 2 ** (flags % 8 + 1) if flags & 0x80 else 0)
    start = at
    while at + 2 < len(content) and content[at] == 0x21 and at - start <= _MAX_GIF_COMMENTS:
        at += 2
        while at < len(content) and content[at] and at - start <= _MAX_GIF_COMMENTS:
            at += 1 + content[at]
        at += 1
    return at - start


def _open(source: Any, name: str, max_pixels: int) -> Image.Image:
    """Reads the header."""
    try:
        return Image.open(source, formats=IMAGE_FORMATS)
    except UnidentifiedImageError as error:
        known = f"{', '.join(IMAGE_FORMATS[:-1])} or {IMAGE_FORMATS[-1]}"
        raise ValueError(f"{name}: not an image, expected {known}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name}: larger than the bound of {max_pixels} pixels") from error
    except Exception as error:  # a header that ends too soon; readers raise any exception
        raise ValueError(f"{name}: cannot be read as an image") from error


def _check_layout(image: Image.Image, name: str, max_pixels: int) -> None:
    """Refuses layouts whose decoding takes memory out of proportion to the image's size."""
    # Pillow decodes run lengths of a BMP in Python and believes their offsets.
    if image.format == "BMP" and image.info.get("compression") in (1, 2):
        raise ValueError(f"{name}: a BMP with run-length encoding, expected one without")
    if image.format == "TIFF":
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        width, height = (tags.get(tag, 1) for tag in (322, 323))
        if not all(isinstance(one, int) for one in (width, height)) or width * height > max_pixels:
            raise ValueError(
                f"{name}: a TIFF with tiles of {width} x {height} pixels, expected at most "
                f"{max_pixels} pixels"
            )


def _check_format(image: Image.Image, name: str) -> None:
    """Rejects an opened, not yet decoded image of an unsupported format."""
    # MPO is Pillow's name for a JPEG that contains several images, which some cameras write.
    if image.format not in (*IMAGE_FORMATS, "MPO"):
        raise ValueError(
            f"{name}: got an image opened as {image.format}, expected one of "
            f"{', '.join(IMAGE_FORMATS)}; image.copy() decodes it"
        )


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(
            f"{name}: {width} x {height} pixels, expected at most {max_pixels} pixels in total"
        )


def _rgb(image: Image.Image, name: str, side: int | None) -> Image.Image:
    try:
        factor = _reduction(image, side)
        if factor > 1 and image.format in ("JPEG", "MPO"):
            image.draft("RGB", (image.width // factor, image.height // factor))
            factor = _reduction(image, side)
        image.load()
        # An RGB image is not copied, as it may be opened twice.
        is_rgb = image.mode == "RGB" and "transparency" not in image.info and factor == 1
        converted = image if is_rgb else _convert(image, factor)
        transposition = _TRANSPOSITIONS.get(_orientation(image))
        return converted if transposition is None else converted.transpose(transposition)
    except Exception as error:  # Pillow's decoders raise various types
        raise ValueError(f"{name}: truncated or damaged") from error


def _reduction(image: Image.Image, side: int | None) -> int:
    """Factor by which an image is reduced so that it remains large enough."""
    if side is None or image.width * image.height <= _MAX_UNREDUCED_PIXELS:
        return 1
    return max(1, min(image.size) // (2 * side))


def _orientation(image: Image.Image) -> int:
    """The orientation tag; 1 (upright) if it is missing or the metadata are damaged."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # of various types; damaged metadata do not invalidate an image
        return 1


def _convert(image: Image.Image, factor: int) -> Image.Image:
    """Converts a decoded image to RGB and reduces it, in strips that bound the memory."""
    width, height = image.size
    size = (-(-width // factor), -(-height // factor))
    to_rgb = _converter(image)
    rows = max(1, _STRIP_PIXELS // (width * factor)) * factor
    if rows >= height:
        whole = to_rgb(image)
        return whole if factor == 1 else whole.reduce(factor)
    result = Image.new("RGB", size)
    for top in range(0, height, rows):
        strip = to_rgb(image.crop((0, top, width, min(top + rows, height))))
        result.paste(strip if factor == 1 else strip.reduce(factor), (0, top // factor))
    return result


def _converter(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Returns the conversion of an image's strips to RGB."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _composite_on_white
    if image.mode.startswith("I;16"):  # Pillow's conversion would clip at 255
        return lambda strip: _gray_to_rgb(np.asarray(strip) >> 8)
    if image.mode == "I":
        scale = 256 if image.getextrema()[1] > 255 else 1  # type: ignore[operator]
        return lambda strip: _gray_to_rgb(np.asarray(strip).clip(0) // scale)
    if image.mode == "F":
        return _float_converter(image)
    if image.mode == "LAB":
        return _lab_converter()
    return lambda strip: strip if strip.mode == "RGB" else strip.convert("RGB")


def _float_converter(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Scales floating-point values to 8 bits from 0 to 1, 0 to 255, or 0 to their maximum."""
    values = np.asarray(image)
    largest = float(values.max(initial=0, where=np.isfinite(values)))
    bound = 1.0 if largest <= 1 else 255.0 if largest <= 255 else largest

    def convert(strip: Image.Image) -> Image.Image:
        finite = np.nan_to_num(np.asarray(strip), nan=0.0, posinf=bound, neginf=0.0)
        return _gray_to_rgb(np.rint(finite.clip(0, bound) * (255 / bound)))

    return convert


def _lab_converter() -> Callable[[Image.Image], Image.Image]:
    from PIL import ImageCms  # noqa: PLC0415 - rarely needed

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(lab, srgb, "LAB", "RGB")
    return lambda strip: ImageCms.applyTransform(strip, transform)  # type: ignore[return-value]


def _gray_to_rgb(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")


def _composite_on_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")
