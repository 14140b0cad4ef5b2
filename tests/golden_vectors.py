"""Loads the vectors recorded from the original implementation, and measures how far one is off."""

from pathlib import Path

import torch
from safetensors.torch import load_file

FOLDER = Path(__file__).parent / "golden"


class Vectors(dict):
    """Tensors of one golden file by name; ``part`` narrows to the names below a prefix."""

    def part(self, prefix):
        size = len(prefix) + 1
        return Vectors({k[size:]: v for k, v in self.items() if k.startswith(prefix + "/")})

    def float64(self):
        return Vectors({k: v.double() if v.is_floating_point() else v for k, v in self.items()})


def vectors(name):
    return Vectors(load_file(FOLDER / f"{name}.safetensors"))


def relative_error(actual, expected):
    """Largest difference of any entry, relative to the largest entry of ``expected``."""
    expected = torch.as_tensor(expected)
    actual = torch.as_tensor(actual)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    actual, expected = actual.detach().double(), expected.double()
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def row_errors(actual, expected):
    """Norm of each row's difference, relative to the norm of the row of ``expected``."""
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    actual, expected = actual.detach().double(), expected.double()
    return (actual - expected).norm(dim=-1) / expected.norm(dim=-1)


def assert_golden(actual, expected, bound=1e-4):
    error = relative_error(actual, expected)
    assert error <= bound, error
