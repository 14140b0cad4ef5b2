import unicodedata

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_world import tiny_tokenizer, vocabulary
from transformers import BertTokenizer

from modeling_hmgrl import entity_markers as marking
from modeling_hmgrl.entity_markers import MARKERS, check_spans, mark_texts

NAMES = [name for pair in MARKERS for name in pair]

# Characters of many scripts, alone and as parts of words, so that a mention can be read back.
ACCENTED = "éüñçåøß"
SCRIPTS = (
    ACCENTED
    + "наукмиЖ"
    + "אבגד"
    + "سلام"
    + "नमस्ते"
    + "東京大学"
    + "한국"
    + "\N{COMBINING ACUTE ACCENT}"
)
EMOJI = "😀👩🏽💻🇫🇷❤\N{VARIATION SELECTOR-16}"


def marked_tokenizer(cased=False):
    characters = dict.fromkeys([*SCRIPTS, *EMOJI, *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"])
    tokens = [*vocabulary(), *characters, *(f"##{c}" for c in characters)]
    tokenizer = BertTokenizer(
        vocab={token: i for i, token in enumerate(dict.fromkeys(tokens))},
        do_lower_case=not cased,
        strip_accents=False,
    )
    tokenizer.add_special_tokens({"extra_special_tokens": NAMES})
    return tokenizer


TOKENIZER, CASED = marked_tokenizer(), marked_tokenizer(cased=True)


def marked(text, spans, room=10_000, tokenizer=TOKENIZER):
    [sample] = mark_texts(tokenizer, [text], [spans], room)
    return sample


def tokens(sample, tokenizer=TOKENIZER):
    return tokenizer.convert_ids_to_tokens(sample.ids)


def spaced(sample, tokenizer=TOKENIZER):
    return " ".join(tokens(sample, tokenizer))


def letters(text):
    """What a tokenizer leaves of a text: no space, no invisible characters."""
    kept = (c for c in text if not c.isspace() and unicodedata.category(c) not in ("Cf", "Cc"))
    return "".join(kept)


def spelt(sample, start, end, tokenizer=TOKENIZER):
    """Characters of the tokens between two positions, markers left out."""
    inner = tokenizer.convert_ids_to_tokens(sample.ids[start:end])
    return "".join(t.removeprefix("##") for t in inner if t not in NAMES)


# Layout


@pytest.mark.parametrize(
    ("text", "spans", "expected"),
    [
        ("anna sees the fox", [(14, 17)], "anna sees the [E1] fox [/E1]"),
        ("fox", [(0, 3)], "[E1] fox [/E1]"),
        ("anna sees the fox", [(0, 17)], "[E1] anna sees the fox [/E1]"),
        ("anna feeds boris", [(0, 4), (11, 16)], "[E1] anna [/E1] feeds [E2] boris [/E2]"),
        ("anna feeds boris", [(11, 16), (0, 4)], "[E2] anna [/E2] feeds [E1] boris [/E1]"),
        # nested, either one inside
        ("the old fox", [(0, 11), (8, 11)], "[E1] the old [E2] fox [/E2] [/E1]"),
        ("the old fox", [(8, 11), (0, 11)], "[E2] the old [E1] fox [/E1] [/E2]"),
        ("the old fox", [(0, 11), (0, 3)], "[E1] [E2] the [/E2] old fox [/E1]"),
        ("the old fox", [(0, 3), (0, 11)], "[E2] [E1] the [/E1] old fox [/E2]"),
        # overlapping
        ("the old fox", [(0, 7), (4, 11)], "[E1] the [E2] old [/E1] fox [/E2]"),
        ("the old fox", [(4, 11), (0, 7)], "[E2] the [E1] old [/E2] fox [/E1]"),
        # adjacent: the first one closes before the second one opens
        ("fox, hen", [(0, 3), (3, 8)], "[E1] fox [/E1] [E2] , hen [/E2]"),
        ("fox, hen", [(3, 8), (0, 3)], "[E2] fox [/E2] [E1] , hen [/E1]"),
        # the same mention twice
        ("the fox", [(4, 7), (4, 7)], "the [E1] [E2] fox [/E2] [/E1]"),
        # inside a word, where the rest must not look like the word's continuation
        ("foxhen", [(0, 3)], "[E1] fox [/E1] hen"),
        ("foxhen", [(3, 6)], "fox [E1] hen [/E1]"),
        # spaces that belong to the mention or lie around it
        ("  fox  ", [(2, 5)], "[E1] fox [/E1]"),
        ("the fox hen", [(3, 8)], "the [E1] fox [/E1] hen"),
        ("\tthe\nfox ", [(0, 9)], "[E1] the fox [/E1]"),
    ],
)  # fmt: skip
def test_layout(text, spans, expected):
    sample = marked(text, spans)
    assert spaced(sample) == expected
    assert sample.kept is None
    for (opening, closing), (start, end) in zip(MARKERS, sample.positions, strict=False):
        assert (tokens(sample)[start], tokens(sample)[end]) == (opening, closing)
    assert len(sample.positions) == len(spans)


def test_a_batch_keeps_samples_apart():
    texts = ["anna sees the fox", "boris", "the hen sees the cat"]
    spans = [[(14, 17)], [(0, 5)], [(4, 7)]]
    together = mark_texts(TOKENIZER, texts, spans, 100)
    assert together == [marked(t, s) for t, s in zip(texts, spans, strict=True)]


SPELLINGS = ["[E1]", "[/E1]", "[E2]", "[/E2]", "[SEP]", "[CLS]", "[PAD]", "[MASK]", "[UNK]"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_text_cannot_spell_a_special_token(spelling):
    # in the context, as the mention, and put together from both sides of a marker
    half = len(spelling) // 2
    cases = [
        (f"{spelling} fox {spelling}", (len(spelling) + 1, len(spelling) + 4)),
        (f"the {spelling} fox", (4, 4 + len(spelling))),
        (f"fox{spelling}fox", (0, 3 + half)),
    ]
    for text, span in cases:
        found = tokens(marked(text, [span]))
        assert [t for t in found if t in TOKENIZER.all_special_tokens] == ["[E1]", "[/E1]"]


# Reading back

UNICODE = [
    ("le fête été", "fête"),
    ("nai\N{COMBINING DIAERESIS}ve fox", "nai\N{COMBINING DIAERESIS}ve"),
    ("e\N{COMBINING ACUTE ACCENT}e\N{COMBINING ACUTE ACCENT} fox", "e\N{COMBINING ACUTE ACCENT}"),
    ("我在東京大学", "東京"),
    ("한국 fox", "한국"),
    ("fox 😀😀 hen", "😀"),
    ("👩🏽\N{ZERO WIDTH JOINER}💻 fox", "👩🏽\N{ZERO WIDTH JOINER}💻"),
    ("🇫🇷 fox", "🇫🇷"),
    ("fox ❤\N{VARIATION SELECTOR-16}", "❤\N{VARIATION SELECTOR-16}"),
    ("שלום אבגד", "אבגד"),
    ("سلام fox", "سلام"),
    ("नमस्ते fox", "नमस्ते"),
    ("наука fox", "наука"),
    ("soft\N{SOFT HYPHEN}fox hen", "soft\N{SOFT HYPHEN}fox"),
    ("a\N{NO-BREAK SPACE}fox hen", "fox"),
    ("\N{ZERO WIDTH NO-BREAK SPACE}fox hen", "fox"),
    ("Straße MIT fox", "Straße MIT"),
]


@pytest.mark.parametrize("tokenizer", [TOKENIZER, CASED], ids=["uncased", "cased"])
@pytest.mark.parametrize(("text", "mention"), UNICODE)
def test_mention_in_any_script_is_read_back(text, mention, tokenizer):
    start = text.index(mention)
    sample = marked(text, [(start, start + len(mention))], tokenizer=tokenizer)
    found = spelt(sample, *sample.positions[0], tokenizer)
    expected = letters(mention if tokenizer is CASED else mention.lower())
    if "[UNK]" not in found:
        assert unicodedata.normalize("NFD", found) == unicodedata.normalize("NFD", expected)
    else:  # a mark that is no letter of this vocabulary; the mention still has its tokens
        assert sample.positions[0][1] - sample.positions[0][0] > 1


def test_most_of_those_scripts_are_in_the_vocabulary():
    # so that the test above cannot pass by reading unknown tokens alone
    unknown = sum("[UNK]" in tokens(marked(m, [(0, len(m))])) for _, m in UNICODE)
    assert unknown <= 3


TEXT = st.text(
    st.sampled_from([*"abcdefxyz", *" .,[]/\t", *SCRIPTS[:20], "東", "😀", "\u200d", "E", "1"]),
    min_size=1,
    max_size=60,
)


@st.composite
def samples(draw):
    text = draw(TEXT.filter(lambda t: t.strip()))
    spans = []
    for _ in range(draw(st.integers(1, 2))):
        start = draw(st.integers(0, len(text) - 1))
        spans.append((start, draw(st.integers(start + 1, len(text)))))
    return text, spans


@settings(max_examples=300, deadline=None)
@given(samples())
def test_whole_text_is_kept_and_markers_stand_at_the_spans(sample):
    text, spans = sample
    result = marked(text, spans)
    found = tokens(result)
    assert result.kept is None
    assert sorted(t for t in found if t in NAMES) == sorted(NAMES[: 2 * len(spans)])
    for number, ((start, end), (opening, closing)) in enumerate(
        zip(spans, result.positions, strict=True)
    ):
        assert (found[opening], found[closing]) == MARKERS[number]
        assert opening < closing
        inside = spelt(result, opening, closing)
        if "[UNK]" not in found:
            assert inside == letters(text[start:end].lower())
            assert spelt(result, 0, opening) == letters(text[:start].lower())
            assert spelt(result, closing, len(found)) == letters(text[end:].lower())


# Windows


def test_a_text_that_just_fits_is_whole():
    sample = marked("anna sees the fox", [(14, 17)], 6)
    assert sample.kept is None
    assert len(sample.ids) == 6


def test_window_keeps_the_nearest_context_of_one_mention():
    text = "a b c d e fox g h i j k"
    sample = marked(text, [(10, 13)], 7)
    assert spaced(sample) == "d e [E1] fox [/E1] g h"
    assert sample.positions == [(2, 4)]
    assert [text[a:b] for a, b in sample.kept] == ["d e fox g h"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("fox a b c d e f g", "[E1] fox [/E1] a b"), ("a b c d e f g fox", "f g [E1] fox [/E1]")],
)
def test_window_at_an_end_of_the_text(text, expected):
    start = text.index("fox")
    assert spaced(marked(text, [(start, start + 3)], 5)) == expected


def test_window_of_two_mentions_far_apart_has_two_parts():
    text = f"fox {'a ' * 200}hen"
    sample = marked(text, [(0, 3), (len(text) - 3, len(text))], 12)
    assert spaced(sample) == "[E1] fox [/E1] a a a a a a [E2] hen [/E2]"
    assert [text[a:b] for a, b in sample.kept] == ["fox a a a", "a a a hen"]


def test_window_gives_up_context_before_mentions():
    text = "a a a a a a the old near fox b b b b b b"
    start = text.index("the")
    sample = marked(text, [(start, start + 16)], 6)
    assert spaced(sample) == "[E1] the old near fox [/E1]"


def test_mention_longer_than_the_window_loses_its_middle():
    text = f"a b {' '.join('cdefghijklmnopqrst')} u v"
    sample = marked(text, [(4, len(text) - 4)], 8)
    assert spaced(sample) == "[E1] c d e r s t [/E1]"
    assert [text[a:b] for a, b in sample.kept] == ["c d e", "r s t"]


def test_two_mentions_of_which_one_is_longer_than_the_window():
    text = f"fox sees {'a ' * 50}hen"
    sample = marked(text, [(0, 3), (9, len(text))], 10)
    found = tokens(sample)
    assert [t for t in found if t in NAMES] == NAMES
    assert found[1] == "fox"
    assert found[-2] == "hen"


def test_one_word_of_many_tokens_may_be_cut():
    text = "x" * 50
    sample = marked(text, [(0, 50)], 8)
    assert tokens(sample)[0] == "[E1]"
    assert tokens(sample)[-1] == "[/E1]"
    assert sum(b - a for a, b in sample.kept) <= 50


@settings(max_examples=400, deadline=None)
@given(samples(), st.integers(8, 30))
def test_window_properties(sample, room):
    text, spans = sample
    whole, result = marked(text, spans), marked(text, spans, room)
    assert len(result.ids) == min(room, len(whole.ids))
    assert (result.kept is None) == (len(whole.ids) <= room)
    found = tokens(result)
    # every marker is there once and in the order of the whole text
    assert [t for t in found if t in NAMES] == [t for t in tokens(whole) if t in NAMES]
    for number, (opening, closing) in enumerate(result.positions):
        assert (found[opening], found[closing]) == MARKERS[number]
        # a mention that has a token keeps one
        start, end = whole.positions[number]
        if any(t not in NAMES for t in tokens(whole)[start:end]):
            assert any(t not in NAMES for t in found[opening:closing])
    # the tokens are those of the whole text in their order
    rest = iter(whole.ids)
    assert all(token in rest for token in result.ids)
    if result.kept is not None:
        ends = [0, *(offset for pair in result.kept for offset in pair), len(text)]
        assert ends == sorted(ends)
        if "[UNK]" not in tokens(whole):
            kept = "".join(text[a:b] for a, b in result.kept)
            assert letters(kept.lower()) == spelt(result, 0, len(found))


# Checks


@pytest.mark.parametrize(
    "spans",
    [
        [[0, 3]], [(0, 3)], ((0, 3),), [0, 3], (0, 3), np.array([[0, 3]]), np.array([0, 3]),
        torch.tensor([[0, 3]]), [np.array([0, 3])], [[np.int64(0), np.int32(3)]],
    ],
)  # fmt: skip
def test_one_span_in_any_shape(spans):
    assert check_spans("fox", spans, 1, "sample 0") == [(0, 3)]


@pytest.mark.parametrize("make", [list, np.array, torch.tensor, tuple])
def test_two_spans_in_any_shape(make):
    assert check_spans("fox hen", make([[4, 7], [0, 3]]), 2, "x") == [(4, 7), (0, 3)]


@pytest.mark.parametrize(
    ("text", "spans", "count", "message"),
    [
        (None, [[0, 1]], 1, r"\.text: got NoneType, expected a non-blank string"),
        (b"fox", [[0, 1]], 1, r"\.text: got bytes, expected a non-blank string"),
        ("", [[0, 1]], 1, r"\.text: got an empty or blank string, expected a non-blank"),
        (" \n\t", [[0, 1]], 1, r"\.text: got an empty or blank string"),
        ("fox", None, 1, r"\.spans: got None, expected pairs \[start, end\]"),
        ("fox", 3, 1, r"\.spans: got 3, expected pairs"),
        ("fox", "03", 1, r"\.spans: got '03', expected pairs"),
        ("fox", [[0]], 1, r"\.spans: got \[\[0\]\], expected pairs"),
        ("fox", [[0, 1, 2]], 1, r"\.spans: got \[\[0, 1, 2\]\], expected pairs"),
        ("fox", [["0", 3]], 1, r"\.spans: got .*, expected pairs"),
        ("fox", [[0.5, 3]], 1, r"\.spans: got .*, expected pairs"),
        ("fox", [[0, 2.9]], 1, r"\.spans: got .*, expected pairs"),
        ("fox", [[None, 3]], 1, r"\.spans: got .*, expected pairs"),
        ("fox", [], 1, r"\.spans: got 0 spans, expected 1"),
        ("fox", [[0, 3]], 2, r"\.spans: got 1 spans, expected 2"),
        ("fox", [[0, 3], [0, 3]], 1, r"\.spans: got 2 spans, expected 1"),
        ("fox", [[0, 4]], 1, r"\.spans: got \[0, 4\], expected 0 <= start < end <= 3"),
        ("fox", [[-1, 3]], 1, r"\.spans: got \[-1, 3\], expected 0 <= start < end"),
        ("fox", [[2, 2]], 1, r"\.spans: got \[2, 2\], expected 0 <= start < end"),
        ("fox", [[3, 1]], 1, r"\.spans: got \[3, 1\], expected 0 <= start < end"),
        ("fox hen", [[3, 4]], 1, r"\.spans: \[3, 4\] contains whitespace only"),
    ],
)
def test_error_names_sample_field_and_expectation(text, spans, count, message):
    with pytest.raises(ValueError, match=rf"^sample 7{message}"):
        check_spans(text, spans, count, "sample 7")


def test_offsets_count_characters_not_bytes():
    assert check_spans("😀 fox", [[2, 5]], 1, "x") == [(2, 5)]
    with pytest.raises(ValueError, match="<= 5"):
        check_spans("😀 fox", [[2, 9]], 1, "x")


def test_tokenizer_of_the_other_tests_is_marked_alike():
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": NAMES})
    sample = marked("anna sees the fox", [(14, 17)], tokenizer=tokenizer)
    assert spaced(sample, tokenizer) == "anna sees the [E1] fox [/E1]"


# Texts of which only a part is tokenised

WORDS = [
    "the",
    "fox",
    "sees",
    "x" * 30,
    "наук",
    "東京大学",
    "no-one",
    "e\u0301",
    "😀",
    "\u200b",
    "...",
]
GAPS = [" ", " ", "\n", "  ", " " * 3000, ""]


@st.composite
def long_texts(draw):
    """A text of tens of thousands of characters with one or two mentions anywhere in it."""
    rng = draw(st.randoms(use_true_random=False))
    parts = [rng.choice(WORDS) + rng.choice(GAPS) for _ in range(rng.randint(100, 6000))]
    text = "".join(parts)
    spans = []
    for _ in range(rng.randint(1, 2)):
        start = rng.randrange(len(text) - 50)
        spans.append((start, start + rng.randint(1, 50)))
    return text, spans


@settings(max_examples=40, deadline=None)
@given(long_texts(), st.sampled_from([8, 40, 126]))
def test_a_part_of_a_long_text_is_windowed_as_the_whole(sample, room):
    text, spans = sample
    found = marked(text, spans, room)
    kept, marking._CHARACTERS_PER_TOKEN = marking._CHARACTERS_PER_TOKEN, len(text)
    try:
        whole = marked(text, spans, room)
    finally:
        marking._CHARACTERS_PER_TOKEN = kept
    assert found == whole


def test_of_a_long_text_a_part_is_tokenised(monkeypatch):
    sizes, mark = [], marking._insert_markers

    def watched(tokenizer, texts, cuts, ranges):
        sizes.extend(high - low for low, high in ranges)
        return mark(tokenizer, texts, cuts, ranges)

    monkeypatch.setattr(marking, "_insert_markers", watched)
    words = "the fox sees " * 10_000
    sample = marked(words, [(60_000, 60_001)], 40)
    assert len(sample.ids) == 40
    assert len(sizes) == 1
    assert sizes[0] < 20_000
    sizes.clear()
    marked(" " * 100_000 + "fox", [(100_000, 100_003)], 40)  # where a part has too few tokens
    assert sizes[-1] == 100_003
