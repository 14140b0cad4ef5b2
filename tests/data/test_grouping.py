"""Samples that share a sentence or a picture: kept together, counted, several seeds at once."""

import json
import time
from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from slow_grouping import SlowAssignment
from test_protocol import outputs_by_hash_seed

from dataset_scripts import (
    SPLITS,
    ClassPartition,
    Record,
    load_gzs,
    load_gzs_seeds,
    protocol,
)
from dataset_scripts.leakage import group_samples, measure_overlap
from dataset_scripts.protocol import seen_sizes, split_groups, split_samples
from dataset_scripts.sources import mnre

PARTITION = ClassPartition(("a", "b"), ("v", "w"), ("t",))
ALLOWED = {"train": "ab", "validation": "abvw", "test": "abt"}
BY = ("text", "image", "both")
COUNTS = ("samples", "text", "image", "either")

seeds = st.integers(0, 2**32)
randoms = st.randoms(use_true_random=False)


@st.composite
def corpora(draw):
    """Records of all labels and of one outside ("x"), of which some share text or picture."""
    labels = draw(st.permutations("a" * 8 + "b" * 8 + "v" * 3 + "w" * 3 + "t" * 4 + "x" * 2))
    texts = draw(st.lists(st.integers(0, 40), min_size=len(labels), max_size=len(labels)))
    images = draw(
        st.lists(st.none() | st.integers(0, 60), min_size=len(labels), max_size=len(labels))
    )
    return [
        Record(f"s{n:02d}", f"text {text}", ((0, 4),), label, None if i is None else f"{i}.jpg")
        for n, (text, label, i) in enumerate(zip(texts, labels, images, strict=True))
    ]


def split(records, groups, seed):
    """The assignment, or None where a label is left without a sample."""
    labels, ids = [record.label for record in records], [record.id for record in records]
    try:
        return split_groups(labels, groups, PARTITION, seed, ids)
    except ValueError as error:
        assert str(error).startswith("label '")  # noqa: PT017
        assert "has no sample for" in str(error)  # noqa: PT017
        return None


def linked(records, by):
    """The groups by brute force, as sets of positions: neighbours are added until none is left."""
    texts = [{record.text} if by != "image" else set() for record in records]
    images = [{record.image} - {None} if by != "text" else set() for record in records]
    keys = [text | image for text, image in zip(texts, images, strict=True)]
    groups, left = set(), set(range(len(records)))
    while left:
        group = {left.pop()}
        while more := {n for n in left if any(keys[n] & keys[m] for m in group)}:
            group |= more
            left -= more
        groups.add(frozenset(group))
    return groups


def members(groups):
    found = {}
    for position, group in enumerate(groups):
        found.setdefault(group, set()).add(position)
    return {frozenset(positions) for positions in found.values()}


@given(corpora(), st.sampled_from(BY))
def test_groups_are_all_that_are_linked(records, by):
    assert members(group_samples(records, by)) == linked(records, by)


def test_a_chain_of_sentences_and_images_is_one_group():
    pairs = [("p", "1"), ("p", "2"), ("q", "2"), ("q", None), ("r", "3"), ("s", None), ("1", None)]
    records = [Record(str(n), text, ((0, 1),), "a", i) for n, (text, i) in enumerate(pairs)]
    # A sentence that reads like the name of a picture is no link; neither are two without one.
    groups = members(group_samples(records, "both"))
    assert groups == set(map(frozenset, ({0, 1, 2, 3}, {4}, {5}, {6})))
    assert len(members(group_samples(records, "text"))) == 5
    assert len(members(group_samples(records, "image"))) == 6
    assert len(members(group_samples(records, "none"))) == 7


@given(corpora(), st.sampled_from(BY), seeds)
def test_grouped_splits(records, by, seed):
    groups = group_samples(records, by)
    assignment = split(records, groups, seed)
    assume(assignment is not None)
    splits_of_group = {}
    for group, name in zip(groups, assignment, strict=True):
        splits_of_group.setdefault(group, set()).update({name} - {None})
    there = set()
    for record, group, name in zip(records, groups, assignment, strict=True):
        if record.label not in PARTITION.labels:
            assert name is None
            continue
        [where] = splits_of_group[group]  # never several, never all of a group left out
        assert name == (where if record.label in ALLOWED[where] else None)
        there.add((record.label, name))
    wanted = {(label, name) for name, labels in ALLOWED.items() for label in labels}
    assert there - {(label, None) for label in PARTITION.labels} == wanted
    overlap = measure_overlap(records, assignment, PARTITION)
    kinds = {"text": ["text"], "image": ["image"], "both": COUNTS[1:]}[by]
    assert all(counts[kind] == 0 for counts in overlap.values() for kind in kinds)


