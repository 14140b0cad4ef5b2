"""The table of bad input: what may be wrong with a caller's records, and what is said of it."""

import csv
import io
import itertools
import json
import os
import re
import struct
import tarfile
import zipfile
import zlib

import datasets
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from dataset_scripts import RecordError, load_gzs
from dataset_scripts.sources.tables import MAX_LINE_BYTES

LABELS = ("person", "city", "river", "animal")
GOOD = 20  # good records; the faulty one stands in their middle

RELATION = {"task": "relation"}
GIVEN = {"seen": ["person", "city"], "validation_unseen": ["river"], "test_unseen": ["animal"]}
NO_SPANS = {"spans": None}
HEADER = b"text,label,mention\n"
NONE = "at least one valid record"
SEVERAL = "mention: occurs several times"


def png(side):
    """Returns the few bytes of a PNG that claims to be that large."""

    def chunk(name, content):
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def jpeg(share):
    """Returns the first part of a JPEG."""
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(stream, "JPEG")
    return stream.getvalue()[: int(len(stream.getvalue()) * share)]


def in_table(content=None, path=None):
    """Returns a picture as `datasets.Image` stores it."""
    return {"bytes": content, "path": path}


def archive(kind):
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("people.jsonl", b"\0" * 10_000_000)  # a thousand times as much as packed
    else:
        with tarfile.open(fileobj=stream, mode="w:gz") as file:
            file.addfile(tarfile.TarInfo("people.jsonl"), io.BytesIO())
    return stream.getvalue()


def arrow(twice=False, features=None, torn=False, **columns):
    """Returns a Parquet file."""
    columns = columns or {name: ["Ada"] * 99 for name in ("text", "mention", "label")}
    table = pa.table(columns)
    if twice:
        table = table.append_column("text", table["text"])
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": features})})
    stream = io.BytesIO()
    parquet.write_table(table, stream, use_dictionary=False)
    content = stream.getvalue()
    return content[:4] + b"\xff" * 60 + content[64:] if torn else content


