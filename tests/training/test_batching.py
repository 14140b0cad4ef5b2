"""Batches: balanced, of like length, the same however many processes share them."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_world import tiny_processor, tiny_records, tiny_tokenizer
from transformers import CLIPImageProcessorPil

from modeling_hmgrl import HMGRLProcessor
from modeling_hmgrl.training.batching import WINDOW, Batches, Collator, Samples, by_length
from modeling_hmgrl.training.feature_cache import StateCache
from modeling_hmgrl.training.frozen_features import text_key


def world(size, labels=4, seed=0):
    """Labels, the first far more frequent than the last; lengths, most short and some long."""
    rng = np.random.default_rng(seed)
    share = 0.5 ** np.arange(labels)
    names = [*range(labels), *rng.choice(labels, size - labels, p=share / share.sum()).tolist()]
    return names, np.clip(rng.lognormal(2.7, 0.7, size), 4, 128).astype(int).tolist()


def epoch_of(batches, epoch=0, batch=0):
    batches.start_at(epoch, batch)
    found = list(batches)
    assert len(found) == len(batches)
    return found


def flat(batches):
    return [index for batch in batches for index in batch]


@pytest.fixture(scope="module")
def records():
    data = tiny_records(30)["train"]
    keys = [None if i % 10 == 9 else f"p{i % 4}" for i in range(len(data))]
    return data, data.remove_columns("image").add_column("image_key", keys)


@pytest.mark.parametrize("task", ["typing", "relation"])
def test_samples_are_what_the_processor_makes(task, monkeypatch):
    monkeypatch.setattr("modeling_hmgrl.training.batching._TOKENISED_AT_ONCE", 7)
    data, processor = tiny_records(30, task=task)["train"], tiny_processor(task)
    samples = Samples(data, processor)
    assert len(samples) == 30
    batch = processor(list(data["text"]), list(data["spans"]))
    assert samples.lengths == batch["attention_mask"].sum(1).tolist()
    for index in range(30):
        sample, length = samples[index], samples.lengths[index]
        assert sample["index"] == index
        assert list(sample["ids"]) == batch["input_ids"][index, :length].tolist()
        assert np.array_equal(sample["positions"], batch["span_positions"][index])
        assert sample["label"] == data[index]["label"]
        assert (sample["image"] is None) == (data[index]["image"] is None)
        assert "image_key" not in sample


def test_samples_have_images_keys_or_neither(records):
    data, keyed = records
    samples = Samples(keyed, tiny_processor())
    assert samples[9]["image_key"] is None
    assert samples[5]["image_key"] == "p1"
    assert "image" not in samples[5]
    bare = Samples(data.remove_columns("image"), tiny_processor())
    assert not {"image", "image_key"} & set(bare[5])


@pytest.mark.parametrize("size", [8, 6])
def test_every_label_is_drawn_equally_often(size):
    labels, lengths = world(1500)
    batches = epoch_of(Batches(labels, lengths, size))
    assert {len(batch) for batch in batches} == {size}
    drawn = Counter(labels[index] for index in flat(batches))
    assert max(drawn.values()) - min(drawn.values()) <= 1
    for start in range(0, len(batches), WINDOW):
        window = Counter(labels[index] for index in flat(batches[start : start + WINDOW]))
        # A window may begin and end within a turn of the labels.
        assert max(window.values()) - min(window.values()) <= (2 if start else 1)
    for batch in batches:
        counts = Counter(labels[index] for index in batch)
        assert len(counts) == 4
        if size % 4 == 0:
            assert set(counts.values()) == {size // 4}
    samples = Counter(flat(batches))
    for label in range(4):  # all of them are drawn before one is drawn again
        times = [samples[index] for index, own in enumerate(labels) if own == label]
        assert max(times) - min(times) <= 1
    assert max(samples.values()) > 1


@pytest.mark.parametrize(("count", "multiple"), [(64, 1), (67, 1), (67, 4), (3, 1), (3, 2)])
def test_a_plain_shuffle_draws_every_sample_once_and_fills_up(count, multiple):
    labels, lengths = world(count, 2)
    batches = epoch_of(Batches(labels, lengths, 8, balanced=False, multiple=multiple))
    assert len(batches) % multiple == 0
    assert len(batches) == -(-count // (8 * multiple)) * multiple
    assert {len(batch) for batch in batches} == {8}
    drawn = Counter(flat(batches))
    assert set(drawn) == set(range(count))
    assert max(drawn.values()) - min(drawn.values()) <= 1
    assert drawn.total() == 8 * len(batches)


def padding(batches, lengths):
    """Tokens with padding by tokens without."""
    whole = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    return whole / sum(lengths[index] for batch in batches for index in batch)


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_batch_holds_texts_of_like_length(balanced, processes):
    labels, lengths = world(4000)
    batches = flat(
        epoch_of(Batches(labels, lengths, 16, 0, balanced, 1, process, processes))
        for process in range(processes)
    )
    order = np.random.default_rng(0).permutation(flat(batches))
    wasted, by_chance = padding(batches, lengths), padding(order.reshape(-1, 16), lengths)
    assert wasted < 0.75 * by_chance
    means = [np.mean([lengths[index] for index in batch]) for batch in batches[:WINDOW]]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.7  # long ones not all at the end


@pytest.mark.parametrize("balanced", [True, False])
def test_seed_and_epoch_alone_decide(balanced):
    labels, lengths = world(700)

    def make(seed=0):
        return Batches(labels, lengths, 8, seed, balanced)

    first = epoch_of(make(), 3)
    torch.manual_seed(5)
    np.random.seed(5)
    again = make()
    epoch_of(again, 0)
    assert epoch_of(again, 3) == list(again) == first
    assert first not in (epoch_of(make(), 2), epoch_of(make(seed=1), 3))


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 500), st.integers(1, 9), st.integers(0, 5), st.booleans())
def test_an_epoch_is_taken_up_anywhere(data, count, size, epoch, balanced):
    labels, lengths = world(max(count, 3), 3, count)
    batches = Batches(labels, lengths, size, balanced=balanced)
    whole = epoch_of(batches, epoch)
    first = data.draw(st.integers(0, len(whole)))
    assert epoch_of(batches, epoch, first) == whole[first:]


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(5, 400),
    size=st.integers(1, 6),
    processes=st.sampled_from([1, 2, 4]),
    multiple=st.integers(1, 3),
    epoch=st.integers(0, 3),
    balanced=st.booleans(),
)
def test_processes_divide_the_batches_of_one(count, size, processes, multiple, epoch, balanced):
    labels, lengths = world(count, 5, count)
    one = epoch_of(Batches(labels, lengths, size * processes, 1, balanced, multiple), epoch)
    parts = [
        epoch_of(Batches(labels, lengths, size, 1, balanced, multiple, number, processes), epoch)
        for number in range(processes)
    ]
    assert len(one) % multiple == 0
    for k, batch in enumerate(one):
        assert {len(part[k]) for part in parts} == {size}
        assert Counter(flat(part[k] for part in parts)) == Counter(batch)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=60),
    size=st.integers(1, 9),
    processes=st.integers(1, 5),
)
def test_evaluation_covers_every_sample_by_length(lengths, size, processes):
    parts = [by_length(lengths, size, process, processes) for process in range(processes)]
    assert len({len(part) for part in parts}) == 1
    assert len({len(batch) for part in parts for batch in part}) == 1
    assert len(parts[0][0]) <= size
    drawn = flat(flat(batches) for batches in zip(*parts, strict=True))
    assert set(drawn) == set(range(len(lengths)))
    ordered = [lengths[index] for index in drawn]
    assert ordered == sorted(ordered)
    assert len(drawn) - len(lengths) < processes * min(size, -(-len(lengths) // processes))


def test_evaluation_of_fewer_samples_than_processes():
    assert [by_length([3, 1], 8, process, 4) for process in range(4)] == [
        [[1]],
        [[0]],
        [[0]],
        [[0]],
    ]


@pytest.fixture
def pictures(tmp_path):
    cache = StateCache(tmp_path / "images")
    keys = [f"p{i}" for i in range(4)]
    states = {key: np.full((17, 24), i + 1, np.float16) for i, key in enumerate(keys)}
    cache.fill(keys, lambda part: [states[key] for key in part], 4, "", show_progress=False)
    return cache


def test_collated_texts_spans_and_labels(records):
    data, processor = records[0], tiny_processor()
    samples = Samples(data, processor)
    rows = [9, 4, 0]
    names = [data[index]["label"] for index in rows]
    other = {label: place for place, label in enumerate(sorted(set(names), reverse=True), 5)}
    batch = Collator(processor, other)([samples[index] for index in rows])
    part = data.select(rows)
    wanted = processor(list(part["text"]), list(part["spans"]), list(part["image"]))
    assert set(batch) == {*wanted, "labels"}
    assert all(torch.equal(batch[name], wanted[name]) for name in wanted)
    assert batch["image_mask"].tolist() == [False, True, True]
    assert batch["labels"].tolist() == [other[name] for name in names]
    bare = Collator(processor, use_images=False)([samples[0]])
    assert set(bare) == {"input_ids", "attention_mask", "span_positions"}


def test_collated_image_states(records, pictures):
    samples = Samples(records[1], tiny_processor())
    collate = Collator(tiny_processor(), images=pictures)
    batch = collate([samples[9], samples[6], samples[4]])
    assert batch["image_mask"].tolist() == [False, True, True]
    assert batch["image_features"][:, 0, 0].tolist() == [0, 3, 1]
    assert batch["image_features"].shape == (3, 17, 24)
    assert not {"image_features", "image_mask"} & set(collate([samples[9]]))


def test_a_batch_without_images_has_masked_ones_if_it_must(records, pictures):
    keyed, opened = Samples(records[1], tiny_processor()), Samples(records[0], tiny_processor())
    absent, present = [9, 19], [9, 6]
    for samples, images, name in (
        (keyed, pictures, "image_features"),
        (opened, None, "pixel_values"),
    ):
        collate = Collator(tiny_processor(), images=images, always_images=True)
        empty = collate([samples[index] for index in absent])
        full = collate([samples[index] for index in present])
        assert empty["image_mask"].tolist() == [False, False]
        assert full["image_mask"].tolist() == [False, True]
        assert not empty[name].any()
        assert empty[name].dtype == full[name].dtype
        assert empty[name].shape[-1] == full[name].shape[-1]
    assert empty["pixel_values"].shape == full["pixel_values"].shape


def test_masked_images_have_the_size_the_image_processor_makes():
    """CLIP's names a shortest edge to scale to and a size to cut out."""
    clip = CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    processor = HMGRLProcessor(clip, tiny_tokenizer(), max_length=64)
    samples = Samples(tiny_records(30)["train"], processor)
    batch = Collator(processor, always_images=True)([samples[9], samples[19]])
    assert batch["pixel_values"].shape == (2, 3, 32, 32)
    assert not batch["pixel_values"].any()


@pytest.mark.parametrize("fixed", [True, False])
def test_text_states_are_padded_as_the_tokens_are(records, tmp_path, fixed):
    processor = tiny_processor(pad_to_max_length=fixed)
    samples = Samples(records[1], processor)
    texts = StateCache(tmp_path)
    states = {text_key(t.ids): np.full((len(t.ids), 3), len(t.ids)) for t in samples.texts}
    texts.fill(states, lambda keys: [states[key] for key in keys], 8, "", show_progress=False)
    rows = [int(np.argmin(samples.lengths)), int(np.argmax(samples.lengths))]
    batch = Collator(processor, texts=texts, use_images=False)([samples[row] for row in rows])
    assert batch["input_ids"].shape[1] == (64 if fixed else max(samples.lengths))
    found, mask = batch["text_features"], batch["attention_mask"]
    assert found.shape == (2, batch["input_ids"].shape[1], 3)
    wanted = mask * torch.tensor([samples.lengths[row] for row in rows])[:, None]
    assert torch.equal(found[..., 0].long(), wanted)
