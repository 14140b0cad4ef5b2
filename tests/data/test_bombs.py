"""Small files that expand to gigabytes: refused, in bounded time and memory."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from dataset_scripts.options import SourceOptions
from dataset_scripts.parquet_files import MAX_COLUMNS, check_parquet
from dataset_scripts.sources import records

SECONDS, MEGABYTES = 2, 300
HELPERS = Path(__file__).parents[1] / "helpers"
MEASURE = """
import json, sys, time
sys.path.insert(0, sys.argv[2])
from hostile_world import peak_megabytes
from dataset_scripts.sources import {source}
from dataset_scripts.options import SourceOptions
begin = time.process_time()
try:
    list({source}.image_files(SourceOptions(data_dir=sys.argv[1])))
    corpus = {source}.read(SourceOptions(data_dir=sys.argv[1], on_error="skip"))
    found = f"{{len(corpus.records)}} records"
except ValueError as error:
    found = str(error)
seconds = time.process_time() - begin
print(json.dumps([found, seconds, peak_megabytes()]))
"""


def measured(path, source="records"):
    """What reading says, in a process of its own and within the bounds, imports included."""
    if not Path("/proc/self/status").is_file():
        pytest.skip("requires Linux")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE.format(source=source), path, str(HELPERS)],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    found, seconds, megabytes = json.loads(done.stdout.splitlines()[-1])
    print(f"{seconds:.2f} s, {megabytes:.0f} MB: {found[:200]}")
    assert seconds < SECONDS
    assert megabytes < MEGABYTES
    assert len(found) < 1000
    return found


def repeated(value, count):
    """A column of one value, stored once."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([value]))


def table(count=1, **columns):
    others = {name: pa.array(["a"] * count) for name in ("text", "label", "mention")}
    return pa.table(others | columns)


IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
BOMBS = {
    "rows": lambda: (table(count=200_000), {}),
    "rows without values": lambda: (pa.table({"text": pa.nulls(5_000_000, pa.string())}), {}),
    "dictionary": lambda: (table(20_000, text=repeated("Ada " * 25_000, 20_000)), {}),
    "plain dictionary": lambda: (
        table(600, text=repeated("Ada " * 25_000, 600).cast(pa.string())), {},
    ),
    "compression": lambda: (table(text=pa.array(["a" * 60_000_000])), {"use_dictionary": False}),
    "gzip": lambda: (
        table(text=pa.array(["a" * 60_000_000])),
        {"use_dictionary": False, "compression": "gzip"},
    ),
    "delta": lambda: (
        table(4, text=pa.array(["a" * 15_000_000] * 4)),
        {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}},
    ),
    "list": lambda: (
        table(spans=pa.ListArray.from_arrays(
            pa.array([0, 8_000_000], pa.int32()), pa.array([0] * 8_000_000, pa.int32()))), {},
    ),
    "columns": lambda: (table(**{f"c{k}": [1] for k in range(MAX_COLUMNS)}), {}),
    "images": lambda: (
        table(64, image=pa.array([{"bytes": b"\0" * 1_000_000, "path": None}] * 64, IMAGE)), {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_parquet(name, tmp_path):
    path = tmp_path / "a.parquet"
    content, options = BOMBS[name]()
    parquet.write_table(content, path, **{"compression": "zstd", **options})
    del content
    assert path.stat().st_size < 1_000_000
    found = measured(path)
    expected = "columns, expected at most" if name == "columns" else "in memory or more, expected"
    assert expected in found
    assert found.startswith(str(path))


def test_unread_columns_do_not_count(tmp_path):
    path = tmp_path / "a.parquet"
    content = table(60, other=repeated("x" * 1_000_000, 60), text=pa.array(["Ada a"] * 60))
    parquet.write_table(content, path, compression="zstd")
    assert measured(path) == "60 records"
    with pytest.raises(ValueError, match="expected at most"):
        check_parquet(path)


def test_repeated_texts_and_images_are_no_bomb(tmp_path):
    path = tmp_path / "a.parquet"
    texts = [f"{'word ' * 300}{k} Ada" for k in range(100) for _ in range(27)]
    content = table(len(texts), text=pa.array(texts), mention=pa.array(["Ada"] * len(texts)))
    for compression in ("zstd", "snappy", "none"):
        parquet.write_table(content, path, compression=compression)
        check_parquet(path)
        assert len(records.read(SourceOptions(data_dir=str(path))).records) == len(texts)


LINES = {
    "endless line": b"x" * 50_000_000,
    "endless string": b'{"text": "' + b"x" * 50_000_000,
    "deep list": b"[" * 3_000_000,
    "deep object": b'{"a":' * 600_000,
    "deep and closed": b"[" * 100_000 + b"]" * 100_000,
    "many lists": b"[" + b"[]," * 300_000 + b"[]]",
    "digits": b'{"text": ' + b"1" * 1_000_000 + b"}",
    "mention that overlaps itself": json.dumps(
        {"text": "a" * 2_000_000, "mention": "a" * 1_000_000, "label": "x"}
    ).encode(),
    "mention of a letter": json.dumps(
        {"text": "a" * 2_000_000, "mention": "a", "label": "x"}
    ).encode(),
}


@pytest.mark.parametrize("name", LINES)
def test_lines(name, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES[name] + b"\n")
    assert "expected at least one valid record" in measured(path)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".csv.gz", ".gz"])
def test_compressed_files_are_not_opened(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(b"\n" * 1_000_000))
    assert "archives must be unpacked first" in measured(path)


CSV = {
    "one cell": b'"' + (b"x" * 999 + b"\n") * 6_000,
    "one row": (b'"' + b"x" * 999 + b'\n",') * 6_000,
    "one line": b"," * 30_000_000,
    "spans": b'a,a,"' + b"[" * 4_000_000 + b'"',
}


@pytest.mark.parametrize("name", CSV)
def test_csv(name, tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label,spans\n" + CSV[name] + b"\n")
    assert "a.csv" in measured(path)


def test_wikidiverse(tmp_path):
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.json").write_bytes(b"[" * 3_000_000)
    assert "a sample in JSON" in measured(tmp_path, "wikidiverse")
    (tmp_path / "train.json").write_bytes(b"[" + b" " * 40_000_000)
    assert "a file of at most" in measured(tmp_path, "wikidiverse")


@pytest.mark.parametrize(
    "line", [b"(" * 60_000, b"-" * 60_000 + b"1", b"[" * 200, b"{'a': 0x" + b"f" * 60_000 + b"}"]
)
def test_mnre(line, tmp_path):
    for name in ("train", "val", "test"):
        (tmp_path / f"{name}.txt").write_bytes(line + b"\n")
    assert "records" in measured(tmp_path, "mnre")


def test_a_document_of_many_mentions(tmp_path):
    """Each mention becomes a record with the text of the document: the square of its length."""
    (tmp_path / "a.bio").write_bytes(b"word B-PER\n" * 20_000)
    assert "no valid mention" in measured(tmp_path / "a.bio", "bio")
