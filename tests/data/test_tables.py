"""JSON Lines, CSV, Parquet and `datasets.Dataset` give the same records and the same pictures."""

import csv
import io
import json
import os
import random
import tracemalloc
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from dataset_scripts import RecordError, SourceOptions, load_gzs
from dataset_scripts.sources.records import read
from dataset_scripts.sources.tables import open_dataset, open_table

LABELS = ("person", "city", "river", "animal")
SPLITS = (("train", "validation", "test"), ("train",), ("validation",), ("test",))
FORMS = ("jsonl", "csv", "parquet", "hub parquet", "dataset")
FEATURES = dict.fromkeys(("id", "text", "mention", "split"), datasets.Value("string"))
FEATURES["spans"] = datasets.List(datasets.List(datasets.Value("int64")))
FEATURES["label"] = datasets.ClassLabel(names=sorted(LABELS))
FEATURES["image"] = datasets.Image()


def make_records(number=40, spans=((6, 9),)):
    """Returns records whose offsets differ if bytes or UTF-16 are counted, or quotes are lost."""
    return [
        {
            "id": f"r{i:03d}",
            "text": f'😀 "é"\nAda, Bob; Eve {i}',
            "spans": [list(span) for span in spans],
            "label": LABELS[i % 4],
            "split": SPLITS[i % 4][i // 4 % len(SPLITS[i % 4])],
        }
        for i in range(number)
    ]


def without(records, *names):
    return [{n: v for n, v in values.items() if n not in names} for values in records]


def picture(number, size=(6, 5)):
    stream = io.BytesIO()
    pixels = random.Random(number).randbytes(3 * size[0] * size[1])
    Image.frombytes("RGB", size, pixels).save(stream, "PNG")
    return stream.getvalue()


def as_dataset(records):
    features = {name: kind for name, kind in FEATURES.items() if name in records[0]}
    if isinstance(records[0].get("mention"), list):
        features["mention"] = datasets.List(datasets.Value("string"))
    columns = {name: [values.get(name) for values in records] for name in features}
    return datasets.Dataset.from_dict(columns, datasets.Features(features))


def write_csv(path, records, end="\n", encoding="utf-8"):
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(records[0]), lineterminator=end)
        writer.writeheader()
        for values in records:
            cells = {n: json.dumps(v) if isinstance(v, list) else v for n, v in values.items()}
            writer.writerow(cells)
    return path


def source(form, records, folder):
    """Returns the arguments of `load_gzs` for records in one of the forms."""
    folder.mkdir(exist_ok=True)
    if form == "dataset":
        return {"dataset": as_dataset(records), "image_dir": str(folder)}
    path = folder / f"people.{form.split()[-1]}"
    if form == "jsonl":
        path.write_text("".join(json.dumps(values) + "\n" for values in records))
    elif form == "csv":
        write_csv(path, records)
    elif form == "parquet":
        parquet.write_table(pa.Table.from_pylist(records), path, row_group_size=7)
    else:
        as_dataset(records).to_parquet(path, batch_size=7)
    return {"data_dir": str(path)}


@pytest.fixture
def load(tmp_path):
    def load(**arguments):
        return load_gzs("records", cache_dir=str(tmp_path / "cache"), **arguments)

    return load


def rows_of(data, names=("text", "spans", "label", "split")):
    """Returns what the splits hold, by id; labels by name, pictures as bytes."""
    rows = {}
    for split, part in data.splits.items():
        label = part.features["label"]
        for row in part.cast_column("image", datasets.Image(decode=False)):
            row["label"] = label.int2str(row["label"])
            if image := row["image"]:
                row["image"] = image["bytes"] or Path(image["path"]).read_bytes()
            assert row["split"] == split
            rows[row["id"]] = tuple(row[name] for name in names)
    return rows


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("spans", [((6, 9),), ((16, 19), (6, 14))], ids=["typing", "relation"])
def test_same_records_in_every_form(form, spans, load, tmp_path):
    records = make_records(spans=spans)
    data = load(**source(form, records, tmp_path / form))
    assert data.task == ("typing" if len(spans) == 1 else "relation")
    names = ("text", "spans", "label", "split")
    assert rows_of(data) == {r["id"]: tuple(r[name] for name in names) for r in records}
    assert data.report.left_out == data.report.notes == {}


