"""The embedded sample: it is there, it is whole, and it divides."""

import pytest

from dataset_scripts import even_counts, load_gzs


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def data(cache_dir):
    return load_gzs(cache_dir=cache_dir)


def test_every_record_is_used_and_has_an_image(data):
    report = data.report
    assert data.task == "typing"
    assert report.records_in == report.records_out == sum(map(len, data.splits.values()))
    assert not report.left_out
    assert not report.notes
    assert report.images["found"] == report.records_out


def test_labels_are_divided_in_thirds(data):
    groups = (data.partition.seen, data.partition.validation_unseen, data.partition.test_unseen)
    assert tuple(map(len, groups)) == even_counts(len(data.partition.labels))
    assert data.label_texts == {label: label for label in data.partition.labels}


def test_rows(data):
    names = data.splits["train"].features["label"].names
    for split, rows in data.splits.items():
        assert rows.column_names == ["id", "text", "image", "spans", "label", "seen", "split"]
        for row in rows.select(range(0, len(rows), 50)):
            [[start, end]] = row["spans"]
            assert row["text"][start:end].strip()
            assert row["seen"] == (names[row["label"]] in data.partition.seen)
            assert row["split"] == split
            assert min(row["image"].size) > 0
    assert all(data.splits["train"]["seen"])


def test_other_seeds_divide_otherwise(data, cache_dir):
    other = load_gzs(cache_dir=cache_dir, seed=1)
    assert other.partition != data.partition
    assert other.partition.labels == data.partition.labels


def test_types_are_described(cache_dir):
    data = load_gzs(cache_dir=cache_dir, label_text="described")
    assert data.label_texts["bird"] == "an animal with feathers, a beak and wings"
    assert set(data.label_texts) == set(data.partition.labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data_dir": "."}, "data_dir, image_dir: expected none"),
        ({"image_dir": "."}, "data_dir, image_dir: expected none"),
        ({"task": "relation"}, "task: expected .typing. for the sample"),
        ({"rotation": 1}, "label 'APP' of the partition has no sample"),
        ({"counts": (1, 1, 1)}, "add up to 3, but there are"),
    ],
)
def test_wrong_choices(cache_dir, options, message):
    with pytest.raises(ValueError, match=message):
        load_gzs(cache_dir=cache_dir, **options)
