import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_world import (
    save_backbones,
    tiny_image_processor,
    tiny_picture,
    tiny_processor,
    tiny_tokenizer,
    vocabulary,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoProcessor,
    BertTokenizer,
    CLIPImageProcessorPil,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as library_logging

from modeling_hmgrl import HMGRLProcessor

FOX, HEN = "anna sees the fox", "the hen sees boris today again"
FOX_SPAN, HEN_SPAN = [[14, 17]], [[4, 7]]


def words(processor, row):
    return processor.tokenizer.convert_ids_to_tokens(row)


def spaced(processor, row):
    return " ".join(words(processor, row))


@pytest.fixture
def warnings_of_library():
    """Messages of the library's loggers, which do not pass on to the root logger."""
    messages = []

    class Keep(logging.Handler):
        def emit(self, record):
            messages.append(record.getMessage())

    logger, handler = library_logging.get_logger("modeling_hmgrl.processing_hmgrl"), Keep()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


# Texts


def test_layout_of_one_typing_sample():
    processor = tiny_processor()
    batch = processor(FOX, FOX_SPAN)
    assert spaced(processor, batch["input_ids"][0]) == "[CLS] anna sees the [E1] fox [/E1] [SEP]"
    assert batch["span_positions"].tolist() == [[[4, 6]]]
    assert batch["attention_mask"].tolist() == [[1] * 8]
    assert batch.windows == [None]
    assert set(batch) == {"input_ids", "attention_mask", "span_positions"}


def test_layout_of_a_relation_whose_tail_comes_first():
    processor = tiny_processor("relation")
    batch = processor("anna feeds boris", [[11, 16], [0, 4]])
    assert (
        spaced(processor, batch["input_ids"][0])
        == "[CLS] [E2] anna [/E2] feeds [E1] boris [/E1] [SEP]"
    )
    assert batch["span_positions"].tolist() == [[[5, 7], [1, 3]]]  # the head's first


def test_batch_is_padded_to_its_longest_text():
    processor = tiny_processor()
    batch = processor([FOX, HEN], [FOX_SPAN, HEN_SPAN])
    assert batch["input_ids"].shape == (2, 10)
    assert batch["attention_mask"].sum(1).tolist() == [8, 10]
    assert words(processor, batch["input_ids"][0])[8:] == ["[PAD]"] * 2
    assert batch["span_positions"].shape == (2, 1, 2)
    for name in ("input_ids", "attention_mask", "span_positions"):
        assert batch[name].dtype == torch.int64


@pytest.mark.parametrize("make", [list, tuple, np.array, torch.tensor])
def test_spans_may_be_nested_lists_arrays_or_tensors(make):
    processor = tiny_processor("relation")
    spans = [[[11, 16], [0, 4]]]
    given, expected = (processor(["anna feeds boris"], s) for s in (make(spans), spans))
    assert torch.equal(given["span_positions"], expected["span_positions"])


def test_fixed_lengths_of_the_papers_settings():
    processor = tiny_processor(pad_to_max_length=True, max_length=20, label_max_length=6)
    batch = processor(FOX, FOX_SPAN, labels=["animal"])
    assert batch["input_ids"].shape == (1, 20)
    assert batch["candidate_input_ids"].shape == (1, 6)
    assert batch["attention_mask"].sum() == 8


def test_long_texts_are_windowed_and_the_window_is_reported():
    processor = tiny_processor(max_length=16)
    long = "near " * 40 + FOX
    batch = processor([FOX, long], [FOX_SPAN, [[len(long) - 3, len(long)]]])
    assert batch["input_ids"].shape == (2, 16)
    assert batch.windows[0] is None
    [(start, end)] = batch.windows[1]
    assert (long[start:end], end) == ("near " * 8 + FOX, len(long))
    position = batch["span_positions"][1, 0]
    assert words(processor, batch["input_ids"][1])[position[0] : position[1] + 1] == (
        ["[E1]", "fox", "[/E1]"]
    )


@pytest.mark.parametrize("task", ["typing", "relation"])
@pytest.mark.parametrize("max_length", [10, 11, 17])
def test_shortest_lengths_keep_all_markers(task, max_length):
    processor = tiny_processor(task, max_length=max_length)
    text = "near fox " * 30
    spans = [[45, 48], [0, 260]][: processor.num_spans]
    batch = processor(text, spans)
    assert batch["input_ids"].shape == (1, max_length)
    found = words(processor, batch["input_ids"][0])
    assert [found[p] for p in batch["span_positions"].flatten()] == (
        ["[E1]", "[/E1]", "[E2]", "[/E2]"][: 2 * processor.num_spans]
    )
    assert (found[0], found[-1]) == ("[CLS]", "[SEP]")


def test_no_text_warns_of_its_length(warnings_of_library):
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 16
    processor = HMGRLProcessor(tiny_image_processor(), tokenizer, max_length=16)
    processor("near " * 40 + "fox", [[200, 203]], labels=["animal"])
    assert warnings_of_library == []


# Labels


def test_labels_are_texts_between_the_tokenizers_own_special_tokens():
    processor = tiny_processor()
    batch = processor(FOX, FOX_SPAN, labels=["animal", "the tool"], generator_labels=["place"])
    assert [words(processor, row) for row in batch["candidate_input_ids"]] == [
        ["[CLS]", "animal", "[SEP]", "[PAD]"],
        ["[CLS]", "the", "tool", "[SEP]"],
    ]
    assert batch["candidate_attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert words(processor, batch["synthetic_input_ids"][0]) == ["[CLS]", "place", "[SEP]"]
    assert batch["synthetic_attention_mask"].tolist() == [[1, 1, 1]]


@pytest.mark.parametrize("spelling", ["[E1]", "[/E2]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"])
def test_a_label_cannot_spell_a_special_token(spelling):
    processor = tiny_processor()
    row = processor.encode_labels([f"{spelling} tool"])["candidate_input_ids"][0]
    special = [t for t in words(processor, row) if t in processor.tokenizer.all_special_tokens]
    assert special == ["[CLS]", "[SEP]"]


def test_a_label_that_is_too_long_is_cut_with_a_warning(warnings_of_library):
    processor = tiny_processor(label_max_length=6)
    batch = processor.encode_labels(["tool", "the old tool of anna and boris", "the one two three"])
    assert batch["candidate_input_ids"].shape == (3, 6)
    assert spaced(processor, batch["candidate_input_ids"][1]) == "[CLS] the old tool of [SEP]"
    [message] = warnings_of_library
    assert "1 label texts were truncated to 6 tokens" in message
    assert "the old tool of anna" in message
    assert "label_max_length" in message


def test_a_label_that_just_fits_is_not_reported(warnings_of_library):
    processor = tiny_processor(label_max_length=6)
    processor.encode_labels(["the one two three"])
    assert warnings_of_library == []


# Pictures


def test_images_of_some_samples():
    processor = tiny_processor()
    pictures = [tiny_picture("animal"), None, np.array(tiny_picture("tool"))]
    batch = processor([FOX] * 3, [FOX_SPAN] * 3, pictures)
    assert batch["pixel_values"].shape == (3, 3, 32, 32)
    assert batch["pixel_values"].dtype == torch.float32
    assert batch["image_mask"].tolist() == [True, False, True]
    assert batch["pixel_values"][1].abs().max() == 0
    for row in (0, 2):
        alone = processor(FOX, FOX_SPAN, pictures[row])
        assert torch.equal(alone["pixel_values"][0], batch["pixel_values"][row])


def test_all_kinds_of_images_mix(tmp_path):
    picture = tiny_picture("plant", size=(50, 20))
    picture.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    kinds = [picture, tmp_path / "a.png", str(tmp_path / "a.png"), data, np.array(picture),
             {"path": str(tmp_path / "a.png"), "bytes": None}]  # fmt: skip
    pixels = tiny_processor()([FOX] * 6, [FOX_SPAN] * 6, kinds)["pixel_values"]
    assert all(torch.equal(row, pixels[0]) for row in pixels)


def test_pixels_are_those_of_the_image_processor():
    picture = tiny_picture("plant", size=(64, 48))
    expected = tiny_image_processor()(picture, return_tensors="pt")["pixel_values"]
    assert torch.equal(tiny_processor()(FOX, FOX_SPAN, picture)["pixel_values"], expected)
    gray = picture.convert("L")
    assert tiny_processor()(FOX, FOX_SPAN, gray)["pixel_values"].shape == (1, 3, 32, 32)


@pytest.mark.parametrize("images", [None, [None, None], [None], "single None"])
def test_no_image_at_all_leaves_no_tensor(images):
    processor = tiny_processor()
    if images == "single None":
        batch = processor(FOX, FOX_SPAN, None)
    else:
        count = 2 if images is None else len(images)
        batch = processor([FOX] * count, [FOX_SPAN] * count, images)
    assert "pixel_values" not in batch
    assert "image_mask" not in batch


def test_processor_of_text_only():
    processor = HMGRLProcessor(None, tiny_tokenizer(), use_images=False)
    assert "pixel_values" not in processor([FOX], [FOX_SPAN], [None])
    with pytest.raises(ValueError, match=r"^images: this processor reads text only"):
        processor(FOX, FOX_SPAN, tiny_picture("animal"))


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": ["fox", 3]}, r"^sample 1\.text: got int, expected a non-blank string"),
        ({"text": ["fox", "  "]}, r"^sample 1\.text: got an empty or blank string, expected"),
        ({"spans": [[[0, 3]], [[0, 9]]]}, r"^sample 1\.spans: got \[0, 9\], expected 0 <= start"),
        ({"spans": [[[0, 3]], [[0, 1], [1, 2]]]}, r"^sample 1\.spans: got 2 spans, expected 1"),
        ({"spans": [[[0, 3]], None]}, r"^sample 1\.spans: got None, expected pairs"),
        ({"spans": [[[0, 3]]]}, r"^spans: got 1 samples, expected 2, as many as texts"),
        ({"spans": None}, r"^spans: got NoneType, expected a list"),
        ({"text": None}, r"^text: got NoneType, expected a list"),
        ({"text": b"fox"}, r"^text: got bytes, expected a list"),
        ({"text": [], "spans": []}, r"^text: got no samples, expected at least one"),
        ({"images": [None]}, r"^images: got 1 samples, expected 2, as many as texts"),
        ({"images": Image.new("RGB", (4, 4))}, r"^images: got Image, expected a list"),
        ({"images": "a.png"}, r"^images: got str, expected a list"),
        ({"images": [None, b"x"]}, r"^sample 1\.image: not an image"),
        ({"images": [None, 3]}, r"^sample 1\.image: got int, expected a path"),
        (
            {"images": [None, "https://x.org/a.png"]},
            r"^sample 1\.image: got a URL, expected a file",
        ),
        ({"labels": []}, r"^labels: got \[\], expected a list of at least one label text"),
        ({"labels": "animal"}, r"^labels: got 'animal', expected a list"),
        ({"labels": 3}, r"^labels: got 3, expected a list"),
        ({"labels": ["animal", " "]}, r"^labels\[1\]: got ' ', expected a non-blank string"),
        ({"labels": ["animal", None]}, r"^labels\[1\]: got None, expected a non-blank string"),
        (
            {"generator_labels": ["", "tool"]},
            r"^generator_labels\[0\]: got '', expected a non-blank string",
        ),
    ],
)
def test_error_names_sample_field_and_expectation(arguments, message):
    valid = {"text": ["fox", "hen"], "spans": [[[0, 3]], [[0, 3]]]}
    with pytest.raises(ValueError, match=message):
        tiny_processor()(**{**valid, **arguments})


