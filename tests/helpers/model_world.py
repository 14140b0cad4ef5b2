"""Models off their initialisation, and checks of their scores."""

import pytest
import torch
from tiny_world import tiny_model

TASKS = pytest.mark.parametrize("task", ["typing", "relation"])
GENERATOR = ("synthetic_input_ids", "synthetic_attention_mask")
WIDTH = 32  # of the tiny encoders
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