def test_same_draw_in_every_form(load, tmp_path):
    records = without(make_records(), "split")
    found = [rows_of(load(**source(form, records, tmp_path / form))) for form in FORMS]
    assert len({split for *_, split in found[0].values()}) == 3
    assert all(rows == found[0] for rows in found)


@pytest.mark.parametrize("form", FORMS)
def test_mentions_in_place_of_spans(form, load, tmp_path):
    records = make_records()
    texts = [r["text"] for r in records]
    starts = [text.index("Ada") for text in texts]
    by_name = [r | {"mention": "Ada"} for r in without(records, "spans")]
    data = load(**source(form, by_name, tmp_path / "names"))
    expected = {r["id"]: ([[s, s + 3]],) for r, s in zip(records, starts, strict=True)}
    assert rows_of(data, ["spans"]) == expected

    pairs = [r | {"mention": ["Bob", "Ada"]} for r in without(records, "spans")]
    data = load(**source(form, pairs, tmp_path / "pairs"))
    assert data.task == "relation"
    spans = {r["id"]: [[s + 5, s + 8], [s, s + 3]] for r, s in zip(records, starts, strict=True)}
    assert rows_of(data, ["spans"]) == {name: (value,) for name, value in spans.items()}

    both = [r | {"spans": spans[r["id"]]} for r in pairs]
    assert rows_of(load(**source(form, both, tmp_path / "both"))) == rows_of(data)
    both[25]["mention"] = ["Ada", "Bob"]
    with pytest.raises(RecordError, match="field 'mention': expected the text at the spans") as no:
        load(**source(form, both, tmp_path / "differ"))
    assert no.value.place.line == (52 if form == "csv" else 26)


@pytest.mark.parametrize("form", FORMS)
def test_same_images_in_every_form(form, load, tmp_path):
    """Null, a picture of its own, or one that stands in many rows; each as it was, bit by bit."""
    shared = [picture(1001), picture(1002)]
    contents = [(None, picture(i), shared[i // 3 % 2])[i % 3] for i in range(90)]
    records = make_records(90)
    folder = tmp_path / form
    folder.mkdir()
    for i, content in enumerate(contents):
        value = content
        if content and form in ("jsonl", "csv"):
            value = f"{contents.index(content)}.png"
            (folder / value).write_bytes(content)
        elif form == "parquet":
            value = {"bytes": content, "path": None} if i % 2 else {"bytes": content}
        records[i]["image"] = value
    data = load(**source(form, records, folder))
    assert rows_of(data, ["image"]) == {
        r["id"]: (content,) for r, content in zip(records, contents, strict=True)
    }
    images = data.report.images
    assert (images["found"], images["none"], images["distinct"]) == (60, 30, 32)


@pytest.mark.parametrize("kind", ["binary", "bytes alone", "path alone", "string", "large string"])
def test_columns_of_images_in_parquet(kind, load, tmp_path):
    contents = [picture(i % 30) for i in range(80)]
    for i, content in enumerate(contents):
        (tmp_path / f"{i}.png").write_bytes(content)
    names = [f"{i}.png" for i in range(80)]
    column = {
        "binary": pa.array(contents, pa.large_binary()),
        "bytes alone": pa.array([{"bytes": content} for content in contents]),
        "path alone": pa.array([{"path": name} for name in names]),
        "string": pa.array(names),
        "large string": pa.array(names, pa.large_string()),
    }[kind]
    records = make_records(80)
    table = pa.Table.from_pylist(records).append_column("image", column)
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=33)
    data = load(data_dir=str(tmp_path / "a.parquet"))
    expected = {r["id"]: (content,) for r, content in zip(records, contents, strict=True)}
    assert rows_of(data, ["image"]) == expected
    if kind not in ("binary", "bytes alone"):  # another picture under the same name is new data
        (tmp_path / "0.png").write_bytes(picture(777, (9, 9)))
        assert rows_of(load(data_dir=str(tmp_path / "a.parquet")), ["image"]) != expected


@pytest.fixture
def folder_dataset(tmp_path):
    """A data set as `imagefolder` gives it: its pictures are files, named by absolute path."""
    for i in range(40):
        path = tmp_path / "pictures" / LABELS[i % 4] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i))
    folder = str(tmp_path / "pictures")
    cache = str(tmp_path / "folders")
    dataset = datasets.load_dataset("imagefolder", data_dir=folder, split="train", cache_dir=cache)
    dataset = dataset.add_column("text", [f"Ada {i}" for i in range(40)])
    return dataset.add_column("mention", ["Ada"] * 40)


