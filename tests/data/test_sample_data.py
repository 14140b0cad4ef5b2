"""The embedded sample as it is committed, and the rules by which its texts are found."""

import io
import re
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image
from pyarrow import parquet

from dataset_scripts.sample_recipe.concepts import CONCEPTS
from dataset_scripts.sample_recipe.make_sample import build_parser, build_rows, select, write
from dataset_scripts.sample_recipe.sources import WordNet, read_emoji, split_gloss
from dataset_scripts.sample_recipe.texts import (
    Candidate,
    Matcher,
    Mention,
    Senses,
    find_candidates,
    is_usable,
    label_pattern,
    skeleton,
)

FOLDER = Path(__file__).parents[2] / "dataset_scripts" / "sample_data"
SAMPLE = FOLDER / "sample.parquet"
COLUMNS = ["id", "text", "image", "spans", "label", "mention", "picture", "source"]


@pytest.fixture(scope="module")
def rows():
    return parquet.read_table(SAMPLE).to_pylist()


def test_columns_and_size():
    schema = parquet.read_schema(SAMPLE)
    assert schema.names == COLUMNS
    total = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    assert total < 8 * 2**20


def test_counts(rows):
    counts = Counter(row["label"] for row in rows)
    assert len(rows) >= 1500
    assert len(counts) >= 15
    assert min(counts.values()) >= 50
    assert max(counts.values()) <= 200
    assert set(counts) == set(CONCEPTS)


def test_identities(rows):
    assert len({row["id"] for row in rows}) == len(rows)
    assert len({row["text"] for row in rows}) == len(rows)
    assert all(re.fullmatch(r"[0-9a-f]{12}", row["id"]) for row in rows)


def test_span_is_the_mention(rows):
    for row in rows:
        [[start, end]] = row["spans"]
        assert row["text"][start:end] == row["mention"], row["id"]
        assert len(row["mention"]) >= 3
        around = row["text"][max(0, start - 1) : start] + row["text"][end : end + 1]
        assert not re.search(r"[^\W_]", around), row["text"]


def test_text_is_clean(rows):
    for row in rows:
        assert row["text"] == " ".join(row["text"].split())
        assert 4 <= len(row["text"].split()) <= 40


def test_images(rows):
    content = {}
    for row in rows:
        picture = row["image"]
        assert picture["path"] is None
        assert content.setdefault(row["picture"], picture["bytes"]) == picture["bytes"]
    assert len(content) >= 300
    assert len(set(content.values())) == len(content)
    for name, data in content.items():
        image = Image.open(io.BytesIO(data))
        assert image.format == "PNG"
        assert image.size == (128, 128), name
        colours = image.convert("RGB").getcolors(128 * 128)
        assert len(colours) > 1, name


def test_no_text_names_its_type(rows):
    for row in rows:
        assert not label_pattern(row["label"]).search(row["text"]), row["text"]


def test_no_pattern_repeats(rows):
    patterns = Counter(skeleton(row["text"], *row["spans"][0]) for row in rows)
    assert patterns.most_common(1)[0][1] == 1


def test_no_opening_gives_a_type_away(rows):
    # No opening ("a town", "any of") stands at the head of more than a fifth of a type's texts.
    openings = defaultdict(Counter)
    for row in rows:
        openings[" ".join(row["text"].split()[:2]).lower()][row["label"]] += 1
    totals = Counter(row["label"] for row in rows)
    for opening, labels in openings.items():
        label, count = labels.most_common(1)[0]
        assert count <= 0.2 * totals[label], (opening, label)


def test_order_tells_nothing(rows):
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    changes = sum(first["label"] != second["label"] for first, second in pairwise(rows))
    assert changes > 0.9 * len(rows)


def test_sources(rows):
    kinds = Counter(row["source"].partition(" ")[2] for row in rows)
    assert set(kinds) == {"own example", "example", "gloss"}
    assert all(re.match(r"[nvar]\d{8} ", row["source"]) for row in rows)


def test_datasets_reads_it(tmp_path):
    datasets = pytest.importorskip("datasets")
    data = datasets.load_dataset(
        "parquet", data_files=str(SAMPLE), split="train", cache_dir=str(tmp_path)
    )
    assert isinstance(data.features["image"], datasets.Image)
    assert data[0]["image"].size == (128, 128)
    assert data[0]["text"][slice(*data[0]["spans"][0])] == data[0]["mention"]


