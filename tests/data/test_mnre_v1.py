"""MNRE's first version: other file names, more relations, pictures named by whole numbers."""

import pytest
from PIL import Image
from test_mnre import line

from dataset_scripts import RecordError, SourceOptions, load_gzs
from dataset_scripts.sources.mnre import read

FILES = {part: f"ours_{part}.txt" for part in ("train", "val", "test")}
NUMBER = 30  # relations


def relation(number):
    return f"/per/org/relation_{number:02d}"


@pytest.fixture
def folder(tmp_path):
    """Four lines of each relation, each with a picture of its own, and three of none."""
    folder = tmp_path / "text"
    folder.mkdir()
    lines = [line(n, relation=relation(n % NUMBER), img_id=n) for n in range(4 * NUMBER)]
    lines += [line(n, relation="None", img_id=n) for n in (200, 201, 202)]
    for number, name in enumerate(FILES.values()):
        (folder / name).write_text("\n".join([*lines[number::3], ""]), encoding="utf-8")
    return folder


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    return folder


def save(folder, name, number=0):
    Image.new("RGB", (8 + number, 8)).save(folder / name)


def images_of(folder, *image_ids, **options):
    """Names of the pictures of records with these ids, which are all that `folder` holds."""
    for name in FILES.values():
        (folder / name).write_text("", encoding="utf-8")
    lines = [line(n, img_id=image_id) for n, image_id in enumerate(image_ids)]
    (folder / FILES["val"]).write_text("\n".join([*lines, ""]), encoding="utf-8")
    corpus = read(SourceOptions(data_dir=str(folder), **options))
    return [record.image for record in corpus.records], corpus.report


def test_names_of_files_and_ids(folder):
    corpus = read(SourceOptions(data_dir=str(folder)))
    assert corpus.report.records_in == 4 * NUMBER + 3
    ids = [record.id for record in corpus.records]
    assert [ids[0], ids[40], ids[-1]] == ["train-000001", "valid-000001", "test-000040"]
    assert {record.place.file for record in corpus.records} == set(FILES.values())
    for name in ("ours_dev.txt", "ours_train2.txt"):
        (folder / name).write_text("")
    with pytest.raises(ValueError, match=r"\['ours_train\.txt', 'ours_train2\.txt'\] all match"):
        read(SourceOptions(data_dir=str(folder)))


def test_numbers_find_images_by_stem(folder, pictures):
    for name in ("12.jpg", "13.PNG", "0014.jpg", "15.txt.jpg", "twitter_stream_7.jpg"):
        save(pictures, name)
    (pictures / "16.txt").write_text("no picture")
    # What has no picture keeps its own name, under which nothing is found.
    expected = {12: "12.jpg", "12": "12.jpg", 13: "13.PNG", 14: "14", 15: "15", 16: "16", 17: "17"}
    expected |= {"twitter_stream_7": "twitter_stream_7.jpg", "12.jpg": "12.jpg", "12.png": "12.png"}
    names, report = images_of(folder, *expected, image_dir=str(pictures))
    assert names == list(expected.values())
    assert not report.left_out
    assert images_of(folder, 12, "13.PNG")[0] == ["12", "13.PNG"]


def test_several_images_of_a_stem_are_refused(folder, pictures):
    for name in ("12.jpg", "12.png", "13.jpg"):
        save(pictures, name)
    message = r"^ours_val\.txt, line 2, field 'img_id': expected one image named '12', got "
    with pytest.raises(RecordError, match=message + r"list \['12\.jpg', '12\.png'\]"):
        images_of(folder, 13, 12, image_dir=str(pictures))
    names, report = images_of(
        folder, 13, 12, "12", "12.png", image_dir=str(pictures), on_error="skip"
    )
    assert names == ["13.jpg", "12.png"]
    assert report.left_out["img_id: several images"].count == 2


@pytest.mark.parametrize("image_id", [-1, 10**30])
def test_a_number_without_image_is_no_fault(folder, pictures, image_id):
    assert images_of(folder, image_id, image_dir=str(pictures))[0] == [str(image_id)]


def test_a_link_is_found_by_its_number_and_refused(folder, pictures, tmp_path):
    save(tmp_path, "secret.jpg")
    (pictures / "12.jpg").symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(RecordError, match=r"line 1, field 'img_id': .*a link out of it"):
        images_of(folder, 12, image_dir=str(pictures))


def test_a_missing_image_is_counted_and_never_replaced(folder, pictures, tmp_path):
    for number in range(0, 40, 2):
        save(pictures, f"{number}.jpg", number)
    choices = {"image_dir": str(pictures), "cache_dir": str(tmp_path / "cache")}
    data = load_gzs("mnre", str(folder), **choices)
    counts = [data.report.images[name] for name in ("found", "missing", "none", "distinct")]
    assert counts == [20, 100, 0, 120]
    widths = {}
    for rows in data.splits.values():
        for row in rows:
            number = int(row["text"].rpartition("at")[2])
            widths[number] = row["image"] and row["image"].size[0]
    expected = {n: 8 + n if n < 40 and n % 2 == 0 else None for n in range(4 * NUMBER)}
    assert widths == expected


def test_more_relations_than_the_second_version_has(folder, tmp_path):
    cache = str(tmp_path / "cache")
    data = load_gzs("mnre", str(folder), cache_dir=cache)
    assert data.partition.labels == tuple(relation(n) for n in range(NUMBER))
    groups = (data.partition.seen, data.partition.validation_unseen, data.partition.test_unseen)
    assert [len(group) for group in groups] == [10, 10, 10]
    assert data.report.left_out["relation 'None'"].count == 3
    fewer = load_gzs("mnre", str(folder), cache_dir=cache, counts=(20, 4, 6), seed=1)
    assert len(fewer.partition.seen) == 20
    # The table of the second version's relations does not stop at these.
    texts = load_gzs("mnre", str(folder), cache_dir=cache, label_text="verbalised").label_texts
    assert texts[relation(7)] == "person relation 07 organization"


@pytest.mark.parametrize(
    ("head", "tail", "overlaps"),
    [((1, 3), (2, 5), 1), ((2, 3), (1, 5), 1), ((1, 3), (3, 5), 0), ((4, 5), (1, 3), 0)],
)
def test_overlap_of_head_and_tail_is_noted(tmp_path, head, tail, overlaps):
    words = ["RT", "Ada", "Lovelace", "met", "Bob"]
    sides = {
        side: {"name": " ".join(words[slice(*pos)]), "pos": list(pos)}
        for side, pos in (("h", head), ("t", tail))
    }
    text = "\n".join([line(1, token=words, **sides), line(1, relation="None", **sides)])
    for part, name in FILES.items():
        (tmp_path / name).write_text(text if part == "test" else "", encoding="utf-8")
    corpus = read(SourceOptions(data_dir=str(tmp_path)))
    found = {kind: finding.count for kind, finding in corpus.report.notes.items()}
    assert found == ({"head and tail overlap": 1} if overlaps else {})
    assert len(corpus.records) == 1
