"""Which loss trains which part of the model, and calibration."""

import pytest
import torch
from model_world import GENERATOR, PAPER, TASKS, WIDTH, alive, assert_close, score, without
from tiny_world import tiny_batch, tiny_model

# --- who is trained by what ---------------------------------------------------------------------


def trained_by(model, batch, term):
    """Names of the parameters that a term's gradient reaches."""
    model.zero_grad()
    torch.manual_seed(0)
    model.train()(**batch).loss_terms[term].backward()
    return {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}


def parts(names):
    shortened = (name.removeprefix("hmgrl.").split(".") for name in names)
    return {p[0] if p[0] != "scorer" else p[1] for p in shortened}


@TASKS
@PAPER
def test_each_term_trains_what_it_should(task, paper):
    model = alive(task, paper=paper)
    batch = tiny_batch(task)
    cvae = trained_by(model, batch, "cvae")
    assert parts(cvae) == {"hmcvae"}
    assert {name.split(".")[1] for name in cvae} == {"lorentz_mu", "lorentz_log_var", "decoder"}
    for term in ("unseen", "alignment"):
        reached = trained_by(model, batch, term)
        projections = {"sample_projection", "label_projection"}
        assert parts(reached) - {"log_scale"} == {"hmcvae", *projections}
        assert {name.split(".")[1] for name in reached if name.startswith("hmcvae")} == {"decoder"}
    real = trained_by(model, batch, "classification")
    assert {"text_model", "hvib", "fusion", "image_projection"} <= parts(real)
    assert not {"hmcvae", "vision_model"} & parts(real)
    bottleneck = trained_by(model, batch, "bottleneck")
    assert {"text_model", "hvib"} <= parts(bottleneck)
    assert not {"hmcvae", "fusion", "vision_model"} & parts(bottleneck)
    contrast = trained_by(model, batch, "contrastive")
    assert {"text_model", "hvib", "image_projection"} <= parts(contrast)
    assert not {"hmcvae", "fusion", "vision_model"} & parts(contrast)
    assert ("contrast_log_scale" in contrast) == (not paper)


def test_generator_labels_never_train_the_encoder_and_given_labels_may():
    model, batch = alive(), tiny_batch()
    ids, mask = batch["synthetic_input_ids"], batch["synthetic_attention_mask"]
    given = model.encode_labels(ids, mask)
    assert given.requires_grad
    rest = without(batch, *GENERATOR)
    output = model(**rest, synthetic_embeddings=given)
    (gradient,) = torch.autograd.grad(
        output.loss_terms["unseen"] + output.loss_terms["alignment"], given, allow_unused=True
    )
    assert gradient is None


def test_the_generator_is_conditioned_as_the_config_says():
    batch = tiny_batch()
    for condition in ("label", "mention"):
        model = tiny_model(generator_condition=condition, generator_samples=5)
        seen = []
        decode = model.hmcvae.decode
        model.hmcvae.decode = lambda z, c, seen=seen, decode=decode: (
            seen.append(c.detach()), decode(z, c),
        )[1]  # fmt: skip
        output = model(**batch)
        encoded = model.hmgrl(**{
            name: batch[name]
            for name in (
                "input_ids", "attention_mask", "span_positions", "pixel_values", "image_mask",
            )
        })  # fmt: skip
        expected = (
            output.candidate_embeddings[batch["labels"]]
            if condition == "label"
            else encoded.condition
        )
        assert_close(seen[0], expected)
        assert seen[1].shape == (3, 5, WIDTH)  # U labels, five draws


# --- candidates, calibration --------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["ranking", "cross_entropy"])
def test_the_loss_knows_seen_candidates_alone(loss):
    model, batch = tiny_model(classification_loss=loss), tiny_batch()
    whole = score(model, batch).loss_terms["classification"]
    changes = {
        "candidate_input_ids": batch["candidate_input_ids"][:3],
        "candidate_attention_mask": batch["candidate_attention_mask"][:3],
        "seen_mask": batch["seen_mask"][:3],
    }
    assert_close(whole, score(model, batch, **changes).loss_terms["classification"])
    generous = {"ranking_margin": 50.0} if loss == "ranking" else {}
    model = tiny_model(classification_loss=loss, **generous)
    everything = score(model, without(batch, "seen_mask")).loss_terms["classification"]
    assert everything > score(model, batch).loss_terms["classification"] * 1.01


def test_calibration_takes_gamma_off_the_seen_labels():
    model, batch = tiny_model(calibration_gamma=0.75), tiny_batch()
    output = score(model, batch)
    assert_close(output.logits - output.calibrated_logits, 0.75 * batch["seen_mask"].expand(4, 4))
    integers = score(model, batch, seen_mask=batch["seen_mask"].long())
    assert torch.equal(integers.calibrated_logits, output.calibrated_logits)
    assert torch.equal(integers.loss_terms["classification"], output.loss_terms["classification"])


def test_the_first_gradient_of_projected_images_is_bounded_without_a_bottleneck():
    """They are initialised to 0, where a normalisation has no gradient of ordinary size."""
    norms = {}
    for bottleneck in ("variational", "none"):
        model = tiny_model(bottleneck=bottleneck).train()
        model(**tiny_batch()).loss.backward()
        norms[bottleneck] = model.hmgrl.image_projection.weight.grad.norm().item()
    assert 0 < norms["none"] < 1e4 * norms["variational"]
