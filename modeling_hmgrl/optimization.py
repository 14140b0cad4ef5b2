"""Optimizer and learning-rate schedule of a run."""

from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from .lorentz_layers import wrap_manifold_parameters
from .training_arguments import HMGRLTrainingArguments

_SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


def make_optimizer(model: nn.Module, arguments: HMGRLTrainingArguments) -> torch.optim.Optimizer:
    """Makes AdamW with rates for encoders and heads; Riemannian Adam where points are learnt.

    Args:
        model: Model; what lives on the hyperboloid is wrapped as geoopt parameters.
        arguments: Arguments of the run.

    Returns:
        The optimizer over all parameters that are trained.

    Raises:
        ValueError: If weight decay is asked for with parameters on the hyperboloid.
    """
    riemannian = wrap_manifold_parameters(model) > 0
    if riemannian and arguments.weight_decay:
        raise ValueError("weight_decay: expected 0 where parameters live on the hyperboloid")
    encoders = {
        id(parameter)
        for part in model.modules()
        for name in ("text_model", "vision_model")
        if getattr(part, name, None) is not None
        for parameter in getattr(part, name).parameters()
    }
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            key = (id(parameter) in encoders, parameter.dim() > 1)
            groups.setdefault(key, []).append(parameter)
    settings: list[dict[str, Any]] = [
        {
            "params": parameters,
            "lr": arguments.learning_rate if encoder else arguments.head_learning_rate,
            "weight_decay": arguments.weight_decay if matrix else 0.0,
        }
        for (encoder, matrix), parameters in groups.items()
    ]
    if riemannian:
        import geoopt  # noqa: PLC0415 - heavy, and needed by this option alone

        return geoopt.optim.RiemannianAdam(settings, stabilize=10)
    return torch.optim.AdamW(settings)


def make_schedule(
    optimizer: torch.optim.Optimizer, arguments: HMGRLTrainingArguments, steps: int
) -> LRScheduler:
    """Makes the schedule over ``steps`` optimizer steps."""
    return get_scheduler(
        _SCHEDULES[arguments.schedule],
        optimizer,
        num_warmup_steps=int(arguments.warmup_ratio * steps),
        num_training_steps=steps,
    )
