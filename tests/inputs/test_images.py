import io
import struct
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from dataset_scripts import images as dataset_images
from dataset_scripts.images import image_problem
from dataset_scripts.report.samples import thumbnail
from modeling_hmgrl import images
from modeling_hmgrl.images import IMAGE_FORMATS, MAX_PIXELS, open_image

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


def test_transparent_colour_of_an_rgb_image_is_white():
    image = Image.new("RGB", (2, 1), (10, 20, 30))
    image.putpixel((1, 0), (200, 0, 0))
    opened = open_image(encoded(image, transparency=(10, 20, 30)))
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (200, 0, 0)]


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_image(data).getpixel((0, 0)) == RED


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "PIL"])
def test_the_orientation_tag_is_applied(orientation, kind):
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:16, :32] = RED
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(pixels), "JPEG" if kind == "PIL" else kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    opened = open_image(Image.open(io.BytesIO(data)) if kind == "PIL" else data)
    assert opened.size == ((64, 32) if orientation < 5 else (32, 64))
    np.testing.assert_array_equal(np.array(opened), np.array(expected))


def test_damaged_metadata_is_no_reason_to_lose_an_image():
    data = encoded(Image.fromarray(noise()), "JPEG", exif=b"Exif\0\0II*\0" + b"\xff" * 40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow tells of it
        assert open_image(data).size == (64, 48)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([0.0, 500.0, 1000.0], [0, 128, 255]),
        ([np.nan, -1.0, np.inf], [0, 0, 255]),
        ([0.0, 0.0, 0.0], [0, 0, 0]),
    ],
)
def test_floating_point_values_are_scaled(values, expected):
    image = Image.fromarray(np.array([values], np.float32))
    for given in (image, encoded(image, "TIFF")):
        opened = open_image(given)
        assert [opened.getpixel((x, 0)) for x in range(3)] == [(v, v, v) for v in expected]


def test_sixteen_bits_in_a_wider_integer_are_scaled():
    image = Image.fromarray(np.array([[0, 0x8000, 0xFFFF]], np.int32))
    opened = open_image(image)
    assert [opened.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]
    assert open_image(Image.fromarray(np.array([[7, 255]], np.int32))).getpixel((0, 0)) == (7, 7, 7)


# Large images


def large(kind, mode="RGB"):
    """An image of 20 megapixels, red in its left half."""
    image = Image.new(mode, (5000, 4000), 0)
    if mode == "P":
        image.putpalette([0, 0, 255, 255, 0, 0])
    image.paste(1 if mode == "P" else RED, (0, 0, 2500, 4000))
    return encoded(image, kind, **({"transparency": 0} if mode == "P" else {}))


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("PNG", "RGB"), ("PNG", "P")])
def test_a_large_image_is_reduced_where_a_side_is_asked_for(kind, mode):
    data = large(kind, mode)
    assert open_image(data).size == (5000, 4000)
    small = open_image(data, side=224)
    assert 448 <= min(small.size) < 1000
    assert small.width / small.height == pytest.approx(5 / 4, rel=0.01)
    assert small.getpixel((5, 5)) == pytest.approx(RED, abs=2)
    right = small.getpixel((small.width - 5, small.height - 5))
    assert right == pytest.approx((255, 255, 255) if mode == "P" else (0, 0, 0), abs=2)


def test_an_image_of_ordinary_size_is_not_reduced():
    pixels = noise(2000, 3000)
    np.testing.assert_array_equal(np.array(open_image(pixels, side=224)), pixels)


def test_strips_are_what_the_whole_is(monkeypatch):
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 256, (75, 41, 4), dtype=np.uint8), "RGBA")
    whole = np.array(open_image(image))
    monkeypatch.setattr(images, "_STRIP_PIXELS", 41 * 10)
    np.testing.assert_array_equal(np.array(open_image(image)), whole)
    monkeypatch.setattr(images, "_MAX_UNREDUCED_PIXELS", 100)
    reduced = np.array(open_image(image, side=7)).astype(int)
    assert reduced.shape == (38, 21, 3)
    expected = np.array(Image.fromarray(whole).reduce(2)).astype(int)
    assert abs(reduced - expected).max() <= 1


# What is refused


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_cut_off_image_is_refused(kind, share):
    data = encoded(Image.fromarray(noise()), kind)
    with pytest.raises(
        ValueError, match=r"^sample 3\.image: (truncated or damaged|cannot be read)"
    ):
        open_image(data[: int(len(data) * share)], "sample 3.image")


@pytest.mark.parametrize("length", [1, 9, 20, 33])
def test_cut_off_header_is_refused(length):
    with pytest.raises(ValueError, match=r"^sample 3\.image: "):
        open_image(encoded(Image.fromarray(noise()))[:length], "sample 3.image")


def test_flipped_bit_is_refused():
    data = bytearray(encoded(Image.fromarray(noise())))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(ValueError, match="truncated or damaged"):
        open_image(bytes(data))


