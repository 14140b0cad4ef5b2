"""The record's checks, the report's sums, and what the readers need from a disk."""

import io
import json
import os
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dataset_scripts.corpus import MAX_EXAMPLES, DataReport
from dataset_scripts.files import content_digest, listing_digest, read_lines
from dataset_scripts.images import image_path, image_problem, image_state, stored_image
from dataset_scripts.schema import (
    Place,
    RecordError,
    check_image_name,
    check_record,
    check_spans,
)

PLACE = Place("people.jsonl", 3)
GOOD = {"id": "1", "text": "Ada met Bob", "spans": [[0, 3]], "label": "person"}


def record_bytes(kind, size=(8, 8)):
    stream = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(stream, kind)
    return stream.getvalue()


def test_good_records():
    record = check_record(GOOD, PLACE)
    assert (record.id, record.spans, record.task) == ("1", ((0, 3),), "typing")
    assert (record.image, record.split, record.place) == (None, None, PLACE)
    relation = check_record({**GOOD, "spans": [[8, 11], [0, 3]], "split": "test"}, PLACE)
    assert (relation.spans, relation.task) == (((8, 11), (0, 3)), "relation")
    assert relation.split == "test"


def test_id_may_be_a_number_or_absent_where_a_default_is_given():
    assert check_record({**GOOD, "id": 7}, PLACE).id == "7"
    without = {name: value for name, value in GOOD.items() if name != "id"}
    assert check_record(without, PLACE, default_id="line-3").id == "line-3"


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"text": 5}, "text", "wrong type"),
        ({"text": "  "}, "text", "empty"),
        ({"text": "Ada\0met"}, "text", "NUL"),
        ({"text": "Ada \ud800"}, "text", "not valid Unicode"),
        ({"id": True}, "id", "wrong type"),
        ({"id": None}, "id", "wrong type"),
        ({"label": None}, "label", "wrong type"),
        ({"label": "animal"}, "label", "unknown"),
        ({"split": "dev"}, "split", "unknown"),
        ({"split": ["test"]}, "split", "unknown"),
        ({"image": 5}, "image", "wrong type"),
        ({"image": ""}, "image", "empty"),
        ({"image": "/etc/passwd"}, "image", "absolute path"),
        ({"image": "C:\\a.png"}, "image", "absolute path"),
        ({"image": "\\\\host\\a.png"}, "image", "absolute path"),
        ({"image": "a/../../b.png"}, "image", "leaves its folder"),
        ({"image": "a\\..\\b.png"}, "image", "leaves its folder"),
        ({"image": "https://a.org/b.png"}, "image", "URL"),
        ({"spans": None}, "spans", "missing"),
        ({"spans": "0,3"}, "spans", "wrong type"),
        ({"spans": [0, 3]}, "spans", "wrong type"),
        ({"spans": [[0, 3, 4]]}, "spans", "wrong type"),
        ({"spans": [[0.0, 3.0]]}, "spans", "wrong type"),
        ({"spans": [[False, True]]}, "spans", "wrong type"),
        ({"spans": []}, "spans", "wrong number"),
        ({"spans": [[0, 1], [1, 2], [2, 3]]}, "spans", "wrong number"),
        ({"spans": [[3, 0]]}, "spans", "reversed"),
        ({"spans": [[2, 2]]}, "spans", "empty"),
        ({"spans": [[-1, 3]]}, "spans", "out of range"),
        ({"spans": [[0, 12]]}, "spans", "out of range"),
        ({"spans": [[3, 4]]}, "spans", "white space"),
        ({"spans": [[0, 3], [0, 3]]}, "spans", "duplicated"),
    ],
)
def test_errors_name_file_line_field_and_expectation(change, field, reason):
    with pytest.raises(RecordError) as caught:
        check_record({**GOOD, **change}, PLACE, labels=["person"])
    error = caught.value
    assert (error.place, error.field, error.reason) == (PLACE, field, f"{field}: {reason}")
    assert str(error).startswith(f"people.jsonl, line 3, field '{field}': expected ")
    assert ", got " in str(error)
    str(error).encode("utf-8")


@pytest.mark.parametrize("field", ["id", "text", "spans", "label"])
def test_missing_fields(field):
    values = {name: value for name, value in GOOD.items() if name != field}
    with pytest.raises(RecordError, match=f"field '{field}': expected .*, got no such field"):
        check_record(values, PLACE)


@pytest.mark.parametrize("value", [[], "text", None, 3])
def test_not_an_object(value):
    with pytest.raises(RecordError, match="expected an object with named fields"):
        check_record(value, PLACE)


@pytest.mark.parametrize(("task", "number"), [("typing", 2), ("relation", 1)])
def test_number_of_spans_must_fit_the_task(task, number):
    with pytest.raises(RecordError, match=rf"span\(s\) \({task}\).*got {number} span"):
        check_spans([[0, 3], [4, 7]][:number], GOOD["text"], PLACE, task)


@given(st.text(max_size=20), st.lists(st.lists(st.integers(-3, 25), max_size=3), max_size=3))
def test_whatever_passes_is_a_mention(text, value):
    try:
        spans = check_spans(value, text, PLACE)
    except RecordError:
        return
    assert len(spans) in (1, 2)
    assert len(set(spans)) == len(spans)
    for start, end in spans:
        assert 0 <= start < end <= len(text)
        assert text[start:end].strip()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*GOOD, "image", "split"]), json_values), json_values)
def test_nothing_but_a_record_error_comes_out(values, other):
    for value in (values, {**GOOD, **values}, other):
        try:
            check_record(value, PLACE)
        except RecordError as error:
            str(error).encode("utf-8")


