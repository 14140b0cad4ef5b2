"""Random label files, options and stored states: accepted, or refused by a documented error."""

import argparse
import contextlib
import io
import json
from dataclasses import asdict, fields

import pytest
from fuzz_world import checked_message, fuzz, mutated, texts, to_json, values
from hypothesis import given
from hypothesis import strategies as st
from tiny_world import LABELS, tiny_model, tiny_pipeline

from dataset_scripts import load_gzs
from dataset_scripts.arguments import add_source_arguments, read_partition
from dataset_scripts.options import SourceOptions, make_options
from hmgrl_cli.arguments import UsageError
from hmgrl_cli.model_loading import read_labels, read_run_report
from hmgrl_cli.predict_output import Progress, read_progress
from hmgrl_cli.train import parse_settings
from modeling_hmgrl.pipeline_inputs import make_candidates

GROUPS = ("seen", "validation_unseen", "test_unseen")
LABEL_FILES = (
    st.lists(texts(3), max_size=4).map(to_json)
    | st.dictionaries(texts(3), texts(3), max_size=4).map(to_json)
    | values().map(to_json)
    | st.fixed_dictionaries(dict.fromkeys(GROUPS, st.lists(texts(2), max_size=3))).map(to_json)
    | st.sampled_from([b"[" * 3_000, b'{"a": ' * 3_000, b"1" * 5000, b'{"a": 1, "a": 2}'])
)


@pytest.fixture(scope="module")
def config():
    return tiny_model(seen_labels=LABELS).config


@fuzz()
@given(mutated(LABEL_FILES), st.sampled_from(["labels.json", "labels.txt"]))
def test_label_files(tmp_path, config, content, name):
    path = tmp_path / name
    path.write_bytes(content)
    try:
        candidates = make_candidates(read_labels(path), config, "labels")
    except ValueError as error:
        checked_message(error)
    else:
        assert len(candidates.names) == len(candidates.texts) > 0
        assert all(text.strip() for text in candidates.texts)


@fuzz()
@given(mutated(LABEL_FILES))
def test_partition_and_description_files(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with contextlib.suppress(ValueError):
        assert set(read_partition(str(path))) == set(GROUPS)
    try:
        options = SourceOptions(label_text="described", label_descriptions=str(path))
    except (ValueError, TypeError) as error:
        checked_message(error)
    else:
        assert all(options.descriptions.values())


NAMES = [field.name for field in fields(SourceOptions)]


@fuzz()
@given(
    st.dictionaries(
        st.sampled_from(NAMES) | texts(1), values() | st.sampled_from(["skip", "raise", "both"])
    )
)
def test_options_of_data(choices):
    try:
        options = make_options("load_gzs", **choices)
    except (TypeError, ValueError, OSError) as error:
        checked_message(error)
    else:
        json.dumps(options.key(), default=str)
        _ = options.given_partition


@fuzz()
@given(st.text(max_size=12).filter(lambda name: name not in {*NAMES, "source", "cache_dir"}))
def test_unknown_options_of_data(name):
    with pytest.raises(TypeError, match="unknown argument of load_gzs") as caught:
        load_gzs("sample", **{name: 1})
    assert "SourceOptions" not in str(caught.value)


CALL = ["labels", "seen", "top_k", "batch_size", "num_workers", "on_error", "image_hosts"]


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline(seen_labels=LABELS, vision=False)


@fuzz()
@given(st.dictionaries(st.sampled_from([*CALL, "allow_private_addresses"]) | texts(1), values()))
def test_options_of_a_call(pipe, options):
    try:
        call = pipe.parse_call(options)
        if call.labels is not None:
            pipe.candidates(call.labels)
    except (TypeError, ValueError) as error:
        checked_message(error)


WORDS = st.sampled_from(
    ["--source", "sample", "--counts", "1", "2", "3", "--on-error", "skip", "report", "--rotation",
     "--group-by", "both", "--joiner", "--label-text", "--data-dir", "--partition", "-x", "--"]
)  # fmt: skip


@fuzz()
@given(st.lists(WORDS | texts(2), max_size=6))
def test_command_lines(argv):
    parser = argparse.ArgumentParser("x")
    add_source_arguments(parser)
    stream = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stderr(stream):
        options = parser.parse_args(argv)
        assert options.on_error in ("raise", "skip")


@fuzz()
@given(st.lists(texts(3) | texts(2).map(lambda text: f"dropout={text}"), max_size=2))
def test_settings(pairs):
    try:
        assert set(parse_settings(pairs)) <= {"dropout"}
    except UsageError as error:
        checked_message(error)


PROGRESS = asdict(Progress()) | {"choices": {"labels": "x"}}


@fuzz()
@given(mutated(st.just(to_json(PROGRESS)) | values([*PROGRESS]).map(to_json)
               | st.sampled_from([b"[" * 3_000, b"[]"])))  # fmt: skip
def test_stored_states(tmp_path, content):
    (tmp_path / "a.jsonl.progress.json").write_bytes(content)
    try:
        progress = read_progress(tmp_path / "a.jsonl", {"labels": "x"})
    except ValueError as error:
        checked_message(error)
    else:
        assert isinstance(progress, Progress)
    (tmp_path / "report.json").write_bytes(content)
    try:
        assert isinstance(read_run_report(str(tmp_path)), dict)
    except ValueError as error:
        checked_message(error)
