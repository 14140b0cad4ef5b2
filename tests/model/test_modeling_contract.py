"""What transformers requires of a model: saving, loading, initialisation."""

import math
import re
from pathlib import Path

import pytest
import torch
from model_variants import ENCODERS, HYPERBOLIC, VARIANTS, batch_for, checkpoint, perturbed
from safetensors.torch import load_file, save_file
from tiny_world import (
    save_backbones,
    tiny_batch,
    tiny_config,
    tiny_model,
    tiny_processor,
    tiny_text_config,
    tiny_vision_config,
)
from transformers import AutoConfig, AutoModel, AutoProcessor, BertModel, ViTModel

from modeling_hmgrl import HMGRLConfig, HMGRLForZeroShotTyping, HMGRLModel, HMGRLProcessor


def own(state):
    return {name for name in state if not name.startswith(ENCODERS)}


def test_save_and_load_is_bit_equal(variant, tmp_path):
    model = perturbed(tiny_model(**variant))
    batch = batch_for(variant)
    model.save_pretrained(tmp_path)
    loaded, info = HMGRLForZeroShotTyping.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert not loaded.training
    state, other = model.state_dict(), loaded.state_dict()
    assert state.keys() == other.keys()
    for name in state:
        assert torch.equal(state[name], other[name]), name
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, loaded(**batch).logits)
    files = {path.name for path in tmp_path.iterdir()}
    assert "model.safetensors" in files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]


def key_groups(model):
    """Groups of parameters of one owner, by module name, outside the encoders."""
    groups = {}
    for name in own(model.state_dict()):
        groups.setdefault(name.rpartition(".")[0], []).append(name)
    return groups


@pytest.mark.parametrize(
    "which", ["default", "paper relation", "hyperbolic", "learnable curvature"]
)
def test_weights_of_another_shape_start_as_in_a_new_model_if_asked_for(which, tmp_path):
    variant = VARIANTS[which]
    model = perturbed(tiny_model(**variant))
    whole, fresh = model.state_dict(), tiny_model(seed=3, **variant).state_dict()
    model.save_pretrained(tmp_path / "whole")
    state = load_file(tmp_path / "whole" / "model.safetensors")
    for group, names in key_groups(model).items():
        folder = tmp_path / (group or "top")
        folder.mkdir()
        (folder / "config.json").write_bytes((tmp_path / "whole" / "config.json").read_bytes())
        other = {name: torch.ones(value.numel() + 1, 2) for name, value in state.items()}
        mixed = {name: (other if name in names else state)[name] for name in state}
        save_file(mixed, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=re.escape(min(names))):
            HMGRLForZeroShotTyping.from_pretrained(folder)
        loaded, info = HMGRLForZeroShotTyping.from_pretrained(
            folder, output_loading_info=True, ignore_mismatched_sizes=True
        )
        assert {name for name, *_ in info["mismatched_keys"]} == set(names)
        for name, value in loaded.state_dict().items():
            if name not in names:
                assert torch.equal(value, whole[name]), f"{name} changed with {group} replaced"
                continue
            assert value.isfinite().all(), name
            expected = fresh[name]
            if expected.numel() == 1 or not random_start(name, variant):
                assert torch.equal(value, expected), f"{name} does not start as in a new model"
            else:  # a random start: of the same size
                assert not torch.equal(value, whole[name])
                assert 0.7 < value.std() / expected.std() < 1.4, name


def random_start(name, variant):
    """Whether a weight starts at random; biases and given starts do not."""
    if not name.endswith("weight"):
        return False
    if variant.get("paper"):
        return True
    given = ("dense_", "_projection", "fusion.query", "log_radius")
    return not any(part in name for part in given)