def test_long_values_are_shortened_in_messages():
    with pytest.raises(RecordError) as caught:
        check_record({**GOOD, "spans": "x" * 10_000}, PLACE)
    assert len(str(caught.value)) < 300


def test_report_sums_examples_and_json():
    report = DataReport("mnre", records_in=17, records_out=1)
    for line in range(8):
        report.leave_out("too odd", Place("a.txt", line), f"because {line // 2 * 2}")
        report.leave_out("too odd", Place("a.txt", line), f"because {line}")
    report.note("curious", PLACE, "but kept")
    report.check()
    details = [example["detail"] for example in report.left_out["too odd"].examples]
    assert len(details) == MAX_EXAMPLES == len(set(details))
    assert report.left_out["too odd"].examples[0] == {
        "file": "a.txt",
        "line": 0,
        "detail": "because 0",
    }
    assert DataReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    assert "left out: too odd: 16" in report.summary()
    report.records_in = 18
    with pytest.raises(RuntimeError, match="18 records in, but 1 out and 16 left out"):
        report.check()


def test_lines_end_at_line_feeds_only(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\u2028still one\r\n\n \ntwo\x0bstill two".encode())
    assert list(read_lines(path, 100)) == [
        (Place("a.txt", 1), "one\u2028still one"),
        (Place("a.txt", 4), "two\x0bstill two"),
    ]


def test_bad_lines_are_named_by_byte_and_do_not_stop_the_others(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"good\n\xc3\x28\na\0b\n" + b"x" * 1000 + b"\nlast\n")
    lines = [line for _, line in read_lines(path, 64)]
    assert [lines[0], lines[4]] == ["good", "last"]
    assert "expected UTF-8, got byte 0xc3 at byte 5 of the file" in str(lines[1])
    assert "got NUL at byte 9 of the file" in str(lines[2])
    assert "expected a line of at most 64 bytes, got 1001 bytes" in str(lines[3])
    assert [place.line for place, _ in read_lines(path, 64)] == [1, 2, 3, 4, 5]


@given(st.binary(max_size=300), st.integers(1, 40))
def test_any_bytes_can_be_read(tmp_path_factory, content, limit):
    path = tmp_path_factory.mktemp("lines") / "a.txt"
    path.write_bytes(content)
    numbers = [place.line for place, _ in read_lines(path, limit)]
    assert numbers == sorted(set(numbers))
    assert all(number <= content.count(b"\n") + 1 for number in numbers)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_good_images(tmp_path, kind):
    content = record_bytes(kind)
    path = tmp_path / "picture"
    path.write_bytes(content)
    assert image_problem(content) is None
    assert image_problem(path) is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_cut_off_images_are_unreadable(kind):
    content = record_bytes(kind, (64, 64))
    assert image_problem(content[: len(content) // 2])


def test_images_that_are_invalid():
    assert "not an image" in image_problem(b"no picture")
    assert image_problem(b"")
    # A format that Pillow would hand to another program.
    assert image_problem(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")


@pytest.mark.parametrize("side", [9500, 20_000])
def test_huge_images_are_refused_before_decoding(side):
    """A few bytes that claim 90 and 400 megapixels; decoding them would take gigabytes."""

    def chunk(name, content):
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    problem = image_problem(bomb)
    assert "Decompression" in problem or "pixels" in problem


def test_size_bound_below_the_bound_of_pillow():
    assert "pixels, more than" in image_problem(record_bytes_of_size(9440, 9440))


def record_bytes_of_size(width, height):
    stream = io.BytesIO()
    Image.new("1", (width, height)).save(stream, "PNG")
    return stream.getvalue()


def test_images_are_looked_up_in_memory_then_in_the_folder(tmp_path):
    content = record_bytes("PNG")
    (tmp_path / "a.png").write_bytes(content)
    (tmp_path / "bad.png").write_bytes(content[:40])
    assert image_state("b", tmp_path, {"b": content}) == ("found", "")
    stored = {"bytes": content, "path": "b"}
    assert stored_image("b", tmp_path, {"b": content}) == stored
    assert image_state("a.png", tmp_path, {}) == ("found", "")
    stored = {"bytes": None, "path": str(tmp_path / "a.png")}
    assert stored_image("a.png", tmp_path, {}) == stored
    assert image_state("c.png", tmp_path, {}) == ("missing", "")
    assert image_state("a.png", None, {}) == ("missing", "")
    state, problem = image_state("bad.png", tmp_path, {})
    assert state == "unreadable"
    assert problem
    assert image_state("x" * 5000, tmp_path, {})[0] == "unreadable"


def test_pipes_and_folders_are_not_opened(tmp_path):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("folder.png", "pipe.png"):
        assert image_state(name, tmp_path, {}) == ("unreadable", "not a regular file")


def test_links_must_stay_inside(tmp_path):
    root = tmp_path / "pictures"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"x")
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "up").symlink_to(tmp_path)
    (root / "fine.png").symlink_to(root / "sub" / "a.png")
    assert image_path("fine.png", root, PLACE) == root / "fine.png"
    for name in ("out.png", "up/secret.png"):
        with pytest.raises(RecordError, match="field 'image': expected an image inside"):
            image_path(name, root, PLACE)


def test_ordinary_names_pass():
    for name in ("a.png", "sub/a b.png", "..a.png", "a..png", "bücher.jpg", None):
        assert check_image_name(name, PLACE) == name


def test_digests_see_what_changes(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    before = content_digest([path]), listing_digest([path])
    path.write_text("two")
    os.utime(path, ns=(1, 1))
    after = content_digest([path]), listing_digest([path])
    assert before[0] != after[0]
    assert before[1] != after[1]
    path.unlink()
    assert listing_digest([path]) not in (before[1], after[1])
