"""What an exponential moving average of the weights covers, and in which precision."""

import pytest
import torch
from torch import nn

from modeling_hmgrl.training.optimization import WeightAverage


class Counting(nn.Module):
    """A trained weight, a frozen one, an integer table and two buffers."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, dtype=dtype))
        self.frozen = nn.Parameter(torch.ones(3, dtype=dtype), requires_grad=False)
        self.table = nn.Parameter(torch.arange(3), requires_grad=False)
        self.register_buffer("count", torch.zeros(1, dtype=torch.long))
        self.register_buffer("mean", torch.zeros(3, dtype=dtype))


def test_buffers_and_frozen_weights_keep_their_current_values():
    model = Counting()
    average = WeightAverage(model, 0.5)
    assert set(average.state_dict()) == {"weight"}
    with torch.no_grad():
        model.weight.fill_(4.0)
        model.count.fill_(7)
        model.mean.fill_(3.0)
    average.update()
    with average.applied():
        assert (model.weight == 2.0).all()
        assert (model.count, model.mean[0], model.frozen[0]) == (7, 3.0, 1.0)
        assert model.table.tolist() == [0, 1, 2]
    assert (model.weight == 4.0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_small_steps_add_up_in_every_precision(dtype):
    model = Counting(dtype)
    average = WeightAverage(model, 0.999)
    with torch.no_grad():
        model.weight.fill_(1.0)
    for _ in range(3000):
        average.update()
    expected = 1 - 0.999**3000  # a bfloat16 average stops at 0.25
    assert average.state_dict()["weight"][0].item() == pytest.approx(expected, rel=1e-3)
    for _ in range(2):  # applying it loses nothing
        with average.applied():
            assert model.weight[0].item() == pytest.approx(expected, rel=4e-3)
            assert model.weight.dtype == dtype
        assert (model.weight == 1.0).all()
        assert average.state_dict()["weight"][0].item() == pytest.approx(expected, rel=1e-3)