# By where the fault stands. Rows: name, the fields in which the record differs from a good one or
# its whole line, the reason under which it is counted ("field: …"), a word of the message, and
# options. Where the reason is "image …" the record is kept without it, which is noted.
# A "file" cannot be read as a whole, so that it raises whatever `on_error` says. Rows: name, name
# of the file, its content, a word of the message, and what is said instead if single records are
# reported and none remains.
# fmt: off
TABLE = {
    "jsonl": [
        # A line that holds no record.
        ("cut off JSON", b'{"id": "x", "text": "Ada', "(line): not JSON", "Unterminated"),
        ("JSON array", b'["Ada", [[0, 3]]]', "(record): not an object", "list"),
        ("field twice", b'{"id": "x", "id": "y"}', "(line): not JSON", "'id'"),
        ("deep nesting", b"[" * 100_000, "(line): not JSON", "recursion"),
        ("long number", b'{"id": 1' + b"0" * 5000 + b"}", "(line): not JSON", "digits"),
        ("long line", b'"' + b"x" * MAX_LINE_BYTES + b'"', "(line): too long", "4194307"),
        ("not UTF-8", b'{"text": "caf\xe9"}', "(line): not UTF-8", "byte 0xe9"),
        ("NUL byte", b'{"text": "a\0b"}', "(line): NUL", "NUL at byte"),
        # Strings.
        ("NUL escape", {"text": "Ada\0"}, "text: NUL", "character 3"),
        ("half a surrogate pair", {"text": "Ada \ud800"}, "text: not valid Unicode", "4"),
        ("no text", {"text": ...}, "text: missing", "the sentence"),
        ("text a number", {"text": 5}, "text: wrong type", "int 5"),
        ("text empty", {"text": ""}, "text: empty", "str ''"),
        ("text white space", {"text": " \n\t "}, "text: empty", "non-empty"),
        ("no label", {"label": ...}, "label: missing", "a label name"),
        ("label white space", {"label": " "}, "label: empty", "non-empty"),
        ("label not among the given", {"label": "robot"}, "label: unknown", "'robot'", GIVEN),
        ("id true", {"id": True}, "id: wrong type", "bool True"),
        ("id twice", {"id": "r3"}, "id: duplicated", "also in line 4"),
        ("unknown split", {"split": "dev"}, "split: unknown", "'validation'"),
        ("split in one record", {"split": "test"}, "split: not in every record", "line 1"),
        # Spans.
        ("no spans", {"spans": ...}, "spans: missing", "as spans or mention"),
        ("spans beyond the text", {"spans": [[0, 99]]}, "spans: out of range", "15 char"),
        ("spans before the text", {"spans": [[-3, 3]]}, "spans: out of range", "-3"),
        ("spans reversed", {"spans": [[3, 0]]}, "spans: reversed", "start < end"),
        ("spans empty", {"spans": [[2, 2]]}, "spans: empty", "start < end"),
        ("spans bool", {"spans": [[False, True]]}, "spans: wrong type", "integers"),
        ("spans float", {"spans": [[0.0, 3.0]]}, "spans: wrong type", "[0.0, 3.0]"),
        ("spans not nested", {"spans": [0]}, "spans: wrong type", "int 0"),
        ("spans nested twice", {"spans": [[[0, 3]]]}, "spans: wrong type", "[[0, 3]]"),
        ("span of three", {"spans": [[0, 3, 4]]}, "spans: wrong type", "[0, 3, 4]"),
        ("spans a string", {"spans": "0-3"}, "spans: wrong type", "'0-3'"),
        ("none in the list", {"spans": []}, "spans: wrong number", "0 span(s)"),
        ("three", {"spans": [[0, 1], [1, 2], [2, 3]]}, "spans: wrong number", "3 span(s)"),
        ("relation in typing", {"spans": [[0, 3], [8, 11]]}, "spans: wrong number", "typing"),
        ("typing in relations", {"spans": [[0, 3]]}, "spans: wrong number", "relation", RELATION),
        ("head as tail", {"spans": [[0, 3]] * 2}, "spans: duplicated", "different", RELATION),
        # Mentions.
        ("mention not there", NO_SPANS | {"mention": "Eve"}, "mention: not in the text", "not in"),
        ("mention twice", NO_SPANS | {"mention": "B"}, SEVERAL, "[8, 12"),
        ("in itself", {"text": "anana", "mention": "ana"} | NO_SPANS, SEVERAL, "[0, 2]"),
        ("mention differs", {"mention": "Bob"}, "mention: differs from spans", "'Ada'"),
        ("both", {"mention": ["Bob", "Ada"]}, "mention: differs from spans", "Ada", RELATION),
        # Names of pictures.
        ("picture above", {"image": "../secret.png"}, "image: leaves its folder", "inside it"),
        ("above in Windows", {"image": "..\\b.png"}, "image: leaves its folder", "inside it"),
        ("picture from the root", {"image": "/etc/passwd"}, "image: absolute path", "relative"),
        ("picture on a drive", {"image": "C:\\a.png"}, "image: absolute path", "C:"),
        ("picture on the web", {"image": "https://a.org/b.png"}, "image: URL", "not fetched"),
        ("linked picture", {"image": "link.png"}, "image: link", "a link out of it"),
        ("linked folder", {"image": "up/secret.png"}, "image: link", "a link out of it"),
        ("link to itself", {"image": "loop.png"}, "image: link", "a link out of it"),
        # Pictures: the record is kept, its picture noted.
        ("absent", {"image": "none.png"}, "image missing", "none.png"),
        ("no bytes", {"image": "zero.png"}, "image unreadable", "one of JPEG, PNG"),
        ("text called .jpg", {"image": "text.jpg"}, "image unreadable", "one of JPEG, PNG"),
        ("half a JPEG", {"image": "half.jpg"}, "image unreadable", "truncated"),
        ("folder", {"image": "folder.png"}, "image unreadable", "regular file"),
        ("pipe", {"image": "pipe.png"}, "image unreadable", "regular file"),
        ("endless name", {"image": "x" * 5000}, "image unreadable", "name too long"),
    ],
    "csv": [
        ("short row", b"x,Ada", "(line): wrong number of cells", "2: list ['x', 'Ada']"),
        ("long row", b"x,Ada,,,,,,,", "(line): wrong number of cells", "9: list"),
        ("text empty", {"text": ""}, "text: wrong type", "None"),
        ("spans not JSON", {"spans": "0-3"}, "spans: not JSON", "[[start, end]]"),
        ("spans deep", {"spans": "[" * 100_000}, "spans: not JSON", "[[start, end]]"),
        ("spans NaN", {"spans": "[[0, NaN]]"}, "spans: wrong type", "nan"),
        ("mention list not JSON", {"mention": '["Ada", Bob]'}, "mention: not JSON", "list"),
        ("mention not there", NO_SPANS | {"mention": "Eve"}, "mention: not in the text", "not in"),
        ("not UTF-8", b"x,caf\xe9,person,,,,", "text: not UTF-8", "byte 0xe9"),
        ("NUL byte", {"text": "Ada\0"}, "text: NUL", "character 3"),
        ("id twice", {"id": "r3"}, "id: duplicated", "also in line 5"),
        ("split in one record", {"split": "test"}, "split: not in every record", "line 2"),
        ("label not given", {"label": "robot"}, "label: unknown", "'robot'", GIVEN),
        ("200 megapixels", {"image": "huge.png"}, "image unreadable", "exceeds limit"),
    ],
    "parquet": [
        ("text null", {"text": None}, "text: wrong type", "None"),
        ("label beyond", {"label": 4}, "label: unknown", "4 names"),
        ("span beyond", {"spans": [[0, 99]]}, "spans: out of range", "15 char"),
        ("id twice", {"id": "r3"}, "id: duplicated", "also in row 4"),
        ("path", {"image": in_table(path=__file__)}, "image: absolute path", "relative"),
        ("picture a number", {"image": 7}, "image: wrong type", "int 7"),
        ("picture of pixels", {"image": [[0, 0], [0, 0]]}, "image: wrong type", "list"),
        ("not UTF-8", {"text": b"caf\xe9"}, "text: not UTF-8", "byte 0xe9"),
        ("half a JPEG", {"image": in_table(jpeg(0.5))}, "image unreadable", "truncated"),
        ("no bytes", {"image": in_table(b"")}, "image missing", "sha256/e3b0c442"),
    ],
    "dataset": [
        ("label -1", {"label": -1}, "label: unknown", "4 names"),
        ("picture without folder", {"image": "a.png"}, "image: no image folder", "image_dir"),
        ("200 megapixels", {"image": in_table(png(14_200))}, "image unreadable", "exceeds limit"),
    ],
    "file": [
        ("zip", "people.zip", archive("zip"), "must be unpacked first"),
        ("tar", "people.jsonl.tar.gz", archive("tar"), "must be unpacked first"),
        ("JSON", "people.json", b"[]", "ends in .jsonl, .csv, .parquet"),
        ("no line", "people.jsonl", b"", "at least one valid record"),
        ("zip called .jsonl", "people.jsonl", archive("zip"), "line 1, field '(line)'", NONE),
        ("CSV without text", "people.csv", b"id,label,spans\n", "line 1, field '(header)'"),
        ("CSV with semicolons", "people.csv", b"text;label;spans\n", "'text;label;spans'"),
        ("CSV without header", "people.csv", b'Ada,person,"[[0, 3]]"\n', "expected a header"),
        ("CSV without a line", "people.csv", b"", "expected a header"),
        ("CSV column twice", "people.csv", b"text,label,spans,text\n", "each column once"),
        ("CSV in UTF-16", "people.csv", "text,label,spans\n".encode("utf-16"), "expected a header"),
        ("CSV open quote", "people.csv", HEADER + b'A,x,A\n"A,x,A\n\nA,x,A\n', "line 3, field"),
        ("CSV quote within", "people.csv", HEADER + b'"A"da,x,Ada\n', "line 2, field '(line)'"),
        ("CSV long line", "people.csv", HEADER + b"x" * (MAX_LINE_BYTES + 1), "line 2, field"),
        ("CSV long cell", "people.csv", HEADER + b'"' + (b"x" * 99 + b"\n") * 50_000, "a row of"),
        ("no Parquet", "people.parquet", b"text,label\n", "expected a Parquet file"),
        ("half a Parquet", "people.parquet", arrow()[:300], "expected a Parquet file"),
        ("Parquet of other columns", "people.parquet", arrow(a=["A"]), "text", NONE),
        ("Parquet, no label", "people.parquet", arrow(text=["A"], mention=["A"]), "label", NONE),
        ("Parquet of numbers", "people.parquet", arrow(text=[1], label=["x"]), "text", NONE),
        ("Parquet column twice", "people.parquet", arrow(twice=True), "columns repeated"),
        ("Parquet features none", "people.parquet", arrow(features=3), "expected a Parquet file"),
        ("Parquet page torn", "people.parquet", arrow(torn=True), "after row 0"),
    ],
}
# fmt: on