def test_data_set_of_a_folder_of_images(folder_dataset, load, tmp_path):
    stored = folder_dataset.cast_column("image", datasets.Image(decode=False))
    paths = [Path(image["path"]) for image in stored["image"]]
    assert all(path.is_absolute() for path in paths)
    expected = {text: path.read_bytes() for text, path in zip(stored["text"], paths, strict=True)}
    data = load(dataset=folder_dataset)
    assert dict(rows_of(data, ["text", "image"]).values()) == expected
    assert {label for (label,) in rows_of(data, ["label"]).values()} == set(LABELS)

    paths[3].unlink()
    paths[5].write_bytes(b"no picture")
    report = load(dataset=folder_dataset).report  # not what is in the cache
    assert (report.images["missing"], report.images["unreadable"], report.left_out) == (1, 1, {})
    assert report.notes["image missing"].examples[0]["detail"].endswith(paths[3].name)
    assert report.images["distinct"] == 40


def test_selected_and_shuffled_data_set(load):
    records = [r | {"image": picture(i)} for i, r in enumerate(without(make_records(200), "split"))]
    dataset = as_dataset(records)
    names = ["text", "label", "image"]
    every = rows_of(load(dataset=dataset), names)
    assert rows_of(load(dataset=dataset.shuffle(seed=3)), names) == every
    chosen = list(range(199, 40, -3))
    some = rows_of(load(dataset=dataset.select(chosen)), names)
    assert some == {f"r{i:03d}": every[f"r{i:03d}"] for i in chosen}


def test_changed_tables_give_new_data(load, tmp_path):
    records = without(make_records(), "split")
    arguments = source("parquet", records, tmp_path)
    assert load(**arguments).report.records_out == 40
    source("parquet", records[:36], tmp_path)
    assert load(**arguments).report.records_out == 36

    dataset = as_dataset(records)
    before = rows_of(load(dataset=dataset), ["text"])
    assert rows_of(load(dataset=as_dataset(records)), ["text"]) == before
    shouted = dataset.map(lambda row: {"text": row["text"].upper()})
    after = rows_of(load(dataset=shouted), ["text"])
    assert after == {name: (text.upper(),) for name, (text,) in before.items()}
    assert load(dataset=dataset.select(range(36))).report.records_out == 36


def test_class_numbers_become_names(load, tmp_path):
    """In Parquet only if the file says which: a bare number is no name."""
    dataset = as_dataset(without(make_records(), "split"))
    bare = dataset.data.table.replace_schema_metadata(None)
    parquet.write_table(bare, tmp_path / "a.parquet")
    with pytest.raises(RecordError, match=r"row 1, field 'label'.*, got int 2"):
        load(data_dir=str(tmp_path / "a.parquet"))
    labels = pa.array([LABELS[i % 4] for i in range(40)]).dictionary_encode()  # as pandas does
    column = bare.column_names.index("label")
    parquet.write_table(bare.set_column(column, "label", labels), tmp_path / "a.parquet")
    found = rows_of(load(data_dir=str(tmp_path / "a.parquet")), ["label"])
    assert found == rows_of(load(dataset=dataset), ["label"])


@pytest.mark.parametrize("kind", ["one group", "many groups", "dataset"])
def test_images_in_any_order(kind, tmp_path):
    contents = [b"picture %d" % (i if i % 50 else 0) for i in range(300)]
    rows = range(300)
    records = [r | {"image": c} for r, c in zip(make_records(300), contents, strict=True)]
    if kind == "dataset":
        table = open_dataset(as_dataset(records))
    else:
        path = tmp_path / "a.parquet"
        size = 300 if kind == "one group" else 50
        parquet.write_table(pa.Table.from_pylist(records), path, row_group_size=size)
        table = open_table(path)
    names = [values["image"] for _, values in table.rows()]
    assert len(table.images) == len(set(names)) == len(set(contents))
    assert set(table.images) == set(names)
    orders = [rows, rows[::-1], rows[::70], [299, 0, 63, 64, 127, 128, 65, 299, 298, 64, 0]]
    orders.append(random.Random(0).sample(rows, 60))
    for order in orders:
        assert [table.images[names[row]] for row in order] == [contents[row] for row in order]
    assert "no such" not in table.images
    with pytest.raises(KeyError):
        table.images["no such"]


