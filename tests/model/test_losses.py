"""The loss terms: plain definitions, masks, many processes, narrow inputs."""

import math
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modeling_hmgrl import losses
from modeling_hmgrl.training.collectives import gather_with_gradient


def normal(*shape, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator)


# --- real samples -------------------------------------------------------------------------------


def naive_ranking(scores, labels, margin, candidates):
    total = 0.0
    for row, y in zip(scores.tolist(), labels.tolist(), strict=True):
        total += sum(
            max(0.0, margin - row[y] + row[k]) for k in range(len(row)) if k != y and candidates[k]
        )
    return total / len(labels)


@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 6),
    classes=st.integers(2, 9),
    margin=st.floats(0, 3),
)
@settings(max_examples=40, deadline=None)
def test_ranking_loss_is_its_definition(seed, rows, classes, margin):
    scores = normal(rows, classes, seed=seed, scale=3)
    seen = max(1, classes - 2)
    labels = torch.arange(rows) % seen
    candidates = torch.arange(classes) < seen
    everything = torch.ones(classes, dtype=torch.bool)
    expected = naive_ranking(scores, labels, margin, everything)
    ours = losses.ranking_loss(scores, labels, margin)
    assert ours.item() == pytest.approx(expected, rel=1e-5, abs=1e-5)
    expected = naive_ranking(scores, labels, margin, candidates)
    masked = losses.ranking_loss(scores, labels, margin, candidates)
    assert masked.item() == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert masked.item() == pytest.approx(
        losses.ranking_loss(scores[:, :seen], labels, margin).item(), rel=1e-5, abs=1e-5
    )


@pytest.mark.parametrize("function", [losses.ranking_loss, losses.classification_loss])
def test_labels_that_are_no_candidates_get_no_gradient(function):
    scores = normal(4, 6).requires_grad_()
    candidates = torch.tensor([True, True, False, True, False, True])
    labels = torch.tensor([0, 1, 3, 5])
    loss = function(scores, labels, candidates=candidates)
    loss.backward()
    assert (scores.grad[:, ~candidates] == 0).all()
    kept = scores.detach()[:, candidates].requires_grad_()
    alone = function(kept, torch.tensor([0, 1, 2, 3]))
    alone.backward()
    assert loss.item() == pytest.approx(alone.item())
    assert torch.allclose(scores.grad[:, candidates], kept.grad)


def test_ranking_loss_is_finite_for_scores_that_are_minus_infinity():
    scores = torch.tensor([[1.0, -math.inf, 0.5]], requires_grad=True)
    loss = losses.ranking_loss(scores, torch.tensor([0]))
    assert loss.item() == pytest.approx(0.5)


# --- means and divergences ----------------------------------------------------------------------


def test_masked_mean_is_the_mean_of_what_counts():
    x, mask = normal(4, 5, 3), torch.tensor([5, 3, 1, 0]).unsqueeze(1) > torch.arange(5)
    assert torch.equal(losses.masked_mean(x, None), x.mean(1))
    for given_mask in (mask, mask.long(), mask.float()):
        means = losses.masked_mean(x, given_mask)
        for i, count in enumerate((5, 3, 1)):
            assert torch.allclose(means[i], x[i, :count].mean(0), atol=1e-6)
        assert (means[3] == 0).all()


@given(
    mu=hnp.arrays("float32", 4, elements=st.floats(-30, 30, width=32)),
    log_var=hnp.arrays("float32", 4, elements=st.floats(-80, 30, width=32)),
)
@settings(max_examples=100, deadline=None)
def test_divergence_is_that_of_two_normal_distributions(mu, log_var):
    mu, log_var = torch.tensor(mu), torch.tensor(log_var)
    kl = losses.gaussian_kl(mu, log_var)
    assert kl >= 0
    posterior = torch.distributions.Normal(mu.double(), (0.5 * log_var.double()).exp())
    prior = torch.distributions.Normal(torch.zeros(4).double(), torch.ones(4).double())
    expected = torch.distributions.kl_divergence(posterior, prior).sum().item()
    assert kl.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_divergence_is_precise_near_0_and_never_negative(dtype):
    zero = torch.zeros(1, 1, dtype=dtype)
    assert losses.gaussian_kl(zero, zero).item() == 0
    sizes = torch.logspace(-12, -2, 2000, dtype=torch.float64)
    log_var = torch.cat([sizes, -sizes]).to(dtype).unsqueeze(1)
    kl = losses.gaussian_kl(torch.zeros_like(log_var), log_var).double()
    assert (kl >= 0).all()
    x = log_var.double()[:, 0]
    series = x.square() * (1 / 4 + x * (1 / 12 + x * (1 / 48 + x * (1 / 240 + x / 1440))))
    # expm1(x) - x is off by a rounding of x, where exp(x) - 1 - x is off by a rounding of 1
    bound = 2 * torch.finfo(dtype).eps * x.abs()
    assert ((kl - series).abs() <= bound + 1e-9 * series).all()
    plain = 0.5 * (log_var.exp() - 1 - log_var)[:, 0].double()
    small = x.abs() < 1e-3
    assert (plain - series)[small].abs().max() > 100 * (kl - series)[small].abs().max()
    mu = torch.tensor([[1e-4]], dtype=dtype)
    assert losses.gaussian_kl(mu, zero).item() == pytest.approx(5e-9, rel=1e-6)