RECORDS = [
    pytest.param(form, *row, *[{}] * (5 - len(row)), id=f"{form}-{row[0]}")
    for form, rows in TABLE.items()
    for row in rows
    if form != "file"
]


def test_the_table_is_not_cut_short():
    names = [(form, row[0]) for form, rows in TABLE.items() for row in rows]
    assert len(names) == len(set(names)) >= 105
    assert {form for form, _ in names} == {"jsonl", "csv", "parquet", "dataset", "file"}


def records_with(given, options):
    """Returns good records with the faulty one in their middle; a raw line stays one."""
    spans = [[0, 3], [8, 11]] if options == RELATION else [[0, 3]]
    records = []
    for number in range(GOOD + 1):
        values = {"id": f"r{number}", "text": f"Ada met Bob B{number}", "spans": spans}
        records.append(values | {"label": LABELS[number % 4]})
    middle = GOOD // 2
    records[middle] = given if isinstance(given, bytes) else records[middle] | given
    return records


def write_jsonl(path, records):
    with path.open("wb") as file:
        for values in records:
            if isinstance(values, bytes):
                file.write(values + b"\n")
            else:
                kept = {name: value for name, value in values.items() if value is not ...}
                file.write(json.dumps(kept).encode() + b"\n")


def write_csv(path, records):
    stream = io.StringIO()
    header = ["id", "text", "label", "spans", "mention", "image", "split"]
    writer = csv.DictWriter(stream, header, lineterminator="\n")
    writer.writeheader()
    for values in records:
        if isinstance(values, bytes):
            stream.write(values.decode("latin-1") + "\n")
        else:
            given = values["spans"]
            cell = json.dumps(given) if isinstance(given, list) else given
            writer.writerow(values | {"spans": cell})
    path.write_bytes(stream.getvalue().encode("latin-1"))


