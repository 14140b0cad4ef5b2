"""What is shown for a label: words made from its name, or descriptions, known or the user's."""

import json
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_scripts import WIKIDIVERSE_PARTITIONS, SourceOptions, load_gzs
from dataset_scripts.label_texts import CLAUSES, DESCRIPTIONS, make_label_texts, verbalise

LABELS = ("ART_WORK", "MilitaryConflict", "person")
OWN = {
    "ART_WORK": "something that an artist made",
    "MilitaryConflict": "a war or a battle",
    "person": "a human being",
}


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("MilitaryConflict", "military conflict"),
        ("ART_WORK", "art work"),
        ("APP", "app"),
        ("Organization", "Organization"),
        ("person", "person"),
        ("New York", "New York"),
        ("musical_artist", "musical artist"),
        ("__x__", "x"),
        ("person/artist/singer", "person artist singer"),
        ("/misc/per/made_by", "thing made by person"),
        ("/loc/org/a/b", "loc org a b"),
        ("/animal/org/lives_in", "animal lives in organization"),
        ("/_/", "/_/"),
        ("朝代", "朝代"),
        ("iPhoneModel", "i phone model"),
        ("two  spaces", "two spaces"),
    ],
)
def test_verbalise(label, words):
    assert verbalise(label) == words


@given(st.text(string.ascii_letters + "_ ", min_size=1).filter(lambda label: label.strip("_ ")))
def test_verbalise_keeps_every_letter_of_a_name_in_its_order(label):
    words = verbalise(label)
    assert words == " ".join(words.split())
    letters = [character.lower() for character in label if character not in "_ "]
    assert list(words.replace(" ", "").lower()) == letters


def test_every_published_label_is_described_and_differently():
    assert set(DESCRIPTIONS["mnre"]) == set(CLAUSES)
    assert set(DESCRIPTIONS["wikidiverse"]) == set(WIKIDIVERSE_PARTITIONS[1].labels)
    for source, described in DESCRIPTIONS.items():
        texts = make_label_texts(list(described), "described", source)
        assert texts == described
        assert len(set(texts.values())) == len(described)


def test_own_descriptions_go_first_and_others_belong_to_their_source():
    own = {"Book": "bound paper", "Planet": "a body that moves around a star"}
    texts = make_label_texts(["Book", "Planet", "Music"], "described", "wikidiverse", own)
    assert texts == {**own, "Music": DESCRIPTIONS["wikidiverse"]["Music"]}
    with pytest.raises(ValueError, match=r"expected one for each of 2 labels, got none"):
        make_label_texts(["Book", "Music"], "described", "bio", own)


def test_two_labels_are_not_shown_as_the_same_text():
    message = "label_text: 'ART_WORK' and 'ArtWork' have the same text 'art work'; expected"
    with pytest.raises(ValueError, match=message):
        make_label_texts(["ART_WORK", "person", "ArtWork"], "verbalised", "bio")
    same = {**OWN, "person": OWN["ART_WORK"]}
    with pytest.raises(ValueError, match="'ART_WORK' and 'person' have the same text 'some"):
        make_label_texts(LABELS, "described", "bio", same)
    assert make_label_texts(["ART_WORK", "ArtWork"], "raw", "bio")["ArtWork"] == "ArtWork"


