"""Random changes of image files: opened, or refused by a documented error."""

import io
import warnings

import numpy as np
import pytest
from fuzz_world import checked_message, fuzz, mutated, values
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dataset_scripts.images import image_problem
from modeling_hmgrl.images import open_image


def encoded(kind, mode, **options):
    noise = np.random.default_rng(0).integers(0, 256, (20, 24, 4), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).convert("RGB").convert(mode).save(stream, kind, **options)
    return stream.getvalue()


exif = Image.Exif()
exif[0x0112] = 6
IMAGES = [
    encoded("JPEG", "RGB"), encoded("JPEG", "L", progressive=True), encoded("JPEG", "CMYK"),
    encoded("JPEG", "RGB", exif=exif), encoded("PNG", "RGB"), encoded("PNG", "P"),
    encoded("PNG", "RGBA"), encoded("PNG", "1"), encoded("GIF", "P"), encoded("BMP", "RGB"),
    encoded("BMP", "1"), encoded("WEBP", "RGB"), encoded("WEBP", "RGBA", lossless=True),
    encoded("TIFF", "RGB"), encoded("TIFF", "RGB", compression="tiff_lzw"), encoded("TIFF", "F"),
    encoded("TIFF", "L", compression="tiff_adobe_deflate"), encoded("TIFF", "CMYK"),
]  # fmt: skip


@st.composite
def changed(draw, content):
    """A file whose first bytes, which hold the header, are changed most often."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, min(80, len(data) - 1)) | st.integers(0, len(data) - 1))
        data[at] = draw(st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    if draw(st.integers(0, 4)) == 0:
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


def check(content, **options):
    try:
        image = open_image(content, "x", **options)
    except ValueError as error:
        message = checked_message(error)
        assert message.startswith("x")
    else:
        assert image.mode == "RGB"
        assert image.width * image.height <= 64_000_000
    problem = image_problem(content)
    assert problem is None or problem.strip()


@pytest.mark.parametrize("number", range(len(IMAGES)))
@fuzz(cost=4)
@given(st.data())
def test_changed_files(number, data):
    content = data.draw(changed(IMAGES[number]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damaged metadata
        check(content, side=data.draw(st.sampled_from([None, 8])))


@fuzz()
@given(mutated(st.sampled_from(IMAGES)) | st.binary(max_size=40))
def test_inserted_and_deleted_bytes(content):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(content)


@fuzz()
@given(values(["bytes", "path"]))
def test_other_values(value):
    try:
        open_image(value, "x")
    except (ValueError, FileNotFoundError) as error:
        checked_message(error)


@fuzz()
@given(
    st.sampled_from(["uint8", "int8", "float32", "bool", "object"]),
    st.lists(st.integers(0, 5), max_size=4),
)
def test_arrays(dtype, shape):
    try:
        image = open_image(np.zeros(shape, dtype), "x")
    except ValueError as error:
        checked_message(error)
    else:
        assert (image.height, image.width) == tuple(shape[:2])