def test_licences_are_here():
    names = {path.name for path in (FOLDER / "LICENSES").iterdir()}
    assert names == {"Apache-2.0.txt", "cldr.txt", "noto-color-emoji.txt", "wordnet.txt"}
    card = (FOLDER / "README.md").read_text("utf-8")
    for name in names:
        assert name in card


def test_card_has_the_counts(rows):
    card = (FOLDER / "README.md").read_text("utf-8")
    for label, count in Counter(row["label"] for row in rows).items():
        assert re.search(rf"^\| {label} \| {count} \|", card, re.MULTILINE), label


def test_split_gloss():
    definition, examples = split_gloss('(zoology) a small  cat; "the cat slept"; "cats purr"')
    assert definition == "a small cat"
    assert examples == ("the cat slept", "cats purr")


def test_split_gloss_leaves_out_a_quoting_definition():
    assert split_gloss('the poem that begins "Arma virumque" and no other') == (
        "",
        ("Arma virumque",),
    )


def test_is_usable():
    assert is_usable("the parrot sat on her shoulder", "bird")
    assert not is_usable("the parrot is a bird of the tropics", "bird")
    assert not is_usable("two cities on the Rhine near Bonn", "city")
    assert not is_usable("the parrot sat", "bird")


def test_skeleton_masks_names_and_numbers():
    first = skeleton("a native of Peru in 1821", 12, 16)
    assert first == skeleton("a native of Chad in 1960", 12, 16)
    assert first != skeleton("a citizen of Chad in 1960", 13, 17)


# Offset, lexicographer file, part of speech, words, pointers, gloss.
SYNSETS = [
    ("00000001", "05", "n", ["bird"], "000", "an animal with feathers"),
    ("00000002", "05", "n", ["duck"], "001 @ 00000001 n 0000", 'a water bird; "a duck swam by"'),
    ("00000003", "06", "n", ["duck"], "000", "a strong cloth"),
    ("00000004", "05", "n", ["Donald"], "001 @i 00000001 n 0000", "a duck in a sailor suit"),
    ("00000005", "06", "n", ["duck_soup"], "000", "an easy thing"),
    ("00000006", "05", "n", ["goose"], "001 @ 00000001 n 0000", "a bird with a long neck"),
    ("00000007", "38", "v", ["duck"], "000", "lower the head"),
]


@pytest.fixture
def wordnet(tmp_path):
    for part, pos in (("noun", "n"), ("verb", "v"), ("adj", "a"), ("adv", "r")):
        data, senses = ["  1 a licence stands here"], defaultdict(list)
        for offset, topic, own_pos, words, pointers, gloss in SYNSETS:
            if own_pos == pos:
                listed = " ".join(f"{word} 0" for word in words)
                count = f"{len(words):02x}"
                frames = " 01 + 02 00" if pos == "v" else ""
                data.append(f"{offset} {topic} {pos} {count} {listed} {pointers}{frames} | {gloss}")
                for word in words:
                    senses[word.lower()].append(offset)
        index = [
            f"{word} {pos} {len(keys)} 0 {len(keys)} 0 {' '.join(keys)}"
            for word, keys in senses.items()
        ]
        (tmp_path / f"data.{part}").write_text("\n".join(data) + "\n")
        (tmp_path / f"index.{part}").write_text("\n".join(index) + "\n")
    (tmp_path / "noun.exc").write_text("geese goose\n")
    (tmp_path / "verb.exc").write_text("ate eat\n")
    (tmp_path / "cntlist.rev").write_text("duck%1:05:00:: 1 20\nduck%2:38:00:: 1 2\n")
    return WordNet(tmp_path)


def test_wordnet_is_read(wordnet):
    assert wordnet.descendants("n00000001") == {
        "n00000001": 0,
        "n00000002": 1,
        "n00000004": 1,
        "n00000006": 1,
    }
    assert wordnet.find_noun("duck", (6,)).definition == "a strong cloth"
    assert wordnet.find_noun("duck", (5,)).examples == ("a duck swam by",)
    assert wordnet.find_noun("duck", (), 2).key == "n00000003"
    assert wordnet.synsets["n00000004"].is_instance
    assert wordnet.synsets["n00000005"].words == ("duck soup",)
    assert wordnet.forms("goose", "n") == ["goose", "gooses", "geese"]
    assert "stopped" in wordnet.forms("stop", "v")
    with pytest.raises(KeyError, match="no noun 'swan'"):
        wordnet.find_noun("swan", (5,))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data\.noun"):
        WordNet(tmp_path)


