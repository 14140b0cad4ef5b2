"""Labels encoded in chunks: the same encodings and gradients, in memory that does not grow."""

import pytest
import torch
from tiny_world import tiny_model


@pytest.mark.parametrize("count", [3, 4, 9])
def test_chunks_give_the_same_encodings_and_gradients(count):
    model = tiny_model().eval().hmgrl
    ids = torch.randint(5, 60, (count, 5))
    mask = torch.ones_like(ids)
    mask[::2, 3:] = 0
    results = []
    for chunk in (256, 4):
        model.zero_grad()
        encoded = model.encode_labels(ids, mask, chunk)
        encoded.square().sum().backward()
        results.append((encoded.detach(), model.get_input_embeddings().weight.grad.clone()))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


def test_dropout_is_the_same_when_a_chunk_is_encoded_once_more():
    model = tiny_model().train().hmgrl
    ids = torch.randint(5, 60, (6, 5))
    embeddings = model.get_input_embeddings().weight
    gradients = []
    for chunk in (2, 2):
        model.zero_grad()
        torch.manual_seed(3)
        model.encode_labels(ids, torch.ones_like(ids), chunk).square().sum().backward()
        gradients.append(embeddings.grad.clone())
    assert torch.equal(*gradients)


def test_of_several_chunks_only_encodings_are_kept():
    model = tiny_model().train().hmgrl

    def kept(chunk):
        ids, sizes = torch.randint(5, 60, (64, 8)), []
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.append(tensor.numel()) or tensor, lambda tensor: tensor
        )
        with hooks:
            model.encode_labels(ids, torch.ones_like(ids), chunk)
        return sum(sizes)

    assert kept(8) < kept(64) / 5
