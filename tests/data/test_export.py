"""Splits written as Parquet are the same when they come back: from a folder and from the Hub."""

import json
import shutil
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from datasets.exceptions import NonMatchingSplitsSizesError
from hub_server import HubServer
from huggingface_hub import DatasetCard
from PIL import Image
from pyarrow import parquet

from dataset_scripts import export as rooms
from dataset_scripts import load_gzs, load_gzs_seeds
from dataset_scripts.__main__ import main
from dataset_scripts.convert import convert
from dataset_scripts.export import export, load_exported
from dataset_scripts.options import SourceOptions

LABELS = ("person", "city", "a|b <i>", "animal")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Records with pictures on disk, one of them missing, some without."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "pictures").mkdir()
    lines = []
    for number in range(40):
        image = None if number % 5 == 0 else f"pictures/{number}.png"
        if image and number != 7:
            Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / image)
        values = {
            "id": f"r{number:03d}",
            "text": f"Ada met 鹿 {number}",
            "spans": [[8, 9]],
            "label": LABELS[number % 4],
            "image": image,
        }
        lines.append(json.dumps(values))
    (folder / "records.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def data(source, tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    return load_gzs_seeds((0, 1), "records", str(source), cache_dir=cache)


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    named = {f"seed-{seed}": gzs for seed, gzs in data.items()}
    return export(named, tmp_path_factory.mktemp("out") / "shared", license="cc0-1.0")


def rows_of(splits):
    """All rows with the pictures as bytes of their pixels."""
    return {
        split: [
            {**row, "image": None if row["image"] is None else row["image"].tobytes()}
            for row in rows
        ]
        for split, rows in splits.items()
    }


def test_plain_load_dataset_gives_the_same_splits(folder, data, tmp_path):
    for seed, gzs in data.items():
        splits = datasets.load_dataset(str(folder), f"seed-{seed}", cache_dir=str(tmp_path))
        assert rows_of(splits) == rows_of(gzs.splits)
        for split, rows in splits.items():
            assert rows.features == gzs.splits[split].features
            assert rows.features["label"].names == sorted(LABELS)
    assert rows_of(data[0].splits) != rows_of(data[1].splits)


def test_everything_else_comes_back_too(folder, data, tmp_path):
    back = load_exported(str(folder), "seed-1", cache_dir=str(tmp_path))
    for name in ("task", "partition", "label_texts", "report"):
        assert getattr(back, name) == getattr(data[1], name), name


def test_card(folder, data):
    card = DatasetCard.load(folder / "README.md")
    assert card.data.license == "cc0-1.0"
    names = [config["config_name"] for config in card.data.to_dict()["configs"]]
    assert names == ["seed-0", "seed-1"]
    for seed, gzs in data.items():
        report = gzs.report
        section = card.text.split(f"## seed-{seed}\n")[1].split("\n## ")[0]
        assert f"Seed {seed}, protocol version {report.settings['protocol_version']}" in section
        assert "40 records read, 40 in the splits" in section
        seen = gzs.partition.seen[0].replace("|", "\\|").replace("<", "&lt;")
        counts = [report.splits[split][gzs.partition.seen[0]] for split in gzs.splits]
        assert f"| {seen} | seen | {seen} | {counts[0]} | {counts[1]} | {counts[2]} |" in section
    assert "<i>" not in card.text


def test_nothing_of_this_disk_is_shared(folder, source):
    for path in folder.rglob("*"):
        if path.is_file():
            assert str(source).encode() not in path.read_bytes(), path


def test_one_configuration_needs_no_name(data, tmp_path):
    folder = export(data[0], tmp_path / "one")
    assert load_exported(str(folder), cache_dir=str(tmp_path / "c")).report == data[0].report
    assert len(datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "c"))) == 3
    assert "licence is unknown" in (folder / "README.md").read_text()