def test_divergence_has_the_gradient_of_its_definition():
    mu, log_var = normal(3, 4).double().requires_grad_(), normal(3, 4, seed=1).double()
    assert torch.autograd.gradcheck(losses.gaussian_kl, (mu, log_var.requires_grad_()))


def test_bottleneck_divergence_of_a_batch_with_padding_is_that_of_its_tokens():
    kl, mask = normal(4, 5).square(), torch.tensor([5, 3, 1, 0]).unsqueeze(1) > torch.arange(5)
    assert losses.bottleneck_kl(kl, None).item() == pytest.approx(kl.mean().item())
    expected = (kl[0].mean() + kl[1, :3].mean() + kl[2, 0]) / 3
    assert losses.bottleneck_kl(kl, mask).item() == pytest.approx(expected.item())
    assert losses.bottleneck_kl(kl, mask.long()).item() == pytest.approx(expected.item())
    assert losses.bottleneck_kl(kl[:3], mask[:3]).item() == pytest.approx(expected.item())
    assert losses.bottleneck_kl(kl, torch.zeros_like(mask)).item() == 0


# --- contrast -----------------------------------------------------------------------------------


def test_contrast_is_the_mean_of_both_cross_entropies():
    text, image = normal(5, 8), normal(5, 8, seed=1)
    logits = text @ image.T
    rows = -logits.log_softmax(1).diagonal().mean()
    columns = -logits.log_softmax(0).diagonal().mean()
    expected = ((rows + columns) / 2).item()
    assert losses.contrastive_loss(text, image).item() == pytest.approx(expected, rel=1e-6)
    every = torch.ones(5, dtype=torch.bool)
    assert losses.contrastive_loss(text, image, every).item() == pytest.approx(expected, rel=1e-6)