@pytest.mark.parametrize(
    "data", [b"", b"<svg></svg>", b"PK\x03\x04 archive", "{}".encode("utf-16")]
)
def test_what_is_no_image_is_refused(data, tmp_path):
    with pytest.raises(
        ValueError, match=r"^sample 0\.image: not an image, expected JPEG, PNG, .* or TIFF$"
    ):
        open_image(data, "sample 0.image")
    file = tmp_path / "x.jpg"
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"^sample 0\.image '.*x\.jpg': not an image"):
        open_image(file, "sample 0.image")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A stand-in for the PostScript interpreter; the file it leaves shows that it ran."""
    ran = tmp_path / "ran"
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "gs"
    script.write_text(f"#!/bin/sh\necho ran > {ran}\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    with pytest.raises(Exception):  # noqa: B017, PT011 - it decodes nothing
        Image.open(io.BytesIO(EPS)).load()
    assert ran.exists(), "Pillow itself starts it"
    ran.unlink()
    return ran


def test_no_program_is_started_to_decode_an_image(program, tmp_path):
    file = tmp_path / "a.jpg"
    file.write_bytes(EPS)
    for given in (EPS, file, {"bytes": EPS}, Image.open(io.BytesIO(EPS))):
        with pytest.raises(ValueError, match=r"^image.*expected (one of )?JPEG, PNG"):
            open_image(given)
    assert "expected one of" in image_problem(EPS)
    assert "expected one of" in image_problem(file)
    assert thumbnail({"bytes": EPS, "path": None}) is None
    assert not program.exists()


def rle_bmp(width, height, data):
    """A BMP with run-length encoding and a palette of grays."""
    palette = b"".join(bytes((n, n, n, 0)) for n in range(256))
    size = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    start = 14 + len(size) + len(palette)
    return struct.pack("<2sIHHI", b"BM", start + len(data), 0, 0, start) + size + palette + data


def tiled_tiff(side):
    """A TIFF of 8 x 8 pixels whose only tile claims ``side`` pixels on each side."""
    entries = [
        (256, 4, 8), (257, 4, 8), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1),
        (322, 4, side), (323, 4, side), (324, 4, 200), (325, 4, 20),
    ]  # fmt: skip
    fields = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + fields + bytes(4)
    return head.ljust(200, b"\0") + zlib.compress(bytes(64))


def commented_gif(megabytes):
    data = encoded(Image.new("L", (8, 8)), "GIF")
    flags = data[10]
    at = 13 + (3 * 2 ** (flags % 8 + 1) if flags & 0x80 else 0)
    block = b"\x21\xfe" + (b"\xff" + bytes(255)) * 100 + b"\0"
    return data[:at] + block * (megabytes * 10**6 // len(block)) + data[at:]


def scanned_jpeg(scans):
    data = encoded(Image.fromarray(noise()), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * scans + data[-2:]


COSTLY = {
    "run lengths": (lambda: rle_bmp(64_000_000, 1, b"\0\2\0\x20"), "run-length"),
    "padding": (lambda: rle_bmp(64_000_000, 1, b"\1\1\0\0"), "run-length"),
    "tiles": (lambda: tiled_tiff(40_000), "tiles of 40000 x 40000"),
    "scans": (lambda: scanned_jpeg(400), "more than 100 scans"),
    "comments": (lambda: commented_gif(5), "bytes before its image"),
}


@pytest.mark.parametrize("name", COSTLY)
def test_small_files_that_are_costly_to_decode_are_refused(name, tmp_path):
    make, expected = COSTLY[name]
    data = make()
    file = tmp_path / "a.png"
    file.write_bytes(data)
    begin = time.perf_counter()
    for given in (data, file):
        with pytest.raises(ValueError, match=expected):
            open_image(given)
        assert expected in image_problem(given)
    assert thumbnail({"bytes": data, "path": None}) is None
    if name in ("run lengths", "padding", "tiles"):
        with pytest.raises(ValueError, match=expected):
            open_image(Image.open(io.BytesIO(data)))
    assert time.perf_counter() - begin < 5


def test_ordinary_gif_comments_and_progressive_scans_are_accepted():
    image = Image.fromarray(noise())
    assert open_image(encoded(image, "GIF", comment=b"x" * 1000)).size == (64, 48)
    assert open_image(encoded(image, "JPEG", progressive=True)).size == (64, 48)


def test_both_packages_open_the_same_images(tmp_path):
    assert dataset_images.IMAGE_FORMATS == IMAGE_FORMATS
    assert dataset_images.MAX_PIXELS == MAX_PIXELS
    image = Image.fromarray(noise())
    given = {kind: encoded(image, kind) for kind in (*IMAGE_FORMATS, "PPM", "ICO", "TGA", "PDF")}
    given |= {f"half a {kind}": data[: len(data) // 2] for kind, data in given.items()}
    given |= {mode: encoded(image.convert(mode)) for mode in ("1", "L", "P", "RGBA", "LA")}
    given |= {mode: encoded(image.convert(mode), "TIFF") for mode in ("CMYK", "F", "I", "LAB")}
    given |= {name: make() for name, (make, _) in COSTLY.items()}
    given |= {"nothing": b"", "too large": png_header(8000, 8001), "EPS": EPS}
    verdicts = {}
    for name, data in given.items():
        try:
            open_image(data)
            verdicts[name] = True
        except ValueError:
            verdicts[name] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accepted = {name: image_problem(data) is None for name, data in given.items()}
    assert accepted == verdicts
    assert 10 < sum(verdicts.values()) < len(verdicts) - 8


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


def test_a_file_of_too_many_bytes_is_refused_unread(tmp_path, monkeypatch):
    file = tmp_path / "a.png"
    file.write_bytes(encoded(Image.fromarray(noise())))
    size = file.stat().st_size
    monkeypatch.setattr(images, "MAX_FILE_BYTES", size - 1)
    with pytest.raises(ValueError, match=f"a.png': {size} bytes, expected at most {size - 1}"):
        open_image(file)
    with pytest.raises(ValueError, match=f"^image: {size} bytes, expected at most {size - 1}"):
        open_image(file.read_bytes())