def test_large_splits_are_written_in_parts(data, tmp_path, monkeypatch):
    monkeypatch.setattr(rooms, "_GROUP_ROWS", 4)
    monkeypatch.setattr(rooms, "_SHARD_BYTES", 1)
    folder = export(data[0], tmp_path / "parts")
    rows = len(data[0].splits["test"])
    names = sorted(path.name for path in (folder / "default").glob("test-*"))
    assert names == [f"test-{n:05d}-of-{-(-rows // 4):05d}.parquet" for n in range(-(-rows // 4))]
    splits = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "c"))
    assert rows_of(splits) == rows_of(data[0].splits)


def test_a_folder_is_replaced_only_if_asked_and_only_when_written(data, tmp_path, monkeypatch):
    folder = export(data[0], tmp_path / "once")
    with pytest.raises(FileExistsError, match="exists already"):
        export(data[1], folder)
    monkeypatch.setattr(rooms, "make_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(data[1], folder, overwrite=True)
    assert load_exported(str(folder), cache_dir=str(tmp_path / "c")).report == data[0].report
    assert [path.name for path in tmp_path.iterdir() if path.name != "c"] == ["once"]
    monkeypatch.undo()
    export(data[1], folder, overwrite=True)
    assert load_exported(str(folder), cache_dir=str(tmp_path / "c")).report == data[1].report


def test_wrong_choices(folder, data, tmp_path):
    with pytest.raises(ValueError, match="at least one configuration"):
        export({}, tmp_path / "none")
    with pytest.raises(ValueError, match=r"configuration '\.\./up': expected letters"):
        export({"../up": data[0]}, tmp_path / "none")
    with pytest.raises(
        ValueError, match=r"expected one of the configurations \['seed-0', 'seed-1'\]"
    ):
        load_exported(str(folder), cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="got 'seed-9'"):
        load_exported(str(folder), "seed-9", cache_dir=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="expected a folder written by export"):
        rooms.push_export(tmp_path, "me/data")


def test_files_that_do_not_fit_each_other(data, tmp_path):
    folder = export(data[0], tmp_path / "edited")
    file = folder / "default" / "gzs.json"
    outcome = json.loads(file.read_text())
    cache = str(tmp_path / "c")
    outcome["partition"]["seen"] = ["tree"]
    file.write_text(json.dumps(outcome))
    with pytest.raises(ValueError, match=r"columns or splits do not match gzs\.json"):
        load_exported(str(folder), cache_dir=cache)
    file.write_text(json.dumps({"task": "typing"}))
    with pytest.raises(ValueError, match=r"gzs\.json: KeyError: 'partition'"):
        load_exported(str(folder), cache_dir=cache)
    file.write_text("{")
    with pytest.raises(ValueError, match=r"gzs\.json: expected JSON"):
        load_exported(str(folder), cache_dir=cache)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="expected data written by export"):
        load_exported(str(folder), cache_dir=cache)


@pytest.mark.parametrize("path", ["/etc/hostname", "http://127.0.0.1:9/picture.png"])
def test_an_image_that_is_a_mere_path_is_refused(data, tmp_path, path):
    folder = export(data[0], tmp_path / "trap")
    [file] = (folder / "default").glob("test-*.parquet")
    table = parquet.read_table(file)
    images = table.column("image").to_pylist()
    images[3] = {"bytes": None, "path": path}
    column = pa.array(images, table.schema.field("image").type)
    parquet.write_table(table.set_column(2, table.schema.field("image"), column), file)
    with pytest.raises(ValueError, match=r"test, row 4, field 'image': expected the content"):
        load_exported(str(folder), cache_dir=str(tmp_path / "c"))


PUSH = """
import sys
from dataset_scripts.export import push_export
print(push_export(sys.argv[1], "me/data"))
"""
LOAD = """
import sys
import datasets
from dataset_scripts.export import load_exported
datasets.disable_progress_bars()
back, here = load_exported("me/data", "seed-1"), load_exported(sys.argv[1], "seed-1")
assert (back.partition, back.report) == (here.partition, here.report)
for split, rows in datasets.load_dataset("me/data", "seed-1").items():
    assert rows.features == here.splits[split].features
    plain = datasets.Image(decode=False)
    assert rows.cast_column("image", plain)[:] == here.splits[split].cast_column("image", plain)[:]
    assert back.splits[split].cast_column("image", plain)[:] == rows.cast_column("image", plain)[:]
try:
    load_exported("me/data", "seed-7")
except ValueError as error:
    print(error)
"""


def test_push_to_the_hub_and_load(folder, tmp_path):
    with HubServer() as server:
        assert server.run_client(PUSH, folder, tmp_path / "a").startswith(server.url)
        assert server.commits == ["Generalized zero-shot splits: seed-0, seed-1"]
        local = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
        assert set(server.files) - {".gitattributes"} == local
        assert "expected one of the configurations" in server.run_client(
            LOAD, folder, tmp_path / "b"
        )


PLAIN = """
import datasets
datasets.disable_progress_bars()
splits = datasets.load_dataset("me/data", "seed-1")
print(sum(map(len, splits.values())))
"""


def test_a_push_deletes_the_shards_of_an_earlier_one(folder, data, tmp_path, monkeypatch):
    with HubServer() as server:
        monkeypatch.setattr(rooms, "_GROUP_ROWS", 4)
        monkeypatch.setattr(rooms, "_SHARD_BYTES", 1)
        named = {f"seed-{seed}": gzs for seed, gzs in data.items()}
        server.run_client(PUSH, export(named, tmp_path / "parts"), tmp_path / "a")
        assert len([name for name in server.files if name.startswith("seed-1/test-")]) > 1
        repository = server.repositories["me/data"]
        repository.commit("main", {**server.files, "notes.txt": b"mine"}, "foreign")
        server.run_client(PUSH, folder, tmp_path / "b")
        local = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
        assert set(server.files) - {".gitattributes"} == local | {"notes.txt"}
        assert len(server.commits) == 3
        assert server.run_client(PLAIN, folder, tmp_path / "c") == "40"


def test_a_stale_shard_is_named_and_not_loaded(data, tmp_path):
    folder = export(data[0], tmp_path / "stale")
    [shard] = (folder / "default").glob("test-*.parquet")
    rows = len(data[0].splits["test"])
    (folder / "default" / "test-00000-of-00002.parquet").write_bytes(shard.read_bytes())
    with pytest.raises(ValueError, match=rf"default/test: got {2 * rows} rows, expected {rows} as"):
        load_exported(str(folder), cache_dir=str(tmp_path / "c"))
    with pytest.raises(NonMatchingSplitsSizesError):
        datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "d"))


