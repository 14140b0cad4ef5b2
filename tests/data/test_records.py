"""A user's own JSON Lines: every fault has a name and a place, pictures stay in their folder."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dataset_scripts import RecordError, SourceOptions, load_gzs
from dataset_scripts.sources.records import read

LABELS = ("person", "city", "river", "animal")


def record(number, **change):
    values = {
        "id": f"r{number:03d}",
        "text": f"Ada met Bob {number}",
        "spans": [[0, 3]],
        "label": LABELS[number % 4],
    }
    values.update(change)
    return {name: value for name, value in values.items() if value is not ...}


def write(path, records):
    path.write_text("".join(json.dumps(values) + "\n" for values in records), encoding="utf-8")
    return path


@pytest.fixture
def path(tmp_path):
    (tmp_path / "data").mkdir()
    return write(tmp_path / "data" / "people.jsonl", [record(number) for number in range(40)])


def load(path, tmp_path, **options):
    return load_gzs("records", str(path), cache_dir=str(tmp_path / "cache"), **options)


def split_of_ids(data):
    return {name: split for split, rows in data.splits.items() for name in rows["id"]}


def test_typing_records(path, tmp_path):
    data = load(path, tmp_path)
    assert data.task == "typing"
    assert sum(map(len, data.splits.values())) == 40
    assert data.report.images == {
        "found": 0,
        "missing": 0,
        "unreadable": 0,
        "none": 40,
        "distinct": 0,
        "distinct_missing": 0,
        "distinct_unreadable": 0,
    }
    assert data.label_texts == {label: label for label in LABELS}
    groups = (data.partition.seen, data.partition.validation_unseen, data.partition.test_unseen)
    assert tuple(map(len, groups)) == (2, 1, 1)


def test_relation_records(path, tmp_path):
    write(path, [record(number, spans=[[8, 11], [0, 3]]) for number in range(40)])
    data = load(path, tmp_path)
    assert data.task == "relation"
    assert data.splits["test"][0]["spans"] == [[8, 11], [0, 3]]


def test_folder_with_one_file(path, tmp_path):
    assert split_of_ids(load(path.parent, tmp_path)) == split_of_ids(load(path, tmp_path))
    (path.parent / "more.jsonl").write_text("")
    with pytest.raises(
        ValueError, match=r"expected one file of \*\.jsonl, \*\.csv, \*\.parquet, found"
    ):
        load(path.parent, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no \*\.jsonl, "):
        load(tmp_path, tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        load(path.with_name("none.jsonl"), tmp_path)
    with pytest.raises(ValueError, match="data_dir: expected a"):
        load_gzs("records", cache_dir=str(tmp_path))


def test_split_does_not_depend_on_the_order_of_records(path, tmp_path):
    before = split_of_ids(load(path, tmp_path))
    write(path, [record(number) for number in reversed(range(40))])
    assert split_of_ids(load(path, tmp_path)) == before
    assert split_of_ids(load(path, tmp_path, seed=1)) != before


def test_records_without_id_are_known_by_their_line(path):
    write(path, [record(number, id=...) for number in range(3)])
    corpus = read(SourceOptions(data_dir=str(path)))
    assert [r.id for r in corpus.records] == ["line-000001", "line-000002", "line-000003"]


def test_given_labels(path, tmp_path):
    lists = {"seen": ["person"], "validation_unseen": ["city"], "test_unseen": ["river"]}
    with pytest.raises(RecordError, match=r"line 4, field 'label': expected one of \['city'"):
        load(path, tmp_path, **lists)
    data = load(path, tmp_path, on_error="skip", **lists)
    assert data.report.left_out["label: unknown"].count == 10
    assert data.report.records_out == 30
    assert data.partition.seen == ("person",)


def test_given_splits(path, tmp_path):
    of_label = {
        "person": ("train", "validation", "test"),
        "city": ("train",),
        "river": ("validation",),
        "animal": ("test",),
    }
    records = []
    for number in range(40):
        splits = of_label[LABELS[number % 4]]
        records.append(record(number, split=splits[number // 4 % len(splits)]))
    write(path, records)
    data = load(path, tmp_path)
    assert split_of_ids(data) == {values["id"]: values["split"] for values in records}
    assert data.partition.seen == ("city", "person")
    assert data.partition.validation_unseen == ("river",)
    assert data.partition.test_unseen == ("animal",)
    with pytest.raises(ValueError, match="the records specify their splits"):
        load(path, tmp_path, counts=(2, 1, 1))
    write(path, [*records, record(40)])
    with pytest.raises(RecordError, match="line 41, field 'split': expected a split in every"):
        load(path, tmp_path)
    assert load(path, tmp_path, on_error="skip").report.records_out == 40


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (("train", "train", "test", "test"), "no record is in 'validation'"),
        (("train", "validation", "test", ("validation", "test")), r"labels \['animal'\] are in"),
        ((("train", "validation"), "train", "test", "test"), "every label of 'validation' is"),
        ((("train", "test"), "validation", "train", "train"), "every label of 'test' is"),
    ],
)
def test_given_splits_that_make_no_partition(path, tmp_path, splits, message):
    records = []
    for number in range(40):
        split = splits[number % 4]
        choices = (split,) if isinstance(split, str) else split
        records.append(record(number, split=choices[number // 4 % len(choices)]))
    write(path, records)
    with pytest.raises(ValueError, match=message):
        load(path, tmp_path)


def test_duplicated_id_names_the_first_line(path):
    path.write_text(path.read_text() + json.dumps(record(7)) + "\n")
    with pytest.raises(RecordError, match="got 'r007', also in line 8"):
        read(SourceOptions(data_dir=str(path)))


def test_bytes_that_are_not_utf8_are_named_by_offset(path):
    before = path.read_bytes()
    path.write_bytes(before + b'{"text": "caf\xe9"}\n')
    with pytest.raises(RecordError, match=f"got byte 0xe9 at byte {len(before) + 13} of the file"):
        read(SourceOptions(data_dir=str(path)))


def test_unknown_fields_are_noted(path):
    write(path, [record(number, imgae="a.png") for number in range(4)])
    report = read(SourceOptions(data_dir=str(path))).report
    assert report.notes["unknown field 'imgae'"].count == 4


def test_given_task(path, tmp_path):
    with pytest.raises(RecordError, match=r"line 1, field 'spans': expected a list of 2 span"):
        load(path, tmp_path, task="relation")
    with pytest.raises(ValueError, match="at least one valid record"):
        load(path, tmp_path, task="relation", on_error="skip")
    with pytest.raises(ValueError, match="task: expected one of"):
        load(path, tmp_path, task="parsing")


def test_empty_file(path, tmp_path):
    path.write_text("\n\n")
    with pytest.raises(ValueError, match=r"people\.jsonl: expected at least one valid"):
        load(path, tmp_path)


def test_too_few_samples(path, tmp_path):
    write(path, [record(number) for number in range(8)])
    with pytest.raises(ValueError, match="has 2 sample"):
        load(path, tmp_path)


def test_images_lie_beside_the_file_or_in_their_folder(path, tmp_path):
    write(path, [record(number, image=f"sub/{number}.png") for number in range(40)])
    for folder, number in ((path.parent, 1), (tmp_path / "pictures", 2)):
        (folder / "sub").mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(folder / "sub" / f"{number}.png")
    beside = load(path, tmp_path)
    apart = load(path, tmp_path, image_dir=str(tmp_path / "pictures"))
    for data, number in ((beside, 1), (apart, 2)):
        assert data.report.images["found"] == 1
        assert data.report.images["missing"] == 39
        rows = [row for split in data.splits.values() for row in split if row["image"]]
        assert [row["id"] for row in rows] == [f"r00{number}"]
        assert rows[0]["image"].size == (9, 9)


def test_images_behind_a_link_are_refused(path, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "secret.png")
    (path.parent / "link.png").symlink_to(tmp_path / "secret.png")
    path.write_text(path.read_text() + json.dumps(record(40, image="link.png")) + "\n")
    with pytest.raises(RecordError, match=r"line 41, field 'image'.*a link out of it"):
        load(path, tmp_path)
    report = load(path, tmp_path, on_error="skip").report
    assert report.left_out["image: link"].count == 1


def test_edited_images_and_records_give_new_data(path, tmp_path):
    write(path, [record(number, image="a.png") for number in range(40)])
    picture = path.parent / "a.png"
    Image.new("RGB", (9, 9)).save(picture)
    assert load(path, tmp_path).report.images["found"] == 40
    picture.write_bytes(b"broken")
    assert load(path, tmp_path).report.images["unreadable"] == 40
    picture.unlink()
    assert load(path, tmp_path).report.images["missing"] == 40
    (path.parent / "unrelated.txt").write_text("x")
    write(path, [record(number, label=LABELS[number % 3]) for number in range(40)])
    assert len(load(path, tmp_path).partition.labels) == 3


json_lines = st.lists(
    st.binary(max_size=30)
    | st.builds(
        lambda values: json.dumps(values).encode(),
        st.fixed_dictionaries(
            {
                "text": st.text(max_size=6),
                "spans": st.lists(st.lists(st.integers(-1, 6), max_size=3), max_size=2),
                "label": st.sampled_from(["a", "b", "c", ""]),
            },
            optional={"id": st.sampled_from(["1", "2", 3, None]), "image": st.text(max_size=4)},
        ),
    ),
    max_size=12,
)


@given(json_lines)
@settings(deadline=None)
def test_every_line_is_kept_or_counted(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("records") / "a.jsonl"
    path.write_bytes(b"\n".join(lines))
    try:
        corpus = read(SourceOptions(data_dir=str(path), on_error="skip"))
    except RecordError:
        raise  # it should have been counted
    except ValueError:
        return  # nothing usable, or too few labels
    left_out = sum(finding.count for finding in corpus.report.left_out.values())
    assert corpus.report.records_in == len(corpus.records) + left_out
