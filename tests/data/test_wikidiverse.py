"""WikiDiverse: its JSON read sample by sample, names of pictures, offsets that are checked."""

import hashlib
import json
import re
import time
from collections import Counter

import pytest
from PIL import Image

from dataset_scripts import WIKIDIVERSE_PARTITIONS, RecordError, SourceOptions, load_gzs
from dataset_scripts.sources.records import read as read_records
from dataset_scripts.sources.wikidiverse import TYPES, image_file_name
from dataset_scripts.sources.wikidiverse import read as read_files

URL = "https://upload.wikimedia.org/wikipedia/commons/0/06/"
ADA = "https://en.wikipedia.org/wiki/Ada"


def mention(**change):
    values = {"text": "Ada", "type": "People", "start": 0, "end": 3, "url": ADA, **change}
    return list(values.values())


def sample(number, **change):
    values = {
        "text": f"Ada met Bób {number}",
        "url": f"{URL}{number}.jpg",
        "topic": "Politics",
        "mentions": [
            mention(type=TYPES[number % 12]),
            mention(text="Bób", type=TYPES[(number + 1) % 12], start=8, end=11),
        ],
    }
    return list({**values, **change}.values())


def in_lines(samples):
    """A list with one sample a line, from line 2 on."""
    return "[\n" + ",\n".join(json.dumps(values) for values in samples) + "\n]\n"


@pytest.fixture
def folder(tmp_path):
    """36 samples with 72 mentions, six of each type, in the three files."""
    folder = tmp_path / "text"
    folder.mkdir()
    for part, first in (("train", 0), ("valid", 24), ("test", 30)):
        last = {"train": 24, "valid": 30, "test": 36}[part]
        samples = [sample(number) for number in range(first, last)]
        (folder / f"{part}.json").write_text(in_lines(samples), encoding="utf-8")
    return folder


def read(folder, **options):
    return read_files(SourceOptions(data_dir=str(folder), **options))


def load(folder, tmp_path, **options):
    cache = str(tmp_path / "cache")
    return load_gzs("wikidiverse", data_dir=str(folder), cache_dir=cache, **options)


def test_records(folder):
    corpus = read(folder)
    assert len(corpus.records) == corpus.report.records_in == 72
    record = corpus.records[3]
    assert (record.id, record.text, record.spans) == ("train-000002-2", "Ada met Bób 1", ((8, 11),))
    assert (record.label, record.place.line, record.place.file) == (TYPES[2], 3, "train.json")
    assert record.image == hashlib.md5(b"1.jpg").hexdigest() + ".jpg"
    assert [r.id for r in corpus.records[-2:]] == ["test-000006-1", "test-000006-2"]
    assert set(Counter(r.label for r in corpus.records).values()) == {6}
    assert not corpus.report.notes


@pytest.mark.parametrize("form", ["one line", "indented", "escaped", "mark and CRLF"])
def test_layout_of_the_file_does_not_matter(folder, form):
    before = read(folder)
    path = folder / "train.json"
    samples = json.loads(path.read_text(encoding="utf-8"))
    text = json.dumps(
        samples, indent=1 if form != "one line" else None, ensure_ascii=form[0] == "e"
    )
    if form == "mark and CRLF":
        text = "\ufeff \r\n" + text.replace("\n", "\r\n") + "\r\n\t "
    path.write_bytes(text.encode())
    after = read(folder)
    assert [(r.id, r.text, r.spans, r.label, r.image) for r in after.records] == [
        (r.id, r.text, r.spans, r.label, r.image) for r in before.records
    ]
    lines = [r.place.line for r in after.records if r.id.startswith("train")][::2]
    # Where indented, the sentence stands on the line after that on which its sample begins.
    below = [number for number, line in enumerate(text.split("\n")) if '"Ada met' in line]
    assert lines == ([1] * 24 if form == "one line" else below)