def arrow_table(records):
    names = dict.fromkeys(name for values in records for name in values)
    columns = {name: [values.get(name) for values in records] for name in names}
    features = {}
    if not all(isinstance(label, str) for label in columns["label"]):
        features["label"] = datasets.ClassLabel(names=list(LABELS))
        columns["label"] = [LABELS.index(x) if x in LABELS else x for x in columns["label"]]
    if any(isinstance(text, bytes) for text in columns["text"]):
        raw = [text if isinstance(text, bytes) else text.encode() for text in columns["text"]]
        columns["text"] = pa.array(raw, pa.binary()).view(pa.string())
    table = pa.table(columns)
    features = {**datasets.Features.from_arrow_schema(table.schema), **features}
    return table.cast(datasets.Features(features).arrow_schema)


def write_parquet(path, records):
    parquet.write_table(arrow_table(records), path, row_group_size=8)


@pytest.fixture
def folder(tmp_path):
    """A folder with all pictures that the table names, good for nothing."""
    root = tmp_path / "data"
    (root / "folder.png").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "secret.png")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "up").symlink_to(tmp_path)
    (root / "loop.png").symlink_to(root / "loop.png")
    os.mkfifo(root / "pipe.png")
    contents = {"zero.png": b"", "text.jpg": b"no picture", "half.jpg": jpeg(0.5)}
    contents["huge.png"] = png(14_200)
    for name, content in contents.items():
        (root / name).write_bytes(content)
    return root


