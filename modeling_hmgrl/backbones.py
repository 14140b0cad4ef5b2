"""Text and image encoders of transformers: which ones work, loading, limits, token layout."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_MAPPING,
)
from transformers.utils import logging

from .adapters import without_wrapper
from .config_checks import check_implementations, check_numbers
from .storage import check_complete, check_finite

TOWERS = {"text": "text_config", "image": "vision_config"}
"""Configuration of each tower in that of a checkpoint with both, such as CLIP's or SigLIP's."""

# Towers that AutoModel does not know.
_CLASSES = {"siglip_text_model": "SiglipTextModel"}
# Text encoders whose state of the whole text is that of the last token: CLIP's is causal, and
# SigLIP's has no token at the beginning.
_LAST_TOKEN = ("clip_text_model", "siglip_text_model")
# Image encoders that return states before their last normalization, which is a layer of their own.
_UNNORMALIZED = ("clip_vision_model",)
# Tokens before the patches of image encoders, if not one class token and registers.
_PREFIX_TOKENS = {"deit": 2, "siglip_vision_model": 0, "swin": 0, "swinv2": 0}
_UNSUPPORTED_IMAGE_ENCODERS = {
    "vit_mae": "hides a random part of the image",
    "siglip2_vision_model": "takes a variable number of patches instead of an image (NaFlex)",
}


def tower_config(config: Any, side: str) -> Any:
    """Returns the configuration of one encoder.

    Args:
        config: A configuration of transformers.
        side: "text" or "image".

    Returns:
        The configuration of the tower if the checkpoint has one for texts and one for images, such
        as CLIP's or SigLIP's; otherwise ``config``.
    """
    towers = [getattr(config, name, None) for name in TOWERS.values()]
    return config if None in towers else getattr(config, TOWERS[side])


def check_encoder(config: Any, side: str, name: str) -> None:
    """Rejects models that are not encoders of texts or of images.

    Args:
        config: Configuration of the encoder, as of :func:`tower_config`.
        side: "text" or "image".
        name: Name of the encoder in errors.

    Raises:
        ValueError: Naming the type of the model and what was expected.
    """
    kind = config.model_type
    reason = None
    if side == "text":
        expected = "a bidirectional text encoder, such as BERT, RoBERTa, DeBERTa or ModernBERT"
        if (
            getattr(config, "is_encoder_decoder", False)
            or kind in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
        ):
            reason = "has an encoder and a decoder"
        elif getattr(config, "is_decoder", False) or (
            kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
            and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
        ):
            reason = "is a decoder, whose tokens do not depend on those after them"
    else:
        expected = "an encoder of image patches, such as ViT, DINOv2, CLIP or SigLIP"
        reason = _UNSUPPORTED_IMAGE_ENCODERS.get(kind)
    model_class = model_class_of(config)
    modality = {"text": "input_ids", "image": "pixel_values"}[side]
    if reason is None and getattr(model_class, "main_input_name", None) != modality:
        reason = f"does not encode {side}s"
    if reason is None and not isinstance(getattr(config, "hidden_size", None), int):
        reason = "has no states of one width (hidden_size)"
    if reason is not None:
        raise ValueError(f"{side} encoder {name}: {kind!r} {reason}, expected {expected}")


def model_class_of(config: Any) -> Any:
    """Returns the class of models of a configuration, or None if there is no single one."""
    if config.model_type in _CLASSES:
        return getattr(transformers, _CLASSES[config.model_type])
    found = MODEL_MAPPING.get(type(config), None)
    return None if isinstance(found, tuple | list) else found


def without_pooler(config: Any) -> dict[str, bool]:
    """Returns arguments that build an encoder without its pooling layer, which is not used."""
    model_class = model_class_of(config)
    if model_class and "add_pooling_layer" in inspect.signature(model_class).parameters:
        return {"add_pooling_layer": False}
    return {}


def _without_head(config: Any) -> Any:
    """Configures an image encoder without its pooling head, which is not used."""
    if hasattr(config, "vision_use_head"):
        config.vision_use_head = False
    return config


def new_encoder(config: Any, field: str = "config") -> PreTrainedModel:
    """Creates an encoder with new weights.

    Args:
        config: Configuration of the encoder.
        field: Name of the configuration in errors.

    Raises:
        ValueError: If its values do not fit together, or its size is impossible.
    """
    try:
        if config.model_type in _CLASSES:
            return model_class_of(config)._from_config(_without_head(config))
        # a configuration may name code of its own, which is never executed
        return AutoModel.from_config(
            _without_head(config), trust_remote_code=False, **without_pooler(config)
        )
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{field}: an encoder cannot be created from it ({reason})") from error


def encoder_config(encoder: str, side: str) -> Any:
    """Reads the configuration of an encoder and checks that it can be used.

    Args:
        encoder: Folder or Hub name.
        side: "text" or "image".

    Returns:
        The configuration, that of one tower of a checkpoint with two.

    Raises:
        ValueError: See :func:`check_encoder`; also if a size is impossible, or the configuration
            requests code of the Hub.
    """
    fields, _ = PreTrainedConfig.get_config_dict(encoder)
    check_implementations(fields, f"encoder {encoder!r}")
    check_numbers(fields, f"encoder {encoder!r}")
    config = tower_config(AutoConfig.from_pretrained(encoder), side)
    check_encoder(config, side, repr(encoder))
    return config


@contextmanager
def _quietly() -> Iterator[None]:
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def pretrained_encoder(encoder: str | PreTrainedModel, side: str) -> PreTrainedModel:
    """Loads an encoder, or takes a loaded one, without its pooling layer, which is not used.

    Of a checkpoint with a text and an image encoder, such as CLIP's, only one is taken.

    Args:
        encoder: A model, a folder or a Hub name.
        side: "text" or "image".

    Returns:
        The encoder.

    Raises:
        ValueError: If it cannot be used for texts or images, or its weights are incomplete, of
            another shape or not finite.
    """
    if not isinstance(encoder, str):
        return _loaded_encoder(encoder, side)
    config = _without_head(encoder_config(encoder, side))
    load: Any = model_class_of(config) if config.model_type in _CLASSES else AutoModel
    return _checked(load, encoder, config=config, **without_pooler(config))


def _checked(load: Any, encoder: str, **options: Any) -> PreTrainedModel:
    """Loads an encoder and checks its weights."""
    with _quietly():  # pooler and heads of a checkpoint are not loaded on purpose
        model, info = load.from_pretrained(
            encoder,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, with their names
            **options,
        )
    name, weights = f"encoder {encoder!r}", model.state_dict()
    check_complete(name, info["missing_keys"], info["mismatched_keys"], len(weights))
    check_finite(name, weights)
    return model


def _loaded_encoder(model: PreTrainedModel, side: str) -> PreTrainedModel:
    config = tower_config(model.config, side)
    if config is not model.config:
        model = getattr(model, {"text": "text_model", "image": "vision_model"}[side])
    check_encoder(config, side, type(model).__name__)
    loaded = without_wrapper(model)
    if getattr(loaded, "pooler", None) is not None:
        loaded.pooler = None
    if getattr(loaded, "use_head", False):
        loaded.use_head, loaded.head = False, None
        _without_head(config)
    return model


def aligning_projection(encoder: str | PreTrainedModel) -> Tensor | None:
    """Composes the projections of a checkpoint whose towers are aligned, such as CLIP.

    CLIP compares ``W_t t`` with ``W_v v``. The result ``W_t^+ W_v`` maps image states to the states
    of the text encoder, such that they stay aligned without another layer for texts.

    Args:
        encoder: A model, a folder or a Hub name.

    Returns:
        Shape (d, d'); None if the checkpoint has no such projections, as SigLIP, which pools with
        attention instead.
    """
    config: Any = (
        AutoConfig.from_pretrained(encoder) if isinstance(encoder, str) else encoder.config
    )
    if tower_config(config, "image") is config or not hasattr(config, "projection_dim"):
        return None
    if isinstance(encoder, str):
        encoder = _checked(AutoModel, encoder, config=config)
    layers = [getattr(encoder, name, None) for name in ("text_projection", "visual_projection")]
    if not all(isinstance(layer, nn.Linear) and layer.bias is None for layer in layers):
        return None
    text, vision = (layer.weight.detach().double() for layer in layers)  # type: ignore[union-attr]
    return (torch.linalg.pinv(text) @ vision).float()


def max_tokens(model: nn.Module) -> int | None:
    """Returns the longest text of a text encoder in tokens; None if it has no position table.

    Tables that reserve rows up to the padding token, as RoBERTa's, hold that many tokens less.
    """
    for name, module in model.named_modules():
        table = name.rpartition(".")[2] in ("position_embeddings", "position_embedding")
        if table and isinstance(module, nn.Embedding):
            reserved = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - reserved
    return None


def text_state(config: Any, states: Tensor, mask: Tensor | None) -> Tensor:
    """Selects the state of the whole text: that of the first token, or of the last one.

    Args:
        config: Configuration of the text encoder.
        states: Text states, shape (B, n, d).
        mask: Tokens that count, shape (B, n); all if None.

    Returns:
        Shape (B, d).
    """
    if config.model_type not in _LAST_TOKEN:
        return states[:, 0]
    if mask is None:
        return states[:, -1]
    position = torch.arange(states.shape[1], device=states.device)
    last = (mask.bool() * position).amax(1)
    return states[torch.arange(len(states), device=states.device), last]


def image_states(model: Any, pixel_values: Tensor) -> Tensor:
    """Encodes images of any size.

    Args:
        model: Image encoder.
        pixel_values: Images, shape (B, 3, height, width).

    Returns:
        States of all tokens after the last normalization, shape (B, m, d').
    """
    size = getattr(model.config, "image_size", None)
    expected = (size, size) if isinstance(size, int) else tuple(size or ())
    resized = bool(expected) and tuple(pixel_values.shape[-2:]) != expected
    accepts = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    options = {"interpolate_pos_encoding": True} if resized and accepts else {}
    states = model(pixel_values=pixel_values, **options).last_hidden_state
    return model.post_layernorm(states) if model.config.model_type in _UNNORMALIZED else states


def prefix_tokens(config: Any) -> int:
    """Returns the number of tokens before the patches: class token and registers.

    Args:
        config: Configuration of the image encoder.

    Examples:
        >>> from transformers import Dinov2WithRegistersConfig, SiglipVisionConfig, ViTConfig
        >>> [prefix_tokens(kind()) for kind in (ViTConfig, Dinov2WithRegistersConfig)]
        [1, 5]
        >>> prefix_tokens(SiglipVisionConfig())
        0
    """
    registers = getattr(config, "num_register_tokens", None) or 0
    return _PREFIX_TOKENS.get(config.model_type, 1) + registers


__all__ = [
    "aligning_projection",
    "check_encoder",
    "encoder_config",
    "image_states",
    "max_tokens",
    "new_encoder",
    "prefix_tokens",
    "pretrained_encoder",
    "text_state",
    "tower_config",
    "without_pooler",
]
