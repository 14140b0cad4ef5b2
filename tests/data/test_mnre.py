"""MNRE: literals to records, pictures that are there or not, labels in words, and the cache."""

import ast
import json
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dataset_scripts import GZSBuilder, RecordError, SourceOptions, load_gzs, protocol
from dataset_scripts.label_texts import CLAUSES, split_clause, verbalise
from dataset_scripts.schema import Place
from dataset_scripts.sources import mnre
from dataset_scripts.sources.mnre import MAX_LINE_BYTES, read

FILES = ("mnre_train.txt", "mnre_val.txt", "mnre_test.txt")
RELATIONS = ("/per/org/member_of", "/per/per/peer", "/loc/loc/contain", "/misc/misc/part_of")


def line(number=0, **change):
    values = {
        "token": ["RT", "Ada", "Lovelace", "met", "Bob", f"at{number}"],
        "h": {"name": "Ada Lovelace", "pos": [1, 3]},
        "t": {"name": "Bob", "pos": [4, 5]},
        "img_id": f"{number}.jpg",
        "relation": RELATIONS[number % len(RELATIONS)],
    }
    return repr({**values, **change})


def write(folder, lines):
    """Puts all lines into the first file, and leaves the others empty."""
    for name in FILES:
        (folder / name).write_text("", encoding="utf-8")
    (folder / FILES[0]).write_text("\n".join([*lines, ""]), encoding="utf-8")
    return str(folder)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "text").mkdir()
    lines = [line(number) for number in range(40)] + [line(99, relation="None")]
    write(tmp_path / "text", lines)
    return tmp_path / "text"


def load(folder, tmp_path, **options):
    return load_gzs("mnre", data_dir=str(folder), cache_dir=str(tmp_path / "cache"), **options)


def test_tokens_become_text_and_character_spans(folder):
    record = read(SourceOptions(data_dir=str(folder))).records[1]
    assert record.id == "train-000002"
    assert record.text == "RT Ada Lovelace met Bob at1"
    assert [record.text[slice(*span)] for span in record.spans] == ["Ada Lovelace", "Bob"]
    assert (record.label, record.image) == ("/per/per/peer", "1.jpg")
    assert record.place == Place("mnre_train.txt", 2)


tokens = st.lists(st.text("ab é😀&;", min_size=1, max_size=4), min_size=2, max_size=8).filter(
    lambda words: all(word.strip() for word in words)
)


@given(tokens, st.data())
def test_spans_cut_out_the_tokens(tmp_path_factory, words, data):
    pairs = []
    for _ in range(2):
        start = data.draw(st.integers(0, len(words) - 1))
        pairs.append([start, data.draw(st.integers(start + 1, len(words)))])
    if pairs[0] == pairs[1]:
        return
    names = [" ".join(words[start:end]) for start, end in pairs]
    mentions = [{"name": name, "pos": pair} for name, pair in zip(names, pairs, strict=True)]
    lines = [
        line(number, token=words, h=mentions[0], t=mentions[1], relation=f"r{number}")
        for number in range(3)
    ]
    corpus = read(SourceOptions(data_dir=write(tmp_path_factory.mktemp("text"), lines)))
    record = corpus.records[0]
    assert [record.text[slice(*span)] for span in record.spans] == names
    assert set(corpus.report.notes) <= {"head and tail overlap"}


