"""Tagged files: which tokens make a mention, where it stands in the text, and what is no such file.

The mentions are counted and cut out a second time in the tests, by other and much shorter code.
"""

import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dataset_scripts import RecordError, SourceOptions, load_gzs
from dataset_scripts.schema import Place
from dataset_scripts.sources import bio
from dataset_scripts.sources.bio import MAX_LINE_BYTES


def read(path, **options):
    return bio.read(SourceOptions(data_dir=str(path), **options))


def mentions(corpus):
    """Each record's text, mention and label."""
    return [
        (record.text, *(record.text[slice(*span)] for span in record.spans), record.label)
        for record in corpus.records
    ]


@pytest.fixture
def path(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / "a.txt"


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("1.png", "2.jpg", "two.jpg", "two.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    return folder


FORMS = {
    "two columns": (
        "Ada B-PER\nLovelace I-PER\nmet O\nBob B-PER\n",
        [("Ada Lovelace met Bob", "Ada Lovelace", "PER"), ("Ada Lovelace met Bob", "Bob", "PER")],
    ),
    "mentions side by side": (
        "Ada B-PER\nBob B-PER\nRome B-LOC\n",
        [("Ada Bob Rome", *pair) for pair in (("Ada", "PER"), ("Bob", "PER"), ("Rome", "LOC"))],
    ),
    "CoNLL": (
        "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nsays VBZ B-VP O\n\nRome NNP I-NP B-LOC\n",
        [("EU says", "EU", "ORG"), ("Rome", "Rome", "LOC")],
    ),
    "-DOCSTART- without blank lines": (
        "Ada B-PER\n-DOCSTART- O\nBob B-PER\n",
        [("Ada", "Ada", "PER"), ("Bob", "Bob", "PER")],
    ),
    "tabs": ("New York\tNNP\tB-LOC\nis\tVB\tO\n", [("New York is", "New York", "LOC")]),
    "several spaces between": ("Ada   B-PER\nis  O\n", [("Ada is", "Ada", "PER")]),
    "BIOES": (
        "Ada B-PER\nKing I-PER\nByron E-PER\nin O\nRome S-LOC\nAcme S-LOC\n",
        [("Ada King Byron in Rome Acme", "Ada King Byron", "PER")]
        + [("Ada King Byron in Rome Acme", name, "LOC") for name in ("Rome", "Acme")],
    ),
    "dash in the label": ("x O\nAda B-per-son\nB I-per-son\n", [("x Ada B", "Ada B", "per-son")]),
    "documents": (
        "Ada B-PER\n\n\nBob B-PER\nIMGID:\nEve B-PER\n",
        [(name, name, "PER") for name in ("Ada", "Bob", "Eve")],
    ),
    "blank lines of spaces": (
        "Ada B-PER\n  \nBob B-PER\n\t\nEve B-PER\n\u3000\nKim B-PER",
        [(name, name, "PER") for name in ("Ada", "Bob", "Eve", "Kim")],
    ),
    "mark and ends of another system": (
        "\ufeffAda B-PER\r\nByron I-PER\r\n\r\nBob B-PER\r\n",
        [("Ada Byron", "Ada Byron", "PER"), ("Bob", "Bob", "PER")],
    ),
    "white space that is a token": (
        "Ada B-PER\n\u3000 I-PER\nB I-PER\n",
        [("Ada \u3000 B", "Ada \u3000 B", "PER")],
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_words(path, form):
    content, expected = FORMS[form]
    path.write_bytes(content.encode())
    corpus = read(path)
    assert mentions(corpus) == expected
    assert corpus.report.records_in == len(expected)
    assert corpus.report.settings["joiner"] == "space"
    assert not corpus.report.notes


CHARACTERS = "上 B-LOC\n海 I-LOC\n的 O\n1 B-SIZE\n3 I-SIZE\n"


@pytest.mark.parametrize(
    ("joiner", "text", "names"),
    [
        ("auto", "上海的13", ["上海", "13"]),
        ("none", "上海的13", ["上海", "13"]),
        ("space", "上 海 的 1 3", ["上 海", "1 3"]),
    ],
)
def test_characters(path, joiner, text, names):
    path.write_text(CHARACTERS, encoding="utf-8")
    corpus = read(path, joiner=joiner)
    assert mentions(corpus) == [(text, names[0], "LOC"), (text, names[1], "SIZE")]
    assert corpus.report.settings["joiner"] == ("space" if joiner == "space" else "none")


@pytest.mark.parametrize(("characters", "joiner"), [(9, ""), (8, " ")])
def test_nine_tokens_in_ten_of_one_character_make_a_text_by_character(path, characters, joiner):
    path.write_text("a B-X\n" * characters + "word O\n")
    assert read(path).records[0].text == joiner.join(["a"] * characters + ["word"])


def test_words_joined_by_nothing_where_asked(path):
    path.write_text("Ada B-PER\nB I-PER\nis O\n")
    assert mentions(read(path, joiner="none")) == [("AdaBis", "AdaB", "PER")]


@pytest.mark.parametrize(
    ("content", "names", "strays"),
    [
        ("Ada B-PER\nis I-LOC\nB I-PER\n", ["Ada"], 2),
        ("Ada B-PER\nis O\nB I-PER\n", ["Ada"], 1),
        ("Ada B-PER\n\nB I-PER\nBob B-PER\n", ["Ada", "Bob"], 1),
        ("Ada B-PER\nB E-PER\nC I-PER\nD E-PER\n", ["Ada B"], 2),
        ("Ada S-PER\nB E-PER\n", ["Ada"], 1),
    ],
)
def test_stray_tags_are_noted_and_read_as_outside(path, content, names, strays):
    path.write_text(content)
    corpus = read(path)
    assert [name for _, name, _ in mentions(corpus)] == names
    [(kind, finding)] = corpus.report.notes.items()
    assert kind == "I or E tag that continues no mention, read as O"
    assert finding.count == strays
    assert not corpus.report.left_out


def test_images_with_and_without_ending(path, pictures):
    names = ["IMGID:1", "IMGID: 2.jpg", "IMGID:9", "IMGID:", None]
    path.write_text("\n".join(f"{name or ''}\nAda B-PER\n" for name in names))
    corpus = read(path, image_dir=str(pictures))
    assert [r.image for r in corpus.records] == ["1.png", "2.jpg", "9", None, None]
    assert [r.image for r in read(path).records] == ["1", "2.jpg", "9", None, None]
    assert corpus.records[1].id == "a-000005"
    assert corpus.records[1].place == Place("a.txt", 5)


def test_an_image_belongs_to_one_document(path, pictures):
    path.write_text(
        "IMGID:1\n\nAda B-PER\n\nBob B-PER\nIMGID:\nEve B-PER\nIMGID:2\nKim B-PER\n\n"
        "IMGID:1\n-DOCSTART- O\nRex B-PER\n\nIMGID:1\nIMGID:\nMia B-PER\n"
    )
    images = [record.image for record in read(path, image_dir=str(pictures)).records]
    assert images == ["1.png", None, None, "2.jpg", None, None]


FAULTS = [
    (b"Ada X-PER", "tag", "unknown", "O, or B-, I-, E-, S- and a label, got str 'X-PER'"),
    (b"Ada B-", "tag", "unknown", "O, or B-"),
    (b"Ada BI-PER", "tag", "unknown", "O, or B-"),
    (b"Ada o", "tag", "unknown", "O, or B-"),
    (b"Ada", "(line)", "not a token", "a token and a tag, .*, got str 'Ada'"),
    (b"Ada\t", "(line)", "not a token", "a token and a tag"),
    (b"Ada B-PER ", "(line)", "blank after the tag", "without a blank after the tag, got str"),
    (b"Ada NNP\tB-PER\t", "(line)", "blank after the tag", r"without a blank after the tag"),
    (b"\tB-PER", "(line)", "not a token", "a token and a tag"),
    (b"Ad\xe9 B-PER", "(line)", "not UTF-8", "UTF-8, got byte 0xe9 at byte 19 of the file"),
    (b"A\0 B-PER", "(line)", "NUL", "text without NUL bytes, got NUL at byte 18 "),
    (b"x" * MAX_LINE_BYTES + b" O", "(line)", "too long", "65536 bytes, got 65539 bytes"),
    (b"IMGID:../secret.png", "IMGID", "leaves its folder", "a path relative to the image"),
    (b"IMGID:/etc/a.png", "IMGID", "absolute path", "a path relative to the image folder"),
    (b"IMGID:C:/a.png", "IMGID", "absolute path", "a path relative to the image folder"),
    (b"IMGID:http://x.org/a.png", "IMGID", "URL", "URLs are not fetched"),
    (b"IMGID:link.png", "IMGID", "link", "an image inside the image folder"),
    (b"IMGID:link", "IMGID", "link", "an image inside the image folder"),
    (b"IMGID:two", "IMGID", "several images", r"one image named 'two', got .*two\.png"),
]


@pytest.mark.parametrize(("line", "field", "reason", "message"), FAULTS)
def test_a_faulty_line_costs_its_document(path, pictures, line, field, reason, message):
    path.write_bytes(b"Ada B-PER\nmet O\n\n" + line + b"\nBob B-PER\nEve S-PER\n\nKim B-PER\n")
    with pytest.raises(RecordError) as caught:
        read(path, image_dir=str(pictures))
    assert str(caught.value).startswith(f"a.txt, line 4, field {field!r}: expected ")
    assert caught.match(message)
    corpus = read(path, image_dir=str(pictures), on_error="skip")
    assert [name for _, name, _ in mentions(corpus)] == ["Ada", "Kim"]
    left_out = {reason: finding.count for reason, finding in corpus.report.left_out.items()}
    assert left_out == {f"{field}: {reason}": 1, "in a document with an invalid line": 2}
    assert corpus.report.records_in == 5


def test_every_faulty_line_of_a_document_is_counted(path):
    path.write_text("Ada B-PER\nB\nC Q\nD I-PER\n\nKim B-PER\n")
    report = read(path, on_error="skip").report
    assert [f.count for _, f in sorted(report.left_out.items())] == [1, 1, 1]
    assert report.left_out["tag: unknown"].examples[0]["line"] == 3
    assert report.records_in == 4


def test_a_mention_of_white_space_is_left_out_alone(path):
    path.write_text("Ada B-PER\n\u3000 B-PER\n\n\u3000 B-PER\n", encoding="utf-8")
    with pytest.raises(RecordError, match=r"^a\.txt, line 2, field 'spans': expected a mention"):
        read(path)
    corpus = read(path, on_error="skip")
    assert mentions(corpus) == [("Ada \u3000", "Ada", "PER")]
    assert (corpus.report.records_in, corpus.report.records_left_out) == (3, 2)


def test_folders_and_wrong_choices(path, tmp_path):
    path.write_text("Ada B-PER\n")
    path.with_name("b.CONLL").write_text("Bob B-PER\n")
    path.with_name("c.json").write_text("no tagged file")
    assert [record.id for record in read(path.parent).records] == ["a-000001", "b-000001"]
    path.with_name("a.bioes").write_text("Ada S-PER\n")
    with pytest.raises(ValueError, match=r"differ without their suffix, found \['a\.bioes"):
        read(path.parent)
    with pytest.raises(ValueError, match=r"data_dir: expected a file or a folder of \*\.bio"):
        bio.read(SourceOptions())
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        read(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"no \*\.bio, .* file in this folder"):
        read(tmp_path)
    with pytest.raises(ValueError, match="task: expected 'typing' for tagged files"):
        read(path, task="relation")
    path.write_text("IMGID:1\nAda O\n")
    with pytest.raises(ValueError, match=r"no valid mention in \['a\.txt'\]"):
        read(path)


def test_loading_counts_records_and_images(path, pictures, tmp_path):
    document = "IMGID:{}\nAda B-PER\nin O\nRome B-LOC\nat O\nAcme B-ORG\n\n"
    path.write_text("".join(document.format(n) for n in (1, 2, 9)) + "IMGID:two\nEve S-PER\n")
    choices = {"image_dir": str(pictures), "cache_dir": str(tmp_path / "cache")}
    data = load_gzs("bio", str(path), on_error="skip", **choices)
    assert data.task == "typing"
    assert (data.report.records_in, data.report.records_out) == (11, 9)
    assert (data.report.images["found"], data.report.images["missing"]) == (6, 3)
    assert sum(row["image"] is not None for rows in data.splits.values() for row in rows) == 6


tokens = st.text("ab.-é中😀\u2028\x85\u3000", min_size=1, max_size=3).filter(lambda t: t != "\x85")
tags = st.sampled_from(["O", *(f"{kind}-{label}" for kind in "BIES" for label in "xy")])
documents = st.lists(st.tuples(tokens, tags), min_size=1, max_size=9)


def spans_of(document):
    """First token, end token and label of each mention: a longer tag string is tried first."""
    found = []
    for first, (_, tag) in enumerate(document):
        if tag[0] not in "BS":
            continue
        end = first + 1
        while tag[0] == "B" and end < len(document) and document[end][1][0] in "IE":
            if document[end][1][1:] != tag[1:]:
                break
            end += 1
            if document[end - 1][1][0] == "E":
                break
        found.append((first, end, tag[2:]))
    return found


@given(st.lists(documents, min_size=1, max_size=4), st.sampled_from(["space", "none"]))
@settings(deadline=None)
def test_random_documents(tmp_path_factory, corpus, joiner):
    path = tmp_path_factory.mktemp("bio") / "a.txt"
    blocks = ["".join(f"{token} {tag}\n" for token, tag in document) for document in corpus]
    path.write_text("\n".join(blocks), encoding="utf-8")
    glue = " " if joiner == "space" else ""
    expected, number = [], 0
    for document in corpus:
        words = [token for token, _ in document]
        for first, end, label in spans_of(document):
            number += 1
            if (mention := glue.join(words[first:end])).strip():
                start = len(glue.join([*words[:first], ""]))
                expected.append((glue.join(words), (start, start + len(mention)), label))
    options = {"joiner": joiner, "on_error": "skip"}
    if not expected:
        with pytest.raises(ValueError, match="no valid mention"):
            read(path, **options)
        return
    found = read(path, **options)
    assert [(r.text, *r.spans, r.label) for r in found.records] == expected
    assert found.report.records_in == number
    assert found.report.records_left_out == number - len(expected)


def test_real_files(real_data, tmp_path):
    folder = real_data / "cp_mner"
    started = time.perf_counter()
    choices = {"image_dir": str(folder / "images"), "cache_dir": str(tmp_path)}
    data = load_gzs("bio", str(folder), **choices)
    assert time.perf_counter() - started < 120
    report = data.report
    assert (report.records_in, report.records_out) == (32_449, 32_449)
    assert not report.left_out
    assert report.settings["documents"] == 1_188
    assert len(data.partition.labels) == 16
    assert (report.images["missing"], report.images["unreadable"]) == (122, 0)
    assert (report.images["distinct"], report.images["distinct_missing"]) == (1_188, 4)
    columns = ("id", "text", "spans", "label")
    rows = {
        row[0]: row[1:]
        for split in data.splits.values()
        for row in zip(*(split[name][:] for name in columns), strict=True)
    }
    names = data.splits["train"].features["label"].names
    counted = Counter()
    for name in ("train", "valid", "test"):
        text = (folder / f"{name}.txt").read_text(encoding="utf-8")
        start = 0
        for number, line in enumerate(lines := text.split("\n"), 1):
            start = 0 if line.startswith("IMGID:") else start
            token, _, tag = line.rpartition(" ")
            if tag.startswith("B-"):
                counted[tag[2:]] += 1
                mention, end = token, number
                while lines[end].endswith(f" I-{tag[2:]}"):
                    mention += lines[end].rpartition(" ")[0]
                    end += 1
                sentence, spans, label = rows[f"{name}-{number:06d}"]
                assert spans == [[start, start + len(mention)]]
                assert sentence[start : start + len(mention)] == mention
                assert names[label] == tag[2:]
            start += len(token)
    assert counted.total() == 32_449
    assert set(counted) == set(names)
