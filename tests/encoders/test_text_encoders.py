"""Models on the text encoders of every family: training, prediction, limits, saving, export."""

import pytest
import torch
from encoder_world import (
    POSITIONS,
    SMALL,
    TEXT,
    changed_by_a_step,
    pipeline_of,
    text_folder,
    vision_folder,
)
from tiny_world import LABELS, tiny_batch, tiny_picture
from transformers import AutoModel

from modeling_hmgrl import (
    HMGRLForZeroShotTyping,
    HMGRLProcessor,
    LabelCache,
)
from modeling_hmgrl.entity_markers import MARKERS
from modeling_hmgrl.pooling import masked_mean

FAMILIES = pytest.mark.parametrize("family", TEXT)
LENGTH = 64
EAGER_ONLY = ("deberta-v3", "mpnet")


def make(family, folder, task="typing", vision="vit", length=LENGTH, **settings):
    text = text_folder(family, folder)
    image = None if vision is None else vision_folder(vision, folder)
    processor = HMGRLProcessor.from_backbones(text, image, task=task, max_length=length)
    torch.manual_seed(0)
    model = HMGRLForZeroShotTyping.from_backbones(
        text, image, processor=processor, task=task, **SMALL, **settings
    )
    return model, processor


def inputs(task="typing"):
    mention = "fox" if task == "typing" else ["anna", "fox"]
    return [
        {"text": "anna sees the fox today", "mention": mention, "image": tiny_picture("animal")},
        {"text": "anna sees (the 😀 fox)", "mention": mention},
    ]


LABELS_OF = {
    "typing": LABELS[:4],
    "relation": {name: f"person; {name} of the; animal" for name in LABELS[:4]},
}


def scores(pipe, task="typing"):
    found = pipe(inputs(task), labels=LABELS_OF[task], top_k=4)
    scored = [dict(zip(one["labels"], one["scores"], strict=True)) for one in found]
    return torch.tensor([[one[label] for label in LABELS_OF[task]] for one in scored])


SETTINGS = {
    "float32": {},
    "frozen": {"freeze_text": True},
    "checkpointing": {},
    "bfloat16": {},
}


@FAMILIES
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_training_step_and_a_prediction(family, setting, folder):
    task = "relation" if setting == "float32" else "typing"
    model, processor = make(family, folder, task, **SETTINGS[setting])
    if setting == "checkpointing":
        model.activation_checkpointing_enable({"use_reentrant": False})
    batch = tiny_batch(task, processor=processor)
    changed = changed_by_a_step(model, batch, setting == "bfloat16")
    assert any("text_model" in name for name in changed) == (setting != "frozen")
    if setting == "bfloat16":
        model = model.to(torch.bfloat16)
    predictions = pipeline_of(model, processor)(inputs(task), labels=LABELS_OF[task])
    assert all(one["label"] in LABELS for one in predictions)


@FAMILIES
def test_a_saved_model_predicts_the_same(family, folder, tmp_path):
    task = "relation"
    model, processor = make(family, folder, task)
    pipe = pipeline_of(model, processor)
    wanted = scores(pipe, task)
    pipe.save_pretrained(tmp_path)
    loaded, info = HMGRLForZeroShotTyping.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    again = pipeline_of(loaded, HMGRLProcessor.from_pretrained(tmp_path))
    torch.testing.assert_close(scores(again, task), wanted)
    assert again.label_cache.key() == pipe.label_cache.key()
    assert wanted.std() > 1e-4


@FAMILIES
def test_padding_does_not_change_scores(family, folder):
    model, processor = make(family, folder)
    pipe = pipeline_of(model, processor)
    single = torch.cat([scores_of_one(pipe, one) for one in inputs()])
    torch.testing.assert_close(scores(pipe), single, atol=1e-4, rtol=1e-4)


def scores_of_one(pipe, one):
    found = pipe(one, labels=LABELS_OF["typing"], top_k=4)
    by_name = dict(zip(found["labels"], found["scores"], strict=True))
    return torch.tensor([[by_name[label] for label in LABELS_OF["typing"]]])


@FAMILIES
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_implementations_agree(family, attention, folder, tmp_path):
    model, processor = make(family, folder)
    wanted = scores(pipeline_of(model, processor))
    assert model.hmgrl.vision_model.config._attn_implementation == "sdpa"
    model.save_pretrained(tmp_path)
    if attention == "sdpa" and family in EAGER_ONLY:
        with pytest.raises(ValueError, match="scaled_dot_product_attention"):
            HMGRLForZeroShotTyping.from_pretrained(tmp_path, attn_implementation=attention)
        attention = {"text_config": "eager", "vision_config": "sdpa"}
    loaded = HMGRLForZeroShotTyping.from_pretrained(tmp_path, attn_implementation=attention)
    torch.testing.assert_close(scores(pipeline_of(loaded, processor)), wanted, atol=1e-4, rtol=1e-4)