def test_missing_file_names_the_sample():
    with pytest.raises(FileNotFoundError, match=r"^sample 0\.image '.*gone\.png': no such file"):
        tiny_processor()(FOX, FOX_SPAN, "gone.png")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "tagging"}, r"^task: got 'tagging', expected 'typing' or 'relation'"),
        ({"max_length": 9}, r"^max_length: got 9, expected at least 10"),
        ({"label_max_length": 2}, r"^label_max_length: got 2, expected at least 3"),
        ({"tokenizer": None}, r"^tokenizer: expected a fast tokenizer"),
        ({"image_processor": None}, r"^image_processor: got None, expected one unless"),
    ],
)
def test_unfit_settings_are_refused(settings, message):
    parts = {"image_processor": tiny_image_processor(), "tokenizer": tiny_tokenizer()}
    with pytest.raises(ValueError, match=message):
        HMGRLProcessor(**{**parts, **settings})


# The tokenizer


def test_markers_are_four_new_tokens_however_often_a_processor_is_made():
    tokenizer = tiny_tokenizer()
    size = len(tokenizer)
    for _ in range(2):
        HMGRLProcessor(tiny_image_processor(), tokenizer)
        assert len(tokenizer) == size + 4
    assert tokenizer.convert_tokens_to_ids(["[E1]", "[/E1]", "[E2]", "[/E2]"]) == (
        list(range(size, size + 4))
    )


