"""What the model computes: losses and who they train, masks, invariances, the paper's settings."""

import pytest
import torch
import torch.nn.functional as F
from tiny_world import tiny_batch, tiny_model, tiny_processor

TERMS = {"classification", "bottleneck", "contrastive", "cvae", "unseen", "alignment"}
WIDTH = 32
TASKS = pytest.mark.parametrize("task", ["typing", "relation"])
PAPER = pytest.mark.parametrize("paper", [False, True])


def alive(task="typing", **settings):
    """A model off its start, where pictures, queries and the bottleneck are silent."""
    model = tiny_model(task, **settings)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "text_model" not in name and "vision_model" not in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def score(model, batch, **changes):
    with torch.no_grad():
        return model(**(batch | changes))


def without(batch, *names):
    return {name: value for name, value in batch.items() if name not in names}


def assert_close(a, b, tolerance=1e-5):
    assert torch.allclose(a, b, atol=tolerance, rtol=tolerance), (a - b).abs().max()


# --- output -------------------------------------------------------------------------------------


@TASKS
@PAPER
def test_shapes_and_terms(task, paper):
    model = tiny_model(task, paper=paper)
    batch = tiny_batch(task)
    output = model(**batch)
    spans, n = 1 if task == "typing" else 2, batch["input_ids"].shape[1]
    assert output.logits.shape == output.calibrated_logits.shape == (4, 4)
    assert output.representation.shape == (4, (spans + 2) * WIDTH)
    assert output.candidate_embeddings.shape == (4, WIDTH)
    assert output.attention.shape == (4, n + 17)
    assert_close(output.attention.sum(1), torch.ones(4))
    assert set(output.loss_terms) == TERMS
    weights = {name: getattr(model.config, f"weight_{name}") for name in TERMS}
    expected = sum(weights[name] * term for name, term in output.loss_terms.items())
    assert_close(output.loss, expected)
    inner = model.hmgrl(
        batch["input_ids"], batch["attention_mask"], batch["span_positions"], batch["pixel_values"]
    )
    assert inner.condition.shape == (4, WIDTH)
    assert inner.text_states.shape == (4, n, WIDTH)
    assert inner.image_states.shape == (4, 17, WIDTH)
    assert inner.text_kl.shape == (4, n)
    assert inner.image_kl.shape == (4, 17)


def test_without_labels_there_is_no_loss_and_without_seen_mask_no_calibration():
    output = score(tiny_model(), without(tiny_batch(), "labels", "seen_mask"))
    assert output.loss is None
    assert output.loss_terms is None
    assert output.calibrated_logits is None
    assert output.logits.isfinite().all()


GENERATOR = ("synthetic_input_ids", "synthetic_attention_mask")


@pytest.mark.parametrize(
    ("dropped", "settings", "missing"),
    [
        (("pixel_values", "image_mask"), {}, {"contrastive"}),
        (GENERATOR, {}, {"unseen", "alignment"}),
        ((), {"weight_bottleneck": 0}, {"bottleneck"}),
        ((), {"weight_contrastive": 0}, {"contrastive"}),
        ((), {"weight_cvae": 0}, {"cvae"}),
        ((), {"weight_unseen": 0, "weight_alignment": 0}, {"unseen", "alignment"}),
        ((), {"weight_unseen": 0}, {"unseen"}),
        ((), {"weight_alignment": 0}, {"alignment"}),
    ],
)
def test_terms_drop_out(dropped, settings, missing):
    model = tiny_model(**settings)
    output = model.train()(**without(tiny_batch(), *dropped))
    assert set(output.loss_terms) == TERMS - missing
    assert output.loss.isfinite()


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
        model = tiny_model(generator_condition=condition)
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
        assert seen[1].shape == (3, 4, WIDTH)  # U labels, as many draws as there are samples


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


# --- invariances --------------------------------------------------------------------------------


def longer(batch, extra=6):
    changed = dict(batch)
    for name in ("input_ids", "candidate_input_ids", "synthetic_input_ids"):
        mask = name.replace("input_ids", "attention_mask")
        changed[name] = F.pad(batch[name], (0, extra), value=3)  # of no consequence where masked
        changed[mask] = F.pad(batch[mask], (0, extra))
    return changed


