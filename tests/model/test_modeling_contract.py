"""What transformers asks of a model: saving, loading, initialisation, precision."""

import math
import re
from pathlib import Path

import pytest
import torch
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
from torch.nn import LayerNorm
from transformers import AutoConfig, AutoModel, AutoProcessor, BertModel, ViTModel

from modeling_hmgrl import HMGRLConfig, HMGRLForZeroShotTyping, HMGRLModel, HMGRLProcessor

HYPERBOLIC = {
    "score_function": "geodesic",
    "latent": "wrapped_normal",
    "hvib_layer": "fully_lorentz",
    "hmcvae_layer": "fully_lorentz",
    "hyperbolic_translation": True,
}
VARIANTS = {
    "default": {},
    "default relation": {"task": "relation"},
    "paper typing": {"paper": True},
    "paper relation": {"paper": True, "task": "relation"},
    "hyperbolic": HYPERBOLIC,
    "learnable curvature": {
        "learnable_curvature": True, "hvib_layer": "fully_lorentz", "squared_radius": 2.0,
        "score_function": "geodesic",
    },
    "text alone": {"vision": False},
    "small projection": {"projection_size": 8, "hvib_layer": "euclidean"},
    "additive with similarity": {"attention": "additive", "contrast_function": "dot"},
}  # fmt: skip
ENCODERS = ("hmgrl.text_model.", "hmgrl.vision_model.")


@pytest.fixture(params=VARIANTS, ids=lambda name: name.replace(" ", "-"))
def variant(request):
    return VARIANTS[request.param]


def batch_for(variant, **options):
    images = variant.get("vision", True)
    return tiny_batch(variant.get("task", "typing"), images=images, **options)


