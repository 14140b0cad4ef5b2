"""`hmgrl predict`: lines, labels and options."""

import json
import re

import pytest
from cli_world import Stdin, lines, records
from predict_world import BATCH, error_of, read
from tiny_world import LABELS, SEEN, tiny_model, tiny_processor
from transformers import pipeline

from dataset_scripts.sources.tables import MAX_LINE_BYTES
from hmgrl_cli.distributed import Processes
from hmgrl_cli.predict_input import LineReader, add_fields, iterate_chunks, parse_record
from modeling_hmgrl import LabelCache
from modeling_hmgrl.pipeline_hmgrl import TASK

# Lines


def test_answers_are_those_of_the_pipeline(world, data, predict, tmp_path, capsys):
    predict("--input", data, "--output", tmp_path / "out.jsonl", "--top-k", "all")
    said = capsys.readouterr()
    assert said.out == ""
    assert "44 lines written" in said.err
    assert "fields passed through: 'note'" in said.err
    pipe = pipeline(TASK, model=str(world / "model"))
    made, given = read(tmp_path / "out.jsonl"), read(data)
    assert len(made) == len(given)
    for record, answer in zip(given, made, strict=True):
        prediction = answer.pop("prediction")
        assert answer == record
        asked = {name: record[name] for name in ("text", "spans", "image") if name in record}
        if "image" in asked:
            asked["image"] = str(data.parent / asked["image"])
        expected = pipe(asked, top_k=None)
        assert {**prediction, "scores": 0, "probabilities": 0} == (
            {**expected, "scores": 0, "probabilities": 0}
        )
        for name in ("scores", "probabilities"):
            assert prediction[name] == pytest.approx(expected[name], rel=1e-4)
    predict("--input", data, "--output", tmp_path / "none.jsonl", "--no-images")
    assert (
        read(tmp_path / "none.jsonl")[0]["prediction"]["scores"]
        != (read(tmp_path / "out.jsonl")[0]["prediction"]["scores"])
    )


def test_pipes_and_what_a_line_holds_stays_to_the_byte(predict, capsysbinary):
    odd = b'  {"text":"ada sees the fox\\u2028", "mention" : "fox" ,"n":1.0000000000000000001} \r\n'
    content = b"\xef\xbb\xbf" + odd + b"\n   \n" + lines(records(2)[1:])[:-1]  # no end of line
    predict("--labels", *LABELS, "--top-k", "1", stdin=Stdin(content))
    shown = capsysbinary.readouterr()
    one, two = shown.out.splitlines()
    assert one.startswith(odd.rstrip(b"} \r\n") + b', "prediction": {"label": ')
    assert len(json.loads(one)["prediction"]["labels"]) == 1
    assert "né".encode() in two
    assert b"2 lines written; 2 blank lines skipped" in shown.err


BAD = {
    b'{"text": "ada sees the fox", "mention": "fox"': "column 46: expected one JSON object, got: ",
    b'{"text": "ada", "text": "bob"}': "expected one JSON object, got: repeated fields ['text']",
    b'{"text": NaN}': "expected one JSON object, got: NaN, which is not valid JSON",
    b"[" * 100_000: "expected one JSON object, got: ",
    b'["ada"]': "field '(record)': expected a JSON object, got list ['ada']",
    b"\xff{}": "field '(line)': expected UTF-8, got byte 0xff at byte 1 of the line",
    b'{"a": "%s"}' % (b"x" * (MAX_LINE_BYTES + 5)): "field '(line)': expected a line of at most",
    b"{}": "field 'text': got NoneType, expected a string",
    b'{"text": "ada", "mention": "bob"}': "field 'mention': 'bob' not found",
    b'{"text": "ada", "mention": "a"}': "field 'mention': 'a' occurs at [0, 2]",
    b'{"text": "ada", "spans": [[0, 9]]}': "field 'spans': got [0, 9], expected 0 <= start",
    b'{"text": "\\ud800 ada", "mention": "ada"}': "field 'text': lone surrogate",
    b'{"text": "ada", "mention": "ada", "labels": []}': "field 'labels': got",
    b'{"text": "ada", "mention": "ada", "labels": [["x"]]}': "field 'labels': got ['x']",
    b'{"text": "ada", "mention": "ada", "image": "x.png"}': "no such file",
    b'{"text": "ada", "mention": "ada", "image": "text.png"}': "not an image, expected JPEG",
    b'{"text": "ada", "mention": "ada", "image": "../x.png"}': "field 'image': expected a path rel",
    b'{"text": "ada", "mention": "ada", "image": "/etc/x"}': "field 'image': expected a path relat",
    b'{"text": "ada", "mention": "ada", "image": "out.png"}': "expected an image inside the image",
    b'{"text": "ada", "mention": "ada", "image": 3}': "field 'image': expected a non-empty string",
    b'{"text": "ada", "mention": "ada", "image": "http://x/y"}': "(URLs are not fetched), got str",
    b'{"text": "ada", "mention": "ada", "prediction": 1}': "field 'prediction': expected no such",
    b'{"text": "ada", "mention": "ada", "error": "x"}': "field 'error': expected no such field",
}  # fmt: skip
NOT_AN_OBJECT = 7  # of these


