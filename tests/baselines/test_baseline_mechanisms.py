"""What makes each method the one it is."""

import pytest
import torch
import torch.nn.functional as F
from tiny_world import (
    LABELS,
    tiny_batch,
    tiny_method,
    tiny_processor,
    tiny_text_config,
    tiny_vision_config,
)

from modeling_hmgrl import lorentz
from modeling_hmgrl.baselines import METHODS, ProtoConfig
from modeling_hmgrl.baselines.base import margin_loss, masked_softmax, reversed_gradient
from modeling_hmgrl.baselines.mg_vmoe import VariationalExperts
from modeling_hmgrl.baselines.movcnet import regions_of
from modeling_hmgrl.baselines.re_matching import purified
from modeling_hmgrl.baselines.zs_ska import analogy
from modeling_hmgrl.outputs import EncoderStates
from modeling_hmgrl.scoring import MAX_LOG_SCALE

TEXT = "anna sees the fox today"
SPANS = [[14, 17]]
PAIR = "anna feeds boris near dara"
PAIR_SPANS = [[0, 4], [11, 16]]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(task="typing", **settings):
    processor = tiny_processor(task, **settings)
    if task == "typing":
        return dict(processor(TEXT, SPANS))
    return dict(processor(PAIR, PAIR_SPANS))


def states(model, batch):
    return model.encoders.encode_text(batch["input_ids"], batch["attention_mask"])


# proto, mmproto


def test_proto_scores_mention_states_by_two_projections():
    model = tiny_method(
        "proto", "relation", score_function="dot", projection_init="random", label_parts=False
    )
    batch, labels = inputs("relation"), random(3, 32)
    with torch.no_grad():
        mentions = model.encoders.mentions(states(model, batch), batch["span_positions"])
        entity = mentions.reshape(1, 64)
        logits = model(**batch, candidate_embeddings=labels).logits
        w1, w2 = model.scorer.sample_projection, model.scorer.label_projection
        torch.testing.assert_close(logits, w1(entity) @ w2(labels).T)


def test_mmproto_adds_the_mean_image_token():
    model = tiny_method("mmproto")
    text, image = random(2, 9, 32), random(2, 5, 32, seed=1)
    spans = torch.tensor([[[1, 4]], [[2, 6]]])
    mask = torch.tensor([True, False])
    states = EncoderStates(torch.zeros(2, 9), text, image, spans, image_mask=mask)
    found = model.represent(states).representation
    torch.testing.assert_close(found[0, 32:], image[0].mean(0))
    assert not found[1, 32:].any()
    torch.testing.assert_close(found[1, :32], text[1, 3:6].mean(0))


# movcnet


def test_regions_are_the_tokens_closest_to_the_class_token():
    image = random(3, 12, 8)
    found = regions_of(image, 4)
    likeness = F.cosine_similarity(image[:, 1:], image[:, :1], dim=-1)
    for row in range(3):
        best = sorted(range(11), key=lambda k: -likeness[row, k].item())[:4]
        torch.testing.assert_close(found[row], image[row, 1:][best])
    assert regions_of(image, 50).shape == (3, 11, 8)


def test_movcnet_sees_its_regions_alone_and_leaves_mentions_without_an_image():
    model = tiny_method("movcnet", num_regions=3)
    text, image, spans = random(2, 9, 32), random(2, 17, 32), torch.tensor([[[1, 4]], [[2, 6]]])
    mask = torch.tensor([True, False])

    def of(image):
        with torch.no_grad():
            states = EncoderStates(torch.zeros(2, 9), text, image, spans, image_mask=mask)
            return model.represent(states).representation

    mentions = model.encoders.mentions(text, spans)[:, 0]
    found = of(image)
    torch.testing.assert_close(found[1], mentions[1])
    assert (found[0] - mentions[0]).abs().max() > 1e-3
    likeness = F.cosine_similarity(image[0, 1:], image[0, :1], dim=-1)
    far, near = 1 + likeness.argmin(), 1 + likeness.argmax()
    for token, matters in ((far, False), (near, True)):
        changed = image.clone()
        changed[0, token] = changed[0, token] * 2  # as close to the class token as before
        assert ((of(changed)[0] - found[0]).abs().max() > 1e-4) == matters