def test_splits_features_and_report(folder, tmp_path):
    data = load(folder, tmp_path, counts=(2, 1, 1), seed=3)
    assert data.task == "relation"
    assert {split: len(rows) for split, rows in data.splits.items()} == {
        "train": 12,
        "validation": 12,
        "test": 16,
    }
    names = data.splits["train"].features["label"].names
    assert names == sorted(RELATIONS) == list(data.partition.labels)
    ids = set()
    for split, rows in data.splits.items():
        assert rows.features == data.splits["train"].features
        assert set(rows["split"]) == {split}
        for row in rows:
            assert row["seen"] == (names[row["label"]] in data.partition.seen)
            assert row["image"] is None
            ids.add(row["id"])
    assert len(ids) == 40
    report = data.report.to_dict()
    assert (report["records_in"], report["records_out"]) == (41, 40)
    assert report["left_out"]["relation 'None'"]["count"] == 1
    assert report["images"] == {
        "found": 0,
        "missing": 40,
        "unreadable": 0,
        "none": 0,
        "distinct": 40,
        "distinct_missing": 40,
        "distinct_unreadable": 0,
    }
    assert sum(report["splits"]["test"].values()) == 16
    assert report["settings"]["seed"] == 3
    assert report["settings"]["protocol_version"] == protocol.PROTOCOL_VERSION
    assert report["settings"]["label_text"] == "auto"
    assert data.label_texts == {label: split_clause(label) for label in RELATIONS}
    json.dumps(report)


def test_report_survives_the_cache(folder, tmp_path, monkeypatch):
    first = load(folder, tmp_path)

    def forbidden(options):
        raise AssertionError("read again although nothing changed")

    monkeypatch.setattr(mnre, "read", forbidden)
    second = load(folder, tmp_path)
    assert second.report == first.report
    assert (second.partition, second.label_texts) == (first.partition, first.label_texts)
    assert second.splits["test"].to_list() == first.splits["test"].to_list()


def test_report_is_made_again_if_it_was_lost(folder, tmp_path):
    first = load(folder, tmp_path)
    [path] = (tmp_path / "cache").rglob("gzs.json")
    path.unlink()
    assert load(folder, tmp_path).report == first.report


def test_an_edited_file_gives_new_data(folder, tmp_path):
    before = load(folder, tmp_path)
    path = folder / FILES[0]
    stamp = path.stat().st_mtime_ns
    path.write_text(path.read_text().replace("'Bob'", "'Eve'"))
    os.utime(path, ns=(stamp, stamp))
    after = load(folder, tmp_path)
    assert "Bob" in before.splits["train"][0]["text"]
    assert "Eve" in after.splits["train"][0]["text"]


def test_seed_protocol_and_label_text_are_part_of_the_key(folder, tmp_path, monkeypatch):
    def cache_of(**options):
        return load(folder, tmp_path, **options).splits["train"].cache_files[0]["filename"]

    files = [cache_of(), cache_of(seed=1), cache_of(label_text="verbalised")]
    files.append(cache_of(counts=(2, 1, 1)))
    assert cache_of() == files[0]
    monkeypatch.setattr(protocol, "PROTOCOL_VERSION", "next")
    files.append(cache_of())
    assert load(folder, tmp_path).report.settings["protocol_version"] == "next"
    # Equal parts of four labels are 2, 1, 1; the choice is still another one.
    assert len(set(files)) == 5