@pytest.mark.parametrize("group", [400, 50])
def test_few_images_are_in_memory_at_a_time(group, tmp_path):
    """40 MB of pictures, of which 64 rows (6.4 MB) are held, and the next 64 while they change."""
    size = 100_000
    records = [
        {"text": f"Ada {i}", "mention": "Ada", "label": LABELS[i % 4], "image": os.urandom(size)}
        for i in range(400)
    ]
    table = pa.Table.from_pylist(records)
    pages = {"write_batch_size": 16}  # rows of a page, which Arrow unpacks as a whole
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=group, **pages)
    digests = [hash(values["image"]) for values in records]
    del table, records
    arrow, held = pa.total_allocated_bytes(), 0
    tracemalloc.start()
    try:
        corpus = read(SourceOptions(data_dir=str(tmp_path / "a.parquet")))
        for record, digest in zip(corpus.records, digests, strict=True):
            assert hash(corpus.images[record.image]) == digest
            held = max(held, pa.total_allocated_bytes() - arrow)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert max(peak, held) < 150 * size


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv_as_spreadsheets_write_it(end, encoding, load, tmp_path):
    records = [r | {"id": "", "image": "", "mention": ""} for r in make_records()]
    path = write_csv(tmp_path / "a.csv", records, end, encoding)
    path.write_text(
        path.read_text(encoding).replace("😀", "😀😀", 1) + end, encoding
    )  # a blank line
    rows = rows_of(load(data_dir=str(path)), ["text", "spans", "image"])
    # A text takes two lines, so that the n-th record begins in line 2n.
    assert sorted(rows) == [f"line-{2 * n:06d}" for n in range(1, 41)]
    assert rows["line-000004"] == (records[1]["text"], records[1]["spans"], None)
    records[30]["label"] = ""
    write_csv(path, records, end, encoding)
    with pytest.raises(RecordError, match=r"^a\.csv, line 62, field 'label'.*got NoneType None"):
        load(data_dir=str(path))


def test_csv_columns_in_any_order_and_others_noted(load, tmp_path):
    lines = [f'{LABELS[i % 4]},"a ""b"", c","[""x""]",Ada ["x"] {i}' for i in range(40)]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["label , notes, mention,text", *lines]))
    data = load(data_dir=str(path))  # the list of one mention, not the text of it
    assert {spans[0][1] - spans[0][0] for (spans,) in rows_of(data, ["spans"]).values()} == {1}
    assert data.report.notes["unknown field 'notes'"].count == 40


def test_columns_that_python_cannot_hold_do_not_matter(load, tmp_path):
    table = pa.Table.from_pylist(make_records())
    table = table.append_column("far", pa.array([2**62] * 40, pa.timestamp("us")))
    table = table.append_column("map", pa.array([[("a", 1)]] * 40, pa.map_(pa.string(), pa.int8())))
    parquet.write_table(table, tmp_path / "a.parquet")
    report = load(data_dir=str(tmp_path / "a.parquet")).report
    assert report.records_out == 40
    assert set(report.notes) == {"unknown field 'far'", "unknown field 'map'"}


@pytest.mark.parametrize(
    "name", ["a.zip", "a.tar.gz", "a.json", "a.xlsx", "a.tsv", "a", "a.csv.gz"]
)
def test_other_endings_are_refused(name, load, tmp_path):
    (tmp_path / name).write_text("text,label,spans\n")
    with pytest.raises(ValueError, match=r"ends in \.jsonl, \.csv, \.parquet; archives must"):
        load(data_dir=str(tmp_path / name))


@pytest.mark.parametrize("wrap", ["dict", "stream", "list"])
def test_what_is_no_dataset_is_refused(wrap, load, tmp_path):
    dataset = as_dataset(make_records())
    streamed, split = dataset.to_iterable_dataset(), datasets.DatasetDict(train=dataset)
    given = {"dict": split, "stream": streamed, "list": make_records()}[wrap]
    with pytest.raises(TypeError, match=type(given).__name__):
        load(dataset=given)
    with pytest.raises(ValueError, match="data_dir: expected none together"):
        load(dataset=dataset, data_dir=str(tmp_path))