# mg_vmoe


def test_experts_are_mixed_by_the_gate_and_their_divergences_summed():
    experts = VariationalExperts(6, 3, residual=False).eval()
    x = random(2, 4, 6)
    with torch.no_grad():
        found = experts(x)
        gate = experts.gate(x).softmax(-1)
        mu, log_var = (f(x).view(2, 4, 3, 6) for f in (experts.mu, experts.log_var))
    torch.testing.assert_close(
        found.sample, sum(gate[..., e : e + 1] * mu[..., e, :] for e in range(3))
    )
    kl = 0.5 * (mu**2 + log_var.exp() - log_var - 1).sum((-1, -2))
    entropy = -(gate * gate.log()).sum(-1)
    torch.testing.assert_close(found.cost, kl + entropy)
    assert not torch.equal(experts.train()(x).sample, found.sample)


def test_the_graph_sets_each_sample_against_its_like_and_its_unlike():
    model = tiny_method("mg_vmoe", normalized_graph=False)
    h = random(5, 64)
    found = model.graph(h)
    for i in range(5):
        edges = torch.stack([(F.cosine_similarity(h[i], h[j], dim=0) + 1) / 2 for j in range(5)])
        like = h[i] @ (edges.unsqueeze(1) * h).sum(0)
        unlike = h[i] @ ((1 - edges).unsqueeze(1) * h).sum(0)
        torch.testing.assert_close(found[i], torch.stack([like, unlike]), rtol=1e-4, atol=1e-4)


def test_the_perturbation_moves_against_the_model():
    model = tiny_method("mg_vmoe")
    h = random(6, 64).requires_grad_()
    r = model.perturbation
    with torch.no_grad():
        r.copy_(random(1, 64, seed=1) * 0.3)

    def divergence(h, r):
        plain, moved = (model.graph(x).log_softmax(-1) for x in (h, h + r))
        return (plain.exp() * (plain - moved)).sum(-1).mean()

    wide = torch.autograd.grad(divergence(h, r), [h, r])
    own = torch.autograd.grad(model.adversarial(h), [h, r])
    torch.testing.assert_close(own[0], wide[0])  # the model shrinks the divergence
    length = (r / r.norm()).detach()
    torch.testing.assert_close(own[1] - length, -wide[1])  # the perturbation widens it


def test_the_temperature_of_the_contrast_has_a_bound():
    model, batch = tiny_method("mg_vmoe", projection_init="random"), tiny_batch()

    def contrast(log_scale):
        with torch.no_grad():
            model.contrast_log_scale.fill_(log_scale)
            return model(**batch).loss_terms["contrastive"]

    assert torch.equal(contrast(200.0), contrast(MAX_LOG_SCALE))  # exp(200) is inf
    assert contrast(1.0) != contrast(MAX_LOG_SCALE)


# dbzfet, nzfet, mzet


@pytest.mark.parametrize("name", ["dbzfet", "mzet"])
def test_context_attention_leaves_mention_and_markers_out(name):
    model = tiny_method(name)
    with torch.no_grad():
        model.query.weight.copy_(random(32, 32))
    batch = inputs()
    start, end = batch["span_positions"][0, 0].tolist()
    with torch.no_grad():
        weights = model.encode(**batch).attention[0]
    assert not weights[start : end + 1].any()
    assert (weights[:start] > 0).all()
    assert (weights[end + 1 :] > 0).all()
    assert weights.sum() == pytest.approx(1)
    assert weights.max() > 1.01 * weights[weights > 0].min()


