"""Random inputs of predictions: prepared for the model, or refused by a documented error."""

import io
import json

import pytest
from fuzz_world import checked_message, fuzz, mutated, records, spans_of, texts, to_json, values
from hypothesis import given
from hypothesis import strategies as st
from tiny_world import LABELS, tiny_model, tiny_pipeline, tiny_processor

from dataset_scripts.schema import Place
from dataset_scripts.schema import find_mentions as mentions_of_record
from hmgrl_cli.predict_input import (
    LineReader,
    add_fields,
    decode_line,
    locate_error,
    make_input,
    parse_record,
)
from modeling_hmgrl.entity_markers import check_spans
from modeling_hmgrl.fetching import fetch, refusal
from modeling_hmgrl.pipeline_inputs import FIELDS, find_mentions, make_query

PLACE = Place("a.jsonl", 1)


@pytest.fixture(scope="module")
def processors():
    return {task: tiny_processor(task, use_images=False) for task in ("typing", "relation")}


@pytest.fixture(scope="module")
def config():
    return tiny_model(seen_labels=LABELS).config


@fuzz()
@given(mutated(st.lists(records() | values(FIELDS), max_size=4).map(
    lambda rows: b"\n".join(map(to_json, rows)))), st.booleans())  # fmt: skip
def test_lines_of_predict(tmp_path, content, hosts):
    for number, raw in LineReader(io.BytesIO(content), "a.jsonl"):
        place = Place("a.jsonl", number)
        try:
            text = decode_line(raw, place)
            record = parse_record(text, place)
            make_input(record, place, FIELDS, tmp_path, ["a.org"] if hosts else [])
        except ValueError as error:
            message = checked_message(error)
            assert "a.jsonl" in message
            assert len(locate_error(message, place)) <= 500
            continue
        line = add_fields(text, {"prediction": {"label": "\ud800"}})
        written = json.loads(line)
        assert written.pop("prediction") == {"label": "\ud800"}
        assert repr(written) == repr(record)
        assert line.count(b"\n") == 1


@fuzz()
@given(records() | values(FIELDS), st.sampled_from(["typing", "relation"]))
def test_inputs_of_the_pipeline(processors, config, record, task):
    if isinstance(record, dict):
        record.pop("image", None)
    try:
        query = make_query(record, processors[task], config, "input", ["a.org"])
    except ValueError as error:
        message = checked_message(error)
        assert message.startswith("input")
        return
    assert check_spans(query.text, query.spans, len(query.spans), "x") == query.spans
    marked = processors[task].mark([query.text], [query.spans])[0]
    assert len(marked.ids) <= processors[task].max_length
    for start, end in marked.positions:
        assert 0 <= start < end < len(marked.ids)


@fuzz(cost=4)
@given(st.lists(texts(), max_size=3) | values(), st.data())
def test_inputs_of_the_processor(processors, text, data):
    spans = data.draw(
        st.tuples(*map(spans_of, text)).map(list)
        if isinstance(text, list) and all(isinstance(one, str) for one in text)
        else values()
    )
    options = {"images": data.draw(st.none() | values()), "labels": data.draw(st.none() | values())}
    try:
        batch = processors["typing"](text, spans, **options)
    except ValueError as error:
        checked_message(error)
        return
    assert len(batch["input_ids"]) == (1 if isinstance(text, str) else len(text))


@fuzz()
@given(texts(), st.data())
def test_spans(text, data):
    spans = data.draw(spans_of(text) | values())
    for count in (1, 2):
        try:
            found = check_spans(text, spans, count, "x")
        except ValueError as error:
            checked_message(error)
            continue
        assert len(found) == count
        assert all(text[start:end].strip() for start, end in found)


@fuzz()
@given(texts(), st.data())
def test_mentions(text, data):
    parts = st.tuples(st.integers(0, 30), st.integers(1, 6)).map(lambda at: text[at[0] :][: at[1]])
    mention = data.draw(parts | texts(3) | st.lists(parts, max_size=2) | values())
    occurrence = data.draw(st.none() | st.integers(-1, 3) | st.lists(st.integers(0, 2)) | values())
    found = []
    for function in (
        lambda: find_mentions(text, mention, "x", occurrence),
        lambda: mentions_of_record(mention, text, PLACE, occurrence),
    ):
        try:
            found.append([tuple(span) for span in function()])
        except ValueError as error:
            message = checked_message(error)
            found.append(None)
            assert message.startswith(("x.", "a.jsonl"))
    listed = mention if isinstance(mention, list) else [mention]
    for spans in found:
        if spans is not None:
            assert [text[start:end] for start, end in spans] == listed
    if all(isinstance(one, str) and one.strip() and is_utf8(one) for one in listed):
        assert found[0] == found[1]


def is_utf8(text):
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline(seen_labels=LABELS, vision=False)


@fuzz(cost=5)
@given(st.lists(records(), min_size=1, max_size=3))
def test_predictions(pipe, inputs):
    results = pipe(inputs, on_error="skip")
    assert len(results) == len(inputs)
    for result in results:
        if "error" in result:
            checked_message(result["error"])
        else:
            assert result["label"] in result["labels"]


HOSTS = st.sampled_from(["a.org", "127.0.0.1", "[::1]", "2130706433", "0x7f.1", "localhost"])


@fuzz()
@given(
    st.tuples(
        st.sampled_from(["http://", "https://", "ftp://", "//", ""]),
        HOSTS | texts(3),
        st.sampled_from(["", ":80", ":x", "@a.org", "/a.png", "\\@b.org"]),
        texts(3),
    ).map("".join)
)
def test_addresses_of_images(url):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - no host is permitted
        fetch(url, [])
    checked_message(caught.value)
    refusal(url)
