"""Hostile images: an error that names the field, or a prediction, in bounds of cost."""

import io
import math
import random
import struct
import zlib

import numpy as np
import pytest
from hostile_world import GOOD, HUGE_PNG, MEGABYTE, bounded, is_answer, png, refused
from PIL import Image

from modeling_hmgrl.images import MAX_PIXELS


def zeros(width, height):
    """A PNG of one bit, all black: a few kilobytes for many pixels."""
    rows = zlib.compress(bytes((width // 8 + 1) * height), 9)
    return png(width, height, depth=1, kind=0, chunks=[(b"IDAT", rows)])


def bmp(width, height):
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 100, 0, 0, 54) + header + bytes(100)


def gif(width, height):
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + b";"


BLOWN = zlib.compress(bytes(200 * MEGABYTE))
BOMBS = {
    "huge PNG": HUGE_PNG,
    "large PNG": zeros(9_000, 9_000),
    "one line": zeros(MAX_PIXELS + 8, 1),
    "huge BMP": bmp(50_000, 50_000),
    "negative BMP": bmp(-5, -5),
    "huge GIF": gif(65_535, 65_535),
    "empty GIF": gif(0, 0),
    "compressed text": png(8, 8, chunks=[(b"zTXt", b"a\0\0" + BLOWN), (b"IDAT", b"")]),
    "compressed profile": png(8, 8, chunks=[(b"iCCP", b"a\0\0" + BLOWN), (b"IDAT", b"")]),
    "pixels beyond": png(8, 8, chunks=[(b"IDAT", BLOWN)]),
    "PPM": b"P6 99999 99999 255\n" + bytes(10),
    "no bytes": b"",
    "bytes": bytes(1000),
    "HTML": b"<html><script>alert(1)</script>",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\n%%EndComments\nquit\n",
    "PDF": b"%PDF-1.4\n",
    "array of none": np.zeros((0, 5, 3), np.uint8),
    "array of numbers": np.zeros((5, 5, 3)),
    "array of four axes": np.zeros((1, 5, 5, 3), np.uint8),
    "large array": np.zeros((1, 1), np.uint8).repeat(9_000, 0).repeat(9_000, 1),
    "no file": "a\0b.png",
    "long name": "a" * MEGABYTE,
    "folder": ".",
    "device": "/dev/zero",
    "address": "http://127.0.0.1:1/a.png",
    "file address": "file:///etc/passwd",
    "nothing in a column": {"bytes": None, "path": None},
    "address in a column": {"bytes": None, "path": "http://127.0.0.1:1/a.png"},
}


@pytest.mark.parametrize("name", BOMBS)
def test_an_image_that_is_invalid_is_refused(pipe, name):
    with bounded(megabytes=300):
        refusal = refused(pipe, GOOD | {"image": BOMBS[name]}, "image")
    assert refusal or name == "pixels beyond"  # what is more than the header says is left out


def test_the_largest_image_is_answered(pipe):
    side = math.isqrt(MAX_PIXELS)
    with bounded(seconds=20, megabytes=2_000):
        assert is_answer(pipe(GOOD | {"image": zeros(side, side)}))
        assert is_answer(pipe(GOOD | {"image": zeros(MAX_PIXELS // 100, 100)}))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_images_are_refused_or_answered(pipe, capfd):
    rng, seeds = random.Random(0), []
    picture = Image.effect_noise((48, 48), 60).convert("RGB")
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "DDS", "TGA"):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        seeds.append(buffer.getvalue())
    answers = {True: 0, False: 0}
    with bounded(seconds=60):
        for turn in range(400):
            damaged = bytearray(seeds[turn % len(seeds)])
            for _ in range(rng.randint(1, 6)):
                place = rng.randrange(min(len(damaged), rng.choice([60, 10_000])))
                damaged[place] = rng.choice([0, 127, 255, rng.randrange(256)])
            if rng.random() < 0.2:
                del damaged[rng.randrange(len(damaged)) :]
            answers[refused(pipe, GOOD | {"image": bytes(damaged)}, "image")] += 1
    assert min(answers.values()) > 20
    capfd.readouterr()  # libtiff writes to standard error by itself