@TASKS
@pytest.mark.parametrize("attention", ["query", "additive"])
@pytest.mark.parametrize("pooling", ["mean", "marker"])
def test_more_padding_changes_nothing(task, attention, pooling):
    model = alive(task, attention=attention, span_pooling=pooling)
    batch = tiny_batch(task)
    a, b = score(model, batch), score(model, longer(batch))
    assert_close(a.logits, b.logits)
    for name in ("classification", "bottleneck", "contrastive"):
        assert_close(a.loss_terms[name], b.loss_terms[name], 1e-4)


def test_padding_matters_where_the_paper_lets_it():
    batch = tiny_batch()
    for masked in (True, False):
        model = alive(paper=True, mask_padding=masked)
        a, b = score(model, batch), score(model, longer(batch))
        changed = (a.logits - b.logits).abs().max() > 1e-3
        assert changed == (not masked)
        difference = a.loss_terms["bottleneck"] - b.loss_terms["bottleneck"]
        assert (difference.abs() > 1e-3) == (not masked)


@PAPER
def test_the_order_of_labels_changes_nothing(paper):
    model, batch = alive(paper=paper), tiny_batch()
    order = torch.tensor([2, 0, 3, 1])
    a = score(model, batch)
    b = score(
        model,
        batch,
        candidate_input_ids=batch["candidate_input_ids"][order],
        candidate_attention_mask=batch["candidate_attention_mask"][order],
        seen_mask=batch["seen_mask"][order],
        labels=order.argsort()[batch["labels"]],
    )
    assert_close(a.logits[:, order], b.logits)
    assert_close(a.calibrated_logits[:, order], b.calibrated_logits)
    assert_close(a.loss_terms["classification"], b.loss_terms["classification"])


def test_a_label_given_twice_scores_twice_the_same():
    model, batch = alive(), tiny_batch()
    twice = torch.tensor([0, 1, 2, 3, 1])
    a = score(model, without(batch, "labels", "seen_mask"))
    b = score(
        model,
        without(batch, "labels", "seen_mask"),
        candidate_input_ids=batch["candidate_input_ids"][twice],
        candidate_attention_mask=batch["candidate_attention_mask"][twice],
    )
    assert_close(a.logits, b.logits[:, :4])
    assert_close(b.logits[:, 4], b.logits[:, 1], 1e-6)


@PAPER
def test_chunks_of_labels_and_encodings_given_change_nothing(paper):
    model, batch = alive(paper=paper), tiny_batch()
    ids, mask = batch["candidate_input_ids"], batch["candidate_attention_mask"]
    with torch.no_grad():
        whole = model.encode_labels(ids, mask)
        for chunk in (1, 2, 3):
            assert_close(model.hmgrl.encode_labels(ids, mask, chunk=chunk), whole)
    rest = without(batch, "candidate_input_ids", "candidate_attention_mask")
    a, b = score(model, batch), score(model, rest, candidate_embeddings=whole)
    assert_close(a.logits, b.logits)


def test_label_encodings_are_means_over_tokens_that_count():
    model, batch = tiny_model(), tiny_batch()
    ids, mask = batch["candidate_input_ids"], batch["candidate_attention_mask"].clone()
    mask[0, -1] = 0
    states = model.hmgrl.text_model(input_ids=ids, attention_mask=mask).last_hidden_state
    expected = torch.stack(
        [row[keep.bool()].mean(0) for row, keep in zip(states, mask, strict=True)]
    )
    assert_close(model.encode_labels(ids, mask), expected)
    paper = tiny_model(paper=True)
    assert_close(
        paper.encode_labels(ids, mask),
        paper.hmgrl.text_model(input_ids=ids, attention_mask=mask).last_hidden_state.mean(1),
    )


# --- pictures -----------------------------------------------------------------------------------


@TASKS
@PAPER
def test_a_sample_without_picture_is_a_sample_of_text(task, paper):
    model, batch = alive(task, paper=paper), tiny_batch(task)
    mixed = score(model, batch)
    text = score(model, without(batch, "pixel_values", "image_mask"))
    absent = ~batch["image_mask"]
    assert absent.any()
    assert_close(mixed.logits[absent], text.logits[absent])
    assert_close(mixed.representation[absent], text.representation[absent])
    n = batch["input_ids"].shape[1]
    assert not mixed.attention[absent, n:].any()
    assert (mixed.attention[~absent, n:].sum(1) > 0).all()
    present = batch["image_mask"]
    assert not torch.allclose(mixed.logits[present], text.logits[present], atol=1e-3)
    noise = torch.where(batch["image_mask"].view(-1, 1, 1, 1), batch["pixel_values"], 1e3)
    filled = score(model, batch, pixel_values=noise)
    assert torch.equal(filled.logits, mixed.logits)
    assert torch.equal(filled.loss, mixed.loss) or model.config.weight_unseen  # fresh draws
    for name in ("classification", "bottleneck", "contrastive"):
        assert torch.equal(filled.loss_terms[name], mixed.loss_terms[name])