@given(present=st.lists(st.booleans(), min_size=1, max_size=8), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_contrast_with_absent_images_is_that_of_the_others(present, seed):
    mask = torch.tensor(present)
    text = normal(len(mask), 6, seed=seed).requires_grad_()
    image = normal(len(mask), 6, seed=seed + 1).requires_grad_()
    loss = losses.contrastive_loss(text, image, mask)
    loss.backward()
    assert (text.grad[~mask] == 0).all()
    assert (image.grad[~mask] == 0).all()
    if not mask.any():
        assert loss.item() == 0
        return
    rest = [x.detach()[mask].requires_grad_() for x in (text, image)]
    alone = losses.contrastive_loss(*rest)
    alone.backward()
    assert loss.item() == pytest.approx(alone.item(), rel=1e-5, abs=1e-6)
    for ours, theirs in zip((text, image), rest, strict=True):
        assert torch.allclose(ours.grad[mask], theirs.grad, atol=1e-6)


def test_contrast_has_a_gradient_where_the_original_clips():
    # probability exp(-40) of the right picture: the original stops at 1e-7
    text = torch.eye(2) * 40
    image = torch.eye(2).flip(0).requires_grad_()
    loss = losses.contrastive_loss(text, image)
    assert loss.item() == pytest.approx(40, rel=1e-6)
    loss.backward()
    assert image.grad.abs().max() > 1


def _share(rank, size, port, cases, folder):
    """One process of several: the value and, averaged, the gradient of its share of each case."""
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=size)
    results = []
    for text, image, mask in cases:
        part = slice(rank * len(text) // size, (rank + 1) * len(text) // size)
        # a parameter before the loss, as in training
        weight = torch.eye(text.shape[1]).requires_grad_()
        given = None if mask is None else gather_with_gradient(mask[part].float()) > 0
        everywhere = gather_with_gradient(text[part] @ weight)
        loss = losses.contrastive_loss(everywhere, gather_with_gradient(image[part]), given)
        loss.backward()
        dist.all_reduce(weight.grad)
        results.append((loss.detach(), weight.grad / size))
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


def _free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.mark.slow
def test_contrast_does_not_depend_on_the_number_of_processes(tmp_path):
    text, image = normal(6, 4, scale=0.7), normal(6, 4, seed=1, scale=0.7)
    masks = [None, torch.tensor([True, False, True, True, True, False])]
    # one process has no picture at all
    masks.append(torch.tensor([False, False, False, True, True, True]))
    cases = [(text, image, mask) for mask in masks]
    mp.spawn(_share, (2, _free_port(), cases, tmp_path), nprocs=2)
    shares = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for i, (_, _, mask) in enumerate(cases):
        weight = torch.eye(4).requires_grad_()
        loss = losses.contrastive_loss(text @ weight, image, mask)
        loss.backward()
        for share in shares:
            value, gradient = share[i]
            assert value.item() == pytest.approx(loss.item(), rel=1e-5)
            assert torch.allclose(gradient, weight.grad, atol=1e-6)


# --- synthetic samples --------------------------------------------------------------------------


def test_autoencoder_loss_adds_error_and_weighted_divergence():
    target, decoded, kl = normal(3, 7), normal(3, 7, seed=1), normal(3).square()
    error = (target - decoded).square().mean().item()
    for weight in (0.0, 0.01, 1.0):
        loss = losses.cvae_loss(target, decoded, kl, weight)
        assert loss.item() == pytest.approx(error + weight * kl.mean().item(), rel=1e-6)


def test_unseen_loss_is_the_cross_entropy_of_each_sample_with_its_own_label():
    scores = normal(4, 3, 4)
    expected = -scores.log_softmax(-1).diagonal(dim1=0, dim2=2).mean()
    assert losses.unseen_loss(scores).item() == pytest.approx(expected.item(), rel=1e-6)
    single = scores[:, 0]
    assert losses.unseen_loss(single).item() == pytest.approx(
        losses.unseen_loss(single.unsqueeze(1)).item(), rel=1e-6
    )
    assert losses.unseen_loss(torch.zeros(5, 5)).item() == pytest.approx(math.log(5))


@pytest.mark.parametrize("positive_part", [False, True])
def test_alignment_is_0_for_equal_own_scores_and_positive_otherwise(positive_part):
    scores = normal(5, 5)
    equal = scores.clone().fill_diagonal_(1.7)
    assert losses.alignment_loss(equal, positive_part).item() == pytest.approx(0, abs=1e-6)
    uneven = scores.clone()
    uneven.diagonal().copy_(torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]))
    softmax = uneven.diagonal().softmax(0)
    expected = F.kl_div(softmax.log(), torch.full((5,), 0.2), reduction="sum").item()
    assert losses.alignment_loss(uneven, positive_part).item() == pytest.approx(expected, rel=1e-5)
    draws = torch.stack([uneven - 0.5, uneven + 0.5], dim=1)
    assert losses.alignment_loss(draws, positive_part).item() == pytest.approx(expected, rel=1e-5)


def test_alignment_of_the_positive_part_gives_negative_scores_no_gradient():
    scores = torch.diag(torch.tensor([-1.0, 2.0, -3.0, 0.5]))
    for positive_part in (False, True):
        leaf = scores.clone().requires_grad_()
        losses.alignment_loss(leaf, positive_part).backward()
        gradient = leaf.grad.diagonal()
        assert (gradient[[1, 3]] != 0).all()
        assert (gradient[[0, 2]] == 0).all() == positive_part
    assert losses.alignment_loss(-torch.eye(3), True).item() == pytest.approx(0, abs=1e-6)


# --- precision ----------------------------------------------------------------------------------


LABELS = torch.tensor([0, 2, 1, 3])
CALLS = {
    "ranking": lambda x, y: losses.ranking_loss(x[:, :4], LABELS),
    "classification": lambda x, y: losses.classification_loss(x[:, :4], LABELS),
    "masked mean": lambda x, y: losses.masked_mean(x.unsqueeze(0), torch.ones(1, 4)),
    "mean": lambda x, y: losses.masked_mean(x.unsqueeze(0), None),
    "divergence": losses.gaussian_kl,
    "bottleneck": lambda x, y: losses.bottleneck_kl(x, y > 0),
    "contrast": losses.contrastive_loss,
    "autoencoder": lambda x, y: losses.cvae_loss(x, y, x[:, 0]),
    "unseen": lambda x, y: losses.unseen_loss(x[:, :4]),
    "alignment": lambda x, y: losses.alignment_loss(x[:, :4]),
}


@pytest.mark.parametrize("name", CALLS)
def test_narrow_inputs_and_autocast_are_computed_in_float32(name):
    x, y = normal(4, 64).bfloat16(), normal(4, 64, seed=1).bfloat16()
    expected = CALLS[name](x.float(), y.float())
    narrow = CALLS[name](x, y)
    assert narrow.dtype == torch.float32
    assert torch.equal(narrow, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(CALLS[name](x.float(), y.float()), expected)
        assert torch.equal(CALLS[name](x, y), expected)
