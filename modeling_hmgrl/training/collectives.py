"""Gathers tensors of all processes, so that a loss covers the whole batch."""

import torch
from torch import Tensor


def gather_with_gradient(x: Tensor) -> Tensor:
    """Concatenates ``x`` over the processes of a distributed run, with gradient.

    Every process then computes the loss of the whole batch, and the average of the gradients over
    processes equals the gradient of a single process.

    Args:
        x: Tensor of this process, shape (B, ...); B must be the same in all processes.

    Returns:
        Tensors of all processes in the order of their ranks, shape (processes * B, ...); ``x``
        itself with a single process.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return x
    if distributed.get_world_size() == 1:
        return x
    from torch.distributed.nn.functional import all_gather  # noqa: PLC0415 - only when distributed

    return torch.cat(all_gather(x))
