"""What must not change the model's scores: padding, order of labels, missing images."""

import pytest
import torch
import torch.nn.functional as F
from model_world import PAPER, TASKS, alive, assert_close, score, without
from tiny_world import tiny_batch, tiny_model

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
def test_a_sample_without_image_is_a_sample_of_text(task, paper):
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
def test_a_batch_without_any_image_is_one_of_text(paper):
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


def test_features_of_the_image_encoder_stand_for_images():
    model, batch = alive(), tiny_batch()
    with torch.no_grad():
        features = model.hmgrl.encode_image(batch["pixel_values"])
        masked = model.hmgrl.encode_image(batch["pixel_values"], batch["image_mask"])
    assert not masked[~batch["image_mask"]].any()
    assert_close(masked[batch["image_mask"]], features[batch["image_mask"]])
    given = score(model, without(batch, "pixel_values"), image_features=features)
    assert_close(given.logits, score(model, batch).logits)