def test_matcher_takes_whole_words_alone(wordnet):
    mentions = [
        Mention("duck", "bird", "bird", "n00000002", ("duck",)),
        Mention("goose", "bird", "bird", "n00000006", ("bird",)),
    ]
    matcher = Matcher(wordnet, mentions)

    def found(text):
        return [text[start:end] for _, start, end in matcher.find(text)]

    assert found("Ducks and geese fly south") == ["Ducks", "geese"]
    assert found("that exam was duck soup for her") == []
    assert found("the word `duck' has four letters") == []
    assert found("a duck-billed dinosaur and a duckling") == []


def test_senses_follow_the_counts_of_use(wordnet):
    duck = Mention("duck", "bird", "bird", "n00000002", ("duck",))
    goose = Mention("goose", "bird", "bird", "n00000006", ("bird",))
    senses = Senses(wordnet, {"bird": {"n00000002", "n00000006"}})
    assert senses.is_unambiguous("duck", duck, False)
    assert senses.is_unambiguous("geese", goose, True)
    # A form of the verb alone.
    assert not senses.is_unambiguous("ducked", duck, False)
    # Once the verb is used nearly as often, doubt wins.
    wordnet.uses["duck", "v", 1] = 19
    assert not Senses(wordnet, {"bird": {"n00000002"}}).is_unambiguous("duck", duck, False)


def make_candidate(label, word, text):
    mention = Mention(word, label, word, f"n{word}", (word,))
    start = text.index(word)
    return Candidate(mention, text, start, start + len(word), "example", "n0")


def test_select_bounds():
    candidates = [
        make_candidate(label, word, f"{verb} the {word} with {label} care")
        for label in ("one", "two")
        for word in ("owl", "cat", "dog")
        for verb in ("hold", "feed", "wash", "draw")
    ]
    chosen = select(candidates, per_type=6, per_mention=2, floor=4)
    assert Counter(c.mention.label for c in chosen) == {"one": 4, "two": 4}
    assert len({skeleton(c.text, c.start, c.end) for c in chosen}) == len(chosen)
    assert select(candidates, per_type=6, per_mention=2, floor=5) == []
    assert select(candidates[::-1], per_type=6, per_mention=2, floor=4) == chosen


class FakeFont:
    def draw(self, emoji, size, colours):
        stream = io.BytesIO()
        Image.new("P", (size, size), ord(emoji) % colours).save(stream, "PNG")
        return stream.getvalue()


def test_the_same_sources_give_the_same_file(wordnet, tmp_path):
    mentions = [
        Mention("duck", "bird", "bird", "n00000002", ("duck", "bird")),
        Mention("Donald", "bird", "bird", "n00000004", ("duck",)),
    ]
    found = find_candidates(wordnet, mentions)
    assert [(c.text, c.kind) for c in found] == [
        ("a duck swam by", "own example"),
        ("a duck in a sailor suit", "gloss"),
    ]
    emoji = {"duck": "d", "bird": "b"}
    for name, candidates in (("first", found), ("second", found[::-1])):
        chosen = select(candidates, per_type=9, per_mention=4, floor=1)
        rows = build_rows(chosen, emoji, FakeFont(), size=8, colours=4)
        write(rows, tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    rows = parquet.read_table(tmp_path / "first").to_pylist()
    assert sorted(row["text"] for row in rows) == sorted(c.text for c in found)
    assert all(row["spans"] == [[2, 6]] and row["mention"] == "duck" for row in rows)


def test_emoji_are_read_by_their_short_names(tmp_path):
    entry = "<ldml><annotations>{}</annotations></ldml>"
    for folder, content in (
        ("annotations", '<annotation cp="d" type="tts">duck</annotation>'),
        ("annotationsDerived", '<annotation cp="w">white</annotation>'),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "en.xml").write_text(entry.format(content))
    assert read_emoji(tmp_path) == {"duck": "d"}


def test_command_line_needs_its_folders():
    with pytest.raises(SystemExit):
        build_parser().parse_args([])
