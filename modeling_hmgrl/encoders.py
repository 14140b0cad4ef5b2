"""The encoders that every method stands on, and the base class of all models.

Freezing, precision, initialisation and the encoding of texts, pictures and labels are the business
of this file alone; methods differ in what they do with the states.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.models.auto.modeling_auto import MODEL_MAPPING
from transformers.utils import logging

from .configuration_hmgrl import ZeroShotTypingConfig
from .hub import public_name, save_pipeline_code
from .layers import Fp32Linear, zeros
from .lorentz import wide
from .outputs import EncoderStates
from .pooling import masked_mean


def without_pooler(config: Any) -> dict[str, bool]:
    """Arguments that build an encoder without a pooling layer, which nothing here reads."""
    model_class = MODEL_MAPPING.get(type(config), None)
    if model_class and "add_pooling_layer" in inspect.signature(model_class).parameters:
        return {"add_pooling_layer": False}
    return {}


def _backbone(config: Any) -> PreTrainedModel:
    # a config from elsewhere may name code of its own, which is never run
    return AutoModel.from_config(config, trust_remote_code=False, **without_pooler(config))


class HMGRLPreTrainedModel(PreTrainedModel):
    """Base class: initialisation, freezing, precision of the hyperbolic parts."""

    config: ZeroShotTypingConfig
    base_model_prefix = "hmgrl"
    main_input_name = "input_ids"
    input_modalities = ("text", "image")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    # All that is not an encoder: geometry needs float32, and the rest costs nothing beside them.
    _keep_in_fp32_modules_strict = [  # noqa: RUF012 - the form the base class asks for
        "hvib", "curvature", "fusion", "image_projection", "hmcvae", "scorer", "contrast_log_scale",
    ]  # fmt: skip

    def _init_weights(self, module: nn.Module) -> None:
        own: Any = getattr(module, "init_parameters", None)
        if own is not None:  # every module of this package that holds parameters has it
            own()
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.MultiheadAttention):
            init.xavier_uniform_(module.in_proj_weight)
            init.zeros_(module.in_proj_bias)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Loads a model, from safetensors unless ``use_safetensors`` says otherwise.

        Freezing, which loading forgets, is applied again from the config.
        """
        kwargs.setdefault("use_safetensors", True)  # no checkpoint of ours is a pickle
        loaded = super().from_pretrained(*args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded).apply_freezing()
        return loaded

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Saves the model with its code and that of its pipeline, if it is one that brings its own.

        Args:
            save_directory: The folder.
            *args: As of PreTrainedModel.
            **kwargs: As of PreTrainedModel.
        """
        if kwargs.get("is_main_process", True) and self._auto_class is not None:
            self.config.custom_pipelines = save_pipeline_code(save_directory)
        parts: list[Any] = [self.config.text_config, self.config.vision_config]
        for part in parts:
            if part is not None:
                part.name_or_path = public_name(part.name_or_path)
        super().save_pretrained(save_directory, *args, **kwargs)

    def apply_freezing(self) -> None:
        """Sets ``requires_grad`` of the encoders as the config says."""
        for part in self.modules():
            if isinstance(part, Encoders):
                part.text_model.requires_grad_(not part.config.freeze_text)
                if part.vision_model is not None:
                    part.vision_model.requires_grad_(not part.config.freeze_vision)


class Encoders(HMGRLPreTrainedModel):
    """Text and image encoder, with what is the same for every method.

    Args:
        config: Configuration.
        text_model: Text encoder to use instead of a new one.
        vision_model: Image encoder to use instead of a new one.
    """

    def __init__(
        self,
        config: ZeroShotTypingConfig,
        text_model: PreTrainedModel | None = None,
        vision_model: PreTrainedModel | None = None,
    ) -> None:
        super().__init__(config)
        width = config.text_width
        self.text_model = text_model or _backbone(config.text_config)
        self.vision_model = None
        self.image_projection: Any = None
        if config.vision_config is not None:
            self.vision_model = vision_model or _backbone(config.vision_config)
            vision_width = config.vision_config.hidden_size  # type: ignore[union-attr]
            if config.projection_init == "similarity":  # images have no effect at first
                self.image_projection = Fp32Linear(vision_width, width, init_weight=zeros)
            elif vision_width != width:
                self.image_projection = Fp32Linear(vision_width, width)

    def get_input_embeddings(self) -> nn.Module:
        """Returns the token embeddings of the text encoder."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Sets the token embeddings of the text encoder."""
        self.text_model.set_input_embeddings(value)

    def train(self, mode: bool = True) -> "Encoders":
        """Sets training mode; frozen encoders stay in evaluation mode, without dropout."""
        super().train(mode)
        if self.config.freeze_text:
            self.text_model.eval()
        if self.vision_model is not None and self.config.freeze_vision:
            self.vision_model.eval()
        return self

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Encodes texts.

        Args:
            input_ids: Token ids, shape (B, n).
            attention_mask: 1 where there is a token, shape (B, n).

        Returns:
            Token states, shape (B, n, d).
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_text):
            return self.text_model(
                input_ids=input_ids, attention_mask=attention_mask
            ).last_hidden_state

    def encode_image(self, pixel_values: Tensor, image_mask: Tensor | None = None) -> Tensor:
        """Encodes pictures; samples without one are not encoded, their states are 0.

        Args:
            pixel_values: Pictures, shape (B, 3, height, width).
            image_mask: Samples that have a picture, shape (B,); all if None.

        Returns:
            States of all tokens of the image encoder, shape (B, m, d').

        Raises:
            ValueError: If the model has no image encoder.
        """
        if self.vision_model is None:
            raise ValueError(
                "pixel_values: this model has no image encoder (vision_config is None)"
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_vision):
            pixel_values = pixel_values.to(self.vision_model.dtype)
            if image_mask is None:
                return self.vision_model(pixel_values=pixel_values).last_hidden_state
            rows = image_mask.bool().nonzero().squeeze(1)
            # encoders do not take a batch of none: one stands in, whose states are left out
            taken = pixel_values[rows] if len(rows) else pixel_values[:1]
            states = self.vision_model(pixel_values=taken).last_hidden_state
            shape = (len(pixel_values), *states.shape[1:])
            return states.new_zeros(shape).index_copy(0, rows, states[: len(rows)])

    def encode_inputs(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        image_mask: Tensor | None = None,
        text_features: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """States of texts and pictures; those that are at hand are not computed again.

        Args:
            input_ids: Token ids, shape (B, n).
            attention_mask: 1 where there is a token, shape (B, n).
            pixel_values: Pictures, shape (B, 3, height, width), or None for texts alone.
            image_features: Image encoder's states, shape (B, m, d'), instead of pictures.
            image_mask: Samples that have a picture, shape (B,); all if None.
            text_features: Text encoder's states, shape (B, n, d), instead of encoding the texts.

        Returns:
            Text states (B, n, d), in float32 at least, and image states (B, m, d') or None.
        """
        if text_features is None:
            text_features = self.encode_text(input_ids, attention_mask)
        if image_features is None and pixel_values is not None:
            image_features = self.encode_image(pixel_values, image_mask)
        return wide(text_features), image_features

    def encode_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        span_positions: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        image_mask: Tensor | None = None,
        text_features: Tensor | None = None,
        noise: dict[str, Tensor] | None = None,
    ) -> EncoderStates:
        """Encodes samples to the states that every method starts from.

        Args:
            input_ids: Token ids, shape (B, n).
            attention_mask: 1 where there is a token, shape (B, n).
            span_positions: Token positions of the markers, shape (B, spans, 2).
            pixel_values: Images, shape (B, 3, height, width), or None for texts alone.
            image_features: Image encoder's states, shape (B, m, d'), instead of images.
            image_mask: Samples that have an image, shape (B,); all if None.
            text_features: Text encoder's states, shape (B, n, d), instead of encoding the texts.
            noise: Noise to use in place of fresh draws, by name.

        Returns:
            The states, images at the text's width.

        Raises:
            ValueError: If the spans are not as many as the task has, or the model is of text alone
                and there are images.
        """
        text, image = self.encode_inputs(
            input_ids, attention_mask, pixel_values, image_features, image_mask, text_features
        )
        self.check_spans(span_positions)
        if image is not None:
            image = self.project_image(image)
            if image_mask is None:
                image_mask = torch.ones(len(image), dtype=torch.bool, device=image.device)
        text_mask = attention_mask if self.config.mask_padding else None
        return EncoderStates(
            input_ids, text, image, span_positions, text_mask, image_mask, noise or {}
        )

    def encode_labels(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        chunk: int = 256,
        pool: Callable[[Tensor, Tensor, Tensor | None], Tensor] | None = None,
    ) -> Tensor:
        """Encodes labels as the mean over their tokens' states.

        Of several chunks only the encodings are kept for the backward pass, which encodes each
        chunk once more: memory then does not grow with the number of labels.

        Args:
            input_ids: Token ids, shape (K, L).
            attention_mask: 1 where there is a token, shape (K, L).
            chunk: Labels encoded at once.
            pool: What makes the encodings (K, D) of states (K, L, d), token ids and mask, in place
                of the mean.

        Returns:
            Label encodings, shape (K, d).

        Raises:
            ValueError: If there are no labels.
        """
        if not len(input_ids):
            raise ValueError("candidate_input_ids: got no labels, expected at least one")
        again = torch.is_grad_enabled() and len(input_ids) > chunk and not self.config.freeze_text
        parts = []
        for start in range(0, len(input_ids), chunk):
            ids = input_ids[start : start + chunk]
            mask = None if attention_mask is None else attention_mask[start : start + chunk]
            if again:
                parts.append(checkpoint(self._encode_chunk, ids, mask, pool, use_reentrant=False))
            else:
                parts.append(self._encode_chunk(ids, mask, pool))
        return torch.cat(parts)

    def _encode_chunk(self, ids: Tensor, mask: Tensor | None, pool: Any) -> Tensor:
        states = wide(self.encode_text(ids, mask))
        mask = mask if self.config.mask_padding else None
        return masked_mean(states, mask) if pool is None else pool(states, ids, mask)

    @staticmethod
    def inside(span_positions: Tensor, length: int) -> Tensor:
        """Which of ``length`` tokens stand between the markers, bool, shape (B, spans, length)."""
        token = torch.arange(length, device=span_positions.device)
        return (token > span_positions[..., :1]) & (token < span_positions[..., 1:])

    def mentions(self, states: Tensor, span_positions: Tensor) -> Tensor:
        """States of the mentions, (B, spans, d), from token positions (B, spans, 2)."""
        if self.config.span_pooling == "marker":
            index = span_positions[..., 0].unsqueeze(-1).expand(-1, -1, states.shape[-1])
            return states.gather(1, index)
        inside = self.inside(span_positions, states.shape[1])
        weights = inside.to(states.dtype)
        return weights @ states / weights.sum(-1, keepdim=True).clamp(min=1)

    def outside(
        self, span_positions: Tensor, attention_mask: Tensor | None, like: Tensor
    ) -> Tensor:
        """Which tokens are context: neither markers nor mention, shape (B, n).

        Args:
            span_positions: Shape (B, spans, 2).
            attention_mask: Tokens that count, shape (B, n); all if None.
            like: Text states, shape (B, n, d).
        """
        token = torch.arange(like.shape[1], device=like.device)
        within = (token >= span_positions[..., :1]) & (token <= span_positions[..., 1:])
        context = ~within.any(1)
        return context if attention_mask is None else context & attention_mask.bool()

    def project_image(self, image: Tensor) -> Tensor:
        """Brings image states (B, m, d') to the text's width, (B, m, d), in float32 at least.

        Raises:
            ValueError: If the model has no image encoder.
        """
        if self.vision_model is None:
            raise ValueError(
                "image_features: this model has no image encoder (vision_config is None)"
            )
        return wide(image) if self.image_projection is None else self.image_projection(image)

    def check_spans(self, span_positions: Tensor | None) -> None:
        """Says so if the spans are not as many as the task has.

        Raises:
            ValueError: With the shape that was expected.
        """
        spans = self.config.num_spans
        if span_positions is None or span_positions.shape[1:] != (spans, 2):
            got = None if span_positions is None else tuple(span_positions.shape)
            raise ValueError(
                f"span_positions: got shape {got}, expected (B, {spans}, 2) for task "
                f"{self.config.task!r}"
            )


def pretrained_encoder(encoder: str | PreTrainedModel) -> PreTrainedModel:
    """An encoder by name or as it is, without the pooling layer that nothing here reads."""
    if not isinstance(encoder, str):
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None
        return encoder
    options = without_pooler(AutoConfig.from_pretrained(encoder))
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # a checkpoint's pooler and heads are left out on purpose
    try:
        model, info = AutoModel.from_pretrained(encoder, output_loading_info=True, **options)
    finally:
        logging.set_verbosity(verbosity)
    if info["missing_keys"]:
        raise ValueError(
            f"encoder {encoder!r}: its checkpoint lacks {sorted(info['missing_keys'])[:5]}, "
            f"expected all weights of {type(model).__name__}"
        )
    return model


__all__ = ["Encoders", "HMGRLPreTrainedModel", "pretrained_encoder", "without_pooler"]
