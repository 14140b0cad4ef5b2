"""Relation labels compared by parts: head, tail and what lies between."""

import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from tiny_world import tiny_batch, tiny_method, tiny_processor
from torch.nn import functional as F
from transformers.utils import logging

from modeling_hmgrl import HMGRLConfig
from modeling_hmgrl.baselines import METHODS
from modeling_hmgrl.label_parts import unsplit_texts, warn_of_unsplit_texts

TEXTS = ["anna; feeds the hen; boris", "anna feeds boris", "hen; likes; anna"]
WITH_PARTS = [
    n for n, m in METHODS.items() if m.config_class.takes_label_parts and "relation" in m.tasks
]  # fmt: skip
WITHOUT = [
    n for n, m in METHODS.items() if not m.config_class.takes_label_parts and "relation" in m.tasks
]  # fmt: skip


def encoded_labels(model, texts=TEXTS):
    found = tiny_processor("relation").encode_labels(texts)
    with torch.no_grad():
        return model.encode_labels(found["candidate_input_ids"], found["candidate_attention_mask"])


def batch_for(model):
    batch = tiny_batch("relation", processor=tiny_processor("relation"))
    if not model.uses_images:
        batch = {key: value for key, value in batch.items() if "image" not in key}
        batch.pop("pixel_values", None)
    return batch


def test_who_compares_by_parts():
    assert set(WITH_PARTS) == {"hmgrl", "proto", "mmproto", "movcnet", "mg_vmoe", "zs_bert"}
    assert set(WITHOUT) == {"re_matching", "zs_ska"}


@pytest.mark.parametrize("name", WITH_PARTS)
def test_methods_encode_parts_as_re_matching_does(name):
    ours = encoded_labels(tiny_method(name, "relation", label_parts=True))
    torch.testing.assert_close(ours, encoded_labels(tiny_method("re_matching", "relation")))


@pytest.mark.parametrize("name", WITH_PARTS)
def test_losses_reach_the_scorer_and_scores_depend_on_each_part(name):
    model = tiny_method(name, "relation", label_parts=True).train()
    batch = batch_for(model)
    output = model(**batch)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert output.candidate_embeddings.shape[-1] == 3 * model.config.text_width
    # scores do not change with what else is asked for, and each part matters
    model.eval()
    width = model.config.text_width
    batch.pop("labels")
    with torch.no_grad():
        encoded = model.encode(
            **{
                k: v
                for k, v in batch.items()
                if k.split("_")[0] not in ("candidate", "synthetic", "seen")
            }
        )
        labels = encoded_labels(model)
        scores = model.score(encoded, model.prepare_labels(labels))
        torch.testing.assert_close(
            scores[:, :1], model.score(encoded, model.prepare_labels(labels[:1])), atol=1e-4, rtol=0
        )
        for part in range(3):
            moved = labels.clone()
            moved[:, part * width : (part + 1) * width] = moved.roll(1, 0)[
                :, part * width : (part + 1) * width
            ]
            changed = model.score(encoded, model.prepare_labels(moved))
            assert (changed - scores).abs().max() > 1e-3, part


def test_the_untrained_score_is_the_mean_of_three_cosines():
    model = tiny_method("proto", "relation", label_parts=True)
    labels = encoded_labels(model)
    batch = batch_for(model)
    with torch.no_grad():
        encoded = model.encode(batch["input_ids"], batch["attention_mask"], batch["span_positions"])
        found = model.score(encoded, model.prepare_labels(labels)) / model.scorer.scale
    head, tail = encoded.representation.chunk(2, dim=-1)
    samples = (head, tail, (head + tail) / 2)
    wanted = sum(
        F.cosine_similarity(s.unsqueeze(1), part.unsqueeze(0), dim=-1) / 3
        for s, part in zip(samples, labels.chunk(3, dim=-1), strict=True)
    )
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("score_function", ["dot", "geodesic", "euclidean"])
def test_other_scores_take_the_parts_side_by_side(score_function):
    model = tiny_method("hmgrl", "relation", label_parts=True, score_function=score_function)
    output = model.train()(**batch_for(model))
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert output.logits.shape == (4, 4)