def test_special_tokens_that_a_tokenizer_has_stay_special():
    tokenizer = BertTokenizer(vocab=dict(vocabulary()), extra_special_tokens=["[DATE]"])
    HMGRLProcessor(tiny_image_processor(), tokenizer)
    assert {"[DATE]", "[E1]", "[/E2]"} <= set(tokenizer.all_special_tokens)


def test_tokenizer_with_other_special_tokens_around_a_text():
    vocab = {t: i for i, t in enumerate(["<pad>", "<unk>", "<s>", "</s>", "anna", "fox", '"', "*"])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> <s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>"
    )
    processor = HMGRLProcessor(tiny_image_processor(), tokenizer)
    batch = processor("anna fox", [[5, 8]], labels=["fox"])
    assert spaced(processor, batch["input_ids"][0]) == "<s> <s> anna [E1] fox [/E1] </s>"
    assert batch["span_positions"].tolist() == [[[3, 5]]]
    assert (
        spaced(processor, batch["candidate_input_ids"][0]) == "<s> <s> fox </s>"
    )  # Saving and loading


SETTINGS = {
    "task": "relation",
    "max_length": 33,
    "label_max_length": 9,
    "pad_to_max_length": True,
}


@pytest.mark.parametrize("load", [HMGRLProcessor.from_pretrained, AutoProcessor.from_pretrained])
@pytest.mark.parametrize("settings", [{}, SETTINGS], ids=["default", "other"])
def test_round_trip(load, settings, tmp_path):
    processor = tiny_processor(**settings)
    processor.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert type(loaded) is HMGRLProcessor
    for name in (*SETTINGS, "use_images"):
        assert getattr(loaded, name) == getattr(processor, name), name
    assert loaded.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    arguments = (
        [FOX, "near [E1] " * 20 + FOX],
        [[[14, 17], [0, 4]][: processor.num_spans], [[214, 217], [0, 4]][: processor.num_spans]],
        [tiny_picture("animal"), None],
        ["animal", "the tool"],
        ["place"],
    )
    before, after = processor(*arguments), loaded(*arguments)
    assert set(before) == set(after)
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    assert before.windows == after.windows
    assert any(before.windows)