@pytest.fixture
def load(tmp_path):
    """Loads five records, three of a seen label."""
    rows = [
        {"text": f"It is {n}", "spans": [[0, 2]], "label": LABELS[max(0, n - 2)]} for n in range(5)
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lists = dict(
        zip(("seen", "validation_unseen", "test_unseen"), ([n] for n in LABELS), strict=True)
    )

    def load(**choices):
        return load_gzs("records", str(path), cache_dir=str(tmp_path / "cache"), **lists, **choices)

    return load


def test_own_descriptions_of_a_mapping_or_a_file(load, tmp_path):
    path = tmp_path / "own.json"
    path.write_text(json.dumps({**OWN, "Planet": "not used"}), encoding="utf-8")
    of_mapping = load(label_text="described", label_descriptions=OWN)
    of_file = load(label_text="described", label_descriptions=str(path))
    assert of_mapping.label_texts == of_file.label_texts == OWN
    assert of_file.report.settings["label_text"] == "described"
    assert load(label_text="verbalised").label_texts["ART_WORK"] == "art work"
    with pytest.raises(ValueError, match=r"got none for \['MilitaryConflict', 'pe"):
        load(label_text="described", label_descriptions={"ART_WORK": "made by an artist"})
    with pytest.raises(ValueError, match=r"none for \['ART_WORK', 'MilitaryConflict', 'person'\]"):
        load(label_text="described")


def test_other_descriptions_give_other_data(load, tmp_path):
    path = tmp_path / "own.json"

    def cache_of(given):
        data = load(label_text="described", label_descriptions=given)
        return data.splits["train"].cache_files[0]["filename"], data.label_texts["person"]

    path.write_text(json.dumps(OWN))
    first = cache_of(OWN)
    # What is said decides, not where it stands.
    assert cache_of(str(path)) == cache_of(dict(reversed(OWN.items()))) == first
    path.write_text(json.dumps({**OWN, "person": "somebody"}))
    second = cache_of(str(path))
    assert second[0] != first[0]
    assert second[1] == "somebody"


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"{", ValueError, r"own\.json: expected a JSON object in UTF-8, got: "),
        (b"", ValueError, r"own\.json: expected a JSON object in UTF-8, got: "),
        (b'{"person": "caf\xe9"}', ValueError, r"own\.json: expected a JSON object in UTF-8, got"),
        (b"[" * 100_000, ValueError, r"own\.json: expected a JSON object in UTF-8, got: "),
        (b'{"person": "a", "person": "b"}', ValueError, r"repeated fields \['person'\]"),
        (b'["person"]', TypeError, r"own\.json: expected an object that maps label names"),
        (b'{"person": 1}', TypeError, "both non-empty strings"),
        (b'{"person": " "}', TypeError, "both non-empty strings"),
        (b'{"": "somebody"}', TypeError, "both non-empty strings"),
        (b" " * (4 * 1024 * 1024) + b"{}", ValueError, "4194306 bytes, expected at most 4194304"),
    ],
)
def test_faulty_files(tmp_path, content, error, message):
    path = tmp_path / "own.json"
    path.write_bytes(content)
    with pytest.raises(error, match=message):
        SourceOptions(label_text="described", label_descriptions=str(path))


@pytest.mark.parametrize("given", [["person"], {"person": None}, {1: "one"}, 5])
def test_faulty_objects(given):
    with pytest.raises(TypeError, match="label_descriptions: expected an object that maps label"):
        SourceOptions(label_text="described", label_descriptions=given)


def test_wrong_choices(tmp_path):
    with pytest.raises(FileNotFoundError, match="label_descriptions: no such file"):
        SourceOptions(label_text="described", label_descriptions=str(tmp_path / "own.json"))
    with pytest.raises(FileNotFoundError, match="label_descriptions: no such file"):
        SourceOptions(label_text="described", label_descriptions=str(tmp_path))
    with pytest.raises(ValueError, match="expected only with label_text='described', got 'auto"):
        SourceOptions(label_descriptions=OWN)


@pytest.mark.parametrize(
    ("label", "parts"),
    [
        ("/per/org/member_of", "person; is a member of; organization"),
        ("/per/misc/nationality", "person; has; nationality"),
        ("/per/org/led_by", "person; led by; organization"),
    ],
)
def test_a_relation_in_parts(label, parts):
    assert make_label_texts([label], "parts", "records") == {label: parts}


def test_a_type_has_no_parts():
    with pytest.raises(ValueError, match="'bird' is verbalised as 'bird', expected a head"):
        make_label_texts(["bird"], "parts", "sample")


def test_every_type_of_the_sample_is_described():
    names = load_gzs("sample").splits["train"].features["label"].names
    texts = make_label_texts(names, "described", "sample")
    assert set(texts) == set(names)
    assert not any(name in text.split() for name, text in texts.items())


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("/per/org/member_of", "person; is a member of; organization"),
        ("/per/org/led_by", "person; led by; organization"),
        ("person; plays for; team", "person; plays for; team"),
        ("is the capital of", "is the capital of"),
        ("/location/people", "location people"),
        ("a; b", "a; b"),
        ("ART_WORK", "art work"),
        ("bird", "bird"),
    ],
)
def test_the_recommended_text_has_parts_where_the_name_defines_them(label, text):
    assert make_label_texts([label, "other"], "auto", "records")[label] == text


def test_a_long_name_takes_no_time():
    start = time.process_time()
    name = "/" + "a" * 200_000
    assert make_label_texts([name, "other"], "auto", "records")[name] == "a" * 200_000
    assert time.process_time() - start < 1


def test_labels_of_equal_words_keep_their_names():
    found = make_label_texts(["ART_WORK", "ArtWork", "bird"], "auto", "records")
    assert found == {"ART_WORK": "ART_WORK", "ArtWork": "ArtWork", "bird": "bird"}


def test_the_default_is_the_recommended_text():
    assert SourceOptions().label_text == "auto"
