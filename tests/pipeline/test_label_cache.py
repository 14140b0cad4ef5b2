"""Label vectors: computed once for each text, dropped with the weights, kept on disk."""

import json
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_world import LABELS, tiny_model, tiny_pipeline, tiny_processor

from modeling_hmgrl import HMGRLForZeroShotTyping, LabelCache
from modeling_hmgrl.label_cache import TEXTS_NAME, VECTORS_NAME


def make(model=None, **settings):
    return LabelCache(model or tiny_model(), tiny_processor(), **settings)


def count_encoded(monkeypatch, model):
    """Counts the label texts that the model encodes."""
    counts, encode = [], model.encode_labels

    def counted(ids, mask=None):
        counts.append(len(ids))
        return encode(ids, mask)

    monkeypatch.setattr(model, "encode_labels", counted)
    return counts


def direct(model, texts):
    encoded = tiny_processor().encode_labels(texts)
    with torch.no_grad():
        return model.prepare_labels(
            model.encode_labels(encoded["candidate_input_ids"], encoded["candidate_attention_mask"])
        )


def test_vectors_are_those_of_the_model_in_the_order_asked_for():
    cache = make(batch_size=2)
    texts = ["tool", "a kind of bird", "tool", "x", "old oak near the bus"]
    for asked in (texts, texts[::-1], texts[1:3], ["x"] * 3):
        found = cache.vectors(asked)
        torch.testing.assert_close(found, direct(cache.model, asked), rtol=1e-4, atol=1e-5)
    assert len(cache) == 4
    assert "tool" in cache
    assert "fox" not in cache


def test_each_text_is_encoded_once(monkeypatch):
    cache = make(batch_size=3)
    counts = count_encoded(monkeypatch, cache.model)
    cache.vectors([*LABELS, *LABELS])
    assert counts == [3, 3]
    cache.vectors(LABELS[::-1])
    cache.vectors([*LABELS, "new"])
    assert counts == [3, 3, 1]
    cache.clear()
    assert len(cache) == 0
    cache.vectors(LABELS[:1])
    assert counts == [3, 3, 1, 1]


def test_calls_of_a_pipeline_share_them(monkeypatch):
    pipe = tiny_pipeline(seen_labels=LABELS[:2], label_texts={"/t": "tool"})
    counts = count_encoded(monkeypatch, pipe.model)
    inputs = [{"text": "the fox", "mention": "fox", "labels": LABELS[:k]} for k in (1, 2, 3)] * 20
    pipe(inputs, labels=LABELS, batch_size=2)
    assert sum(counts) == 3
    pipe("the fox", mention="fox", labels={"x": "tool", "y": "animal"})
    pipe("the fox", mention="fox", labels=["/t"])
    pipe("the fox", mention="fox")
    assert sum(counts) == 4
    assert len(pipe.label_cache) == 4


def test_vectors_handed_out_stay_as_they_are():
    cache = make(batch_size=2)
    held = cache.vectors(LABELS[:2])
    copy = held.clone()
    cache.vectors(LABELS)
    cache.vectors([str(k) for k in range(50)])
    assert torch.equal(held, copy)


@pytest.mark.parametrize("texts", [[], ()])
def test_no_text_is_refused(texts):
    with pytest.raises(ValueError, match=r"^labels: got none, expected at least one"):
        make().vectors(texts)


def test_an_error_leaves_what_was_there(monkeypatch):
    cache = make(batch_size=1)
    before = cache.vectors(LABELS[:2]).clone()
    with pytest.raises(ValueError, match="blank"):
        cache.vectors([*LABELS, " "])
    assert len(cache) == 2
    assert torch.equal(cache.vectors(LABELS[:2]), before)
    found = cache.vectors(LABELS)
    torch.testing.assert_close(found, direct(cache.model, LABELS), rtol=1e-4, atol=1e-5)