def test_nzfet_gives_each_label_a_context_of_its_own():
    model = tiny_method("nzfet", score_function="dot")
    with torch.no_grad():
        model.query.weight.copy_(random(32, 32))
    batch, labels = inputs(), random(4, 32, seed=2)
    with torch.no_grad():
        encoded = model.encode(**batch)
        logits = model.score(encoded, model.prepare_labels(labels))
        keys = model.key(encoded.text[0])
        for k in range(4):
            asked = (keys @ model.query(labels[k])) / 32**0.5
            weights = masked_softmax(asked, encoded.context[0])
            sample = torch.cat([encoded.representation[0], weights @ encoded.text[0]])
            own = model.scorer.sample_projection(sample) @ model.scorer.label_projection(labels[k])
            torch.testing.assert_close(logits[0, k], own, rtol=1e-4, atol=1e-4)
        contexts = model.contexts(encoded, model.query(labels))[0]
    assert (contexts[0] - contexts[1]).abs().max() > 1e-3


def test_mzet_reads_its_memory_and_passes_it_on_to_unseen_types():
    model = tiny_method("mzet", memory_temperature=0.5)
    slots, unseen = F.normalize(random(3, 32), dim=-1), random(2, 32, seed=1)
    assert torch.equal(model.associate(unseen), unseen)
    assert not model.read(unseen).any()
    model.write(slots)
    weights = (F.normalize(unseen, dim=-1) @ slots.T / 0.5).softmax(-1)
    torch.testing.assert_close(model.associate(unseen), weights @ slots)
    assert weights.min() > 0.01  # a mixture of all
    with torch.no_grad():
        asked = (model.memory_query(unseen) @ slots.T / 32**0.5).softmax(-1)
        torch.testing.assert_close(model.read(unseen), asked @ slots)
    with pytest.raises(ValueError, match="memory_slots: got 64, expected at least the 65 seen"):
        model.write(random(65, 32))


def test_mzet_writes_the_seen_labels_in_training_alone():
    model = tiny_method("mzet")
    labels = random(4, 32)
    mask = torch.tensor([True, True, False, True])
    arguments = {"candidate_embeddings": labels, "seen_mask": mask, "labels": torch.tensor([1])}
    model(**inputs(), **arguments)
    assert int(model.filled) == 0
    model.train()(**inputs(), **arguments)
    assert int(model.filled) == 3
    torch.testing.assert_close(model.memory[:3], labels[mask])


def test_mzet_knows_words_by_their_letters():
    model, processor = tiny_method("mzet"), tiny_processor()
    ids = processor.tokenizer.convert_tokens_to_ids(["fox", "fern", "##x", "x"])
    table = model.characters[ids]
    assert (table[0, :4] > 0).tolist() == [True, True, True, False]
    assert torch.equal(table[2], table[3])  # the same letter
    inside = torch.ones(1, 1, dtype=torch.bool)
    with torch.no_grad():
        fox, fern = (model.character_features(torch.tensor([[i]]), inside) for i in ids[:2])
    assert (fox - fern).abs().max() > 1e-3


# zs_bert


def test_zs_bert_keeps_descriptions_where_they_are():
    model = tiny_method("zs_bert", "relation", label_parts=False).train()
    processor = tiny_processor("relation")
    encoded = processor.encode_labels(LABELS[:3])
    tokens = (encoded["candidate_input_ids"], encoded["candidate_attention_mask"])
    before = model.encode_labels(*tokens)
    assert not before.requires_grad
    model.eval()
    torch.testing.assert_close(model.encoders.encode_labels(*tokens), before)  # at the start
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    batch = inputs("relation") | {"labels": torch.tensor([1])}
    model(**batch, **encoded).loss.backward()
    optimizer.step()
    torch.testing.assert_close(model.encode_labels(*tokens), before)
    model.eval()
    assert (model.encoders.encode_labels(*tokens) - before).abs().max() > 1e-3


