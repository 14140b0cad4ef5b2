"""Entity markers, windows and labels by parts with the tokenizers of every family."""

import pytest
from encoder_world import TEXT

from modeling_hmgrl import HMGRLProcessor
from modeling_hmgrl.entity_markers import MARKERS
from modeling_hmgrl.label_parts import SEPARATOR

NAMES = [name for pair in MARKERS for name in pair]
FAMILIES = pytest.mark.parametrize("family", TEXT)
BLANKS = ("Ġ", "▁")
MENTIONS = [
    ("anna sees the fox today", "fox"),
    ("fox sees anna", "fox"),
    ("anna sees the fox", "fox"),
    ("anna sees (fox), today", "fox"),
    ("the old fox near boris", "old fox"),
    ("foxhen today", "fox"),
    ("today foxhen", "hen"),
    ("anna 😀😀 fox 😀", "fox"),
    ("anna sees 😀 today", "😀"),
    ("我在東京大学", "東京"),
    ("the \N{LATIN SMALL LIGATURE FI}le today", "\N{LATIN SMALL LIGATURE FI}le"),
    ("İİİ fox İ", "fox"),
    ("İİİ İfoxİ", "İfoxİ"),
    ("ＡＢＣ fox ①", "fox"),
    ("a  fox   today", "fox"),
    ("a\tfox\ntoday", "fox"),
    ("nai\N{COMBINING DIAERESIS}ve fox", "fox"),
    ("anna\N{NO-BREAK SPACE}fox\N{IDEOGRAPHIC SPACE}hen", "fox"),
]


def make_processor(family, task="typing", **settings):
    return HMGRLProcessor(None, TEXT[family][0](), task=task, use_images=False, **settings)


def span_of(text, mention):
    return text.index(mention), text.index(mention) + len(mention)


@FAMILIES
@pytest.mark.parametrize(("text", "mention"), MENTIONS)
def test_markers_enclose_the_tokens_of_the_mention(family, text, mention):
    processor, (start, end) = make_processor(family), span_of(text, mention)
    [marked] = processor.mark([text], [[(start, end)]], with_offsets=True)
    [(first, last)] = marked.positions
    tokens = processor.tokenizer.convert_ids_to_tokens(marked.ids)
    assert (tokens[first], tokens[last]) == MARKERS[0]
    inside = marked.offsets[first + 1 : last]
    assert inside
    assert all(start <= a <= b <= end for a, b in inside)
    outside = [o for o in marked.offsets[:first] + marked.offsets[last:] if o is not None]
    assert all(b <= start or a >= end for a, b in outside)
    # what the tokens cover is the mention without a character missing, unless it is unknown
    covered = {i for a, b in inside for i in range(a, b)}
    assert {i for i in range(start, end) if not text[i].isspace()} <= covered


@FAMILIES
def test_a_mention_has_the_tokens_of_running_text(family):
    processor = make_processor(family)
    text = "anna sees the fox near boris today"
    [marked] = processor.mark([text], [[span_of(text, "fox")]])
    without = [i for i in marked.ids if i not in processor.tokenizer.convert_tokens_to_ids(NAMES)]
    assert without == processor.tokenizer(text).input_ids


@FAMILIES
@pytest.mark.parametrize("spans", [[(0, 4), (14, 17)], [(14, 17), (0, 4)], [(10, 17), (14, 17)]])
def test_no_token_of_a_blank_alone_stands_next_to_a_marker(family, spans):
    processor = make_processor(family, "relation")
    [marked] = processor.mark(["anna sees the fox today"], [spans])
    tokens = processor.tokenizer.convert_ids_to_tokens(marked.ids)
    assert not [tokens[i - 1] for i in range(len(tokens)) if tokens[i] in NAMES
                and tokens[i - 1] in BLANKS]  # fmt: skip
    assert len(marked.ids) == len(processor.tokenizer("anna sees the fox today").input_ids) + 4