def test_what_is_kept_is_bounded():
    cache = make(max_texts=10)
    cache.vectors(LABELS)
    cache.vectors([f"old {k}" for k in range(4)])
    assert len(cache) == 10
    cache.vectors(["tool", "one more"])
    assert len(cache) == 2
    many = [f"near {k}" for k in range(30)]  # one call may have more
    torch.testing.assert_close(cache.vectors(many), direct(cache.model, many), rtol=1e-4, atol=1e-5)
    assert len(cache) == 30


def test_threads_get_the_vectors_of_their_texts():
    cache, wrong = make(batch_size=2), []
    expected = direct(cache.model, [f"old {k}" for k in range(60)])

    def work(part):
        for k in part:
            if not torch.allclose(
                cache.vectors([f"old {k}"])[0], expected[k], rtol=1e-4, atol=1e-5
            ):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(range(k, 60, 4),)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# Weights that change


def step(kind):
    def change(model):
        part = [model.scorer.label_projection.weight]
        optimizers = {
            "sgd": lambda: torch.optim.SGD(part, lr=0.1),
            "adamw": lambda: torch.optim.AdamW(part, lr=0.1),
            "foreach": lambda: torch.optim.AdamW(part, lr=0.1, foreach=True),
            "fused": lambda: torch.optim.AdamW(part, lr=0.1, fused=True),
        }
        optimizer = optimizers[kind]()
        # not all alike: an encoding's mean is 0, so that such a step would change nothing
        part[0].grad = torch.randn(part[0].shape, generator=torch.Generator().manual_seed(0))
        optimizer.step()

    return change


def load_in_place(model):
    model.load_state_dict(tiny_model(seed=5).state_dict())


def assign(model):
    model.load_state_dict(tiny_model(seed=5).state_dict(), assign=True)


def write(model):
    with torch.no_grad():
        model.scorer.label_projection.weight[0, 0] += 1


CHANGES = {
    **{kind: step(kind) for kind in ("sgd", "adamw", "foreach", "fused")},
    "load_state_dict": load_in_place,
    "load_state_dict, assign": assign,
    "one number": write,
}


@pytest.mark.parametrize("name", CHANGES)
def test_vectors_are_dropped_when_weights_change(name):
    cache = make()
    before = cache.vectors(LABELS).clone()
    CHANGES[name](cache.model)
    after = cache.vectors(LABELS)
    assert not torch.allclose(before, after, atol=1e-3)
    torch.testing.assert_close(after, direct(cache.model, LABELS), rtol=1e-4, atol=1e-5)


def test_vectors_follow_the_model_to_another_type():
    cache = make()
    cache.vectors(LABELS)
    cache.model.double()
    assert cache.vectors(LABELS).dtype == torch.float64


def test_vectors_of_old_weights_are_not_saved(tmp_path):
    cache = make()
    cache.vectors(LABELS)
    write(cache.model)
    with pytest.raises(ValueError, match=r"^label cache: holds no labels, expected some to save"):
        cache.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


# On disk


def test_it_is_saved_and_loaded_to_the_bit(tmp_path, monkeypatch):
    cache = make(batch_size=2)
    cache.vectors(LABELS[:3])
    expected = cache.vectors(LABELS).clone()
    cache.save(tmp_path / "a" / "b")
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [
        VECTORS_NAME, TEXTS_NAME,
    ]  # fmt: skip
    other = make()
    other.vectors(["goes", "away"])
    counts = count_encoded(monkeypatch, other.model)
    other.load(tmp_path / "a" / "b")
    assert len(other) == len(LABELS)
    assert torch.equal(other.vectors(LABELS), expected)
    assert counts == []
    other.vectors([*LABELS, "new"])
    assert counts == [1]
    assert torch.equal(other.vectors(LABELS), expected)


