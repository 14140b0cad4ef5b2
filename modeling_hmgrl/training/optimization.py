"""Optimizer and learning-rate schedule of a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from .manifold import from_average, is_point, to_average, wrap_manifold_parameters
from .training_arguments import HMGRLTrainingArguments

_SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


def make_optimizer(model: nn.Module, arguments: HMGRLTrainingArguments) -> torch.optim.Optimizer:
    """Creates AdamW with separate learning rates for encoders and heads.

    If the model has parameters on the hyperboloid, the optimizer is Riemannian Adam.

    Args:
        model: Model; its parameters on the hyperboloid are replaced by geoopt parameters.
        arguments: Arguments of the run.

    Returns:
        The optimizer of all trainable parameters.

    Raises:
        ValueError: If weight decay is combined with parameters on the hyperboloid.
    """
    riemannian = wrap_manifold_parameters(model) > 0
    if riemannian and arguments.weight_decay:
        raise ValueError("weight_decay: expected 0 for a model with parameters on the hyperboloid")
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
        import geoopt  # noqa: PLC0415 - slow to import and rarely used

        return geoopt.optim.RiemannianAdam(settings, stabilize=10)
    return torch.optim.AdamW(settings, fused=True)


def make_schedule(
    optimizer: torch.optim.Optimizer, arguments: HMGRLTrainingArguments, steps: int
) -> LRScheduler:
    """Creates the learning-rate schedule over ``steps`` optimizer steps."""
    return get_scheduler(
        _SCHEDULES[arguments.schedule],
        optimizer,
        num_warmup_steps=int(arguments.warmup_ratio * steps),
        num_training_steps=steps,
    )


class WeightAverage:
    """Exponential moving average of the trained weights, in float32 at least.

    Points of the hyperboloid are averaged in the tangent space at its origin. Frozen weights and
    buffers, such as counters and running statistics, are not averaged: their current values apply.

    Args:
        model: Model.
        decay: Weight of the previous average in each update, in (0, 1).

    Examples:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(layer.weight, 1.0)
        >>> average = WeightAverage(layer, decay=0.75)
        >>> _ = nn.init.constant_(layer.weight, 5.0)
        >>> average.update()
        >>> with average.applied():
        ...     layer.weight.item()
        2.0
        >>> layer.weight.item()
        5.0
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
        with torch.no_grad():
            self.averages = {n: to_average(w).clone() for n, w in self.weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Updates the average with the current weights."""
        averages = list(self.averages.values())
        weights = [to_average(weight) for weight in self.weights.values()]
        torch._foreach_lerp_(averages, weights, 1 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Replaces the weights by their average within the context."""
        # Points and narrow weights cannot hold their average without changing it.
        kept = {
            n: w.detach().clone()
            for n, w in self.weights.items()
            if is_point(w) or w.dtype != self.averages[n].dtype
        }
        averages = {n: from_average(self.averages[n], self.weights[n]) for n in kept}
        self._swap(averages)
        try:
            yield
        finally:
            self._swap(kept)

    @torch.no_grad()
    def _swap(self, given: dict[str, torch.Tensor]) -> None:
        """Swaps the weights with their averages, except those that are given, which are set."""
        for name, weight in self.weights.items():
            if name in given:
                weight.copy_(given[name])
                continue
            kept = weight.clone()
            weight.copy_(self.averages[name])
            self.averages[name].copy_(kept)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Averages by the name of their weight."""
        return self.averages

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restores the averages.

        Raises:
            ValueError: If some are missing or of another shape.
        """
        shapes = {name: value.shape for name, value in state.items()}
        if lost := [n for n, average in self.averages.items() if shapes.get(n) != average.shape]:
            raise ValueError(
                f"averaged weights: {len(lost)} of {len(self.averages)} ({lost[0]}, …) are missing "
                "or of another shape, expected those of the checkpointed run"
            )
        for name, average in self.averages.items():
            average.copy_(state[name])
