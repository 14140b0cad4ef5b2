"""Inputs that mean harm: an error that names the field, or an answer, in bounded time and space."""

import io
import itertools
import math
import random
import resource
import struct
import time
import zlib
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_world import LABELS, tiny_picture, tiny_pipeline

from modeling_hmgrl.entity_markers import shown
from modeling_hmgrl.images import MAX_PIXELS
from modeling_hmgrl.pipeline_inputs import FIELDS

MEGABYTE = 1_000_000
GOOD = {"text": "anna sees the fox", "mention": "fox"}


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline(seen_labels=LABELS[:3], generator_labels=LABELS[3:], calibration_gamma=0.2)


@contextmanager
def bounded(seconds=10, megabytes=400):
    """Fails if what is inside takes longer, or makes the process grow more."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < seconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < megabytes * 1000


def is_answer(result):
    numbers = [*result["scores"], *result["probabilities"]]
    assert all(math.isfinite(number) for number in numbers)
    assert result["label"] == result["labels"][0]
    return True


def refused(pipe, record, field, place="input", **options):
    """Whether an input is refused by an error that names the field; False if it is answered."""
    try:
        result = pipe(record, **options)
    except (ValueError, OSError) as caught:
        error = str(caught)
    else:
        return not is_answer(result)
    assert error.startswith(f"{place}.{field}" if field else place)
    assert len(error) < 1000
    return True


# Long texts

LONG = {
    "words": "near the old " * (MEGABYTE // 13),
    "letters": "a " * (MEGABYTE // 2),
    "one word": "a" * MEGABYTE,
    "points": "." * MEGABYTE,
    "no words": "動" * MEGABYTE,
    "accents": "e" + "\N{COMBINING ACUTE ACCENT}" * MEGABYTE,
    "no width": "\N{ZERO WIDTH SPACE}" * MEGABYTE,
    "emoji": "👩🏽‍💻" * (MEGABYTE // 4),
    "spaces": " " * MEGABYTE,
    "special tokens": "[SEP][E1][MASK]" * (MEGABYTE // 15),
}


@pytest.mark.parametrize("name", LONG)
def test_a_text_of_a_megabyte_is_answered(pipe, name):
    with bounded():
        result = pipe(f"{LONG[name]} fox", mention="fox")
    assert is_answer(result)
    if name not in ("one word", "no width", "spaces", "accents", "emoji"):  # which are few tokens
        assert result["window"][-1][1] == len(LONG[name]) + 4


@pytest.mark.parametrize("spans", [[[0, MEGABYTE]], [[MEGABYTE // 2, MEGABYTE]], [[4, 5]]])
def test_any_part_of_a_long_text_may_be_the_mention(pipe, spans):
    with bounded():
        assert is_answer(pipe("a b " * (MEGABYTE // 4), spans=spans))


def test_mentions_far_apart_are_answered():
    pipe = tiny_pipeline("relation", seen_labels=LABELS)
    text = "anna " + "near " * (MEGABYTE // 5) + "boris"
    with bounded():
        result = pipe(text, mention=("anna", "boris"))
    assert is_answer(result)
    assert len(result["window"]) == 2


def test_a_text_that_grows_costs_no_more(pipe):
    def seconds(size):
        text = "near the old " * (size // 13) + "fox"
        begin = time.process_time()
        pipe(text, mention="fox")
        return time.process_time() - begin

    seconds(MEGABYTE)
    short, long = (min(seconds(size) for _ in range(3)) for size in (MEGABYTE // 50, MEGABYTE))
    assert long < 10 * short  # fifty times the text


@pytest.mark.parametrize("length", [1, 1000, MEGABYTE // 2])
def test_a_mention_that_overlaps_itself_is_not_counted_without_end(pipe, length):
    record = {"text": "a" * MEGABYTE, "mention": "a" * length}
    with bounded():
        assert refused(pipe, record, "mention")
        assert refused(pipe, record | {"occurrence": 10**9}, "occurrence")
        assert not refused(pipe, record | {"occurrence": 5}, None)


def test_many_mentions_in_place_of_one(pipe):
    record = {"text": "a " * (MEGABYTE // 2), "mention": ["a"] * 100_000}
    with bounded():
        assert refused(pipe, record, "mention")
        assert refused(pipe, {"text": "a", "spans": [[0, 1]] * 1_000_000}, "spans")


# Characters

ODD = {
    "NUL": "\0",
    "control": "\x01\x07\x1b[31m\x7f",
    "zero width": "\N{ZERO WIDTH SPACE}\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NO-BREAK SPACE}",
    "right to left": "\N{RIGHT-TO-LEFT OVERRIDE}xof\N{POP DIRECTIONAL FORMATTING}",
    "arabic": "سلام",
    "accents": "\N{COMBINING ACUTE ACCENT}" * 50,
    "line ends": "\r\n\x0b\x0c\x85\N{LINE SEPARATOR}\N{PARAGRAPH SEPARATOR}",
    "tags": "".join(chr(0xE0000 + ord(c)) for c in "fox"),
    "private": "\ue000\U000f0000",
    "no character": "\uffff\U0010ffff\ufdd0",
    "replaced": "\N{REPLACEMENT CHARACTER}",
    "wide": "𝔣𝔬𝔵 ＦＯＸ ﬁ",
    "spelt tokens": "[SEP] [PAD] [E1] [/E1] [MASK] ##a",
}


@pytest.mark.parametrize("name", ODD)
def test_odd_characters_are_answered(pipe, name):
    odd = ODD[name]
    with bounded():
        for text in (f"{odd} fox", f"fox{odd}", f"the{odd}fox{odd}near", f"a {odd * 20} fox"):
            assert is_answer(pipe(text, mention="fox"))
        if odd.strip():
            assert is_answer(pipe(f"the {odd}", mention=odd))
            assert is_answer(pipe(f"the {odd} near", spans=[[4, 4 + len(odd)]]))
            assert is_answer(pipe(GOOD, labels=[odd, f"a {odd}", "tool"], top_k=None))
            assert is_answer(pipe(GOOD, labels={"tool": odd, odd: None}, seen=[odd]))
        else:
            assert refused(pipe, {"text": f"the {odd}", "mention": odd}, "spans")
            assert refused(pipe, GOOD | {"labels": ["tool", odd]}, "labels")


@pytest.mark.parametrize(
    "label", ["\N{ZERO WIDTH SPACE}", "\0\x01", "\N{ZERO WIDTH NO-BREAK SPACE}"]
)
@pytest.mark.parametrize("paper", [False, True])
def test_a_label_or_mention_without_a_token_is_answered(label, paper):
    pipe = tiny_pipeline(paper=paper)
    ids = pipe.processor.tokenizer(label, add_special_tokens=False).input_ids
    assert ids == []
    result = pipe(GOOD, labels=[label, "tool"], top_k=None)
    assert is_answer(result)
    assert set(result["labels"]) == {label, "tool"}
    assert is_answer(pipe(f"a{label}", spans=[[1, 1 + len(label)]], labels=LABELS))
    assert is_answer(pipe(label, spans=[[0, len(label)]], labels=LABELS))


HALF = "\ud800"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"text": f"fox {HALF}"}, "text"),
        ({"text": f"fox {HALF}", "mention": HALF}, "text"),
        ({"mention": HALF}, "mention"),
        ({"labels": ["tool", HALF]}, "labels"),
        ({"labels": {"tool": HALF}}, "labels"),
        ({"labels": {HALF: "tool"}}, "labels"),
        ({"image": HALF}, "image"),
        ({"image": f"http://{HALF}.org/"}, "image"),
        ({HALF: 1}, None),
    ],
)
def test_half_a_surrogate_pair_is_refused(pipe, fields, field):
    assert refused(pipe, GOOD | fields, field)
    [failure] = pipe([GOOD | fields], on_error="return")
    failure["error"].encode()  # can be written down


# Labels


def test_a_label_of_a_megabyte_is_answered(pipe):
    with bounded():
        result = pipe(GOOD, labels=["b c " * (MEGABYTE // 4), "a" * MEGABYTE, "tool"], top_k=None)
    assert is_answer(result)
    with bounded():
        assert refused(pipe, GOOD | {"labels": ["tool", " " * MEGABYTE]}, "labels")
        assert refused(pipe, GOOD | {"labels": {"a" * MEGABYTE: ""}}, "labels")


def test_a_hundred_thousand_labels_are_answered(pipe):
    labels = [f"old {k}" for k in range(100_000)]
    with bounded(seconds=120):  # each is encoded
        first = pipe(GOOD, labels=labels)
    with bounded(seconds=2):  # none is
        assert pipe(GOOD, labels=list(labels)) == first
    assert is_answer(first)
    with bounded():
        assert refused(pipe, GOOD | {"labels": [*labels, 5]}, "labels")
        with pytest.raises(ValueError, match=r"^labels: got 5, expected a label"):
            pipe(GOOD, labels=[*labels, 5])
        whole = pipe(GOOD, labels=labels, top_k=None)
    assert len(whole["labels"]) == 100_000
    assert sum(whole["probabilities"]) == pytest.approx(1)
    pipe.label_cache.clear()


# Pictures


def png(width, height, depth=8, kind=2, chunks=()):
    """The few bytes of a PNG that claims to be that large."""

    def chunk(name, content):
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    parts = [chunk(name, content) for name, content in chunks]
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(parts) + chunk(b"IEND", b"")


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
    "huge PNG": png(2**31 - 1, 2**31 - 1),
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
def test_a_picture_that_is_none_is_refused(pipe, name):
    with bounded(megabytes=300):
        refusal = refused(pipe, GOOD | {"image": BOMBS[name]}, "image")
    assert refusal or name == "pixels beyond"  # what is more than the header says is left out


def test_the_largest_picture_is_answered(pipe):
    side = math.isqrt(MAX_PIXELS)
    with bounded(seconds=20, megabytes=2_000):
        assert is_answer(pipe(GOOD | {"image": zeros(side, side)}))
        assert is_answer(pipe(GOOD | {"image": zeros(MAX_PIXELS // 100, 100)}))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_pictures_are_refused_or_answered(pipe, capfd):
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


# Fields of any type


def deep(depth=100_000):
    value = "x"
    for _ in range(depth):
        value = [value]
    return value


def in_itself():
    value = []
    value.append(value)
    return value


class Mute:
    """An object that cannot show itself."""

    def __repr__(self):
        raise RuntimeError("no")


TYPES = {
    "deep": deep(),
    "deep mapping": {"a": deep()},
    "in itself": in_itself(),
    "huge number": 10**5000,
    "huge numbers": [[0, 10**5000]],
    "below": [[-(10**5000), 3]],
    "not a number": math.nan,
    "numbers": [[math.nan, math.inf]],
    "true": True,
    "object": object(),
    "mute": Mute(),
    "mutes": [Mute()],
    "class": str,
    "function": len,
    "bytes": b"fox\xff",
    "set": {1, 2},
    "mapping": {1: 2},
    "two keys": {"a": 1, "b": 2},
    "generator": (x for x in "fox"),
    "endless": itertools.count(),
    "array": np.arange(6).reshape(2, 3),
    "texts": np.array(["fox"]),
    "array of objects": np.array([Mute(), None]),
    "scalar": np.float64(3),
    "tensor": torch.arange(5.0),
    "empty": [],
    "pairs of text": [["a", "b"]],
    "many": list(range(1_000_000)),
}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("field", FIELDS)
def test_any_type_in_any_field_is_refused_or_answered(pipe, field, name):
    record = {**GOOD, field: TYPES[name]}
    if field == "spans":
        del record["mention"]
    with bounded():
        refusal = refused(pipe, record, field)
    assert refusal


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("argument", ["labels", "seen", "top_k", "batch_size", "num_workers",
                                      "on_error", "image_hosts"])  # fmt: skip
def test_any_type_of_any_argument_is_refused_or_answered(pipe, argument, name):
    error = None
    with bounded():
        try:
            result = pipe(GOOD, **{argument: TYPES[name]})
        except ValueError as caught:
            error = str(caught)
    if error is None:
        assert is_answer(result)
        assert name in ("empty", "texts")
    else:
        assert error.startswith((f"{argument}: got ", f"{argument}['a']: got "))
        assert len(error) < 1000


@pytest.mark.parametrize("name", TYPES)
def test_any_type_in_place_of_inputs_is_refused(pipe, name):
    value = TYPES[name]
    if name in ("generator", "endless"):
        value = iter([len])
    with bounded(), pytest.raises(ValueError, match=r"^(inputs?|inputs\[0\])(:|\.)") as caught:
        list(pipe(value)) if name != "empty" else pipe([value])
    assert len(str(caught.value)) < 1000


def test_keys_of_any_type_are_refused(pipe):
    for key in (1, None, (1, 2), b"text", 10**5000, Mute()):
        assert refused(pipe, {**GOOD, key: 1}, None)


def test_values_are_shown_shortly():
    for value in TYPES.values():
        assert len(shown(value)) < 400
    assert shown("a" * MEGABYTE) == f"'{'a' * 37}...{'a' * 38}'"
    assert shown(Mute()).startswith("<Mute instance")
    assert shown(10**5000) == "<int>"
    assert shown([1, "a", None]) == "[1, 'a', None]"


# All at once


def test_a_stream_of_hostile_inputs_is_answered_one_for_one(pipe):
    picture = tiny_picture("animal")
    good = GOOD | {"image": picture}
    hostile = [
        {"text": deep()}, {"text": "fox", "mention": HALF}, 5, None, [], {},
        GOOD | {"image": BOMBS["huge PNG"]}, GOOD | {"labels": [Mute()]},
        GOOD | {"image": "/dev/zero"}, {"text": "a" * MEGABYTE, "mention": "a"},
    ]  # fmt: skip
    inputs = [record for bad in hostile for record in (bad, good)]
    expected = pipe(good)
    with bounded(seconds=20):
        for workers in (0, 2):
            found = list(pipe(iter(inputs), on_error="return", num_workers=workers, batch_size=4))
            assert len(found) == len(inputs)
            for index in range(0, len(inputs), 2):
                assert list(found[index]) == ["error"]
                assert found[index]["error"].startswith(f"inputs[{index}]")
                assert found[index + 1]["labels"] == expected["labels"]