def test_images_found_missing_and_unreadable(folder, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(20):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(pictures / f"{number}.jpg")
    good = (pictures / "0.jpg").read_bytes()
    (pictures / "0.jpg").write_bytes(good[: len(good) // 2])
    (pictures / "1.jpg").write_bytes(b"no picture")
    data = load(folder, tmp_path, image_dir=str(pictures))
    assert data.report.images == {
        "found": 18,
        "missing": 20,
        "unreadable": 2,
        "none": 0,
        "distinct": 40,
        "distinct_missing": 20,
        "distinct_unreadable": 2,
    }
    unreadable = data.report.notes["image unreadable"]
    assert unreadable.count == 2
    assert unreadable.examples[0]["detail"].startswith("0.jpg: ")
    found = 0
    for rows in data.splits.values():
        for row in rows:
            number = int(row["id"].removeprefix("train-")) - 1
            assert (row["image"] is not None) == (2 <= number < 20)
            if row["image"] is not None:
                assert row["image"].size == (16, 16)
                found += 1
    assert found == 18


def test_another_image_gives_new_data(folder, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    before = load(folder, tmp_path, image_dir=str(pictures))
    Image.new("RGB", (16, 16)).save(pictures / "5.jpg")
    after = load(folder, tmp_path, image_dir=str(pictures))
    assert (before.report.images["found"], after.report.images["found"]) == (0, 1)


@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        ("{'token': ['a'", "(line)", "not a literal"),
        ("['a', 'b']", "(line)", "not a dict"),
        ("__import__('os').system('true')", "(line)", "not a literal"),
        ("{'token': " + "[" * 5000, "(line)", "not a literal"),
        ("-" * 50_000 + "1", "(line)", "not a literal"),
        ("{1: " + "9" * MAX_LINE_BYTES + "}", "(line)", "too long"),
        ("{'token': ['a\\x00b']}", "relation", "missing"),
        (line(relation=None), "relation", "wrong type"),
        (line(token="a b"), "token", "wrong type"),
        (line(token=[]), "token", "wrong type"),
        (line(token=["a", 1]), "token", "wrong type"),
        (line(token=["a\0", "b"]), "token", "NUL"),
        (line(h="Ada"), "h", "wrong type"),
        (line(h={"name": "Ada"}), "pos", "missing"),
        (line(h={"pos": [0, 1]}), "name", "missing"),
        (line(t={"name": "Bob", "pos": [4, 7]}), "t.pos", "out of range"),
        (line(t={"name": "Bob", "pos": [4, 4]}), "t.pos", "out of range"),
        (line(t={"name": "Bob", "pos": [-2, -1]}), "t.pos", "out of range"),
        (line(t={"name": "Bob", "pos": [4]}), "t.pos", "wrong type"),
        (line(t={"name": "Ada Lovelace", "pos": [1, 3]}), "spans", "duplicated"),
        (line(img_id="../../secret.jpg"), "img_id", "leaves its folder"),
        (line(img_id=5.0), "img_id", "wrong type"),
        (line(img_id=True), "img_id", "wrong type"),
    ],
)
def test_faulty_lines(folder, text, field, reason):
    path = folder / FILES[0]
    path.write_text(text + "\n" + path.read_text())
    with pytest.raises(RecordError, match=r"mnre_train\.txt, line 1, field") as caught:
        read(SourceOptions(data_dir=str(folder)))
    assert (caught.value.field, caught.value.reason) == (field, f"{field}: {reason}")
    corpus = read(SourceOptions(data_dir=str(folder), on_error="skip"))
    assert corpus.report.left_out[f"{field}: {reason}"].count == 1
    assert len(corpus.records) == 40


def test_errors_come_out_of_the_loader_as_they_are(folder, tmp_path):
    (folder / FILES[1]).write_text("nonsense\n")
    with pytest.raises(RecordError, match=r"mnre_val\.txt, line 1"):
        load(folder, tmp_path)
    data = load(folder, tmp_path, on_error="skip")
    assert data.report.left_out["(line): not a literal"].count == 1
    assert data.report.records_in == 42


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("AdaLovelace", "white space"),
        ("ada lovelace", "case"),
        ("\uff21da Lovelace", "Unicode form"),
        ("Ada Byron", "other text"),
    ],
)
def test_a_mention_that_differs_is_kept_and_noted(folder, name, why):
    write(folder, [line(n, h={"name": name, "pos": [1, 3]}) for n in range(4)])
    corpus = read(SourceOptions(data_dir=str(folder)))
    assert len(corpus.records) == 4
    assert corpus.records[0].spans[0] == (3, 15)
    assert corpus.report.notes[f"mention differs from span ({why})"].count == 4


def test_readings():
    assert len(CLAUSES) == 22
    assert len(set(CLAUSES.values())) == 22
    assert verbalise("/per/org/member_of") == "person is a member of organization"
    assert verbalise("/per/org/led_by") == "person led by organization"
    assert verbalise("/a_b/c/d_e") == "a b d e c"
    assert verbalise("/lives_in") == "lives in"
    assert verbalise("//") == "//"