def prepare(form, given, options, folder):
    """Returns a function that loads the records, and where the faulty one stands."""
    records = records_with(given, options)
    path = folder / f"people.{form}"
    number = GOOD // 2 + 1
    if form == "dataset":
        source = {"dataset": datasets.Dataset(arrow_table(records))}
        place = ("dataset", "row", number)
    else:
        {"jsonl": write_jsonl, "csv": write_csv, "parquet": write_parquet}[form](path, records)
        source = {"data_dir": str(path)}
        place = (path.name, "row" if form == "parquet" else "line", number + (form == "csv"))
    source |= options | {"cache_dir": str(folder.parent / "cache")}
    return lambda on_error: load_gzs("records", on_error=on_error, **source), place


@pytest.mark.parametrize(("form", "name", "given", "reason", "word", "options"), RECORDS)
def test_faulty_record(form, name, given, reason, word, options, folder):
    load, (file, unit, number) = prepare(form, given, options, folder)
    if reason.startswith("image "):
        check_picture(load, reason, word, (file, number))
        return
    with pytest.raises(RecordError) as caught:
        load("raise")
    message, field = str(caught.value), reason.partition(":")[0]
    assert message.startswith(f"{file}, {unit} {number}, field {field!r}: expected ")
    assert (caught.value.field, caught.value.reason) == (field, reason)
    assert ", got " in message
    assert word in message
    assert len(message.encode("utf-8")) < 500

    data = load("skip")
    report = data.report
    assert {kind: finding.count for kind, finding in report.left_out.items()} == {reason: 1}
    [example] = report.left_out[reason].examples
    assert (example["file"], example["line"]) == (file, number)
    assert (report.records_in, report.records_out, report.records_left_out) == (GOOD + 1, GOOD, 1)
    found = itertools.chain.from_iterable(rows["id"] for rows in data.splits.values())
    assert sorted(found) == sorted(f"r{n}" for n in range(GOOD + 1) if n != GOOD // 2)


def check_picture(load, reason, word, place):
    """A picture that cannot be used is no error of its record, whatever `on_error` says."""
    state = reason.removeprefix("image ")
    for on_error in ("raise", "skip"):
        data = load(on_error)
        report = data.report
        assert (report.records_in, report.records_out, report.left_out) == (GOOD + 1, GOOD + 1, {})
        assert set(report.notes) == {reason}
        [example] = report.notes[reason].examples
        assert (example["file"], example["line"]) == place
        assert word in example["detail"]
        assert (report.images[state], report.images["none"]) == (1, GOOD)
        assert report.images[f"distinct_{state}"] == report.images["distinct"] == 1
        assert all(image is None for rows in data.splits.values() for image in rows["image"])


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("row", TABLE["file"], ids=lambda row: f"{row[1]}-{row[0]}")
def test_faulty_file(row, on_error, tmp_path):
    _, name, content, word, *reported = row
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(name)) as caught:
        load_gzs("records", str(path), cache_dir=str(tmp_path / "cache"), on_error=on_error)
    assert (reported[0] if reported and on_error == "skip" else word) in str(caught.value)
    assert len(str(caught.value)) < 500


def test_head_and_tail_may_overlap(folder):
    """No fault: "Bank of England" may stand in a relation with "England"."""
    load, (file, _, number) = prepare("jsonl", {"spans": [[0, 11], [8, 11]]}, RELATION, folder)
    data = load("raise")
    assert (data.report.records_out, data.report.left_out) == (GOOD + 1, {})
    [example] = data.report.notes["head and tail overlap"].examples
    assert example == {"file": file, "line": number, "detail": "'Ada met Bob' and 'Bob'"}
    spans = itertools.chain.from_iterable(rows["spans"] for rows in data.splits.values())
    assert [[0, 11], [8, 11]] in list(spans)