def perturbed(model, seed=1):
    """Moves every parameter off its start, so that a start put in place of a weight shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            shift = 0.05 * torch.randn(parameter.shape, generator=generator)
            if name.endswith("translation"):  # stays on the hyperboloid
                parameter[1:] += shift[1:]
                squared = model.config.squared_radius + parameter[1:].square().sum()
                parameter[0] = squared.sqrt()
            else:
                parameter.add_(shift)
    return model


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
def test_missing_weights_start_as_in_a_new_model(which, tmp_path):
    variant = VARIANTS[which]
    model = perturbed(tiny_model(**variant))
    whole, fresh = model.state_dict(), tiny_model(seed=3, **variant).state_dict()
    model.save_pretrained(tmp_path / "whole")
    state = load_file(tmp_path / "whole" / "model.safetensors")
    for group, names in key_groups(model).items():
        folder = tmp_path / (group or "top")
        folder.mkdir()
        (folder / "config.json").write_bytes((tmp_path / "whole" / "config.json").read_bytes())
        kept = {name: value for name, value in state.items() if name not in names}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        loaded, info = HMGRLForZeroShotTyping.from_pretrained(folder, output_loading_info=True)
        assert set(info["missing_keys"]) == set(names)
        for name, value in loaded.state_dict().items():
            if name not in names:
                assert torch.equal(value, whole[name]), f"{name} changed with {group} missing"
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
    given = ("dense_", "_projection", "fusion.query")
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
    relation = tiny_model("relation").scorer.sample_projection.weight
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


def checkpoint(tmp_path, **variant):
    tiny_model(**variant).save_pretrained(tmp_path)
    return tmp_path


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


@pytest.mark.parametrize("which", VARIANTS)
def test_bfloat16_keeps_all_but_the_encoders_in_float32(which, tmp_path):
    variant = VARIANTS[which]
    checkpoint(tmp_path, **variant)
    model = HMGRLForZeroShotTyping.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for name, parameter in model.named_parameters():
        expected = torch.bfloat16 if name.startswith(ENCODERS) else torch.float32
        assert parameter.dtype == expected, name
    output = model.train()(**batch_for(variant))
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    assert all(term.isfinite() for term in output.loss_terms.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    reference = HMGRLForZeroShotTyping.from_pretrained(tmp_path)
    batch = batch_for(variant)
    with torch.no_grad():
        exact, rounded = reference(**batch).representation, model.eval()(**batch).representation
    assert rounded.dtype == torch.float32
    assert (exact - rounded).abs().mean() < 0.05 * exact.abs().mean()


def test_autocast_is_finite_and_near(variant):
    model = tiny_model(**variant)
    batch = batch_for(variant)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded = model(**batch).representation
    with torch.no_grad():
        exact = model(**batch).representation
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    assert (exact - rounded).abs().mean() < 0.05 * exact.abs().mean()
    with torch.autocast("cpu", torch.bfloat16):
        output = model.train()(**batch)
    output.loss.backward()
    assert all(term.isfinite() for term in output.loss_terms.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_batch_of_one_equals_a_row(variant):
    if variant.get("paper"):
        variant = variant | {"mask_padding": True}  # padding takes part in the paper's own setting
    model = perturbed(tiny_model(**variant))
    batch = batch_for(variant)
    assert len(set(batch["attention_mask"].sum(1).tolist())) > 1
    per_sample = ("input_ids", "attention_mask", "span_positions", "pixel_values", "image_mask")
    with torch.no_grad():
        whole = model(**batch)
        for i in range(4):
            n = int(batch["attention_mask"][i].sum())
            row = {k: v[i : i + 1] if k in per_sample else v for k, v in batch.items()}
            row["labels"] = batch["labels"][i : i + 1]
            row["input_ids"] = row["input_ids"][:, :n]
            row["attention_mask"] = row["attention_mask"][:, :n]
            alone = model(**row)
            assert torch.allclose(alone.logits[0], whole.logits[i], atol=1e-5, rtol=1e-5)
            assert torch.allclose(
                alone.representation[0], whole.representation[i], atol=1e-5, rtol=1e-5
            )


def test_training_noise_follows_the_seed_and_evaluation_has_none(variant):
    model = tiny_model(**variant)
    batch = batch_for(variant)
    rows = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        rows.append(model.train()(**batch))
    assert torch.equal(rows[0].loss, rows[1].loss)
    assert not torch.equal(rows[0].loss, rows[2].loss)
    assert not torch.equal(rows[0].logits, rows[2].logits)
    model.eval()
    with torch.no_grad():
        torch.manual_seed(5)
        first = model(**batch)
        torch.manual_seed(6)
        second = model(**batch)
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.representation, second.representation)


def losses_and_gradients(model, batch):
    torch.manual_seed(0)
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.item(), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("options", [None, {"use_reentrant": False}])
@pytest.mark.parametrize("freeze_vision", [True, False])
def test_gradient_checkpointing_changes_nothing(freeze_vision, options):
    # encoders without dropout, as checkpointing may draw it in another order
    model = tiny_model(freeze_vision=freeze_vision, dropout=0.0)
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    model.train()
    batch = tiny_batch()
    calls = []
    inside = next(p for p in model.hmgrl.text_model.encoder.modules() if isinstance(p, LayerNorm))
    inside.register_forward_hook(lambda *_: calls.append(1))
    plain, gradients = losses_and_gradients(model, batch)
    once = len(calls)
    # the older name is deprecated in newer releases
    enable = getattr(model, "activation_checkpointing_enable", None)
    (enable or model.gradient_checkpointing_enable)(options)
    checkpointed, others = losses_and_gradients(model, batch)
    assert len(calls) - once > once  # computed again on the way back
    assert checkpointed == pytest.approx(plain, rel=1e-6)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, others[name], atol=1e-6, rtol=1e-4), name


def test_sdpa_equals_eager(tmp_path):
    checkpoint(tmp_path)
    batch = tiny_batch()
    outputs = {}
    for kind in ("eager", "sdpa"):
        model = HMGRLForZeroShotTyping.from_pretrained(tmp_path, attn_implementation=kind)
        for part in (model, model.hmgrl.text_model, model.hmgrl.vision_model):
            assert part.config._attn_implementation == kind
        with torch.no_grad():
            outputs[kind] = model(**batch)
    assert torch.allclose(outputs["eager"].logits, outputs["sdpa"].logits, atol=1e-5)
    assert torch.allclose(
        outputs["eager"].representation, outputs["sdpa"].representation, atol=1e-5
    )


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


def test_from_backbones_with_the_papers_settings_and_without_pictures(backbones):
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
    with pytest.raises(ValueError, match=f"lacks .*{re.escape(name)}.* expected all weights"):
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