def test_round_trip_of_text_only(tmp_path):
    processor = HMGRLProcessor(None, tiny_tokenizer(), use_images=False)
    processor.save_pretrained(tmp_path)
    loaded = HMGRLProcessor.from_pretrained(tmp_path)
    assert loaded.use_images is False
    assert torch.equal(loaded(FOX, FOX_SPAN)["input_ids"], processor(FOX, FOX_SPAN)["input_ids"])


def test_a_setting_may_be_given_when_loading(tmp_path):
    tiny_processor().save_pretrained(tmp_path)
    assert HMGRLProcessor.from_pretrained(tmp_path, max_length=40).max_length == 40


def test_only_text_files_are_saved(tmp_path):
    tiny_processor().save_pretrained(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} <= {".json", ".py", ".txt", ".jinja"}
    content = json.loads((tmp_path / "processor_config.json").read_text(encoding="utf-8"))
    assert content["processor_class"] == "HMGRLProcessor"
    assert content["auto_map"]["AutoProcessor"] == "processing_hmgrl.HMGRLProcessor"


def test_from_backbones(tmp_path):
    text, vision = save_backbones(tmp_path)
    processor = HMGRLProcessor.from_backbones(text, vision, task="relation", max_length=40)
    assert (processor.task, processor.max_length, processor.use_images) == ("relation", 40, True)
    batch = processor("anna feeds boris", [[0, 4], [11, 16]], tiny_picture("animal"))
    expected = tiny_processor("relation")(
        "anna feeds boris", [[0, 4], [11, 16]], tiny_picture("animal")
    )
    for name, value in expected.items():
        assert torch.equal(batch[name], value), name
    assert not HMGRLProcessor.from_backbones(text).use_images


def test_narrow_images_are_refused_where_the_processor_keeps_their_shape():
    keeps = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    narrow, wide = Image.new("RGB", (2020, 20)), Image.new("RGB", (2000, 20))
    processor = HMGRLProcessor(keeps, tiny_tokenizer())
    assert processor.encode_images([wide], 1)["pixel_values"].shape == (1, 3, 16, 16)
    expected = r"^sample 0\.image: 2020 x 20 pixels, expected sides in a ratio of at most 100$"
    with pytest.raises(ValueError, match=expected):
        processor.encode_images([narrow], 1)
    assert tiny_processor().encode_images([narrow], 1)["pixel_values"].shape[0] == 1
