"""Explanations: shares of the attention, falls of the score, patches and pictures."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_world import (
    LABELS,
    SEEN,
    tiny_method,
    tiny_picture,
    tiny_pipeline,
    tiny_processor,
)
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    DeiTConfig,
    DeiTModel,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from modeling_hmgrl import ZeroShotTypingPipeline
from modeling_hmgrl.baselines import METHODS
from modeling_hmgrl.entity_markers import MarkedText
from modeling_hmgrl.explanation.attribution import _words, explain, split_words
from modeling_hmgrl.explanation.heatmap import MAX_SIDE, heat_over, patch_grid, visible_box

TEXT = "anna, the unbreakable, sees the fox again"
RECORD = {"text": TEXT, "mention": "fox", "image": tiny_picture("animal")}


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
    assert found.picture_class == pytest.approx(weights[len(ids)])
    assert found.picture.shape == (4, 4)
    np.testing.assert_allclose(found.picture.ravel(), weights[len(ids) + 1 :])
    assert np.ptp(found.picture) > 1e-4
    words = sum(word.weight for word in found.words)
    assert words + found.special == pytest.approx(found.text_share)
    assert found.picture.sum() + found.picture_class == pytest.approx(found.picture_share)
    assert found.text_share + found.picture_share == pytest.approx(1)
    assert (found.method, found.picture_box) == ("attention", (0, 0, 32, 32))


def test_words_are_slices_of_the_text_in_order():
    found = explain(looking(), RECORD, LABELS)
    assert [word.text for word in found.words] == [
        "anna", ",", "the", "unbreakable", ",", "sees", "the", "fox", "again"
    ]  # fmt: skip
    assert all(TEXT[word.start : word.end] == word.text for word in found.words)


@pytest.mark.parametrize("method", ["attention", "occlusion"])
@pytest.mark.parametrize("place", [(1, 2), (3, 0)])
def test_patches_stand_where_they_are_in_the_picture(method, place):
    pipe = local(looking())
    record = {**RECORD, "image": one_bright_patch(*place)}
    picture = explain(pipe, record, LABELS, method=method, regions=4).picture
    others = np.delete(picture.ravel(), 4 * place[0] + place[1])
    if method == "attention":
        np.testing.assert_allclose(others, others[0], rtol=1e-5)
    assert abs(picture[place] - others.mean()) > 5 * np.abs(others - others.mean()).max()


def test_a_mention_inside_a_word_leaves_it_one_word():
    found = explain(looking(), {"text": "anna sees the foxhole", "mention": "fox"}, LABELS)
    assert [word.text for word in found.words] == ["anna", "sees", "the", "foxhole"]


@pytest.mark.parametrize("vision", [True, False])
@pytest.mark.parametrize("method", ["attention", "occlusion"])
def test_without_a_picture(vision, method):
    pipe = looking(vision=vision)
    found = explain(pipe, {"text": TEXT, "mention": "fox"}, LABELS, method=method)
    assert found.picture is None
    assert found.picture_box is None
    assert (found.picture_class, found.picture_share) == (0, 0)
    if method == "attention":
        assert found.text_share == pytest.approx(1)


def test_padding_that_takes_part_counts_as_special():
    pipe = looking(paper=True)
    found = explain(pipe, RECORD, LABELS)
    total = sum(word.weight for word in found.words) + found.special + found.picture_share
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
    assert found.picture.shape == (2, 2)
    assert found.special == found.picture_class == 0

    def score(**changed):
        result = pipe({**RECORD, **changed}, labels=LABELS, top_k=None)
        return result["scores"][result["labels"].index(label)]

    whole = score()
    assert found.picture_share == pytest.approx(whole - score(image=None), abs=1e-4)
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
    assert found.picture[1, 0] == pytest.approx(base - lower_left, abs=1e-4)


def test_batch_size_changes_no_fall():
    pipe = looking()
    a, b = (
        explain(pipe, RECORD, LABELS, method="occlusion", regions=3, batch_size=size)
        for size in (1, 50)
    )
    np.testing.assert_allclose(a.picture, b.picture, atol=1e-4)
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
        (RECORD, {"label": "ghost"}, r"^label: got 'ghost', expected one of the labels"),
        ({"text": TEXT}, {}, r"^input: expected exactly one of 'mention' and 'spans'"),
        ({**RECORD, "image": b"no"}, {}, r"^input\.image: not a picture"),
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


# Other methods


def method_pipe(name, task):
    """A pipeline of a compared method whose own weights are not those of the start."""
    settings = {"use_images": METHODS[name].uses_images, **METHODS[name].processor_settings}
    processor = tiny_processor(task, **settings)
    model = tiny_method(name, task, seen_labels=SEEN)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if not any(part in key for part in ("text_model", "vision_model", "log_scale")):
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.05)
    return ZeroShotTypingPipeline(model, processor, device="cpu")


def method_record(name, task):
    record = {"text": TEXT, "mention": "fox" if task == "typing" else ["anna", "fox"]}
    return {**record, "image": RECORD["image"]} if METHODS[name].uses_images else record


METHOD_CASES = [(name, task) for name, method in METHODS.items() for task in method.tasks]
WITH_ATTENTION = {"hmgrl", "mg_vmoe", "dbzfet", "mzet", "re_matching"}


@pytest.mark.parametrize(("name", "task"), METHOD_CASES)
def test_occlusion_works_with_every_method(name, task):
    pipe, record = method_pipe(name, task), method_record(name, task)
    found = explain(pipe, record, LABELS, method="occlusion", regions=2)
    label, [marked] = found.label, pipe.processor.mark([TEXT], [spans_of(record)])
    row = next(i for i, word in enumerate(found.words) if word.text == "fox")
    [fox] = pipe.processor.tokenizer("fox", add_special_tokens=False).input_ids
    place = marked.ids.index(fox)  # of a prompt's tokens none is hidden
    ids = [pipe.processor.tokenizer.mask_token_id if i == place else t
           for i, t in enumerate(marked.ids)]  # fmt: skip
    batch = pipe.processor([TEXT], [spans_of(record)], [record.get("image")], labels=[label])

    def score(ids):
        with torch.no_grad():
            return float(pipe.model(**{**batch, "input_ids": torch.tensor([ids])}).logits)

    assert found.words[row].weight == pytest.approx(score(marked.ids) - score(ids), abs=1e-3)
    assert abs(found.text_share) > 1e-3
    assert (found.picture is not None) == METHODS[name].uses_images


def spans_of(record):
    mentions = [record["mention"]] if isinstance(record["mention"], str) else record["mention"]
    return [(TEXT.index(one), TEXT.index(one) + len(one)) for one in mentions]


@pytest.mark.parametrize(("name", "task"), METHOD_CASES)
def test_attention_is_shown_where_a_method_has_it(name, task):
    pipe, record = method_pipe(name, task), method_record(name, task)
    if name not in WITH_ATTENTION:
        kind = pipe.model.config.model_type
        with pytest.raises(ValueError, match=f"method: .* type '{kind}'.*expected 'occlusion'"):
            explain(pipe, record, LABELS)
        return
    found = explain(pipe, record, LABELS)
    words = sum(word.weight for word in found.words)
    assert words + found.special == pytest.approx(found.text_share)
    assert found.text_share + found.picture_share == pytest.approx(1)
    assert (found.picture_share > 0) == METHODS[name].uses_images


def test_unknown_option_is_named():
    with pytest.raises(TypeError, match=r"^colour: no argument of this pipeline"):
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


# The grid of patches

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


@pytest.mark.parametrize(
    ("model", "size", "grid", "prefix"),
    [
        (ViTModel(ViTConfig(image_size=32, patch_size=8, **SMALL)), (32, 32), (4, 4), 1),
        (DeiTModel(DeiTConfig(image_size=32, patch_size=8, **SMALL)), (32, 32), (4, 4), 2),
        (
            Dinov2WithRegistersModel(
                Dinov2WithRegistersConfig(
                    image_size=56, patch_size=14, num_register_tokens=4, mlp_ratio=1,
                    hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                )
            ),
            (28, 42),  # not the size of the config, and not square
            (2, 3),
            5,
        ),
        (
            CLIPVisionModel(CLIPVisionConfig(image_size=32, patch_size=16, **SMALL)),
            (32, 32),
            (2, 2),
            1,
        ),
        (
            SiglipVisionModel(SiglipVisionConfig(image_size=32, patch_size=8, **SMALL)),
            (32, 32),
            (4, 4),
            0,
        ),
        (
            SwinModel(
                SwinConfig(image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1],
                           num_heads=[1, 1, 1], window_size=2)
            ),
            (64, 64),
            (4, 4),
            0,
        ),
    ],
    ids=["vit", "deit", "dinov2-registers", "clip", "siglip", "swin"],
)  # fmt: skip
def test_grid_of_encoders(model, size, grid, prefix):
    with torch.no_grad():
        states = model.eval()(pixel_values=torch.zeros(1, 3, *size)).last_hidden_state
    tokens = states.shape[1]
    assert patch_grid(model.config, tokens, *size) == grid
    assert tokens - grid[0] * grid[1] == prefix


@pytest.mark.parametrize(
    ("config", "tokens"),
    [(ViTConfig(patch_size=8), 3), (ViTConfig(patch_size=8), 60), (SMALL, 17)],
)
def test_no_grid_is_named(config, tokens):
    with pytest.raises(ValueError, match=rf"{tokens} tokens of 32 x 32 pixels .* no grid"):
        patch_grid(config, tokens, 32, 32)


def test_grid_of_oblong_patches():
    config = ViTConfig(patch_size=(4, 8))
    assert patch_grid(config, 33, 32, 32) == (8, 4)


# What of a picture is seen


@pytest.mark.parametrize(
    ("processor", "size", "box"),
    [
        (ViTImageProcessorPil(size={"height": 32, "width": 32}), (80, 40), (0, 0, 80, 40)),
        (CLIPImageProcessorPil(), (400, 200), (100, 0, 300, 200)),
        (
            CLIPImageProcessorPil(
                size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}
            ),
            (256, 512),
            (16, 144, 240, 368),
        ),
        (
            CLIPImageProcessorPil(
                size={"height": 64, "width": 128}, crop_size={"height": 32, "width": 32}
            ),
            (256, 128),
            (96, 32, 160, 96),
        ),
        (
            CLIPImageProcessorPil(do_resize=False, crop_size={"height": 32, "width": 32}),
            (48, 16),
            (8, -8, 40, 24),
        ),
    ],
    ids=["scaled", "square", "cropped", "to-a-size", "unscaled"],
)  # fmt: skip
def test_visible_box(processor, size, box):
    assert visible_box(processor, size) == pytest.approx(box)
    # a picture white inside the box, and a little beyond, is white to the model
    left, top, right, bottom = (round(side) for side in box)
    image = Image.new("RGB", size, "black")
    image.paste("white", (left - 2, top - 2, right + 2, bottom + 2))
    whole = Image.new("RGB", size, "white")
    seen, white = (processor(im, return_tensors="pt")["pixel_values"] for im in (image, whole))
    assert torch.equal(seen, white)
    # and one that is black along the inner side of its edges is not
    if left > 0:
        image.paste("black", (left, max(top, 0), left + 3, bottom))
        seen = processor(image, return_tensors="pt")["pixel_values"]
        assert not torch.equal(seen, white)


# Heat


def heated(weights, size=(40, 20), **options):
    image = Image.new("RGB", size, (100, 100, 100))
    return np.asarray(heat_over(image, np.array(weights), **options)).astype(int)


def test_heat_colours_what_weighs():
    pixels = heated([[0.0, 1.0], [0.0, -1.0]])
    assert pixels.shape == (20, 40, 3)
    red, _, blue = pixels[2, 37]
    assert red > 150 > blue
    red, _, blue = pixels[17, 37]
    assert blue > 130 > red
    np.testing.assert_allclose(pixels[:, 0], 100, atol=1)


def test_no_weight_has_no_colour():
    np.testing.assert_array_equal(heated(np.zeros((3, 3))), 100)


def test_heat_is_half_drained_of_colour():
    image = Image.new("RGB", (8, 8), (200, 0, 0))
    grey = float(np.asarray(image.convert("L"))[0, 0])
    pixel = np.asarray(heat_over(image, np.zeros((1, 1))))[0, 0]
    np.testing.assert_allclose(pixel, [(200 + grey) / 2, grey / 2, grey / 2], atol=1)


def test_scale_sets_the_weight_of_full_colour():
    full, half = heated([[0.5]]), heated([[0.5]], scale=1.0)
    np.testing.assert_allclose(full - 100, 2 * (half - 100), atol=2)
    np.testing.assert_array_equal(heated([[7.0]], scale=1.0), full)  # more than full is full


@pytest.mark.parametrize("box", [(10.0, 0.0, 30.0, 20.0), (-10.0, -5.0, 50.0, 25.0)])
def test_heat_stays_in_its_box(box):
    pixels = heated([[1.0]], box=box)
    inside = np.zeros((20, 40), bool)
    inside[:, max(int(box[0]), 0) : int(box[2])] = True
    assert ((pixels != 100).any(-1) == inside).all()


def test_a_large_picture_is_scaled_down():
    image = Image.new("RGB", (3000, 600), "white")
    drawn = heat_over(image, np.ones((2, 2)), (1500.0, 0.0, 3000.0, 600.0))
    assert drawn.size == (MAX_SIDE, 205)
    pixels = np.asarray(drawn)
    assert (pixels[:, :500] == 255).all()
    assert (pixels[:, 520:, 2] < 128).all()


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ([1.0, 2.0], {}, r"^weights: got shape \(2,\), expected a matrix"),
        ([[np.nan]], {}, r"^weights: .* finite"),
        (np.zeros((0, 2)), {}, r"^weights: got shape \(0, 2\)"),
        ([[1.0]], {"strength": 2}, r"^strength: got 2, expected 0 to 1"),
        ([[1.0]], {"scale": 0}, r"^scale: got 0, expected more than 0"),
    ],
)
def test_unfit_heat_is_named(weights, options, message):
    with pytest.raises(ValueError, match=message):
        heated(weights, **options)