@PAPER
def test_a_batch_without_any_picture_is_one_of_text(paper):
    model, batch = alive(paper=paper), tiny_batch()
    text = score(model, without(batch, "pixel_values", "image_mask"))
    none = score(model, batch, image_mask=torch.zeros(4, dtype=torch.bool))
    assert_close(none.logits, text.logits)
    assert none.loss_terms["contrastive"] == 0
    assert_close(none.loss_terms["bottleneck"], text.loss_terms["bottleneck"])
    output = model.train()(**(batch | {"image_mask": torch.zeros(4, dtype=torch.long)}))
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_features_of_the_image_encoder_stand_for_pictures():
    model, batch = alive(), tiny_batch()
    with torch.no_grad():
        features = model.hmgrl.encode_image(batch["pixel_values"])
        masked = model.hmgrl.encode_image(batch["pixel_values"], batch["image_mask"])
    assert not masked[~batch["image_mask"]].any()
    assert_close(masked[batch["image_mask"]], features[batch["image_mask"]])
    given = score(model, without(batch, "pixel_values"), image_features=features)
    assert_close(given.logits, score(model, batch).logits)


# --- errors -------------------------------------------------------------------------------------


def test_errors_say_what_was_expected():
    batch = tiny_batch()
    model = tiny_model()
    relation = tiny_batch("relation")
    with pytest.raises(ValueError, match=r"span_positions: got shape \(4, 2, 2\), expected \(B, 1"):
        model(**(batch | {"span_positions": relation["span_positions"]}))
    with pytest.raises(ValueError, match="span_positions: got shape None, expected"):
        model(**without(batch, "span_positions"))
    with pytest.raises(ValueError, match=r"span_positions: got shape \(4, 1, 2\).*'relation'"):
        tiny_model("relation")(**(relation | {"span_positions": batch["span_positions"]}))
    with pytest.raises(
        ValueError, match="candidate_input_ids or candidate_embeddings: expected one"
    ):
        model(**without(batch, "candidate_input_ids", "candidate_attention_mask"))
    with pytest.raises(
        ValueError, match="candidate_input_ids: got no labels, expected at least one"
    ):
        model(**(batch | {"candidate_input_ids": batch["candidate_input_ids"][:0]}))
    text_alone = tiny_model(vision=False)
    with pytest.raises(ValueError, match="pixel_values: this model has no image encoder"):
        text_alone(**batch)
    features = torch.zeros(4, 17, WIDTH)
    with pytest.raises(ValueError, match="image_features: this model has no image encoder"):
        text_alone(**without(batch, "pixel_values"), image_features=features)


# --- the paper's settings and ours --------------------------------------------------------------


def attention_gradient(kind, task):
    """How the attention changes with the entity, at a model off its start."""
    model = alive(task, attention=kind)
    batch = tiny_batch(task)
    with torch.no_grad():
        text = model.hmgrl.encode_text(batch["input_ids"], batch["attention_mask"])
    spans = 2 if task == "typing" else 3
    entity = torch.randn(4, spans * WIDTH, generator=torch.Generator().manual_seed(0))
    entity.requires_grad_(True)
    _, weights = model.hmgrl.fusion(entity, text, None, batch["attention_mask"], None)
    favourite = (weights * torch.linspace(0, 1, weights.shape[1])).sum()
    return torch.autograd.grad(favourite, entity)[0].abs().max()


@TASKS
def test_the_entity_steers_the_query_attention_and_not_the_additive_one(task):
    assert attention_gradient("additive", task) < 1e-6
    assert attention_gradient("query", task) > 1e-3