@FAMILIES
@pytest.mark.parametrize("filler", ["anna sees ", "😀 ", "東京", "İ\N{LATIN SMALL LIGATURE FI} "])
def test_a_window_keeps_the_mention(family, filler):
    processor = make_processor(family, max_length=32)
    text = filler * 300 + "the old fox" + " near boris" * 300
    span = span_of(text, "old fox")
    [marked] = processor.mark([text], [[span]], with_offsets=True)
    assert len(marked.ids) == 32
    [(first, last)] = marked.positions
    offsets = marked.offsets[first + 1 : last]
    assert (offsets[0][0], offsets[-1][1]) == span
    assert any(start <= span[0] and span[1] <= end for start, end in marked.kept)
    flat = [bound for kept in marked.kept for bound in kept]
    assert flat == sorted(flat)
    shown = "".join(text[a:b] for a, b in marked.kept)
    assert "old fox" in shown
    assert len(shown) < 1000


@FAMILIES
def test_a_mention_longer_than_the_window_keeps_both_markers(family):
    processor = make_processor(family, "relation", max_length=24)
    text = "hen😀 " * 100 + "sees the fox"
    [marked] = processor.mark([text], [[(0, 499), span_of(text, "fox")]])
    assert len(marked.ids) == 24
    ids = processor.tokenizer.convert_tokens_to_ids(NAMES)
    assert sum(i in ids for i in marked.ids) == 4
    for (start, end), (_, following) in zip(marked.kept, marked.kept[1:], strict=False):
        assert start < end <= following


@FAMILIES
@pytest.mark.parametrize(
    ("label", "count"),
    [
        ("person; feeds the animal; animal", 2),
        ("person ; feeds the animal ; animal", 2),
        ("person;feeds;animal", 2),
        ("(person); feeds!; animal.", 2),
        ("(person;) feeds (;) animal", 2),
        ("a;;b", 2),
        ("person; feeds; animal; today;", 4),
        ("the animal", 0),
    ],
)
def test_every_separator_is_a_token(family, label, count):
    processor = make_processor(family, "relation")
    ids = processor.encode_labels([label])["candidate_input_ids"][0].tolist()
    assert ids.count(processor.separator_id) == count == label.count(SEPARATOR)
    text = processor.tokenizer.decode(ids, skip_special_tokens=True)
    assert text.replace(" ", "") == label.replace(" ", "")


@FAMILIES
def test_special_tokens_are_added_to_texts_and_labels(family):
    processor = make_processor(family)
    tokenizer = processor.tokenizer
    plain = tokenizer("the fox").input_ids
    assert processor.encode_labels(["the fox"])["candidate_input_ids"][0].tolist() == plain
    batch = processor(["the fox", "the fox sees anna"], [[(4, 7)], [(4, 7)]])
    assert batch["input_ids"][0, -1] == tokenizer.pad_token_id
    assert batch["attention_mask"].sum(1).tolist() == [len(plain) + 2, batch["input_ids"].shape[1]]
    assert set(batch) == {"input_ids", "attention_mask", "span_positions"}


@FAMILIES
def test_a_text_cannot_spell_a_special_token(family):
    processor = make_processor(family)
    specials = processor.tokenizer.all_special_ids
    marker_ids = processor.tokenizer.convert_tokens_to_ids(NAMES)
    ordinary = [t for t in processor.tokenizer.all_special_tokens if "unk" not in t.lower()]
    for spelling in ordinary:
        [marked] = processor.mark(
            [f"{spelling} fox {spelling}"], [[(len(spelling) + 1, len(spelling) + 4)]]
        )
        prefix, suffix = processor._prefix, processor._suffix
        inner = marked.ids[len(prefix) : len(marked.ids) - len(suffix)]
        unknown = processor.tokenizer.unk_token_id
        found = [i for i in inner if i in specials and i != unknown]
        assert found == marker_ids[:2]


@FAMILIES
@pytest.mark.parametrize("task", ["typing", "relation"])
def test_a_processor_is_the_same_after_saving(family, task, tmp_path):
    processor = make_processor(family, task)
    processor.tokenizer.model_max_length = int(1e30)
    spans = [(0, 4)] if task == "typing" else [(0, 4), (14, 17)]
    texts, labels = ["anna sees the fox 😀"], ["person; feeds; animal", "tool"]
    wanted = processor(texts, [spans], labels=labels)
    processor.save_pretrained(tmp_path)
    loaded = HMGRLProcessor.from_pretrained(tmp_path)
    got = loaded(texts, [spans], labels=labels)
    assert loaded.separator_id == processor.separator_id
    for name, value in wanted.items():
        assert value.tolist() == got[name].tolist()
