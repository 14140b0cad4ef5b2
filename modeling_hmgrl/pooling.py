"""Pooling of token states: masked means, and encodings of relation labels by parts.

Source: Zhao et al. 2023, "RE-Matching: A fine-grained semantic matching method for zero-shot
relation extraction", which matches descriptions part by part.
"""

import torch
from torch import Tensor

from .lorentz import wide


def masked_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the second axis where ``mask`` is set; 0 for a row where it is set nowhere.

    Args:
        x: Values, shape (B, n, d).
        mask: Positions that count, bool or 0/1, shape (B, n); all if None.

    Returns:
        Means, shape (B, d).
    """
    x = wide(x)
    if mask is None:
        return x.mean(1)
    weights = mask.to(x.dtype).unsqueeze(-1)
    return (x * weights).sum(1) / weights.sum(1).clamp(min=1)


def pool_parts(
    states: Tensor, ids: Tensor, mask: Tensor | None, separator_id: int | None
) -> Tensor:
    """Means of the parts of texts "head; context; tail"; of the whole text where it has no parts.

    Args:
        states: Token states, shape (K, L, d).
        ids: Token ids, shape (K, L).
        mask: Tokens that count, shape (K, L); all if None.
        separator_id: Token id of the separator; no text has parts if None.

    Returns:
        [head; tail; context], shape (K, 3d).
    """
    counted = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    whole = masked_mean(states, counted)
    separator = (ids == (-1 if separator_id is None else separator_id)) & counted
    segment = separator.cumsum(1)
    last = counted.long().cumsum(1) == counted.sum(1, keepdim=True)
    first = torch.arange(ids.shape[1], device=ids.device) == 0
    inner = counted & ~separator & ~last & ~first  # special tokens at both ends are in no part
    in_three = (separator.sum(1, keepdim=True) == 2).expand(-1, 3)
    parts = torch.stack([inner & (segment == k) for k in range(3)], dim=1)
    usable = (in_three & parts.any(-1)).unsqueeze(-1)
    weights = parts.to(states.dtype)
    means = weights @ states / weights.sum(-1, keepdim=True).clamp(min=1)
    head, context, tail = torch.where(usable, means, whole.unsqueeze(1)).unbind(1)
    return torch.cat([head, tail, context], dim=-1)


__all__ = ["masked_mean", "pool_parts"]
