"""What transformers requires of a model: precision, batches, randomness, checkpointing."""

import pytest
import torch
from model_variants import ENCODERS, VARIANTS, batch_for, checkpoint, perturbed
from tiny_world import tiny_batch, tiny_model
from torch.nn import LayerNorm

from modeling_hmgrl import HMGRLForZeroShotTyping


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