def test_it_is_loaded_by_a_model_that_was_saved_and_loaded(tmp_path):
    pipe = tiny_pipeline(seen_labels=LABELS, calibration_gamma=0.5)
    expected = pipe.label_cache.vectors(LABELS)
    pipe.label_cache.save(tmp_path / "labels")
    pipe.save_pretrained(tmp_path / "model")
    model = HMGRLForZeroShotTyping.from_pretrained(tmp_path / "model")
    model.config.calibration_gamma = 0.0  # what is done with scores does not touch the vectors
    cache = LabelCache(model, pipe.processor)
    cache.load(tmp_path / "labels")
    assert torch.equal(cache.vectors(LABELS), expected)


def test_it_is_loaded_after_weights_changed_to_those_it_is_of(tmp_path, monkeypatch):
    cache, other = make(), make(tiny_model(seed=5))
    expected = cache.vectors(LABELS).clone()
    cache.save(tmp_path)
    other.model.load_state_dict(cache.model.state_dict())
    counts = count_encoded(monkeypatch, other.model)
    other.load(tmp_path)
    assert torch.equal(other.vectors(LABELS), expected)
    assert counts == []


@pytest.mark.parametrize("what", ["weights", "settings", "label_max_length", "tokenizer"])
def test_vectors_of_another_model_are_refused(tmp_path, what):
    cache, other = make(), make()
    cache.vectors(LABELS)
    cache.save(tmp_path)
    if what == "weights":
        write(other.model)
    elif what == "settings":
        other.model.config.mask_padding = False
    elif what == "label_max_length":
        other.processor = tiny_processor(label_max_length=9)
    else:
        other.processor.tokenizer.add_tokens(["foxes"])
    before = other.vectors(["animal"]).clone()
    with pytest.raises(
        ValueError, match="are of other weights or settings, expected those of this"
    ):
        other.load(tmp_path)
    assert torch.equal(other.vectors(["animal"]), before)


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_vectors(folder):
    save_file({"other": torch.zeros(1)}, folder / VECTORS_NAME)


def other_order(folder):
    content = json.loads((folder / TEXTS_NAME).read_text())
    content["texts"] = content["texts"][::-1]
    (folder / TEXTS_NAME).write_text(json.dumps(content))


def without_mark(folder):
    save_file(load_file(folder / VECTORS_NAME), folder / VECTORS_NAME)


def of_another_save(folder):
    cache = make()
    cache.vectors(LABELS[::-1])
    kept = (folder / VECTORS_NAME).read_bytes()
    cache.save(folder)
    (folder / VECTORS_NAME).write_bytes(kept)


DAMAGE = {
    "half the vectors": lambda folder: half(folder / VECTORS_NAME),
    "half the texts": lambda folder: half(folder / TEXTS_NAME),
    "no bytes": lambda folder: (folder / VECTORS_NAME).write_bytes(b""),
    "texts are no UTF-8": lambda folder: (folder / TEXTS_NAME).write_bytes(b"\xff\xfe"),
    "texts are a list": lambda folder: (folder / TEXTS_NAME).write_text("[]"),
    "texts are deep": lambda folder: (folder / TEXTS_NAME).write_text("[" * 100_000),
    "texts in another order": other_order,
    "no vectors": without_vectors,
    "no mark": without_mark,
    "a save that was cut off": of_another_save,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files_are_refused(tmp_path, name):
    cache = make()
    cache.vectors(LABELS)
    cache.save(tmp_path)
    DAMAGE[name](tmp_path)
    with pytest.raises(ValueError, match=r": (damaged|labels.json .* do not match)[ ,].*expected"):
        cache.load(tmp_path)
    assert len(cache) == len(LABELS)
    cache.save(tmp_path)
    cache.load(tmp_path)


def test_absent_files_are_named(tmp_path):
    cache = make()
    cache.vectors(LABELS)
    for missing in (TEXTS_NAME, VECTORS_NAME):
        cache.save(tmp_path)
        (tmp_path / missing).unlink()
        with pytest.raises(FileNotFoundError, match=f"expected {TEXTS_NAME} and {VECTORS_NAME}"):
            cache.load(tmp_path)
