"""Explanations: shares of the attention, falls of the score, words."""

import numpy as np
import pytest
import torch
from explanation_world import RECORD, TEXT
from PIL import Image
from tiny_world import LABELS, SEEN, tiny_pipeline

from modeling_hmgrl.entity_markers import MarkedText
from modeling_hmgrl.explanation.attribution import _words, explain, split_words


def looking(task="typing", **settings):
    """A pipeline whose attention is not even, as it is before training."""
    pipe = tiny_pipeline(task, **settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in pipe.model.hmgrl.fusion.parameters():
            weight.normal_(0, 0.05, generator=generator)
    return pipe


def local(pipe):
    """Makes the image encoder's tokens depend on their own patch alone, not on its place."""
    with torch.no_grad():
        for name, weight in pipe.model.hmgrl.vision_model.named_parameters():
            if "attention" in name or "position_embeddings" in name:
                weight.zero_()
    return pipe


def one_bright_patch(row, column):
    pixels = np.full((32, 32, 3), 60, np.uint8)
    pixels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 250
    return Image.fromarray(pixels)


def attention_of(pipe, record):
    """Token ids and the fusion's attention, straight from the model."""
    batch = pipe.processor([record["text"]], [[record["span"]]], [record["image"]])
    with torch.no_grad():
        weights = pipe.model.encode(
            batch["input_ids"],
            batch["attention_mask"],
            batch["span_positions"],
            image_features=pipe.model.encode_image(batch["pixel_values"]),
            image_mask=batch["image_mask"],
        ).attention[0]
    return batch["input_ids"][0].tolist(), weights.double().numpy()


# Attention


@pytest.mark.parametrize("attention", ["query", "additive"])
def test_shares_are_those_of_the_fusion_and_sum_to_one(attention):
    pipe = looking(attention=attention)
    found = explain(pipe, RECORD, LABELS)
    start = TEXT.index("fox")
    ids, weights = attention_of(pipe, {**RECORD, "span": (start, start + 3)})
    tokens = pipe.processor.tokenizer.convert_ids_to_tokens(ids)
    pieces = [i for i, token in enumerate(tokens) if i and tokens[i - 1] == "the"]
    first = pieces[0]
    last = next(i for i in range(first, len(tokens)) if tokens[i] == ",")
    assert last - first > 3  # the word is in pieces
    by_text = {word.text: word.weight for word in found.words}
    assert by_text["unbreakable"] == pytest.approx(weights[first:last].sum())
    assert by_text["fox"] == pytest.approx(weights[tokens.index("fox")])
    special = [i for i, token in enumerate(tokens) if token.startswith("[")]
    assert [tokens[i] for i in special] == ["[CLS]", "[E1]", "[/E1]", "[SEP]"]
    assert found.special == pytest.approx(weights[special].sum())
    assert found.text_share == pytest.approx(weights[: len(ids)].sum())
    assert found.image_class == pytest.approx(weights[len(ids)])
    assert found.image.shape == (4, 4)
    np.testing.assert_allclose(found.image.ravel(), weights[len(ids) + 1 :])
    assert np.ptp(found.image) > 1e-4
    words = sum(word.weight for word in found.words)
    assert words + found.special == pytest.approx(found.text_share)
    assert found.image.sum() + found.image_class == pytest.approx(found.image_share)
    assert found.text_share + found.image_share == pytest.approx(1)
    assert (found.method, found.image_box) == ("attention", (0, 0, 32, 32))


def test_words_are_slices_of_the_text_in_order():
    found = explain(looking(), RECORD, LABELS)
    assert [word.text for word in found.words] == [
        "anna", ",", "the", "unbreakable", ",", "sees", "the", "fox", "again"
    ]  # fmt: skip
    assert all(TEXT[word.start : word.end] == word.text for word in found.words)


@pytest.mark.parametrize("method", ["attention", "occlusion"])
@pytest.mark.parametrize("place", [(1, 2), (3, 0)])
def test_patches_stand_where_they_are_in_the_image(method, place):
    pipe = local(looking())
    record = {**RECORD, "image": one_bright_patch(*place)}
    picture = explain(pipe, record, LABELS, method=method, regions=4).image
    others = np.delete(picture.ravel(), 4 * place[0] + place[1])
    if method == "attention":
        np.testing.assert_allclose(others, others[0], rtol=1e-5)
    assert abs(picture[place] - others.mean()) > 5 * np.abs(others - others.mean()).max()


def test_a_mention_inside_a_word_leaves_it_one_word():
    found = explain(looking(), {"text": "anna sees the foxhole", "mention": "fox"}, LABELS)
    assert [word.text for word in found.words] == ["anna", "sees", "the", "foxhole"]


@pytest.mark.parametrize("vision", [True, False])
@pytest.mark.parametrize("method", ["attention", "occlusion"])
def test_without_an_image(vision, method):
    pipe = looking(vision=vision)
    found = explain(pipe, {"text": TEXT, "mention": "fox"}, LABELS, method=method)
    assert found.image is None
    assert found.image_box is None
    assert (found.image_class, found.image_share) == (0, 0)
    if method == "attention":
        assert found.text_share == pytest.approx(1)


def test_padding_that_takes_part_counts_as_special():
    pipe = looking(paper=True)
    found = explain(pipe, RECORD, LABELS)
    total = sum(word.weight for word in found.words) + found.special + found.image_share
    assert total == pytest.approx(1)
    assert found.special > 0.2  # 64 tokens, of which most are padding


def test_relations_have_two_mentions():
    pipe = looking("relation")
    found = explain(pipe, {"text": "anna feeds boris", "mention": ["boris", "anna"]}, LABELS)
    assert [word.text for word in found.words] == ["anna", "feeds", "boris"]
    assert sum(word.weight for word in found.words) + found.special == pytest.approx(1)


@pytest.mark.parametrize("method", ["attention", "occlusion"])
def test_a_long_text_is_explained_in_its_window(method):
    text = "today " * 300 + "the fox" + " again" * 300
    found = explain(looking(), {"text": text, "mention": "fox"}, LABELS, method=method)
    [(start, end)] = found.prediction["window"]
    assert 40 < len(found.words) < 64
    assert found.words[0].start == start
    assert found.words[-1].end == end
    assert all(text[word.start : word.end] == word.text for word in found.words)


@pytest.mark.parametrize("method", ["attention", "occlusion"])
def test_prediction_is_the_pipelines(method):
    pipe = looking(calibration_gamma=0.7, seen_labels=SEEN)
    options = {"labels": {name: None for name in LABELS}, "seen": LABELS[3:], "top_k": 2}
    found = explain(pipe, RECORD, method=method, **options)
    expected = pipe(RECORD, **options)
    assert found.prediction["labels"] == expected["labels"]
    np.testing.assert_allclose(found.prediction["scores"], expected["scores"], rtol=1e-5)
    assert found.label == expected["label"]


# Occlusion


def test_falls_are_those_of_the_score():
    pipe = looking(calibration_gamma=0.7, seen_labels=SEEN)
    label = LABELS[3]
    options = {"method": "occlusion", "label": label, "batch_size": 3, "regions": 2}
    found = explain(pipe, RECORD, LABELS, **options)
    assert found.label == label != found.prediction["label"]
    assert found.image.shape == (2, 2)
    assert found.special == found.image_class == 0

    def score(**changed):
        result = pipe({**RECORD, **changed}, labels=LABELS, top_k=None)
        return result["scores"][result["labels"].index(label)]

    whole = score()
    assert found.image_share == pytest.approx(whole - score(image=None), abs=1e-4)
    tokenizer = pipe.processor.tokenizer
    start = TEXT.index("fox")
    batch = pipe.processor([TEXT], [[(start, start + 3)]], [RECORD["image"]], labels=LABELS)
    ids = batch["input_ids"]

    def hidden(places):
        changed = ids.clone()
        changed[0, places] = tokenizer.mask_token_id
        with torch.no_grad():
            logits = pipe.model(**{**batch, "input_ids": changed}).logits[0, 3]
        return float(logits)

    tokens = tokenizer.convert_ids_to_tokens(ids[0].tolist())
    falls = {word.text: word.weight for word in found.words}
    base = hidden([])
    fox = base - hidden([tokens.index("fox")])
    assert falls["fox"] == pytest.approx(fox, abs=1e-4)
    assert abs(fox) > 1e-2
    words = [i for i, token in enumerate(tokens) if not token.startswith("[")]
    assert found.text_share == pytest.approx(base - hidden(words), abs=1e-4)
    pixels = batch["pixel_values"].clone()
    pixels[:, :, 16:, :16] = batch["pixel_values"].mean((2, 3))[..., None, None]
    with torch.no_grad():
        lower_left = float(pipe.model(**{**batch, "pixel_values": pixels}).logits[0, 3])
    assert found.image[1, 0] == pytest.approx(base - lower_left, abs=1e-4)


def test_batch_size_changes_no_fall():
    pipe = looking()
    a, b = (
        explain(pipe, RECORD, LABELS, method="occlusion", regions=3, batch_size=size)
        for size in (1, 50)
    )
    np.testing.assert_allclose(a.image, b.image, atol=1e-4)
    np.testing.assert_allclose(
        [word.weight for word in a.words], [word.weight for word in b.words], atol=1e-4
    )


# What is refused


@pytest.mark.parametrize(
    ("record", "options", "message"),
    [
        (RECORD, {"method": "gradient"}, r"^method: got 'gradient', expected 'attention' or 'occ"),
        (RECORD, {"regions": 0}, r"^regions: got 0, expected 1 or more"),
        (RECORD, {"batch_size": 1.5}, r"^batch_size: got 1.5, expected 1 or more"),
        (RECORD, {"label": "ghost"}, r"^label: got 'ghost', expected one of the candidate labels"),
        ({"text": TEXT}, {}, r"^input: expected 'mention' or 'spans'"),
        ({**RECORD, "image": b"no"}, {}, r"^input\.image: not an image"),
        ({**RECORD, "image": "http://a/b.png"}, {}, r"^input\.image: .*hosts"),
        ("text", {}, r"^input: got str, expected a mapping"),
    ],
)
def test_unfit_arguments_are_named(record, options, message):
    with pytest.raises(ValueError, match=message):
        explain(looking(), record, LABELS, **options)


def test_a_model_without_attention_is_explained_by_occlusion_alone(monkeypatch):
    pipe = looking()
    encode = pipe.model.encode

    def without(**inputs):
        encoded = encode(**inputs)
        encoded.attention = None
        return encoded

    monkeypatch.setattr(pipe.model, "encode", without)
    with pytest.raises(ValueError, match=r"^method: the model returns no attention"):
        explain(pipe, RECORD, LABELS)
    assert explain(pipe, RECORD, LABELS, method="occlusion").text_share != 0


def test_unknown_option_is_named():
    with pytest.raises(TypeError, match=r"^colour: unknown argument"):
        explain(looking(), RECORD, LABELS, colour="red")


# Words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a  b\tc\n", ["a", "b", "c"]),
        ("don't (stop)!", ["don", "'", "t", "(", "stop", ")", "!"]),
        ("北京 is 大", ["北", "京", "is", "大"]),
        ("कमल café", ["कमल", "café"]),
        ("ok😀😀", ["ok", "😀", "😀"]),
        ("𠀀a", ["𠀀", "a"]),
        ("  ", []),
    ],
)
def test_split_words(text, words):
    assert [text[start:end] for start, end in split_words(text)] == words


