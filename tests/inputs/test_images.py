import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from modeling_hmgrl.images import MAX_PIXELS, open_image

RED, HALF_RED = (255, 0, 0), (255, 0, 0, 128)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height=48, width=64, channels=3):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def png_header(width, height):
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


# What a picture may come as


@pytest.mark.parametrize(
    "wrap",
    [
        lambda data, file: str(file),
        lambda data, file: file,
        lambda data, file: data,
        lambda data, file: bytearray(data),
        lambda data, file: Image.open(io.BytesIO(data)),
        lambda data, file: np.array(Image.open(io.BytesIO(data))),
        lambda data, file: {"bytes": data, "path": None},
        lambda data, file: {"bytes": None, "path": str(file)},
        lambda data, file: {"bytes": data, "path": "gone.png"},
    ],
    ids=["path str", "path", "bytes", "bytearray", "PIL", "array", "column bytes", "column path",
         "column bytes first"],
)  # fmt: skip
def test_every_kind_gives_the_same_pixels(wrap, tmp_path):
    file = tmp_path / "a picture.png"
    file.write_bytes(encoded(Image.fromarray(noise())))
    opened = open_image(wrap(file.read_bytes(), file))
    assert opened.mode == "RGB"
    np.testing.assert_array_equal(np.array(opened), noise())


def test_file_is_closed_and_array_is_not_changed(tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(noise()).save(file)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        open_image(file)
        file.unlink()
    pixels = noise()
    open_image(pixels).putpixel((0, 0), (1, 2, 3))
    np.testing.assert_array_equal(pixels, noise())


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (2, 2), 90), (90, 90, 90)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.new("CMYK", (2, 2), (0, 255, 255, 0)), RED),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 255)), RED),
        (Image.new("RGBA", (2, 2), HALF_RED), (255, 127, 127)),
        (Image.new("RGBA", (2, 2), (0, 0, 0, 0)), (255, 255, 255)),
        (Image.new("LA", (2, 2), (0, 0)), (255, 255, 255)),
        (Image.fromarray(np.full((2, 2), 0x8000, np.uint16)), (128, 128, 128)),
    ],
    ids=["gray", "bilevel", "CMYK", "opaque", "half", "invisible", "gray and alpha", "16 bit"],
)
def test_other_modes_become_rgb_over_white(image, expected):
    assert open_image(image).getpixel((0, 0)) == pytest.approx(expected, abs=1)
    if image.mode != "CMYK":
        assert open_image(encoded(image)).getpixel((0, 0)) == pytest.approx(expected, abs=1)


def test_array_of_gray_values():
    assert open_image(np.full((3, 5), 7, np.uint8)).getpixel((4, 2)) == (7, 7, 7)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_palette_entry_is_white_not_its_hidden_colour(kind):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putpixel((1, 0), 1)
    opened = open_image(encoded(image, kind, transparency=0))
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (200, 0, 0)]


def test_transparent_colour_of_an_rgb_picture_is_white():
    image = Image.new("RGB", (2, 1), (10, 20, 30))
    image.putpixel((1, 0), (200, 0, 0))
    opened = open_image(encoded(image, transparency=(10, 20, 30)))
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (200, 0, 0)]


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_image(data).getpixel((0, 0)) == RED


def test_orientation_tag_does_not_turn_the_picture():
    image = Image.new("RGB", (6, 2), "red")
    exif = image.getexif()
    exif[0x0112] = 6  # "rotate by 90 degrees"
    assert open_image(encoded(image, "JPEG", exif=exif)).size == (6, 2)


# What is refused


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_cut_off_picture_is_refused(kind, share):
    data = encoded(Image.fromarray(noise()), kind)
    with pytest.raises(ValueError, match=r"^sample 3\.image: (cut off or damaged|cannot be read)"):
        open_image(data[: int(len(data) * share)], "sample 3.image")


@pytest.mark.parametrize("length", [1, 9, 20, 33])
def test_cut_off_header_is_refused(length):
    with pytest.raises(ValueError, match=r"^sample 3\.image: "):
        open_image(encoded(Image.fromarray(noise()))[:length], "sample 3.image")


def test_flipped_bit_is_refused():
    data = bytearray(encoded(Image.fromarray(noise())))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(ValueError, match="cut off or damaged"):
        open_image(bytes(data))


@pytest.mark.parametrize(
    "data", [b"", b"<svg></svg>", b"PK\x03\x04 archive", "{}".encode("utf-16")]
)
def test_what_is_no_picture_is_refused(data, tmp_path):
    with pytest.raises(ValueError, match=r"^sample 0\.image: not a picture"):
        open_image(data, "sample 0.image")
    file = tmp_path / "x.jpg"
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"^sample 0\.image '.*x\.jpg': not a picture"):
        open_image(file, "sample 0.image")


# Pillow itself warns from 89 megapixels on and refuses from 179 on.
@pytest.mark.parametrize("size", [(8000, 8001), (9500, 9500), (20_000, 20_000), (2**31 - 1, 2)])
@pytest.mark.parametrize("strict", [True, False])
def test_size_is_refused_by_its_header(size, strict):
    assert size[0] * size[1] > MAX_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore")
        with pytest.raises(ValueError, match=r"^sample 1\.image: .*64000000 pixels"):
            open_image(png_header(*size), "sample 1.image")


def test_bound_is_inclusive_and_counts_pixels():
    image = Image.new("RGB", (8, 4))
    assert open_image(image, max_pixels=32).size == (8, 4)
    for given in (image, encoded(image), np.array(image)):
        with pytest.raises(ValueError, match="8 x 4 pixels, expected at most 31 pixels"):
            open_image(given, max_pixels=31)


@pytest.mark.parametrize("url", ["https://x.org/a.png", "http://x.org/a", "file:///a", "s3://b/k"])
@pytest.mark.parametrize("wrap", [str, lambda url: {"path": url}])
def test_url_is_refused_and_nothing_is_fetched(url, wrap, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr("socket.socket.connect", forbidden)
    with pytest.raises(ValueError, match=r"^sample 2\.image: got a URL, expected a file"):
        open_image(wrap(url), "sample 2.image")


@pytest.mark.parametrize("name", ["gone.png", "", "."])
def test_missing_file_is_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^sample 4\.image '.*': no such file"):
        open_image(name, "sample 4.image")


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4), np.int64),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_array_of_another_kind_is_refused(image):
    with pytest.raises(ValueError, match=r"^image: got an array of .* expected uint8 of shape"):
        open_image(image)


@pytest.mark.parametrize(
    "image", [None, 3, [1, 2], {}, {"bytes": None, "path": None}, memoryview(b"")]
)
def test_another_type_is_refused(image):
    with pytest.raises(ValueError, match=r"^image: got .*, expected a path, bytes"):
        open_image(image)