@pytest.mark.parametrize("name", WITHOUT)
def test_methods_with_another_way_refuse(name):
    with pytest.raises(ValueError, match="label_parts: got True, expected False"):
        tiny_method(name, "relation", label_parts=True)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(
        StrictDataclassClassValidationError, match="label_parts: got True for task 'typing'"
    ):
        HMGRLConfig(label_parts=True)
    with pytest.raises(
        StrictDataclassClassValidationError,
        match="generator_condition: got 'mention' with label_parts",
    ):
        HMGRLConfig(task="relation", label_parts=True, generator_condition="mention")


def test_parts_survive_saving(tmp_path):
    model = tiny_method("hmgrl", "relation", label_parts=True)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.config.separator_id == model.config.separator_id
    assert again.config.separator_id is not None
    torch.testing.assert_close(encoded_labels(again), encoded_labels(model))


def test_a_synthetic_part_comes_from_its_part_of_the_label():
    model = tiny_method("hmgrl", "relation", label_parts=True)
    width, latent = model.config.text_width, model.config.generator_latent_size
    labels = encoded_labels(model)
    noise = torch.randn(3, 4, latent)
    others = labels.clone()
    others[:, width : 2 * width] += 1.0  # another tail
    first, second = (
        model.hmcvae.generate(x, 4, noise).unflatten(-1, (4, width)) for x in (labels, others)
    )
    assert first.shape == (3, 4, 4, width)
    changed = [not torch.equal(first[:, :, k], second[:, :, k]) for k in range(4)]
    assert changed == [False, False, True, False]  # [h_CLS; head; tail; pooled]


def test_one_decoder_serves_head_and_tail():
    model = tiny_method("hmgrl", "relation", label_parts=True)
    decoder = model.hmcvae.decoder
    with torch.no_grad():  # both roles read the latent alike
        half = decoder.latent
        decoder.roles.weight[half:], decoder.roles.bias[half:] = (
            decoder.roles.weight[:half],
            decoder.roles.bias[:half],
        )
    labels = encoded_labels(model)
    head, tail, context = labels.chunk(3, dim=-1)
    noise = torch.randn(3, 2, half)
    one = model.hmcvae.generate(labels, 2, noise)
    other = model.hmcvae.generate(torch.cat([tail, head, context], dim=-1), 2, noise)
    width = model.config.text_width
    torch.testing.assert_close(one[..., width : 2 * width], other[..., 2 * width : 3 * width])


def test_relations_are_compared_by_parts_unless_the_paper_or_the_method_says_otherwise():
    assert HMGRLConfig(task="relation").label_parts is True
    assert HMGRLConfig(task="typing").label_parts is False
    assert HMGRLConfig.paper(task="relation").label_parts is False
    assert HMGRLConfig(task="relation", generator_condition="mention").label_parts is False
    assert HMGRLConfig(task="relation", label_parts=False).label_parts is False
    for name in WITH_PARTS:
        assert METHODS[name].config_class(task="relation").label_parts is True, name
        assert METHODS[name].config_class.paper(task="relation").label_parts is False, name
    for name in WITHOUT:
        assert METHODS[name].config_class(task="relation").label_parts is False, name


def test_what_is_saved_is_what_was_resolved(tmp_path):
    for choice in (None, False):
        HMGRLConfig(task="relation", label_parts=choice).save_pretrained(tmp_path)
        content = json.loads((tmp_path / "config.json").read_text())
        assert content["label_parts"] is (choice is None)
        assert HMGRLConfig.from_pretrained(tmp_path).label_parts is (choice is None)


def test_texts_that_were_meant_in_parts_are_reported_once(caplog):
    logging.enable_propagation()
    reported = set()
    texts = ["person; leads; team", "plain words", "only; two", "a; b; c; d", "; b; c"]
    assert unsplit_texts(texts) == ["only; two", "a; b; c; d", "; b; c"]
    with caplog.at_level("WARNING", logger="modeling_hmgrl"):
        warn_of_unsplit_texts(texts, reported)
        warn_of_unsplit_texts([*texts, "new; one"], reported)
        warn_of_unsplit_texts(["plain words"], reported)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert messages[0].startswith("label texts: 'only; two', 'a; b; c; d', '; b; c' compared as")
    assert messages[1].startswith("label texts: 'new; one' compared as a whole")