@FAMILIES
def test_labels_are_compared_by_parts(family, folder):
    model, processor = make(family, folder, "relation")
    assert model.config.label_parts
    texts = ["person; feeds the animal; tool", "person; feeds; animal; tool", "the tool"]
    parts = []
    for text in texts:
        one = processor.encode_labels([text])
        parts.append(model.encode_labels(*one.values())[0].detach().view(3, -1))
    head, tail, context = parts[0]
    ids = processor.encode_labels(texts[:1])["candidate_input_ids"]
    states = model.encoders.encode_text(ids, torch.ones_like(ids))[0].detach()
    first, second = (ids[0] == processor.separator_id).nonzero()[:, 0].tolist()
    start, end = len(processor._prefix), ids.shape[1] - len(processor._suffix)
    torch.testing.assert_close(head, states[start:first].mean(0))
    torch.testing.assert_close(context, states[first + 1 : second].mean(0))
    torch.testing.assert_close(tail, states[second + 1 : end].mean(0))
    for whole in parts[1:]:
        torch.testing.assert_close(whole[0], whole[1])
        torch.testing.assert_close(whole[0], whole[2])


@FAMILIES
def test_the_label_cache_holds_what_the_model_computes(family, folder, tmp_path):
    model, processor = make(family, folder, "relation")
    cache = LabelCache(model.eval(), processor)
    texts = ["person; feeds the animal; tool", "tool", "the old tool today"]
    vectors = cache.vectors(texts)
    one = processor.encode_labels(texts[1:2])
    alone = model.prepare_labels(model.encode_labels(*one.values())).detach()
    torch.testing.assert_close(vectors[1:2], alone, atol=1e-4, rtol=1e-4)
    cache.save(tmp_path)
    cache.clear()
    cache.load(tmp_path)
    assert torch.equal(cache.vectors(texts), vectors)


@FAMILIES
def test_markers_are_added_to_the_embeddings(family, folder):
    text = text_folder(family, folder)
    processor = HMGRLProcessor.from_backbones(text, max_length=LENGTH)
    tokenizer = processor.tokenizer
    old = AutoModel.from_pretrained(text).get_input_embeddings().weight.detach()
    model = HMGRLForZeroShotTyping.from_backbones(text, processor=processor, **SMALL)
    new = model.get_input_embeddings().weight.detach()
    markers = tokenizer.convert_tokens_to_ids([m for pair in MARKERS for m in pair])
    assert max(markers) < len(new) == model.config.text_config.vocab_size
    assert len(new) == max(tokenizer.get_vocab().values()) + 1
    known = min(len(old), *markers)
    assert torch.equal(new[:known], old[:known])
    assert new[markers].norm(dim=-1).min() > 0
    # the first marker is initialised to a quotation mark, not to a blank or to the unknown token
    rows = (new[: len(old)] == new[markers[0]]).all(-1).nonzero()[:, 0].tolist()
    sources = {t for i in rows for t in [tokenizer.convert_ids_to_tokens(i)] if t not in markers}
    assert any('"' in t for t in sources if t not in ("[E1]", "[/E1]"))


@FAMILIES
def test_the_longest_text_fits_the_position_table(family, folder):
    limit = POSITIONS.get(family, 130)
    model, processor = make(family, folder, length=limit or 200)
    text = "anna sees the fox " + "near boris " * 200
    batch = processor([text], [[(14, 17)]], labels=LABELS[:2])
    assert batch["input_ids"].shape[1] == (limit or 200)
    assert model.eval()(**batch).logits.isfinite().all()
    if limit is not None:
        with pytest.raises(ValueError, match=rf"max_length: got {limit + 1}, .* {limit}"):
            make(family, folder, length=limit + 1)


@FAMILIES
def test_frozen_text_states_are_those_of_the_encoder(family, folder):
    model, processor = make(family, folder, freeze_text=True)
    batch = tiny_batch(processor=processor, generator=False, images=False)
    given = model.eval()(**batch)
    states = model.encoders.encode_text(batch["input_ids"], batch["attention_mask"])
    again = model(**batch, text_features=states)
    torch.testing.assert_close(again.logits, given.logits)
    mean = masked_mean(states, batch["attention_mask"])
    assert mean.std() > 0.01
