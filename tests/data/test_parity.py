"""What both packages implement, as dataset_scripts does not import modeling_hmgrl."""

import contextlib
import json
import math
import multiprocessing
import unicodedata

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_world import tiny_config, tiny_processor

from dataset_scripts import files
from dataset_scripts.schema import Place, RecordError, check_record
from dataset_scripts.schema import check_spans as spans_of_record
from dataset_scripts.schema import find_mentions as mentions_of_record
from modeling_hmgrl import storage
from modeling_hmgrl.entity_markers import check_spans as spans_of_query
from modeling_hmgrl.pipeline_inputs import find_mentions as mentions_of_query
from modeling_hmgrl.pipeline_inputs import make_query

PLACE = Place("a.jsonl", 1)
TEXTS = st.text(st.sampled_from("aéb \u0301_-鳥\U0001f426"), max_size=12)


def of_record(text, mention, occurrence=None):
    try:
        return [tuple(span) for span in mentions_of_record(mention, text, PLACE, occurrence)]
    except RecordError:
        return None


def of_query(text, mention, occurrence=None):
    try:
        return mentions_of_query(text, mention, "text", occurrence)
    except ValueError:
        return None


@pytest.mark.parametrize(
    ("text", "mention", "expected"),
    [
        ("This is it", "is", [(5, 7)]),
        ("A flute and a lute", "lute", [(14, 18)]),
        ("Only a flute", "lute", [(8, 12)]),
        ("A London-based band", "London", [(2, 8)]),
        ("我在北京大学", "北京", [(2, 4)]),
        ("bird_1 bird", "bird", [(7, 11)]),
        ("cafe\u0301 cafe", "cafe", [(6, 10)]),
        ("is this is", "is", None),
        ("aaa", "aa", None),
        ("none", "bird", None),
    ],
)
def test_whole_words_take_precedence(text, mention, expected):
    assert of_record(text, mention) == expected
    assert of_query(text, mention) == expected


@pytest.mark.parametrize(
    ("mention", "occurrence", "expected"),
    [
        ("is", 0, [(2, 4)]),
        ("is", 1, [(5, 7)]),
        ("is", 2, None),
        ("is", -1, None),
        ("is", True, None),
        ("is", "0", None),
        ("is", [0], [(2, 4)]),
        ("is", [0, 1], None),
        (["This", "is"], [None, 0], [(0, 4), (2, 4)]),
        (["This", "is"], 0, [(0, 4), (2, 4)]),
        (["This", "is"], [0], None),
        ("that", 0, None),
    ],
)
def test_an_occurrence_selects_the_same_mention(mention, occurrence, expected):
    assert of_record("This is it", mention, occurrence) == expected
    assert of_query("This is it", mention, occurrence) == expected


@pytest.mark.parametrize(
    ("fields", "accepted"),
    [
        ({"spans": [[0, 3]]}, True),
        ({"mention": "fox"}, False),
        ({"mention": "fox", "occurrence": 1}, True),
        ({"spans": [[4, 7]], "mention": "fox"}, True),
        ({"spans": [[4, 7]], "mention": ["fox"]}, True),
        ({"spans": [[4, 7]], "mention": "saw"}, False),
        ({"spans": [[4, 7]], "mention": ["fox", "fox"]}, False),
        ({}, False),
    ],
)
def test_data_and_predictions_accept_the_same_records(fields, accepted):
    record = {"text": "fox fox saw", "label": "animal", **fields}
    processor, config = tiny_processor(use_images=False), tiny_config()
    for check in (
        lambda: check_record(record, PLACE, "typing", default_id="a"),
        lambda: make_query(record, processor, config, "input"),
    ):
        with contextlib.nullcontext() if accepted else pytest.raises(ValueError):  # noqa: PT011
            check()


@settings(max_examples=300, deadline=None)
@given(TEXTS, TEXTS)
@example("aa a", "a")
def test_both_find_the_same_mentions(text, mention):
    found = of_query(text, mention)
    if mention.strip() and "\x00" not in mention:
        assert of_record(text, mention) == found
    if found:
        [(start, end)] = found
        assert text[start:end] == mention
        assert end == len(text) or not unicodedata.combining(text[end]) or text.count(mention) == 1


@settings(max_examples=300, deadline=None)
@given(
    TEXTS,
    st.lists(st.lists(st.integers(-2, 14), min_size=2, max_size=2), min_size=1, max_size=2),
)
def test_both_accept_the_same_spans(text, spans):
    task = "typing" if len(spans) == 1 else "relation"
    try:
        found = [tuple(span) for span in spans_of_record(spans, text, PLACE, task)]
    except RecordError:
        found = None
    try:
        expected = spans_of_query(text, spans, len(spans), "x")
    except ValueError:
        expected = None
    if len({tuple(span) for span in spans}) == len(spans):  # a relation of an entity to itself
        assert found == expected


CONTENT = {"name": "caf\udce9", "text": "鳥", "values": [1, 2.5, True, None], "nested": {"a": []}}


@pytest.mark.parametrize("package", ["model", "data"])
def test_both_write_the_same_json(package, tmp_path):
    def write(content):
        if package == "model":
            storage.write_json(tmp_path / "a.json", content)
        else:
            files.write_json(tmp_path, "a.json", content, ensure_ascii=False)
        return json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))

    assert write(CONTENT) == CONTENT
    assert write({"score": math.nan, "all": [math.inf, 1.0]}) == {"score": None, "all": [None, 1.0]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(TypeError):
        write({"score": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


STORE = storage.TensorStore("a.safetensors", "a.json", ("a",), ("texts",), "hash", "values", "save")


def run_four(target, *arguments):
    """Runs a function in four processes at the same time; its last argument is their number."""
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=target, args=(*arguments, n)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0, 0]


def _save_often(folder, _number):
    for _ in range(50):
        STORE.save(folder, {"a": torch.full((2, 500), 1.5)}, {"model": "m", "texts": ["b", "c"]})


def test_several_processes_may_save_the_same_tensors(tmp_path):
    run_four(_save_often, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.safetensors"]
    [values], _ = STORE.load(tmp_path, "m", 500)
    assert values.tolist() == [[1.5] * 500] * 2


def _write_often(folder, package, number):
    for turn in range(100):
        content = {"process": number, "turn": turn, "rest": "x" * 5000}
        if package == "model":
            storage.write_json(folder / "a.json", content)
        else:
            files.write_json(folder, "a.json", content)


@pytest.mark.parametrize("package", ["model", "data"])
def test_several_processes_may_write_one_file(package, tmp_path):
    run_four(_write_often, tmp_path, package)
    assert json.loads((tmp_path / "a.json").read_text())["turn"] == 99
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
