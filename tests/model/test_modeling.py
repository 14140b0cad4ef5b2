"""What the model computes: outputs, errors, the paper's settings and ours."""

import pytest
import torch
import torch.nn.functional as F
from model_world import GENERATOR, PAPER, TASKS, WIDTH, alive, assert_close, score, without
from tiny_world import tiny_batch, tiny_model, tiny_processor

TERMS = {"classification", "bottleneck", "contrastive", "cvae", "unseen", "alignment"}

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
    assert output.candidate_embeddings.shape == (4, model.config.label_width)
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
    settings = {"label_parts": False, "projection_size": size}
    model = tiny_model(task, temperature_init=temperature, **settings)
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
    model = tiny_model(dropout=0.0, freeze_text=True, generator_samples=4)
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