def test_split_words_of_a_part():
    assert split_words("the old fox", 4, 9) == [(4, 7), (8, 9)]


def test_a_token_over_several_words_is_shared_out():
    marked = MarkedText([1, 2, 3], [(0, 2)], None, [None, (0, 6), (6, 9)])
    of, the, fox = _words("of the fox", MarkedText([1], [], None, [(0, 6), (6, 10)]))
    assert (of.tokens, the.tokens) == ({0: pytest.approx(2 / 5)}, {0: pytest.approx(3 / 5)})
    assert fox.tokens == {1: 1}  # a space before a word belongs to its token
    assert [word.text for word in _words("of the fox", marked)] == ["of", "the", "fox"]


@pytest.mark.parametrize("method", ["attention", "occlusion"])
def test_the_input_itself_is_encoded_once(method, monkeypatch):
    pipe = looking()
    explain(pipe, RECORD, LABELS)  # encodes the labels
    expected = pipe(RECORD, labels=LABELS)
    sizes, encode = [], pipe.encode

    def counted(queries, marked):
        sizes.append(len(queries))
        return encode(queries, marked)

    monkeypatch.setattr(pipe, "encode", counted)
    found = explain(pipe, RECORD, LABELS, method=method, regions=2, batch_size=100)
    variants = len(found.words) + 1 + 1 + 4  # words, all words, the image, its regions
    assert sizes == ([1] if method == "attention" else [1, variants])
    assert found.prediction == expected
