"""Strategies and profiles of the fuzz tests.

`HMGRL_FUZZ` selects the profile: "ci" (the default), which draws the same few examples in every
run, or "long", which draws new ones, `HMGRL_FUZZ_EXAMPLES` (5000 by default) for each test. Failing
examples of "long" are stored in `.hypothesis/` and tried first in the next run:

    HMGRL_FUZZ=long python -m pytest tests/fuzz --hypothesis-show-statistics
"""

import json
import os
from dataclasses import replace

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from dataset_scripts.schema import check_spans

PROFILE = os.environ.get("HMGRL_FUZZ", "ci")
CI_EXAMPLES = 60
LONG_EXAMPLES = int(os.environ.get("HMGRL_FUZZ_EXAMPLES", "5000"))
_COMMON = {
    "deadline": None,  # the machine may be busy
    "suppress_health_check": list(HealthCheck),
}


def fuzz(cost=1):
    """Settings of a test whose examples take `cost` times as long as those of a reader of lines."""
    if PROFILE == "long":
        return settings(max_examples=max(50, LONG_EXAMPLES // cost), print_blob=True, **_COMMON)
    if PROFILE != "ci":
        raise ValueError(f"HMGRL_FUZZ: got {PROFILE!r}, expected 'ci' or 'long'")
    phases = [Phase.explicit, Phase.generate, Phase.shrink]
    return settings(
        max_examples=max(10, CI_EXAMPLES // cost),
        derandomize=True,
        database=None,
        phases=phases,
        **_COMMON,
    )


# Text

ODD = [
    "a", "Ada", " ", "  ", "-", "_", "1", "\N{COMBINING ACUTE ACCENT}",
    "e\N{COMBINING ACUTE ACCENT}", "\N{COMBINING ENCLOSING CIRCLE}", "\N{ZERO WIDTH JOINER}",
    "👩🏽‍💻", "🇫🇷", "\U0001f426", "鳥", "北京", "سلام", "שלום", "नमस्ते", "ﷺ",
    "\N{RIGHT-TO-LEFT OVERRIDE}", "\N{POP DIRECTIONAL FORMATTING}", "\N{NO-BREAK SPACE}",
    "\N{ZERO WIDTH SPACE}", "\N{ZERO WIDTH NO-BREAK SPACE}", "\N{IDEOGRAPHIC SPACE}",
    "\N{LINE SEPARATOR}", "\x85", "\r", "\n", "\t", "\x0b", "\0", "\x1b", "\ud800", "\udcff",
    "\ud83d\udc26", "\uffff", "\U0010ffff", "İ", "ß", "ﬁ", '"', "'", "\\", ",", "[SEP]", "[E1]",
    "[MASK]", "/", "..", "://", "#",
]  # fmt: skip
CHARACTERS = st.sampled_from(ODD) | st.characters()


def texts(max_size=10):
    """Texts of odd characters, lone surrogates among them."""
    return st.lists(CHARACTERS, max_size=max_size).map("".join)


def values(names=()):
    """Any JSON value, numbers that are not finite or very large among them."""
    keys = st.sampled_from([*names, "name", "pos", ""]) | texts(2)
    leaves = (
        st.none()
        | st.booleans()
        | st.integers(-3, 20)
        | st.integers()
        | st.sampled_from([10**30, -(2**63), 2**31, 2**64])
        | st.floats()
        | texts(4)
    )
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
        max_leaves=6,
    )


def spans_of(text):
    """Spans of a text, mostly inside it."""
    offset = st.integers(-1, len(text) + 2)
    pair = st.tuples(offset, offset).map(lambda pair: [*sorted(pair)]) | st.lists(
        offset, max_size=3
    )
    return st.lists(pair, max_size=3)


@st.composite
def records(draw, odd=True):
    """A data record; some of its fields are of any value if `odd`."""
    words = draw(st.lists(st.sampled_from(["Ada", "Bob", "met", "🐦", "é", "鳥"]), max_size=6))
    text = draw(st.just(" ".join(words)) | texts())
    record = {"text": text, "label": draw(st.sampled_from(["person", "bird", "place"]))}
    if draw(st.booleans()):
        record["spans"] = draw(spans_of(text))
    if draw(st.booleans()) or "spans" not in record:
        mention = st.sampled_from(words) if words else texts(2)
        record["mention"] = draw(mention | st.lists(mention, max_size=3))
    if draw(st.booleans()):
        record["occurrence"] = draw(st.integers(-1, 3) | st.lists(st.integers(0, 2), max_size=3))
    if draw(st.booleans()):
        record["image"] = draw(st.sampled_from(["a.png", "b/c.png", "../a.png", "link", "x" * 300]))
    if odd:
        fields = ("id", "text", "image", "spans", "mention", "occurrence", "label", "split", "seen")
        changed = st.dictionaries(st.sampled_from(fields) | texts(2), values(), max_size=2)
        record |= draw(changed)
    return record


# Bytes


@st.composite
def mutated(draw, content, most=4):
    """Bytes of a strategy with a few random changes, insertions and deletions, or none."""
    data = bytearray(draw(content))
    pieces = st.binary(min_size=1, max_size=4) | st.sampled_from(
        [b"\0", b"\n", b"\r", b'"', b",", b"[", b"{", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf",
         b"[" * 2000, b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff"]
    )  # fmt: skip
    for _ in range(draw(st.integers(0, most))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["replace", "insert", "delete", "cut", "repeat"]))
        if kind == "replace":
            piece = draw(pieces)
            data[at : at + len(piece)] = piece
        elif kind == "insert":
            data[at:at] = draw(pieces)
        elif kind == "delete":
            del data[at : at + draw(st.integers(1, 8))]
        elif kind == "cut":
            del data[at:]
        else:
            data[at:at] = data[max(0, at - 20) : at]
    return bytes(data)


def to_json(value, ascii_only=False):
    """JSON as bytes, also of lone surrogates, which then are not UTF-8."""
    return json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


def checked_message(error):
    """Checks that an error has a message that can be printed and is not endless."""
    message = str(error)
    assert message.strip()
    assert len(message) < 3000
    return message


def read_both_ways(read, options):
    """Reads a source with both ways of handling errors, and checks the records.

    Args:
        read: Reads the source with options.
        options: The options, without the way of handling errors.

    Returns:
        The corpora without and with an error for the first invalid record; None for one that is
        refused.
    """
    corpora = []
    for on_error in ("skip", "raise"):
        try:
            corpora.append(read(replace(options, on_error=on_error)))
        except ValueError as error:
            checked_message(error)
            corpora.append(None)
    lenient, strict = corpora
    if lenient is None:
        assert strict is None
        return None, None
    report = lenient.report
    assert report.records_in == len(lenient.records) + report.records_left_out
    for record in lenient.records:
        assert check_spans(record.spans, record.text, record.place, lenient.task) == record.spans
        for value in (record.id, record.text, record.label):
            value.encode()
    return lenient, strict