def test_query_attention_starts_uniform_with_equal_shares():
    model, batch = tiny_model(), tiny_batch()
    attention = score(model, batch).attention
    n = batch["input_ids"].shape[1]
    for row, mask, present in zip(
        attention, batch["attention_mask"].bool(), batch["image_mask"], strict=True
    ):
        share = 0.5 if present else 1.0
        assert_close(row[:n][mask], torch.full((int(mask.sum()),), share / mask.sum()))
        assert not row[:n][~mask].any()
        assert_close(row[n:], torch.full((17,), 0.5 / 17 if present else 0.0))


@TASKS
@pytest.mark.parametrize("size", [None, 40])
def test_the_untrained_score_is_the_plain_similarity(task, size):
    """Text alone: cosine of mean mention + mean token with the label, over the temperature."""
    temperature = 0.2
    model = tiny_model(task, projection_size=size, temperature_init=temperature)
    batch = tiny_batch(task, images=False)
    with torch.no_grad():
        states = model.hmgrl.text_model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).last_hidden_state
        labels = model.encode_labels(
            batch["candidate_input_ids"], batch["candidate_attention_mask"]
        )
    rows = []
    for i, state in enumerate(states):
        mentions = [state[a + 1 : b].mean(0) for a, b in batch["span_positions"][i].tolist()]
        pooled = state[batch["attention_mask"][i].bool()].mean(0)
        rows.append(torch.stack(mentions).mean(0) + pooled)
    expected = F.cosine_similarity(torch.stack(rows)[:, None], labels[None], dim=-1) / temperature
    assert_close(score(model, batch).logits, expected, 1e-4)


@TASKS
def test_representation_and_scores_of_the_paper(task):
    """H = [h_CLS; h at the opening markers; pooled fusion]; s = (W1 H) . (W2 l)."""
    model, batch = alive(task, paper=True), tiny_batch(task, images=False)
    output = score(model, batch)
    with torch.no_grad():
        states = model.hmgrl.text_model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).last_hidden_state
        z = model.hmgrl.hvib(states).mu
        pooled = (output.attention.unsqueeze(-1) * z).sum(1)
        opening = batch["span_positions"][..., 0]
        mentions = [states[torch.arange(4), opening[:, k]] for k in range(opening.shape[1])]
        h = torch.cat([states[:, 0], *mentions, pooled], -1)
        s = model.scorer
        logits = s.sample_projection(h) @ s.label_projection(output.candidate_embeddings).T
    assert_close(output.representation, h)
    assert_close(output.logits, logits, 1e-4)
    ids, vocabulary = batch["input_ids"], tiny_processor(task).tokenizer
    for k, marker in enumerate(["[E1]", "[E2]"][: opening.shape[1]]):
        expected = vocabulary.convert_tokens_to_ids(marker)
        assert (ids[torch.arange(4), opening[:, k]] == expected).all()


def test_geodesic_scores_fall_with_the_distance():
    model = tiny_model(score_function="geodesic", vision=False)
    p = torch.eye(3, 32) * 2
    scores = model.scorer.score(p, p, 1.0)
    assert_close(scores.diagonal(), torch.zeros(3))
    assert (scores[~torch.eye(3, dtype=torch.bool)] < -1).all()


def test_given_noise_makes_training_repeatable():
    model = tiny_model(dropout=0.0, freeze_text=True)
    batch, generator = tiny_batch(), torch.Generator().manual_seed(0)
    n = batch["input_ids"].shape[1]
    shapes = {
        "text": (4, n, WIDTH), "image": (4, 17, WIDTH), "encode": (4, 10), "generate": (3, 4, 10),
    }  # fmt: skip
    noise = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    model.noise = noise
    losses = [model.train()(**batch).loss for _ in range(2)]
    assert torch.equal(*losses)
    for name, value in noise.items():
        model.noise = noise | {name: value + 1}
        other = model(**batch).loss
        assert not torch.equal(other, losses[0]), name


@PAPER
def test_a_few_steps_learn_the_tiny_world(paper):
    """The loss falls and the seen labels are told apart, in both settings."""
    torch.manual_seed(0)
    # without pictures and dropout, whose noise hides what a few steps learn
    model = tiny_model(paper=paper, vision=False, dropout=0.0, freeze_text=True).train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    batch = tiny_batch(batch_size=6, images=False)
    first = score(model.eval(), batch).loss_terms["classification"]
    for _ in range(25):
        loss = model.train()(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    output = score(model.eval(), batch)
    assert output.loss_terms["classification"] < 0.3 * first
    assert (output.logits[:, :3].argmax(1) == batch["labels"]).all()