@given(corpora(), st.sampled_from(BY), seeds, randoms)
def test_neither_order_of_samples_nor_numbers_of_groups_matter(records, by, seed, random):
    groups = group_samples(records, by)
    before = split(records, groups, seed)
    assert split(records, groups, seed) == before
    assume(before is not None)
    numbers = random.sample(range(-1_000, 1_000), len(records))
    order = random.sample(range(len(records)), len(records))
    after = split([records[n] for n in order], [numbers[groups[n]] for n in order], seed)
    assert after == [before[n] for n in order]


@given(corpora(), st.sampled_from(BY), seeds)
def test_the_index_of_groups_changes_no_split(records, by, seed):
    groups = group_samples(records, by)
    found = split(records, groups, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "_GroupAssignment", SlowAssignment)
        assert split(records, groups, seed) == found


def test_many_labels_take_no_longer_than_few():
    """A search of all groups for each label would take 60 times as long with 600 labels."""

    def seconds(count):
        labels = [f"l{number % count}" for number in range(12_000)]
        names = sorted(set(labels))
        third = count // 3
        partition = ClassPartition(names[:third], names[third : 2 * third], names[2 * third :])
        ids = [str(number) for number in range(len(labels))]
        groups = [number // 3 for number in range(len(labels))]
        start = time.process_time()
        split_groups(labels, groups, partition, 0, ids)
        return time.process_time() - start

    assert min(seconds(600) for _ in range(3)) < 5 * min(seconds(6) for _ in range(3))


def test_an_infeasible_split_is_refused_with_its_label():
    labels, ids = list("aaaavwt"), [str(n) for n in range(7)]
    partition = ClassPartition(("a",), ("v", "w"), ("t",))
    with pytest.raises(ValueError, match="'a' has no sample for 'test' when samples that share"):
        split_groups(labels, [0, 0, 1, 1, 2, 3, 4], partition, 0, ids)
    with pytest.raises(ValueError, match=r"label '[vwt]' has no sample for "):
        split_groups(labels, [0, 1, 2, 3, 4, 4, 4], partition, 0, ids)
    assert None not in split_groups(labels, [0, 1, 2, 2, 3, 3, 4], partition, 0, ids)
    with pytest.raises(ValueError, match="7 labels, 6 groups, 7 ids"):
        split_groups(labels, range(6), partition, 0, ids)
    with pytest.raises(ValueError, match="expected distinct ids"):
        split_groups(labels, range(7), partition, 0, ["0", *ids[:-1]])


@given(st.integers(3, 60), st.integers(3, 60), seeds)
def test_groups_of_one_meet_the_shares_exactly(first, second, seed):
    labels = list("a" * first + "b" * second + "vwt")
    ids = [str(n) for n in range(len(labels))]
    assignment = split_groups(labels, range(len(labels)), PARTITION, seed, ids)
    counted = Counter(zip(labels, assignment, strict=True))
    for label, number in (("a", first), ("b", second)):
        assert tuple(counted[label, name] for name in SPLITS) == seen_sizes(number)
    assert assignment[-3:] == ["validation", "validation", "test"]


def test_groups_of_one_label_come_near_the_shares_and_depend_on_the_seed():
    """Pairs of samples: each share is missed by less than a group."""
    labels = list("a" * 100 + "b" * 60 + "vvwwtt")
    groups = [n // 2 for n in range(len(labels))]
    ids = [f"s{n:03d}" for n in range(len(labels))]
    drawn = {tuple(split_groups(labels, groups, PARTITION, seed, ids)) for seed in range(20)}
    assert len(drawn) == 20
    for assignment in drawn:
        counted = Counter(zip(labels, assignment, strict=True))
        for label, number in (("a", 100), ("b", 60)):
            for name, size in zip(SPLITS, seen_sizes(number), strict=True):
                assert abs(counted[label, name] - size) <= 2


def test_grouped_split_does_not_depend_on_the_hash_seed():
    code = (
        "from protocol import ClassPartition, split_groups\n"
        "p = ClassPartition(('a', 'b'), ('v',), ('t',))\n"
        "labels = list('ab' * 15 + 'vt' * 3)\n"
        "print(split_groups(labels, [n * 7 % 17 for n in range(36)], p, 5,"
        " [f's{n}' for n in range(36)]))"
    )
    assert len(outputs_by_hash_seed(code, ("1", "2", "3"))) == 1


def test_grouped_split_is_the_same_on_every_machine():
    """Recorded once: a change here moves samples and must raise PROTOCOL_VERSION."""
    labels = [label for label in "abvwt" for _ in range(6)]
    ids = [f"s{n:02d}" for n in range(30)]
    assignment = split_groups(labels, [n * 5 % 19 for n in range(30)], PARTITION, 7, ids)
    # Second letters of the splits: tRain, vAlidation, tEst.
    assert "".join(name[1] if name else "-" for name in assignment) == RECORDED


RECORDED = "raeerrarereraaaaaaa-a------e-e"


@given(corpora(), seeds)
def test_overlap_by_brute_force(records, seed):
    labels = [record.label for record in records]
    assignment = split_samples(labels, PARTITION, seed, [record.id for record in records])
    training = [r for r, name in zip(records, assignment, strict=True) if name == "train"]
    found = measure_overlap(records, assignment, PARTITION)
    assert set(found) == {"validation", "validation_seen", "test", "test_seen"}
    for part, counts in found.items():
        name, _, seen = part.partition("_")
        rows = [
            (
                any(record.text == other.text for other in training),
                any(record.image and record.image == other.image for other in training),
            )
            for record, given in zip(records, assignment, strict=True)
            if given == name and (record.label in "ab" or not seen)
        ]
        expected = (
            len(rows),
            sum(t for t, _ in rows),
            sum(i for _, i in rows),
            sum(map(any, rows)),
        )
        assert tuple(counts[kind] for kind in COUNTS) == expected


@pytest.fixture
def path(tmp_path):
    """Two in a row share a sentence, three a picture, so that six make a group of both."""
    labels = "aaabbbaaabbbvvwwvwttttvt" * 5
    rows = [
        {"id": n, "text": f"Ada {n // 2}", "image": f"{n // 3}.jpg", "spans": [[0, 3]], "label": c}
        for n, c in enumerate(labels)
    ]
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


REASON = "shares a sentence or an image with a split that its label is not in"
UNSEEN = {"v": "validation", "w": "validation", "t": "test"}
LISTS = {"seen": ["a", "b"], "validation_unseen": ["v", "w"], "test_unseen": ["t"]}


def load(path, tmp_path, **options):
    return load_gzs("records", str(path), cache_dir=str(tmp_path / "cache"), **LISTS, **options)


@pytest.mark.parametrize("by", BY)
def test_loading_in_groups(path, tmp_path, by):
    plain, grouped = load(path, tmp_path), load(path, tmp_path, group_by=by)
    assert plain.report.overlap["test"]["either"] > 0
    assert (plain.report.settings["group_by"], grouped.report.settings["group_by"]) == ("none", by)
    owner = {}
    for name, rows in grouped.splits.items():
        for row in rows:
            keys = {"text": row["text"], "image": int(row["id"]) // 3}
            for link in keys.items():
                if by in (link[0], "both"):
                    assert owner.setdefault(link, name) == name
    overlap = grouped.report.overlap
    assert {o["either" if by == "both" else by] for o in overlap.values()} == {0}
    # Where "v" and "t" are one group, one of the two cannot follow the other.
    left_out = {reason: finding.count for reason, finding in grouped.report.left_out.items()}
    assert left_out == {REASON: 5}
    assert grouped.report.records_out == sum(map(len, grouped.splits.values())) == 115


def test_wrong_groups(path, tmp_path):
    with pytest.raises(ValueError, match="group_by: expected one of"):
        load(path, tmp_path, group_by="sentence")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for n, row in enumerate(rows):
        row["split"] = UNSEEN.get(row["label"], SPLITS[n % 3])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="group_by: expected 'none', since"):
        load_gzs("records", str(path), cache_dir=str(tmp_path / "cache"), group_by="text")


def test_real_files(real_data, tmp_path):
    choices = {"data_dir": str(real_data / "mnre"), "cache_dir": str(tmp_path), "seed": 0}
    plain = load_gzs("mnre", **choices).report
    grouped = load_gzs("mnre", **choices, group_by="both").report
    assert plain.overlap["test"] == dict(zip(COUNTS, (2_390, 475, 474, 475), strict=True))
    assert {counts[kind] for counts in grouped.overlap.values() for kind in COUNTS[1:]} == {0}
    assert grouped.records_out == plain.records_out - 83 == 5_684
    assert grouped.left_out[REASON].count == 83
    # Shares of the seen labels as without groups, but for a few samples.
    seen = plain.settings["partition"]["seen"]
    for name, counts in grouped.splits.items():
        assert abs(sum(counts[label] - plain.splits[name][label] for label in seen)) <= 3


@pytest.fixture
def reads(monkeypatch):
    """The options of every reading of MNRE's files."""
    calls, original = [], mnre.read

    def counted(options):
        calls.append(options)
        return original(options)

    monkeypatch.setattr(mnre, "read", counted)
    return calls


@pytest.fixture
def relations(tmp_path):
    """Two hundred lines of MNRE, of which five in a row share their sentence."""
    lines = []
    for n in range(200):
        values = {"token": ["Ada", "met", "Bob", str(n // 5)], "img_id": f"{n // 10}.jpg"}
        sides = {"h": {"name": "Ada", "pos": [0, 1]}, "t": {"name": "Bob", "pos": [2, 3]}}
        lines.append(repr({**values, **sides, "relation": f"r{n % 7}"}))
    folder = tmp_path / "text"
    folder.mkdir()
    for number, part in enumerate(("train", "val", "test")):
        (folder / f"{part}.txt").write_text("\n".join([*lines[number::3], ""]))
    return str(folder)


@pytest.mark.parametrize("by", ["none", "text"])
def test_several_seeds_are_read_once(relations, tmp_path, reads, by):
    choices = {"data_dir": relations, "counts": (3, 2, 2), "group_by": by}
    together = load_gzs_seeds([3, 0, 7], "mnre", cache_dir=str(tmp_path / "1"), **choices)
    assert len(reads) == 1
    assert list(together) == [3, 0, 7]
    assert len({data.partition for data in together.values()}) > 1
    for seed, data in together.items():
        alone = load_gzs("mnre", cache_dir=str(tmp_path / "2"), seed=seed, **choices)
        assert (data.task, data.partition, data.report) == (
            alone.task,
            alone.partition,
            alone.report,
        )
        assert data.label_texts == alone.label_texts
        for name in SPLITS:
            assert data.splits[name].to_list() == alone.splits[name].to_list()
            assert data.splits[name].features == alone.splits[name].features
    assert len(reads) == 4
    # What one call has built the other finds, seed by seed.
    again = load_gzs_seeds([0, 7, 9], "mnre", cache_dir=str(tmp_path / "2"), **choices)
    assert len(reads) == 5
    assert again[7].report == together[7].report


@pytest.mark.parametrize("wanted", [[], [1, 2, 1], [0, False], iter(())])
def test_seeds_are_distinct_and_some(relations, tmp_path, reads, wanted):
    with pytest.raises(ValueError, match="seeds: expected one or more distinct integers"):
        load_gzs_seeds(wanted, "mnre", relations, cache_dir=str(tmp_path / "cache"))
    with pytest.raises(TypeError, match="seed: expected none together with seeds"):
        load_gzs_seeds([0], "mnre", relations, cache_dir=str(tmp_path / "cache"), seed=5)
    assert not reads


def test_an_unseen_label_gets_a_group_though_others_weigh_more():
    labels = list("aaabbbvvwwttvvwwtt")
    groups = [0, 1, 2, 3, 4, 5, *[6] * 6, *[7] * 6]
    ids = [f"s{n:02d}" for n in range(len(labels))]
    for seed in range(5):
        splits = split_groups(labels, groups, PARTITION, seed, ids)
        assert ("v", "validation") in zip(labels, splits, strict=True)
        assert ("t", "test") in zip(labels, splits, strict=True)