def test_bad_lines_are_named_and_passed_over(predict, tmp_path, capsys):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "text.png").write_text("no picture")
    (tmp_path / "secret.png").write_text("")
    (pictures / "out.png").symlink_to(tmp_path / "secret.png")
    good = lines(records(40)[1::2])  # those without a picture
    content = b"".join(bad + b"\n" + line for bad, line in zip(BAD, good.splitlines(True) * 2))  # noqa: B905
    source = tmp_path / "bad.jsonl"
    source.write_bytes(content)
    out = tmp_path / "out.jsonl"
    options = ["--input", source, "--output", out, "--image-dir", pictures, "--on-error", "skip"]
    predict(*options, expected=3)
    said = capsys.readouterr().err
    assert (
        f"{2 * len(BAD)} lines written; {len(BAD)} of them invalid, see their field `error`" in said
    )
    made = read(out)
    assert all("prediction" in answer for answer in made[1::2])
    for number, ((raw, message), answer) in enumerate(zip(BAD.items(), made[::2], strict=True)):
        error = answer.pop("error")
        assert re.match(rf"bad\.jsonl, line {2 * number + 1}[,:] ", error), error
        assert message in error
        assert len(error) <= 500
        if number < NOT_AN_OBJECT or raw.endswith((b'"prediction": 1}', b'"error": "x"}')):
            assert answer == {"line": 2 * number + 1}
        else:
            assert answer == json.loads(raw)


def test_a_window_of_bad_lines_alone(predict, capsysbinary):
    predict("--on-error", "skip", stdin=Stdin(b"no\n" * (2 * BATCH)), expected=3)
    shown = capsysbinary.readouterr()
    assert shown.out.count(b'"error"') == 2 * BATCH


def test_the_first_bad_line_ends_it(world, predict, tmp_path, capsys):
    made = records(60)
    made[25]["spans"] = [[0, 500]]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(lines(made))
    options = ["--input", source, "--output", out, "--image-dir", world / "data"]
    predict(*options, expected=1)
    assert error_of(capsys).startswith(
        "hmgrl predict: in.jsonl, line 26, field 'spans': got [0, 500], expected 0 <= start < end"
    )
    assert len(read(out)) == 25  # those before it
    # mended, it goes on; or it is passed over
    with out.open("ab") as file:
        file.write(b'{"half a line')
    predict(*options, "--resume", "--on-error", "skip", expected=3)
    skipped = out.read_bytes()
    predict(*options, "--overwrite", "--on-error", "skip", expected=3)
    assert out.read_bytes() == skipped
    predict(*options, "--overwrite", expected=1)
    mended = records(60)
    source.write_bytes(lines(mended))
    predict(*options, "--resume")
    resumed = out.read_bytes()
    predict(*options, "--overwrite")
    assert out.read_bytes() == resumed


def test_labels_that_none_names_must_come_with_the_record(world, predict, tmp_path, capsysbinary):
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    content = b'{"text": "ada", "mention": "ada"}\n'
    content += b'{"text": "ada", "mention": "ada", "labels": {"x": "a tool", "y": null}}\n'
    options = ["--model", tmp_path / "model", "--on-error", "skip"]
    predict(*options, stdin=Stdin(content), expected=3)
    one, two = map(json.loads, capsysbinary.readouterr().out.splitlines())
    assert "field 'labels': expected labels, since neither --labels nor the model" in one["error"]
    assert sorted(two["prediction"]["labels"]) == ["x", "y"]


def test_images_of_the_standard_input_need_a_folder(world, predict, capsysbinary):
    content = lines(records(1))
    predict("--on-error", "skip", stdin=Stdin(content), expected=3)
    assert b"expected an image folder (--image-dir)" in capsysbinary.readouterr().out
    predict("--image-dir", world / "data", stdin=Stdin(content))
    assert b'"prediction"' in capsysbinary.readouterr().out


