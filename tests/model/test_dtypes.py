"""A model that is cast as a whole computes its heads in float32."""

import pytest
import torch
from tiny_world import tiny_batch, tiny_model


@pytest.mark.parametrize("paper", [False, True], ids=["defaults", "paper"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cast_model_answers_as_float32_does(dtype, paper):
    model, batch = tiny_model(paper=paper).eval(), tiny_batch()
    batch.pop("labels")
    with torch.no_grad():
        expected = model(**batch).logits
        found = model.to(dtype)(**batch).logits
    assert found.dtype == torch.float32
    scale = expected.abs().max()
    assert (found - expected).abs().max() < 0.05 * scale


@pytest.mark.parametrize("paper", [False, True], ids=["defaults", "paper"])
@pytest.mark.parametrize("cast", ["half", "bfloat16"])
def test_a_cast_model_takes_a_training_step(cast, paper):
    model = getattr(tiny_model(paper=paper).train(), cast)()
    output = model(**tiny_batch())
    assert output.loss.dtype == torch.float32
    output.loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all(), name