@pytest.mark.parametrize(
    ("last", "ending"),
    [
        ("Running.svg", ".png"),
        ("Flag.SVG", ".png"),
        ("Crowd.jpeg", ".jpeg"),
        ("CROWD.JPEG", ".JPEG"),
        ("DSC_0012.JPG", ".JPG"),
        ("Map.PNG", ".PNG"),
        ("v1.0.png.jpg", ".jpg"),
        ("a.jpg.webp", ".jpg.webp"),
        ("clip.gif", "clip.gif"),
        ("Scan.Jpg", "Scan.Jpg"),
        ("no_ending", "no_ending"),
        ("St._John%27s_%2812%29.jpg", ".jpg"),
        ("Übung.png", ".png"),
    ],
)
def test_image_name(last, ending):
    """Made from the last part as it stands: neither decoded nor in lower case."""
    digest = hashlib.md5(last.encode("utf-8")).hexdigest()
    assert image_file_name(URL + last) == digest + ending
    assert image_file_name("http://elsewhere/" + last) == image_file_name(last) == digest + ending


def test_images_are_found_by_their_names(folder, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in (3, 5):
        name = hashlib.md5(f"{number}.jpg".encode()).hexdigest() + ".jpg"
        Image.new("RGB", (8 + number, 8)).save(pictures / name)
    (folder / "test.json").write_text(in_lines([sample(n, url=None) for n in range(30, 36)]))
    data = load(folder, tmp_path, image_dir=str(pictures))
    counts = [data.report.images[name] for name in ("found", "missing", "none", "distinct")]
    assert counts == [4, 56, 12, 30]
    rows = [row for split in data.splits.values() for row in split if row["image"]]
    sizes = {row["id"]: row["image"].size[0] for row in rows}
    assert sizes == {f"train-00000{n}-{m}": 7 + n for n in (4, 6) for m in (1, 2)}


def test_an_image_behind_a_link_is_refused(folder, tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.jpg")
    (tmp_path / "pictures" / image_file_name("3.jpg")).symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(RecordError, match=r"^train\.json, line 5, field 'image URL': .* a link"):
        read(folder, image_dir=str(tmp_path / "pictures"))


def test_other_is_left_out_and_counted(folder):
    mentions = [mention(type="Other"), mention(type="APP"), mention(type="Other", start=0)]
    (folder / "valid.json").write_text(in_lines([sample(0, mentions=mentions)]))
    corpus = read(folder)
    assert len(corpus.records) == 61
    assert {n: f.count for n, f in corpus.report.left_out.items()} == {"type 'Other'": 2}
    assert corpus.report.records_in == 63
    assert [r.id for r in corpus.records if r.id.startswith("valid")] == ["valid-000001-2"]


@pytest.mark.parametrize(
    ("name", "why"),
    [("ada", "case"), ("A da", "white space"), ("\uff21da", "Unicode form")],
)
def test_a_small_difference_of_a_mention_is_noted(folder, name, why):
    (folder / "valid.json").write_text(in_lines([sample(0, mentions=[mention(text=name)])]))
    corpus = read(folder)
    assert [(r.text[slice(*r.spans[0])]) for r in corpus.records if r.id[0] == "v"] == ["Ada"]
    [(kind, finding)] = corpus.report.notes.items()
    assert (kind, finding.count) == (f"mention differs from span ({why})", 1)


LATIN = b'["caf\xe9", null, "t", []]'
FAULTS = [
    (sample(0)[:3], "(sample)", "not a sample"),
    ([*sample(0), 1], "(sample)", "not a sample"),
    ({"sentence": "x"}, "(sample)", "not a sample"),
    (None, "(sample)", "not a sample"),
    (sample(0, text=" "), "sentence", "empty"),
    (sample(0, text=5), "sentence", "wrong type"),
    (sample(0, text="a\0"), "sentence", "NUL"),
    (LATIN, "sentence", "not valid Unicode"),
    (sample(0, url=7), "image URL", "wrong type"),
    (sample(0, url=""), "image URL", "empty"),
    (sample(0, url="\ud800.jpg"), "image URL", "not valid Unicode"),
    (sample(0, mentions={}), "mentions", "wrong type"),
    (sample(0, mentions=None), "mentions", "wrong type"),
    (sample(0, mentions=["Ada"]), "mentions", "not a mention"),
    (sample(0, mentions=[mention()[:4]]), "mentions", "not a mention"),
    (sample(0, mentions=[[*mention(), 0]]), "mentions", "not a mention"),
    (sample(0, mentions=[mention(text="")]), "mention", "empty"),
    (sample(0, mentions=[mention(text=None)]), "mention", "wrong type"),
    (sample(0, mentions=[mention(text="\udcff")]), "mention", "not valid Unicode"),
    (sample(0, mentions=[mention(type="Person")]), "label", "unknown"),
    (sample(0, mentions=[mention(type="people")]), "label", "unknown"),
    (sample(0, mentions=[mention(type=3)]), "label", "wrong type"),
    (sample(0, mentions=[mention(end=99)]), "spans", "out of range"),
    (sample(0, mentions=[mention(start=-3, end=2)]), "spans", "out of range"),
    (sample(0, mentions=[mention(start=3, end=0)]), "spans", "reversed"),
    (sample(0, mentions=[mention(end=0)]), "spans", "empty"),
    (sample(0, mentions=[mention(start=False)]), "spans", "wrong type"),
    (sample(0, mentions=[mention(end=3.0)]), "spans", "wrong type"),
    (sample(0, mentions=[mention(end=float("nan"))]), "spans", "wrong type"),
    (sample(0, mentions=[mention(start="0")]), "spans", "wrong type"),
    (sample(0, mentions=[mention(start=3, end=4)]), "spans", "white space"),
    (sample(0, mentions=[mention(start=4, end=7)]), "spans", "another text"),
]


@pytest.mark.parametrize(("values", "field", "reason"), FAULTS)
def test_faulty_samples(folder, values, field, reason):
    path = folder / "valid.json"
    line = values if isinstance(values, bytes) else json.dumps(values).encode()
    good = [json.dumps(sample(number)).encode() for number in (1, 2)]
    path.write_bytes(b"[" + good[0] + b",\n\n" + line + b"\n,\n" + good[1] + b"]")
    with pytest.raises(RecordError) as caught:
        read(folder)
    assert str(caught.value).startswith(f"valid.json, line 3, field {field!r}: expected ")
    corpus = read(folder, on_error="skip")
    [(found, finding)] = corpus.report.left_out.items()
    assert (found, finding.count) == (f"{field}: {reason}", 1)
    assert finding.examples[0]["line"] == 3
    assert (len(corpus.records), corpus.report.records_in) == (64, 65)


GOOD = json.dumps(sample(0))
BROKEN = {
    "nothing": ("", 1, "a JSON list of samples, got the end of the file"),
    "an object": (f'\n{{"data": [{GOOD}]}}', 2, r"a JSON list of samples, got str '\{\"data"),
    "cut in a sample": (f"[\n{GOOD},\n{GOOD[:30]}", 3, "a sample in JSON, got Unterminated string"),
    "cut after a sample": (f"[\n{GOOD}\n", 3, "',' or ']' after a sample, got the end of the file"),
    "cut after a comma": (f"[\n{GOOD},\n", 3, "a sample in JSON, got the end of the file"),
    "comma at the end": (f"[\n{GOOD},\n]", 3, "a sample in JSON, got Expecting value"),
    "no comma": (f"[\n{GOOD}\n{GOOD}]", 3, "',' or ']' after a sample, got str '"),
    "more after it": (f"[{GOOD}]\n\n[]", 3, r"nothing after the list, got str '\[\]'"),
    "deep": (f"[\n{GOOD},\n" + "[" * 200_000, 3, "a sample in JSON, got .*recursion"),
    "huge number": (f"[\n{GOOD},\n" + "9" * 9_000, 3, "a sample in JSON, got "),
    "byte outside": ("[\n\udcff]", 2, "a sample in JSON, got Expecting value"),
}


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_is_no_list_is_never_read_in_part(folder, case, on_error):
    text, line, message = BROKEN[case]
    (folder / "valid.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RecordError, match=message) as caught:
        read(folder, on_error=on_error)
    assert caught.value.place == ("valid.json", line, "line")


def test_no_sample_at_all(folder, tmp_path):
    (folder / "valid.json").write_text("[]")
    assert len(read(folder).records) == 60
    for part in ("train", "test"):
        (folder / f"{part}.json").write_text(" [ \n ] ")
    assert read(folder).records == []
    for options in ({}, {"rotation": 1}):
        with pytest.raises(ValueError, match=r"wikidiverse: no record remains, 0 of 0 were left"):
            load(folder, tmp_path, **options)


@pytest.mark.parametrize("rotation", [1, 2, 3])
def test_rotations(folder, tmp_path, rotation):
    data = load(folder, tmp_path, rotation=rotation, seed=5)
    assert data.partition == WIKIDIVERSE_PARTITIONS[rotation]
    counts = {s: {n for n, k in of.items() if k} for s, of in data.report.splits.items()}
    assert counts["train"] == set(data.partition.seen)
    assert counts["validation"] == {*data.partition.seen, *data.partition.validation_unseen}
    assert counts["test"] == {*data.partition.seen, *data.partition.test_unseen}
    assert data.splits["train"].features["label"].names == sorted(TYPES)
    assert data.report.records_out == 72


def test_drawn_partition(folder, tmp_path):
    drawn = load(folder, tmp_path, seed=1, counts=(4, 4, 4)).partition
    groups = (drawn.seen, drawn.validation_unseen, drawn.test_unseen)
    assert [len(group) for group in groups] == [4, 4, 4]
    assert set().union(*groups) == set(TYPES)
    assert load(folder, tmp_path, seed=1).partition == drawn
    assert load(folder, tmp_path, seed=2).partition != drawn


def test_wrong_choices(folder, tmp_path):
    with pytest.raises(ValueError, match="at most one of counts and rotation"):
        load(folder, tmp_path, rotation=1, counts=(4, 4, 4))
    with pytest.raises(ValueError, match="rotation: expected one of"):
        load(folder, tmp_path, rotation=4)
    with pytest.raises(ValueError, match="task: expected 'typing' for WikiDiverse"):
        read(folder, task="relation")
    (folder / "dev.json").write_text("[]")
    with pytest.raises(ValueError, match=r"\['dev\.json', 'valid\.json'\] all match 'valid'"):
        read(folder)
    (folder / "dev.json").unlink()
    (folder / "test.json").rename(folder / "latest.json")
    with pytest.raises(FileNotFoundError, match=r"no file for 'test'; WikiDiverse requires one"):
        read(folder)


@pytest.fixture(scope="module")
def sentences(real_data):
    """The published sentences with mentions and pictures; their types are not at hand."""
    text = (real_data / "wikidiverse_untyped" / "wikidiverse.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def test_real_sentences_in_the_published_form(sentences, tmp_path):
    """As type they get "Other", which is checked like any other and then left out."""
    samples, once = [], 0
    for values in sentences:
        text, mentions, at = values["sentence"], [], {}
        for name in values["mention"]:
            once += text.count(name) == 1
            # Of a mention that occurs several times, each time it is named the next one.
            start = text.find(name, at.get(name, 0))
            start = text.index(name) if start < 0 else start
            at[name] = start + 1
            mentions.append([name, "Other", start, start + len(name), "https://en.wikipedia.org"])
        samples.append([text, values["img-url"], "topic", mentions])
    for part, index in (("train", 0), ("valid", 1), ("test", 2)):
        text = json.dumps(samples[index::3], ensure_ascii=bool(index), indent=index or None)
        (tmp_path / f"{part}.json").write_text(text, encoding="utf-8")
    started = time.perf_counter()
    corpus = read(tmp_path, image_dir=str(tmp_path))
    assert time.perf_counter() - started < 20
    assert (len(sentences), once) == (7_405, 14_529)
    assert corpus.records == []
    assert not corpus.report.notes
    assert {n: f.count for n, f in corpus.report.left_out.items()} == {"type 'Other'": 14_851}
    assert corpus.report.records_in == 14_851
    last_parts = {v["img-url"].split("/")[-1] for v in sentences if v["img-url"]}
    names = {image_file_name(last) for last in last_parts}
    assert len(names) == len(last_parts)
    ending = re.compile(r"[0-9a-f]{32}(\.(jpg|JPG|jpeg|JPEG|png|PNG)|.+\.(gif|GIF))")
    assert [name for name in names if not ending.fullmatch(name)] == []


def test_real_sentences_with_mentions_by_their_text(sentences, tmp_path):
    rows = [
        {"text": values["sentence"], "mention": name, "label": entity}
        for values in sentences
        for name, entity in zip(values["mention"], values["answer"], strict=True)
    ]
    path = tmp_path / "mentions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = read_records(SourceOptions(data_dir=str(path), on_error="skip"))
    left_out = {reason: finding.count for reason, finding in corpus.report.left_out.items()}
    assert left_out == {"mention: occurs several times": 298}
    assert len(corpus.records) == 14_553
    for record in corpus.records:
        [(start, end)] = record.spans
        row = rows[record.place.line - 1]
        assert (record.text[start:end], record.label) == (row["mention"], row["label"])
