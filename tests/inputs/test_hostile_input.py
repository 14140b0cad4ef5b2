"""Hostile texts and labels: an error that names the field, or a prediction, in bounds of cost."""

import time

import pytest
from hostile_world import GOOD, HUGE_PNG, MEGABYTE, Mute, bounded, deep, is_answer, refused
from tiny_world import LABELS, tiny_picture, tiny_pipeline

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
    [failure] = pipe([GOOD | fields], on_error="skip")
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


# All at once


def test_a_stream_of_hostile_inputs_is_answered_one_for_one(pipe):
    picture = tiny_picture("animal")
    good = GOOD | {"image": picture}
    hostile = [
        {"text": deep()}, {"text": "fox", "mention": HALF}, 5, None, [], {},
        GOOD | {"image": HUGE_PNG}, GOOD | {"labels": [Mute()]},
        GOOD | {"image": "/dev/zero"}, {"text": "a" * MEGABYTE, "mention": "a"},
    ]  # fmt: skip
    inputs = [record for bad in hostile for record in (bad, good)]
    expected = pipe(good)
    with bounded(seconds=20):
        for workers in (0, 2):
            found = list(pipe(iter(inputs), on_error="skip", num_workers=workers, batch_size=4))
            assert len(found) == len(inputs)
            for index in range(0, len(inputs), 2):
                assert list(found[index]) == ["error"]
                assert found[index]["error"].startswith(f"inputs[{index}]")
                assert found[index + 1]["labels"] == expected["labels"]
