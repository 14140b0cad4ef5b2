"""Adapters of PEFT, such as LoRA, in the encoders.

PEFT is recognised by its interface and never imported: models without adapters do not require it.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


def has_adapters(module: nn.Module) -> bool:
    """Whether PEFT has added adapters to a module."""
    names = ("adapter_layer_names", "prompt_encoder")
    return any(hasattr(part, name) for part in module.modules() for name in names)


def mark_as_initialized(module: nn.Module) -> None:
    """Prevents transformers from initialising adapters again in a model made of the module."""
    for part in module.modules():
        if hasattr(part, "adapter_layer_names"):
            for inner in part.modules():
                inner._is_hf_initialized = True  # type: ignore[assignment]


def without_wrapper(model: Any) -> Any:
    """Returns the model inside a ``PeftModel``, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def merged_adapters(model: nn.Module) -> Iterator[None]:
    """Replaces adapted layers by plain ones with merged weights within the context.

    The adapters themselves are left as they are, for training to continue.

    Args:
        model: Model whose parts may have adapters.

    Raises:
        ValueError: If adapters cannot be merged into the weights, as with prompt tuning.
    """
    for name, part in model.named_modules():
        layer = hasattr(part, "adapter_layer_names")
        if (layer and not hasattr(part, "merge")) or hasattr(part, "prompt_encoder"):
            raise ValueError(
                f"{name}: got adapters of {type(part).__name__}, expected adapters that can be "
                "merged into the weights, such as LoRA"
            )
    replaced: list[tuple[nn.Module, str, nn.Module]] = []

    def replace(name: str, part: nn.Module) -> None:
        parent_name, _, attribute = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        replaced.append((parent, attribute, getattr(parent, attribute)))
        setattr(parent, attribute, part)

    try:
        for name, part in list(model.named_modules()):
            if hasattr(part, "adapter_layer_names"):
                merged: Any = copy.deepcopy(part)
                merged.merge(safe_merge=True)
                replace(name, merged.get_base_layer())
        for name, part in list(model.named_modules()):
            if hasattr(part, "get_base_model"):
                replace(name, without_wrapper(part))
        yield
    finally:
        for parent, attribute, part in reversed(replaced):
            setattr(parent, attribute, part)


__all__ = ["has_adapters", "mark_as_initialized", "merged_adapters", "without_wrapper"]
