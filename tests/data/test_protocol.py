"""The split protocol: who goes where, and what that does not depend on."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_scripts import protocol
from dataset_scripts.protocol import (
    SPLITS,
    WIKIDIVERSE_PARTITIONS,
    ClassPartition,
    even_counts,
    random_partition,
    seen_sizes,
    split_samples,
)

names = st.text(alphabet="abcdefgh/_é", min_size=1, max_size=6)
label_sets = st.lists(names, min_size=3, max_size=12, unique=True)
seeds = st.integers(min_value=0, max_value=2**32)


@st.composite
def corpora(draw):
    """A partition, and samples of its labels and of one label outside it, shuffled."""
    labels = draw(label_sets)
    partition = random_partition(labels, even_counts(len(labels)), draw(seeds))
    samples = ["outside"] * draw(st.integers(0, 2))
    for label in labels:
        samples += [label] * draw(st.integers(3, 25))
    ids = [f"s{index}" for index in range(len(samples))]
    order = draw(st.permutations(range(len(samples))))
    return partition, [samples[i] for i in order], [ids[i] for i in order]


@given(label_sets, seeds)
def test_random_partition_covers_all_labels_once(labels, seed):
    counts = even_counts(len(labels))
    partition = random_partition(labels, counts, seed)
    groups = (partition.seen, partition.validation_unseen, partition.test_unseen)
    assert tuple(map(len, groups)) == counts
    assert sorted(sum(groups, ())) == sorted(labels) == list(partition.labels)


@given(label_sets, seeds, st.randoms(use_true_random=False))
def test_random_partition_does_not_depend_on_order(labels, seed, random):
    shuffled = list(labels)
    random.shuffle(shuffled)
    counts = even_counts(len(labels))
    assert random_partition(shuffled, counts, seed) == random_partition(labels, counts, seed)


def test_random_partition_depends_on_the_seed():
    labels = [f"label {number}" for number in range(22)]
    drawn = {random_partition(labels, (8, 7, 7), seed).seen for seed in range(20)}
    assert len(drawn) == 20


@given(corpora(), seeds)
def test_split_follows_the_groups_and_the_floors(corpus, seed):
    partition, labels, ids = corpus
    assignment = split_samples(labels, partition, seed, ids)
    assert len(assignment) == len(labels)
    counted = Counter(zip(labels, assignment, strict=True))
    for label, number in Counter(labels).items():
        got = tuple(counted[label, split] for split in SPLITS)
        if label in partition.seen:
            fit = int(0.7 * number)
            train = int(0.9 * fit)
            assert got == (train, fit - train, number - fit)
            assert min(got) >= 1
        elif label in partition.validation_unseen:
            assert got == (0, number, 0)
        elif label in partition.test_unseen:
            assert got == (0, 0, number)
        else:
            assert counted[label, None] == number


@given(corpora(), seeds, st.randoms(use_true_random=False))
def test_split_of_an_id_does_not_depend_on_the_order_of_samples(corpus, seed, random):
    partition, labels, ids = corpus
    before = dict(zip(ids, split_samples(labels, partition, seed, ids), strict=True))
    pairs = list(zip(labels, ids, strict=True))
    random.shuffle(pairs)
    labels, ids = zip(*pairs, strict=True)
    assert dict(zip(ids, split_samples(labels, partition, seed, ids), strict=True)) == before


@given(corpora(), seeds)
def test_split_is_deterministic_without_ids(corpus, seed):
    partition, labels, _ = corpus
    assert split_samples(labels, partition, seed) == split_samples(labels, partition, seed)


def test_split_of_a_label_does_not_depend_on_other_labels():
    partition = ClassPartition(("a", "b"), ("v",), ("t",))
    few = split_samples(["a"] * 10 + ["b"] * 3 + ["v", "t"], partition, 0)
    many = split_samples(["a"] * 10 + ["b"] * 30 + ["v", "t"], partition, 0)
    assert few[:10] == many[:10]


def test_split_depends_on_the_seed():
    partition = ClassPartition(("a",), ("v",), ("t",))
    labels = ["a"] * 40 + ["v", "t"]
    assert split_samples(labels, partition, 0) != split_samples(labels, partition, 1)


def outputs_by_hash_seed(code, seeds):
    """What code prints under several hash seeds of Python."""
    # The module alone, which needs nothing, starts faster than the package.
    folder = str(Path(protocol.__file__).parent)
    return {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PATH": "", "PYTHONPATH": folder},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in seeds
    }


def test_split_does_not_depend_on_the_hash_seed():
    code = (
        "from protocol import ClassPartition, split_samples\n"
        "p = ClassPartition(('a', 'b'), ('v',), ('t',))\n"
        "print(split_samples(list('ab' * 9 + 'vt'), p, 5, [f's{i}' for i in range(20)]))"
    )
    assert len(outputs_by_hash_seed(code, ("1", "2"))) == 1


def test_split_is_the_same_on_every_machine():
    """Recorded once: a change here moves samples and must raise PROTOCOL_VERSION."""
    partition = random_partition(list("abcdef"), (2, 2, 2), 7)
    assert partition == ClassPartition(*RECORDED_PARTITION)
    labels = [label for label in "abcdef" for _ in range(5)]
    assignment = split_samples(labels, partition, 7, [f"s{i:02d}" for i in range(30)])
    assert "".join(split[1] for split in assignment if split) == RECORDED_SPLIT


# Second letters of the splits: tRain, vAlidation, tEst.
RECORDED_PARTITION = (("a", "e"), ("c", "d"), ("b", "f"))
RECORDED_SPLIT = "reraeeeeeeaaaaaaaaaaaerreeeeee"


@pytest.mark.parametrize(
    ("number", "sizes"),
    [(3, (1, 1, 1)), (7, (3, 1, 3)), (10, (6, 1, 3)), (90, (55, 7, 28)), (1236, (778, 87, 371))],
)
def test_seen_sizes_are_cut_as_int_does(number, sizes):
    assert seen_sizes(number) == sizes


@pytest.mark.parametrize(
    ("number", "counts"), [(3, (1, 1, 1)), (12, (4, 4, 4)), (22, (8, 7, 7)), (23, (8, 8, 7))]
)
def test_even_counts(number, counts):
    assert even_counts(number) == counts


def test_wikidiverse_rotations_use_every_group_in_every_role():
    partitions = WIKIDIVERSE_PARTITIONS
    assert list(partitions) == [1, 2, 3]
    assert partitions[1].seen == ("People", "Site", "Building", "Currency")
    assert partitions[2].seen == partitions[1].validation_unseen
    assert partitions[3].seen == partitions[1].test_unseen
    assert partitions[2].test_unseen == partitions[1].seen
    assert partitions[3].validation_unseen == partitions[1].seen
    assert len({partition.labels for partition in partitions.values()}) == 1
    assert len(partitions[1].labels) == 12


def test_partition_takes_lists_and_keeps_tuples():
    assert ClassPartition(["a"], ["b"], ["c"]) == ClassPartition(("a",), ("b",), ("c",))


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        (((), ("b",), ("c",)), ValueError, "seen: expected at least one label"),
        ((("a",), (), ("c",)), ValueError, "validation_unseen: expected at least one"),
        ((("a",), ("b",), ("a",)), ValueError, "'a' is given in seen and in test_unseen"),
        ((("a", "a"), ("b",), ("c",)), ValueError, "'a' is given in seen and in seen"),
        (("abc", ("b",), ("c",)), TypeError, "seen: expected a sequence of label names"),
        (((1,), ("b",), ("c",)), TypeError, "seen: expected a sequence of label names"),
    ],
)
def test_partition_errors(groups, error, message):
    with pytest.raises(error, match=message):
        ClassPartition(*groups)


@pytest.mark.parametrize(
    ("labels", "counts", "message"),
    [
        ("abc", (1, 1), "three positive counts"),
        ("abc", (3, 0, 0), "three positive counts"),
        ("abcd", (1, 1, 1), "add up to 3, but there are 4 labels"),
        ("abca", (2, 1, 1), r"got repeated labels \['a'\]"),
    ],
)
def test_random_partition_errors(labels, counts, message):
    with pytest.raises(ValueError, match=message):
        random_partition(list(labels), counts, 0)


def test_even_counts_error():
    with pytest.raises(ValueError, match="at least 3 labels"):
        even_counts(2)


@pytest.mark.parametrize(
    ("labels", "ids", "message"),
    [
        ("aavt", None, "seen label 'a' has 2 sample"),
        ("aaav", None, "label 't' of the partition has no sample"),
        ("vt", None, "label 'a' of the partition has no sample"),
        ("aaavt", ["1"], "1 ids for 5 samples"),
        ("aaavt", ["1", "2", "3", "3", "4"], "distinct ids"),
    ],
)
def test_split_errors(labels, ids, message):
    partition = ClassPartition(("a",), ("v",), ("t",))
    with pytest.raises(ValueError, match=message):
        split_samples(list(labels), partition, 0, ids)