def test_starts_are_the_ones_described():
    model = tiny_model()
    fusion, hvib, scorer = model.hmgrl.fusion, model.hmgrl.hvib, model.scorer
    assert torch.equal(hvib.dense_log_var.bias, torch.full((32,), math.log(0.01)))
    for silent in (hvib.dense_mu, hvib.dense_log_var, model.hmgrl.image_projection, fusion.query):
        assert not silent.weight.any()
    for bias in (hvib.dense_mu.bias, model.hmgrl.image_projection.bias, fusion.query.bias):
        assert not bias.any()
    assert not fusion.modality_bias.any()
    assert scorer.log_scale.item() == pytest.approx(math.log(20))
    assert model.contrast_log_scale.item() == pytest.approx(math.log(20))
    eye, none = torch.eye(32), torch.zeros(32, 32)
    assert torch.equal(scorer.sample_projection.weight, torch.cat([none, eye, eye], 1))
    assert torch.equal(scorer.label_projection.weight, eye)
    relation = tiny_model("relation", label_parts=False).scorer.sample_projection.weight
    assert torch.equal(relation, torch.cat([none, eye / 2, eye / 2, eye], 1))
    narrow = tiny_model(projection_size=8).scorer
    projection = narrow.label_projection.weight
    assert torch.allclose(projection @ projection.T, torch.eye(8), atol=1e-5)
    assert torch.equal(narrow.sample_projection.weight[:, 32:64], projection)
    assert tiny_model(
        learnable_curvature=True, squared_radius=2.0
    ).hmgrl.curvature.log_c.item() == (pytest.approx(math.log(2)))
    translated = tiny_model(**HYPERBOLIC, squared_radius=4.0)
    for part in (translated.hmgrl.hvib, translated.hmcvae):
        for layer in (part.lorentz_mu, part.lorentz_log_var):
            assert layer.translation[0].item() == pytest.approx(2.0)
            assert not layer.translation[1:].any()


def test_built_on_the_meta_device(variant):
    config = tiny_config(**variant)
    with torch.device("meta"):
        model = HMGRLForZeroShotTyping(config)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not [name for name, buffer in model.named_buffers() if not buffer.is_meta]


@pytest.mark.parametrize("auto", [False, True])
@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("vision", [True, False])
def test_freezing_survives_loading(auto, text, vision, tmp_path):
    model = (AutoModel if auto else HMGRLForZeroShotTyping).from_pretrained(
        checkpoint(tmp_path, freeze_text=text, freeze_vision=vision)
    )
    assert isinstance(model, HMGRLForZeroShotTyping)
    model.train()
    for encoder, frozen in ((model.hmgrl.text_model, text), (model.hmgrl.vision_model, vision)):
        assert all(p.requires_grad != frozen for p in encoder.parameters())
        assert all(part.training != frozen for part in encoder.modules())
    assert all(
        p.requires_grad for name, p in model.named_parameters() if not name.startswith(ENCODERS)
    )
    assert model.hmgrl.hvib.training
    batch = tiny_batch()
    first, second = (
        model.hmgrl.encode_text(batch["input_ids"], batch["attention_mask"]) for _ in range(2)
    )
    assert torch.equal(first, second) == text  # dropout is off in a frozen encoder alone
    assert first.requires_grad != text
    model(**batch).loss.backward()
    for encoder, frozen in ((model.hmgrl.text_model, text), (model.hmgrl.vision_model, vision)):
        assert all(p.grad is None for p in encoder.parameters()) == frozen


def test_freezing_survives_loading_with_info_and_of_the_inner_model(tmp_path):
    checkpoint(tmp_path, freeze_text=True)
    model, _ = HMGRLForZeroShotTyping.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(p.requires_grad for p in model.hmgrl.text_model.parameters())
    inner = HMGRLModel.from_pretrained(tmp_path)
    assert torch.equal(
        inner.text_model.embeddings.word_embeddings.weight, model.get_input_embeddings().weight
    )
    assert not any(p.requires_grad for p in inner.vision_model.parameters())
    assert not any(p.requires_grad for p in inner.text_model.parameters())