def test_attribute_vectors_are_bounded():
    model = tiny_method("zs_bert", "relation", label_parts=False)
    with torch.no_grad():
        vector = model.encode(**inputs("relation")).representation
    assert vector.shape == (1, 32)
    assert vector.abs().max() < 1


def test_margin_loss_takes_the_hardest_label_of_the_batch():
    likeness = torch.tensor([[0.9, 0.5, 2.0], [0.1, 0.3, 5.0]])
    labels = torch.tensor([0, 1])
    # the third label is no sample's, however likely it looks
    assert margin_loss(likeness, labels, 0.5) == pytest.approx((0.1 + 0.3) / 2)
    assert margin_loss(likeness, torch.tensor([0, 0]), 0.5) == 0


# re_matching


def test_the_purified_context_is_orthogonal_to_the_irrelevant_features():
    context, irrelevant = random(4, 8), random(4, 8, seed=1)
    found = purified(context, irrelevant)
    assert (found * irrelevant).sum(-1).abs().max() < 1e-5
    torch.testing.assert_close(purified(found, irrelevant), found, rtol=1e-4, atol=1e-5)
    assert torch.isfinite(purified(context, torch.zeros(4, 8))).all()
    model = tiny_method("re_matching", "relation")
    with torch.no_grad():
        encoded = model.encode(**inputs("relation"))
    inner = (encoded.representation[:, 64:] * encoded.irrelevant).sum(-1)
    assert inner.abs().max() < 1e-3 * encoded.irrelevant.norm()


def test_descriptions_are_split_at_their_separators():
    model, processor = tiny_method("re_matching", "relation"), tiny_processor("relation")
    texts = ["anna; feeds the hen; boris", "anna feeds boris", "; ; hen"]
    encoded = processor.encode_labels(texts)
    ids, mask = encoded["candidate_input_ids"], encoded["candidate_attention_mask"]
    with torch.no_grad():
        found = model.encode_labels(ids, mask)
        all_states = model.encoders.encode_text(ids, mask)
    whole = [all_states[k, : mask[k].sum()].mean(0) for k in range(3)]
    tokens = processor.tokenizer.convert_ids_to_tokens(ids[0])
    first, second = (i for i, token in enumerate(tokens) if token == ";")
    own = all_states[0]
    end = int(mask[0].sum()) - 1
    parts = [own[1:first].mean(0), own[second + 1 : end].mean(0), own[first + 1 : second].mean(0)]
    torch.testing.assert_close(found[0], torch.cat(parts), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], whole[1].repeat(3), rtol=1e-4, atol=1e-5)
    # a part without words stands as the whole
    torch.testing.assert_close(found[2, :32], whole[2], rtol=1e-4, atol=1e-5)


def test_the_match_is_the_weighted_sum_of_three_cosines():
    model = tiny_method("re_matching", "relation", entity_share=0.4)
    sample, label = random(1, 96), random(2, 96, seed=1)
    with torch.no_grad():
        encoded = type(model.encode(**inputs("relation")))(representation=sample)
        found = model.score(encoded, model.prepare_labels(label)) / model.scorer.scale
    parts = [
        F.cosine_similarity(a, b, dim=-1)
        for a, b in zip(sample.chunk(3, -1), label.chunk(3, -1), strict=True)
    ]
    torch.testing.assert_close(found[0], 0.4 * parts[0] + 0.4 * parts[1] + 0.2 * parts[2])


