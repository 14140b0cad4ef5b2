"""Collects tensors of all processes, so that a loss sees the whole batch."""

import torch
from torch import Tensor


def gather_with_gradient(x: Tensor) -> Tensor:
    """Concatenates ``x`` over the processes of a distributed run, with gradient.

    Every process then computes the loss of the whole batch, and the averaging of gradients over
    processes gives what one process would have had.

    Args:
        x: Tensor of this process, shape (B, ...); B must be the same in all processes.

    Returns:
        Tensors of all processes in the order of their ranks, shape (processes * B, ...); ``x``
        itself where there is one process.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return x
    if distributed.get_world_size() == 1:
        return x
    from torch.distributed.nn.functional import all_gather  # noqa: PLC0415 - only when distributed

    return torch.cat(all_gather(x))
