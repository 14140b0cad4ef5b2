"""Random records in JSON Lines, CSV, Parquet and data sets: read, or refused with an error."""

import csv
import io
import json
from dataclasses import replace

import datasets
import pyarrow as pa
from fuzz_world import (
    checked_message,
    fuzz,
    mutated,
    read_both_ways,
    records,
    texts,
    to_json,
    values,
)
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from dataset_scripts.options import SourceOptions
from dataset_scripts.schema import FIELDS, RecordError
from dataset_scripts.sources.records import image_files, read


def read_all(**source):
    """Reads records with both ways of handling errors, and checks what they return.

    Returns:
        The corpus, or None if no record is valid.
    """

    def read_all_files(options):
        list(image_files(options))
        return read(options)

    lenient, strict = read_both_ways(read_all_files, SourceOptions(**source))
    if lenient is None:
        return None
    report = lenient.report
    if strict is None:
        assert report.records_left_out or report.records_in
    else:
        assert report.records_left_out == 0
        assert strict.records == lenient.records
    for record in lenient.records:
        json.dumps(record.spans)
    return lenient


RECORDS = st.lists(records() | records(odd=False) | values(FIELDS), max_size=5)


@fuzz()
@given(st.data())
def test_json_lines(tmp_path, data):
    path = tmp_path / "a.jsonl"
    lines = st.tuples(RECORDS, st.booleans()).map(
        lambda given: b"\n".join(to_json(record, given[1]) for record in given[0])
    )
    path.write_bytes(data.draw(mutated(lines)))
    corpus = read_all(data_dir=str(path))
    if corpus is None:
        return
    # what was read is read again from its own form
    again = tmp_path / "b.jsonl"
    with again.open("w", encoding="utf-8") as file:
        for record in corpus.records:
            values = {"id": record.id, "text": record.text, "spans": record.spans}
            values |= {"label": record.label, "image": record.image, "split": record.split}
            file.write(json.dumps(values, ensure_ascii=False) + "\n")
    try:
        twice = read(SourceOptions(data_dir=str(again)))
    except RecordError:
        raise
    except ValueError as error:  # the splits, complete only by records that were left out
        message = checked_message(error)
        assert "split" in message
        return
    same = [replace(record, place=None) for record in twice.records]
    assert same == [replace(record, place=None) for record in corpus.records]


@fuzz()
@given(st.data())
def test_csv(tmp_path, data):
    path = tmp_path / "a.csv"

    def table(rows):
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        for record in rows:
            cells = (record.get(name) for name in header)
            writer.writerow([c if isinstance(c, str) else json.dumps(c) for c in cells])
        return stream.getvalue().encode("utf-8", "surrogatepass")

    header = ["id", "text", "label", "spans", "mention", "occurrence", "image", "split"]
    header = data.draw(st.permutations(header).map(lambda names: names[:7]) | st.just(header))
    rows = st.lists(records() | records(odd=False), max_size=5)
    path.write_bytes(data.draw(mutated(rows.map(table))))
    read_all(data_dir=str(path))


def columns():
    """Columns of one Arrow type each, also of types that no record has."""
    kinds = [
        (pa.string(), texts(4).map(lambda t: t.encode("utf-8", "replace").decode())),
        (pa.large_string(), st.sampled_from(["Ada met Bob", "bird", ""])),
        (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
        (pa.float64(), st.floats()),
        (pa.bool_(), st.booleans()),
        (pa.binary(), st.binary(max_size=9)),
        (pa.list_(pa.list_(pa.int32())), st.lists(st.lists(st.integers(0, 9), max_size=3))),
        (pa.list_(pa.string()), st.lists(st.sampled_from(["Ada", "Bob"]), max_size=3)),
        (pa.struct({"bytes": pa.binary(), "path": pa.string()}),
         st.fixed_dictionaries({"bytes": st.none() | st.binary(max_size=9),
                                "path": st.none() | st.sampled_from(["a.png", "../b", "/c"])})),
        (pa.timestamp("us"), st.integers(0, 2**40)),
        (pa.dictionary(pa.int8(), pa.string()), st.sampled_from(["person", "bird"])),
    ]  # fmt: skip
    return st.sampled_from(kinds)


@st.composite
def tables(draw):
    count = draw(st.integers(0, 4))
    made = {}
    for name in draw(st.lists(st.sampled_from([*FIELDS, "other"]), unique=True, max_size=7)):
        kind, cells = draw(columns())
        made[name] = pa.array(
            draw(st.lists(st.none() | cells, min_size=count, max_size=count)), kind
        )
    return pa.table(made)


@st.composite
def good_tables(draw):
    rows = draw(st.lists(records(odd=False).filter(is_plain), min_size=1, max_size=4))
    names = ("text", "mention", "label", "occurrence", "image")
    return pa.table({name: [row.get(name) for row in rows] for name in names})


def is_plain(record):
    texts = (record["text"], record.get("mention"))
    if not all(text is None or isinstance(text, str) for text in texts):
        return False
    if isinstance(record.get("occurrence"), list):
        return False
    return not any("\ud800" <= char <= "\udfff" for text in texts for char in text or "")


@fuzz(cost=2)
@given(st.data())
def test_parquet(tmp_path, data):
    path = tmp_path / "a.parquet"

    def written(table):
        stream = io.BytesIO()
        parquet.write_table(table, stream, row_group_size=2)
        return stream.getvalue()

    path.write_bytes(data.draw(mutated((tables() | good_tables()).map(written))))
    read_all(data_dir=str(path))


@fuzz(cost=2)
@given(tables() | good_tables())
def test_data_sets(table):
    read_all(dataset=datasets.Dataset(table))