@pytest.mark.parametrize("score_function", ["dot", "euclidean", "geodesic"])
def test_the_match_weighs_the_three_parts_under_every_score(score_function):
    model = tiny_method(
        "re_matching", "relation", entity_share=0.4, score_function=score_function,
        squared_radius=2.0,
    )  # fmt: skip
    sample, label = random(2, 96), random(3, 96, seed=1)

    def score(a, b):
        if score_function == "dot":
            return a @ b.T
        a, b = (F.normalize(x, dim=-1) for x in (a, b))
        if score_function == "euclidean":
            return -torch.cdist(a, b).square() / 2
        a, b = (lorentz.expmap0(lorentz.orthogonal_radius(2.0) * x, 2.0) for x in (a, b))
        return -lorentz.pairwise_distance(a, b, 2.0).square()

    with torch.no_grad():
        encoded = type(model.encode(**inputs("relation")))(representation=sample)
        found = model.score(encoded, model.prepare_labels(label)) / model.scorer.scale
    head, tail, context = map(score, sample.chunk(3, -1), label.chunk(3, -1))
    wanted = 0.4 * head + 0.4 * tail + 0.2 * context
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_reversed_gradient_turns_round():
    x = random(3).requires_grad_()
    reversed_gradient(x).square().sum().backward()
    torch.testing.assert_close(x.grad, -2 * x.detach())


# zs_ska


def test_the_prompt_follows_the_text_and_its_mask_stands_for_the_relation():
    processor = tiny_processor("relation", prompt=True)
    batch = processor("anna [MASK] feeds boris", [[0, 4], [18, 23]])
    tokens = processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
    assert tokens[-5:] == ["[SEP]", "anna", "[MASK]", "boris", "[SEP]"]
    assert tokens.count("[MASK]") == 1  # a text cannot play one
    model = tiny_method("zs_ska", "relation")
    with torch.no_grad():
        found = model.encode(**batch).representation
        own = states(model, batch)[0, tokens.index("[MASK]")]
    torch.testing.assert_close(found[0], own)
    with pytest.raises(ValueError, match="expected a processor with prompt=True"):
        model.encode(**inputs("relation"))


def test_long_texts_leave_room_for_the_prompt():
    processor = tiny_processor("relation", prompt=True)
    text = "anna feeds boris " + "near " * 200
    batch = processor(text, [[0, 4], [11, 16]])
    assert batch["input_ids"].shape[1] <= processor.max_length
    assert batch.windows[0] is not None
    with pytest.raises(ValueError, match="prompt: requires task='relation'"):
        tiny_processor("typing", prompt=True)


def test_virtual_words_lie_among_the_labels_words_and_their_neighbours():
    model, processor = tiny_method("zs_ska", "relation", neighbours=2), tiny_processor("relation")
    encoded = processor.encode_labels(["tool"])
    ids, mask = encoded["candidate_input_ids"], encoded["candidate_attention_mask"]
    with torch.no_grad():
        encoding, virtual = model.encode_labels(ids, mask).chunk(2, dim=-1)
        torch.testing.assert_close(encoding, model.encoders.encode_labels(ids, mask))
        table = model.get_input_embeddings().weight
        word = table[ids[0, 1]]
        likeness = F.cosine_similarity(table, word.unsqueeze(0), dim=-1)
        near = likeness.topk(2)
        candidates = torch.stack([word, *table[near.indices]])
        weights = (torch.cat([torch.ones(1), near.values]) / 0.1).softmax(0)
    torch.testing.assert_close(virtual[0], weights @ candidates, rtol=1e-4, atol=1e-5)


def test_analogy_moves_what_is_close_to_the_seen_label():
    seen, unseen = random(1, 8), random(1, 8, seed=1)
    torch.testing.assert_close(analogy(seen, seen, unseen), unseen)
    torch.testing.assert_close(analogy(-seen, seen, unseen), -seen)


# What methods refuse


def test_a_text_only_method_refuses_an_image_encoder():
    config = ProtoConfig(text_config=tiny_text_config(), vision_config=tiny_vision_config())
    with pytest.raises(ValueError, match="hmgrl-proto is a text-only method, expected None"):
        METHODS["proto"](config)


@pytest.mark.parametrize(("name", "task"), [("dbzfet", "relation"), ("zs_bert", "typing")])
def test_a_method_refuses_the_other_task(name, task):
    with pytest.raises(ValueError, match=f"task: got '{task}', expected one of"):
        tiny_method(name, task)