# Labels


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "\ufeffanimal\n\n tool \r\n"),
        ("a.json", '["animal", "tool"]'),
        ("a.json", '{"animal": "animal", "tool": null}'),
    ],
)
def test_files_of_labels(predict, tmp_path, capsysbinary, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    line = lines(records(2)[1:])
    predict("--labels", "animal", "tool", stdin=Stdin(line))
    expected = capsysbinary.readouterr().out
    predict("--labels-file", tmp_path / name, stdin=Stdin(line))
    assert capsysbinary.readouterr().out == expected
    predict("--labels", "animal", "tool", "--seen", stdin=Stdin(line))
    unseen = json.loads(capsysbinary.readouterr().out)["prediction"]
    assert not any(unseen["seen"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\n\n", "got list [], expected at least one label"),
        ("a.json", b'"animal"', "got str 'animal', expected at least one label"),
        ("a.json", b"[", "Expecting value"),
        ("a.json", b'{"a": "b", "a": "c"}', "repeated fields ['a']"),
        ("a.json", b"[3]", "got 3, expected a label that is a non-blank string"),
        ("a.txt", b"\xff", "can't decode byte 0xff"),
    ],
)
def test_files_of_labels_that_are_invalid(predict, tmp_path, capsys, name, content, message):
    (tmp_path / name).write_bytes(content)
    predict("--labels-file", tmp_path / name, stdin=Stdin(b""), expected=1)
    said = error_of(capsys)
    assert said.startswith(f"hmgrl predict: --labels-file {tmp_path / name}: ")
    assert message in said


def test_label_vectors_are_kept_and_read(world, predict, tmp_path, capsys, monkeypatch):
    cache = tmp_path / "cache"
    content = b'{"text": "ada", "mention": "ada", "labels": ["own"]}\n' + lines(records(2)[1:])
    predict("--label-cache", cache, stdin=Stdin(content))
    first = capsys.readouterr().out
    texts = json.loads((cache / "labels.json").read_text())["texts"]
    assert texts == [*LABELS, "own"]
    computed = []
    add = LabelCache._add
    monkeypatch.setattr(
        LabelCache,
        "_add",
        lambda self, texts, *rest: (
            computed.extend(t for t in texts if t not in self),
            add(self, texts, *rest),
        ),
    )
    predict("--label-cache", cache, stdin=Stdin(content))
    assert capsys.readouterr().out == first
    assert computed == []
    tiny_model(seed=1, seen_labels=SEEN).save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    other = ["--model", tmp_path / "model", "--label-cache", cache]
    predict(*other, stdin=Stdin(content), expected=1)
    assert "these vectors are of other weights" in error_of(capsys)


# Options


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--resume"], 2, "require --output FILE"),
        (["--resume", "--overwrite", "--output", "x"], 2, "at most one of them"),
        (["--num-workers", "-1"], 2, "got -1, expected 0 or more"),
        (["--device", "moon"], 2, "--device moon: "),
        (["--input", "nowhere.jsonl"], 1, "--input nowhere.jsonl: no such file"),
        (["--input", "."], 1, "--input .: is a folder"),
        (["--output", "."], 1, "--output .: is a folder"),
    ],
)
def test_options_that_do_not_go_together(predict, capsys, argv, code, message):
    predict(*argv, stdin=Stdin(b""), expected=code)
    assert message in error_of(capsys)


def test_the_input_is_not_overwritten(data, predict, capsys):
    predict("--input", data, "--output", data, "--overwrite", expected=2)
    assert f"--output {data}: same file as --input {data}" in error_of(capsys)
    assert len(read(data)) == 44


# The parts


def test_chunks_are_shared_and_memory_is_bounded():
    content = b"".join(b"%d\n\n" % number for number in range(1000))
    for count in (1, 2, 3):
        found = {}
        for index in range(count):
            reader = LineReader(Stdin(content), "x")
            for chunk in iterate_chunks(reader, 7, 0, Processes(index, count).is_assigned):
                assert len(chunk.rows) <= 7
                found[chunk.index] = chunk
            assert reader.lines == 2000
            assert reader.blank == 1000
        rows = [row for index in sorted(found) for row in found[index].rows]
        assert [int(raw) for _, raw in rows] == list(range(1000))
        assert [number for number, _ in rows] == list(range(1, 2000, 2))
    # from the end of any chunk on, the rest is the same
    chunk = found[5]
    reader = LineReader(Stdin(content), "x")
    reader.skip(chunk.lines, chunk.digest)
    assert next(iterate_chunks(reader, 7, 6)).rows == found[6].rows


def test_an_answer_is_added_to_any_object():
    for text in ("{}", "{ }", ' {"a": 1 }', '{"a": {}}'):
        assert json.loads(add_fields(text, {"error": "\ud800"})) == (
            parse_record(text, "x") | {"error": "\ud800"}
        )
