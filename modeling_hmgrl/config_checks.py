"""Bounds on the configuration of a checkpoint, checked before anything is created from it."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from .entity_markers import short_repr

MAX_LAYERS = 128
"""Maximum number of layers of an encoder."""

MAX_WIDTH = 65_536
"""Maximum width of an encoder's states and of every layer of a method."""

MAX_IMAGE_SIDE = 4_096
"""Maximum side of the images that an encoder or an image processor takes, in pixels."""

MAX_LENGTH = 100_000
"""Largest maximum length of texts and label texts, in tokens."""

_LAYERS, _WIDTH, _HEADS = (1, MAX_LAYERS), (1, MAX_WIDTH), (1, 4_096)
_INNER, _SIDE = (1, 16 * MAX_WIDTH), (1, MAX_IMAGE_SIDE)
_RANGES = {
    "num_hidden_layers": _LAYERS, "num_layers": _LAYERS, "n_layers": _LAYERS, "n_layer": _LAYERS,
    "depth": _LAYERS, "depths": (0, MAX_LAYERS), "num_stages": _LAYERS,
    "hidden_size": _WIDTH, "hidden_sizes": _WIDTH, "embedding_size": _WIDTH, "embed_dim": _WIDTH,
    "dim": _WIDTH, "d_model": _WIDTH, "n_embd": _WIDTH,
    "intermediate_size": _INNER, "hidden_dim": _INNER, "mlp_dim": _INNER, "d_ff": _INNER,
    "num_attention_heads": _HEADS, "num_heads": _HEADS, "n_heads": _HEADS, "n_head": _HEADS,
    "vocab_size": (1, 10_000_000), "max_position_embeddings": (1, 10_000_000),
    "type_vocab_size": (0, 65_536), "num_labels": (0, 100_000),
    "image_size": _SIDE, "patch_size": _SIDE, "num_channels": (1, 64),
    "height": _SIDE, "width": _SIDE, "shortest_edge": _SIDE, "longest_edge": _SIDE,
    "projection_size": _WIDTH, "bottleneck_size": (2, MAX_WIDTH),
    "generator_latent_size": (2, MAX_WIDTH), "generator_samples": (0, 1_000_000),
}  # fmt: skip
"""Least and greatest value of a field, whose name is the same in most encoders of transformers."""

_MAX_INTEGER = 2**63

_IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")
_BUILT_IN = ("eager", "sdpa", "flex_attention")


def check_numbers(values: Mapping[str, Any], name: str = "") -> None:
    """Checks that the numbers of a configuration are finite and of a possible size.

    Args:
        values: Fields of the configuration, which may be nested.
        name: Name of the configuration in errors; empty for the outermost one.

    Raises:
        ValueError: Naming the field, its value and what was expected.
    """
    for path, field, value in _leaves(values, name):
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{path}: got {value}, expected a finite number")
        least, most = _RANGES.get(field, (-_MAX_INTEGER, _MAX_INTEGER))
        if (field in _RANGES or isinstance(value, int)) and not least <= value <= most:
            shown = value if abs(value) < _MAX_INTEGER else "a number of more than 64 bits"
            raise ValueError(f"{path}: got {shown}, expected a number from {least} to {most}")


def check_implementations(values: Mapping[str, Any], name: str = "") -> None:
    """Checks that a configuration requests no code other than that of transformers and PyTorch.

    The name of any other attention, such as "user/kernel" or "flash_attention_2", may make
    transformers fetch a compiled kernel from the Hub.

    Args:
        values: Fields of the configuration, which may be nested.
        name: Name of the configuration in errors; empty for the outermost one.

    Raises:
        ValueError: Naming the field and its value.
    """
    for path, _, value in _leaves(values, name):
        parts = path.replace("[", ".").split(".")
        if not any(part.lstrip("_") in _IMPLEMENTATIONS for part in parts):
            continue
        if value is not None and value not in _BUILT_IN:
            raise ValueError(
                f"{path}: got {value!r}, expected one of {', '.join(_BUILT_IN)} in a configuration "
                "file; pass another one to from_pretrained if you trust it"
            )


def check_image_processor(settings: Mapping[str, Any]) -> None:
    """Checks that images are of a possible size, and finite.

    Args:
        settings: Settings of the image processor.

    Raises:
        ValueError: Naming the setting, its value and what was expected.
    """
    values = dict(settings)
    for size in ("size", "crop_size", "pad_size"):
        if isinstance(values.get(size), int):
            values[size] = {"width": values[size]}
    check_numbers(values, "image_processor")
    if 0 in (values.get("image_std") or ()):
        raise ValueError(
            f"image_processor.image_std: got {values['image_std']}, expected positive numbers"
        )


def check_lengths(**lengths: Any) -> None:
    """Checks maximum numbers of tokens, given by name.

    Raises:
        ValueError: If one is not a whole number or larger than :data:`MAX_LENGTH`.
    """
    for name, length in lengths.items():
        if type(length) is not int or length > MAX_LENGTH:
            raise ValueError(
                f"{name}: got {short_repr(length)}, expected at most {MAX_LENGTH} tokens"
            )


def _leaves(values: Mapping[str, Any], name: str) -> Iterator[tuple[str, str, Any]]:
    """Yields the path, the field and each single value of nested fields."""
    stack: list[tuple[str, str, Any]] = [(name, "", values)]
    while stack:
        path, field, value = stack.pop()
        if isinstance(value, Mapping):
            pairs = [(f"{path}.{key}" if path else str(key), str(key)) for key in value]
            stack += ((*pair, part) for pair, part in zip(pairs, value.values(), strict=True))
        elif isinstance(value, list | tuple):
            stack += ((f"{path}[{index}]", field, part) for index, part in enumerate(value))
        else:
            yield path, field, value


__all__ = [
    "MAX_IMAGE_SIDE", "MAX_LAYERS", "MAX_LENGTH", "MAX_WIDTH", "check_image_processor",
    "check_implementations", "check_lengths", "check_numbers",
]  # fmt: skip