def test_command_line(source, tmp_path, capsys):
    out = tmp_path / "shared"
    main(["export", "--source", "records", "--data-dir", str(source), "--out", str(out),
          "--seeds", "3", "4", "--license", "mit", "--title", "Mine"])  # fmt: skip
    printed = capsys.readouterr().out
    assert "seed 4\nrecords: 40 records in, 40 out, 0 left out" in printed
    assert load_exported(str(out), "seed-4").report.settings["seed"] == 4
    assert DatasetCard.load(out / "README.md").data.pretty_name == "Mine"
    with pytest.raises(SystemExit, match=r"hmgrl data export: .*exists already"):
        main(["export", "--out", str(out)])


def test_an_interrupted_conversion_leaves_whole_images(tmp_path, monkeypatch):
    out, pictures, write = tmp_path / "a.jsonl", tmp_path / "a_images", Path.write_bytes
    sizes = []

    def interrupted(path, content):
        sizes.append(len(content))
        if len(sizes) == 3:
            write(path, content[: len(content) // 2])
            raise KeyboardInterrupt
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert("sample", SourceOptions(), out)
    written = [path for path in pictures.rglob("*") if path.is_file()]
    assert sorted(path.stat().st_size for path in written) == sorted(sizes[:2])
    assert [path.name for path in tmp_path.iterdir()] == [pictures.name]
    write(written[0], written[0].read_bytes()[:10])  # as a killed earlier version left it
    convert("sample", SourceOptions(), out)
    assert sorted(path.stat().st_size for path in written) == sorted(sizes[:2])
    assert not list(tmp_path.rglob("*.partial"))


def test_convert_and_read_again(source, tmp_path, capsys):
    sample, lines = tmp_path / "sample.jsonl", tmp_path / "mine.jsonl"
    main(["convert", "--source", "sample", "--out", str(sample)])
    assert "3,218 records in, 3,218 out" in capsys.readouterr().out
    here = load_gzs(cache_dir=str(tmp_path / "c"))
    pictures = str(tmp_path / "sample_images")
    back = load_gzs("records", str(sample), pictures, cache_dir=str(tmp_path / "c"))
    assert back.report.images == here.report.images
    for split, rows in here.splits.items():
        assert list(back.splits[split]["id"]) == list(rows["id"])
        assert back.splits[split][0]["image"].tobytes() == rows[0]["image"].tobytes()
    main(["convert", "--source", "records", "--data-dir", str(source), "--out", str(lines)])
    wanted = [json.loads(line) for line in (source / "records.jsonl").read_text().splitlines()]
    for values in wanted:
        if values["image"] is not None:  # copied, as the folder of the source is another one
            values["image"] = f"mine_images/{values['image']}"
    written = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    assert written == wanted
    again = load_gzs("records", str(lines), cache_dir=str(tmp_path / "c"))
    before = load_gzs("records", str(source), cache_dir=str(tmp_path / "c"))
    assert again.report.images == before.report.images
    assert again.report.images["found"] == 31
    with pytest.raises(SystemExit, match=r"hmgrl data convert: .*exists already"):
        main(["convert", "--out", str(lines)])


def test_convert_rewrites_names_of_images_inside_its_folder(source, tmp_path):
    folder = tmp_path / "deep" / "source"
    shutil.copytree(source, folder)
    main(["convert", "--source", "records", "--data-dir", str(folder),
          "--out", str(tmp_path / "mine.jsonl")])  # fmt: skip
    assert not (tmp_path / "mine_images").exists()
    text = (tmp_path / "mine.jsonl").read_text(encoding="utf-8")
    written = [json.loads(line) for line in text.splitlines()]
    assert written[1]["image"] == "deep/source/pictures/1.png"
    data = load_gzs("records", str(tmp_path / "mine.jsonl"), cache_dir=str(tmp_path / "c"))
    assert data.report.images["found"] == 31


def test_convert_writes_images_of_long_names(tmp_path):
    folder, name = tmp_path / "source", "i" * 250 + ".png"
    folder.mkdir()
    (folder / name).write_bytes(b"an image")
    record = {"id": "a", "text": "Ada met Bob", "mention": "Ada", "label": "b", "image": name}
    (folder / "records.jsonl").write_text(json.dumps(record))
    options = SourceOptions(data_dir=str(folder))
    convert("records", options, tmp_path / "out" / "a.jsonl")
    [written] = (tmp_path / "out" / "a_images").iterdir()
    assert (written.name, written.read_bytes()) == (name, b"an image")


def test_convert_ends_if_an_image_cannot_be_written(source, tmp_path):
    (tmp_path / "mine_images").write_text("a file in place of the folder")
    with pytest.raises(OSError, match="mine_images"):
        convert("records", SourceOptions(data_dir=str(source)), tmp_path / "mine.jsonl")
    assert not (tmp_path / "mine.jsonl").exists()


@pytest.mark.parametrize(
    "kind", ["other files", "a foreign file", "working folder", "link", "file"]
)
def test_only_an_export_is_replaced(kind, tmp_path, monkeypatch):
    configs = {"default": load_gzs("sample", cache_dir=str(tmp_path / "cache"))}
    target = export(configs, tmp_path / "out")
    precious = tmp_path / "other" / "data.jsonl"
    precious.parent.mkdir()
    precious.write_text("{}")
    if kind == "other files":
        target = precious.parent
    elif kind == "a foreign file":
        precious = target / "notes.txt"
        precious.write_text("{}")
    elif kind == "working folder":
        monkeypatch.chdir(target)
        target = "."
    elif kind == "link":
        (tmp_path / "link").symlink_to(target)
        target = tmp_path / "link"
    else:
        target = precious
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileExistsError):
        export(configs, target, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert precious.read_text() == "{}"