def test_markers_are_added_as_punctuation_and_survive_saving(tmp_path):
    processor = tiny_processor("relation")
    model = HMGRLForZeroShotTyping(tiny_config("relation"))
    before = model.get_input_embeddings().weight.detach().clone()
    model.add_markers(processor)
    after = model.get_input_embeddings().weight
    assert model.config.text_config.vocab_size == len(after) == len(processor.tokenizer)
    assert len(after) == len(before) + 4
    assert torch.equal(after[: len(before)], before)
    for marker, initial in processor.marker_initials.items():
        index = processor.tokenizer.convert_tokens_to_ids(marker)
        assert index >= len(before)
        source = processor.tokenizer.convert_tokens_to_ids(initial)
        assert torch.equal(after[index], before[source])
    model.save_pretrained(tmp_path)
    loaded = HMGRLForZeroShotTyping.from_pretrained(tmp_path)
    assert torch.equal(loaded.get_input_embeddings().weight, after)


def test_resizing_the_embeddings_reaches_the_encoder():
    model = tiny_model()
    size = len(model.get_input_embeddings().weight)
    model.resize_token_embeddings(size + 7, mean_resizing=False)
    assert model.hmgrl.text_model.get_input_embeddings().num_embeddings == size + 7
    assert model.config.text_config.vocab_size == size + 7
    ids = torch.full((1, 5), size + 6)
    assert model.encode_labels(ids).isfinite().all()


@pytest.mark.parametrize("given", ["folders", "models"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_from_backbones_keeps_the_encoders(given, attention, backbones):
    text, vision = (
        BertModel.from_pretrained(backbones[0], attn_implementation=attention),
        ViTModel.from_pretrained(backbones[1], attn_implementation=attention),
    )
    expected = text.state_dict(), vision.state_dict()
    processor = HMGRLProcessor.from_backbones(*backbones, max_length=64)
    source = backbones if given == "folders" else (text, vision)
    model = HMGRLForZeroShotTyping.from_backbones(
        *source, processor=processor, bottleneck_size=12, generator_latent_size=10
    )
    assert not model.training
    assert model.config.text_config.vocab_size == len(processor.tokenizer)
    for encoder, weights in zip(
        (model.hmgrl.text_model, model.hmgrl.vision_model), expected, strict=True
    ):
        for name, value in encoder.state_dict().items():
            kept = value[: len(weights[name])] if "word_embeddings" in name else value
            assert torch.equal(kept, weights[name]), name
        kind = attention if given == "models" else "sdpa"
        assert encoder.config._attn_implementation == kind
        assert not [name for name in encoder.state_dict() if "pooler" in name]
    assert model.config._attn_implementation == (attention if given == "models" else "sdpa")
    assert not any(p.requires_grad for p in model.hmgrl.vision_model.parameters())
    with torch.no_grad():
        assert model(**tiny_batch(processor=processor)).logits.isfinite().all()


def test_from_backbones_with_the_papers_settings_and_without_images(backbones):
    model = HMGRLForZeroShotTyping.from_backbones(
        backbones[0], paper_settings=True, task="relation", generator_latent_size=6
    )
    assert model.config.score_function == "dot"
    assert model.config.weight_unseen == 1.0
    assert model.config.generator_latent_size == 6
    assert model.config.vision_config is None
    assert model.hmgrl.vision_model is None


def test_from_backbones_refuses_a_checkpoint_with_holes(tmp_path):
    folder, _ = save_backbones(tmp_path)
    path = Path(folder) / "model.safetensors"
    state = load_file(path)
    name = next(name for name in state if "query.weight" in name)
    del state[name]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"1 of \d+ weights \({re.escape(name)}\) is missing"):
        HMGRLForZeroShotTyping.from_backbones(folder)


def test_auto_classes(tmp_path):
    checkpoint(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is HMGRLConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is HMGRLForZeroShotTyping
    assert type(AutoProcessor.from_pretrained(tmp_path)) is HMGRLProcessor
    assert type(AutoModel.from_config(tiny_config())) is HMGRLForZeroShotTyping


def test_any_bert_and_vit_like_encoders():
    text, vision = tiny_text_config().to_dict(), tiny_vision_config().to_dict()
    text |= {"model_type": "electra", "embedding_size": 16}
    vision |= {"model_type": "dinov2"}
    config = HMGRLConfig(
        text_config=text, vision_config=vision, bottleneck_size=8, generator_latent_size=8
    )
    model = HMGRLForZeroShotTyping(config)
    model.add_markers(tiny_processor())
    assert model.train()(**tiny_batch()).loss.isfinite()
