"""Mentions and labels outside the vocabulary: the prediction says that it does not read them."""

import json

import pytest
import torch
from PIL import Image
from tiny_world import tiny_picture, tiny_pipeline

LABELS = ["animal", "tool"]


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


def test_a_mention_of_unknown_tokens_is_told(pipe):
    birds = [pipe("anna sees the 鸟 today", mention="鸟", labels=LABELS),
             pipe("anna sees the 鱼 today", mention="鱼", labels=LABELS)]  # fmt: skip
    assert birds[0]["scores"] == birds[1]["scores"]  # the model cannot tell them apart
    for result, mention in zip(birds, "鸟鱼", strict=True):
        [warning] = result["warnings"]
        assert warning.startswith(f"The mention '{mention}' consists only of tokens unknown to")
    json.dumps(birds)


@pytest.mark.parametrize("mention", ["fox", "the 鸟 fox"])
def test_a_mention_with_a_known_token_is_not(mention, pipe):
    result = pipe(f"anna sees {mention} today", mention=mention, labels=LABELS)
    assert result["warnings"] == []


def test_head_and_tail_are_told_apart():
    pipe = tiny_pipeline("relation", vision=False)
    labels = ["feeds", "drives"]
    result = pipe("anna sees 鸟", mention=("anna", "鸟"), labels=labels)
    assert [warning.split("'")[0] for warning in result["warnings"]] == ["The tail "]
    result = pipe("鱼 sees 鸟", mention=("鱼", "鸟"), labels=labels)
    assert [warning.split("'")[0] for warning in result["warnings"]] == ["The head ", "The tail "]


def test_labels_of_unknown_tokens_are_told_and_only_where_they_are_given(pipe):
    foxes = {"text": "anna sees the fox", "mention": "fox"}
    results = pipe([foxes | {"labels": ["鸟", "animal", "鱼"]}, foxes], labels=LABELS)
    [warning] = results[0]["warnings"]
    assert warning.startswith("2 of 3 labels consist only of tokens unknown to the model")
    assert warning.endswith("'鸟', '鱼'")
    assert results[1]["warnings"] == []
    # what counts is the text that the encoder reads
    assert pipe(foxes, labels={"鸟": "an animal", "tool": None})["warnings"] == []
    assert len(pipe(foxes, labels={"animal": "鸟", "tool": None})["warnings"]) == 1


def test_labels_loaded_from_a_cache_are_judged_too(tmp_path):
    pipe = tiny_pipeline(vision=False)
    pipe.label_cache.vectors(["鸟", "animal"])
    pipe.label_cache.save(tmp_path)
    pipe.label_cache.load(tmp_path)
    result = pipe("anna sees the fox", mention="fox", labels=["鸟", "animal"])
    assert len(result["warnings"]) == 1


class Refusing:
    """An image processor that raises on any image."""

    def __init__(self, processor, error):
        self.processor, self.error = processor, error

    def __getattr__(self, name):
        return getattr(self.processor, name)

    def __call__(self, *_, **__):
        raise self.error


@pytest.mark.parametrize(
    "error",
    [MemoryError(), OverflowError("too large"), ZeroDivisionError("0"), RuntimeError("odd"),
     Image.DecompressionBombError("bomb"), SyntaxError("broken PNG"), ValueError("no mean"),
     OSError("disk")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_errors_of_image_processing_name_the_input_and_may_be_returned(error, monkeypatch):
    pipe = tiny_pipeline()
    refusing = Refusing(pipe.processor.image_processor, error)
    monkeypatch.setattr(pipe.processor, "image_processor", refusing)
    good = {"text": "anna sees the fox", "mention": "fox"}
    bad = good | {"image": tiny_picture("animal")}
    reason = str(error) or type(error).__name__
    with pytest.raises(ValueError, match=rf"inputs\[1\]\.image: cannot be processed \({reason}\)"):
        pipe([good, bad], labels=LABELS)
    first, failure = pipe([good, bad], labels=LABELS, on_error="return")
    assert first["label"] in LABELS
    assert failure == {"error": f"inputs[1].image: cannot be processed ({reason})"}


def test_pixels_that_are_not_finite_are_refused(monkeypatch):
    pipe = tiny_pipeline()
    encode = pipe.processor.encode_images
    monkeypatch.setattr(
        pipe.processor,
        "encode_images",
        lambda *given: encode(*given) | {"pixel_values": torch.full((1, 3, 32, 32), torch.inf)},
    )
    with pytest.raises(ValueError, match=r"input\.image: its processed values are not finite"):
        pipe("anna sees the fox", mention="fox", labels=LABELS, image=tiny_picture("animal"))