def test_verbalised_label_texts(folder, tmp_path):
    data = load(folder, tmp_path, label_text="verbalised")
    assert data.label_texts == {label: CLAUSES[label] for label in RELATIONS}
    assert data.splits["train"].features["label"].names == sorted(RELATIONS)


def test_explicit_labels_leave_the_others_out(folder, tmp_path):
    data = load(
        folder,
        tmp_path,
        seen=[RELATIONS[0]],
        validation_unseen=[RELATIONS[1]],
        test_unseen=[RELATIONS[2]],
    )
    assert data.report.left_out["label outside the partition"].count == 10
    assert data.report.records_out == 30
    assert data.partition.test_unseen == (RELATIONS[2],)


def test_wrong_choices(folder, tmp_path):
    with pytest.raises(ValueError, match="data_dir: expected a folder"):
        load_gzs("mnre", cache_dir=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no file for 'train'; MNRE requires"):
        load_gzs("mnre", data_dir=str(tmp_path), cache_dir=str(tmp_path))
    with pytest.raises(NotADirectoryError, match="image_dir: no such folder"):
        load(folder, tmp_path, image_dir=str(tmp_path / "none"))
    with pytest.raises(ValueError, match="task: expected 'relation' for MNRE"):
        load(folder, tmp_path, task="typing")
    with pytest.raises(ValueError, match="add up to 22, but there are 4 labels"):
        load(folder, tmp_path, counts=(8, 7, 7))
    with pytest.raises(ValueError, match="all three label lists or none"):
        load(folder, tmp_path, seen=["a"])
    with pytest.raises(ValueError, match="at most one of counts and label lists"):
        load(
            folder,
            tmp_path,
            seen=["a"],
            validation_unseen=["b"],
            test_unseen=["c"],
            counts=(1, 1, 1),
        )
    with pytest.raises(ValueError, match="label_text: expected one of"):
        load(folder, tmp_path, label_text="spoken")
    with pytest.raises(ValueError, match=r"source: expected one of \['bio'"):
        load_gzs("imagenet")
    with pytest.raises(TypeError, match="seed: expected an integer"):
        load(folder, tmp_path, seed="1")


def test_builder_is_one_of_datasets(folder, tmp_path):
    builder = GZSBuilder("mnre", SourceOptions(data_dir=str(folder)), str(tmp_path / "cache"))
    builder.download_and_prepare()
    assert builder.as_dataset("train").features["spans"].feature.feature.dtype == "int32"


def test_real_files(real_data, tmp_path):
    started = time.perf_counter()
    data = load(real_data / "mnre", tmp_path)
    assert time.perf_counter() - started < 60
    report = data.report
    assert (report.records_in, report.records_out) == (15_485, 5_767)
    assert {name: finding.count for name, finding in report.left_out.items()} == {
        "relation 'None'": 9_718
    }
    # Every mention's name is the text of its tokens, joined by one space.
    assert set(report.notes) == {"image missing", "head and tail overlap"}
    assert report.images["distinct"] == 4_401
    assert set(data.partition.labels) == set(CLAUSES)
    sizes = (data.partition.seen, data.partition.validation_unseen, data.partition.test_unseen)
    assert tuple(map(len, sizes)) == (8, 7, 7)
    names = data.splits["train"].features["label"].names
    rows = {row["id"]: row for split in data.splits.values() for row in split}
    lines = (real_data / "mnre" / FILES[1]).read_text(encoding="utf-8").split("\n")
    for number, text in enumerate(filter(None, lines), 1):
        values = ast.literal_eval(text)
        row = rows.get(f"valid-{number:06d}")
        assert (row is None) == (values["relation"] == "None")
        if row is not None:
            mentions = [row["text"][start:end] for start, end in row["spans"]]
            assert mentions == [values["h"]["name"], values["t"]["name"]]
            assert names[row["label"]] == values["relation"]
