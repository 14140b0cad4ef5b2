"""The encoders that all methods share, and the base class of all models.

Freezing, precision, initialisation and the encoding of texts, images and labels are implemented
here only; methods differ in how they use the states.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers import initialization as init

from .adapters import has_adapters, mark_as_initialized, merged_adapters
from .backbones import image_states, new_encoder, text_state
from .configuration_hmgrl import ZeroShotTypingConfig
from .hub import public_name, save_pipeline_code
from .layers import Fp32Linear, zeros
from .lorentz import full_precision, wide
from .outputs import EncoderStates
from .pooling import masked_mean
from .storage import check_complete, check_finite, check_shards, check_types, untied


class HMGRLPreTrainedModel(PreTrainedModel):
    """Base class: initialisation, freezing, precision of the hyperbolic parts."""

    config: ZeroShotTypingConfig
    base_model_prefix = "hmgrl"
    main_input_name = "input_ids"
    input_modalities = ("text", "image")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    # All but the encoders: geometry requires float32, and the cost is small beside the encoders.
    _keep_in_fp32_modules_strict = [  # noqa: RUF012 - the form the base class asks for
        "hvib", "curvature", "fusion", "image_projection", "hmcvae", "scorer", "contrast_log_scale",
    ]  # fmt: skip

    def _init_weights(self, module: nn.Module) -> None:
        own: Any = getattr(module, "init_parameters", None)
        if own is not None:  # as in every module of this package that has parameters
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
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Loads a model, from safetensors unless ``use_safetensors`` says otherwise.

        Freezing is not part of the weights and is applied again from the configuration.

        Raises:
            ValueError: If weights are missing, of another shape (unless
                ``ignore_mismatched_sizes=True``) or type, or not finite, or the configuration is
                invalid; the message names them.
            OSError: If there is no such model.
        """
        kwargs.setdefault("use_safetensors", True)  # pickles execute code
        folder = Path(str(pretrained_model_name_or_path))
        if folder.is_dir():
            check_shards(folder / str(kwargs.get("subfolder") or ""))
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded).apply_freezing()
        return loaded

    @staticmethod
    def _load_pretrained_model(  # of transformers: every way to load a model ends here
        model: Any, state_dict: Any, checkpoint_files: Any, load_config: Any, *args: Any
    ) -> Any:
        # Before transformers initialises, and allocates, what the checkpoint lacks.
        source = str(load_config.pretrained_model_name_or_path or "state_dict")
        expected = model.state_dict()
        if not load_config.is_quantized:
            check_types(checkpoint_files or (), expected, model.base_model_prefix)
        loaded = PreTrainedModel._load_pretrained_model(
            model, state_dict, checkpoint_files, load_config, *args
        )
        info = loaded[0]
        mismatched = () if load_config.ignore_mismatched_sizes else info.mismatched_keys
        check_complete(source, untied(model, info.missing_keys), mismatched, len(expected))
        check_finite(source, model.state_dict())
        return loaded

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Saves the model; models registered for the Auto classes carry their code along.

        Adapters of PEFT are merged into the saved weights, so that loading does not require PEFT.

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
        with merged_adapters(self):
            super().save_pretrained(save_directory, *args, **kwargs)

    def apply_freezing(self) -> None:
        """Sets ``requires_grad`` of the encoders according to the configuration.

        Encoders with adapters of PEFT are left as they are: PEFT freezes all but the adapters.
        """
        for part in self.modules():
            if isinstance(part, Encoders):
                encoders = [(part.text_model, part.config.freeze_text)]
                if part.vision_model is not None:
                    encoders.append((part.vision_model, part.config.freeze_vision))
                for encoder, frozen in encoders:
                    if not has_adapters(encoder):
                        encoder.requires_grad_(not frozen)


class Encoders(HMGRLPreTrainedModel):
    """Text and image encoder, shared by all methods.

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
        self.text_model = text_model or new_encoder(config.text_config, "text_config")
        mark_as_initialized(self.text_model)
        self.vision_model = None
        self.image_projection: Any = None
        if config.vision_config is not None:
            self.vision_model = vision_model or new_encoder(config.vision_config, "vision_config")
            mark_as_initialized(self.vision_model)
            vision_width = config.vision_config.hidden_size  # type: ignore[union-attr]
            if config.projection_init == "similarity":  # without effect until trained
                self.image_projection = Fp32Linear(vision_width, width, init_weight=zeros)
            elif vision_width != width:
                self.image_projection = Fp32Linear(vision_width, width)

    def get_input_embeddings(self) -> nn.Module:
        """Returns the token embeddings of the text encoder."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Sets the token embeddings of the text encoder."""
        self.text_model.set_input_embeddings(value)

    @property
    def text_is_frozen(self) -> bool:
        """Whether the text encoder is not trained: it is frozen and has no adapters."""
        return self.config.freeze_text and not has_adapters(self.text_model)

    @property
    def vision_is_frozen(self) -> bool:
        """Whether the image encoder is not trained: it is frozen and has no adapters."""
        vision = self.vision_model
        return vision is None or (self.config.freeze_vision and not has_adapters(vision))

    def train(self, mode: bool = True) -> "Encoders":
        """Sets training mode; frozen encoders stay in evaluation mode, without dropout."""
        super().train(mode)
        if self.text_is_frozen:
            self.text_model.eval()
        if self.vision_model is not None and self.vision_is_frozen:
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
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.text_is_frozen):
            return self.text_model(
                input_ids=input_ids, attention_mask=attention_mask
            ).last_hidden_state

    def encode_image(self, pixel_values: Tensor, image_mask: Tensor | None = None) -> Tensor:
        """Encodes images; the states of samples without an image are 0, without being encoded.

        Args:
            pixel_values: Images, shape (B, 3, height, width).
            image_mask: Samples that have an image, shape (B,); all if None.

        Returns:
            States of all tokens of the image encoder, shape (B, m, d').

        Raises:
            ValueError: If the model has no image encoder.
        """
        if self.vision_model is None:
            raise ValueError(
                "pixel_values: this model has no image encoder (vision_config is None)"
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.vision_is_frozen):
            pixel_values = pixel_values.to(self.vision_model.dtype)
            if image_mask is None:
                return image_states(self.vision_model, pixel_values)
            rows = image_mask.bool().nonzero().squeeze(1)
            # encoders reject an empty batch: encode one row and discard it
            taken = pixel_values[rows] if len(rows) else pixel_values[:1]
            states = image_states(self.vision_model, taken)
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
        """Encodes texts and images, except those whose states are given.

        Args:
            input_ids: Token ids, shape (B, n).
            attention_mask: 1 where there is a token, shape (B, n).
            pixel_values: Images, shape (B, 3, height, width), or None for text only.
            image_features: Image encoder's states, shape (B, m, d'), instead of images.
            image_mask: Samples that have an image, shape (B,); all if None.
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
        """Encodes samples to the states that all methods take.

        Args:
            input_ids: Token ids, shape (B, n).
            attention_mask: 1 where there is a token, shape (B, n).
            span_positions: Token positions of the markers, shape (B, spans, 2).
            pixel_values: Images, shape (B, 3, height, width), or None for text only.
            image_features: Image encoder's states, shape (B, m, d'), instead of images.
            image_mask: Samples that have an image, shape (B,); all if None.
            text_features: Text encoder's states, shape (B, n, d), instead of encoding the texts.
            noise: Noise by name that replaces random draws.

        Returns:
            The states, with image states projected to the text's width.

        Raises:
            ValueError: If the number of spans is not that of the task, or images are given to a
                model without image encoder.
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

        With several chunks, activations are recomputed in the backward pass chunk by chunk, so
        that memory does not grow with the number of labels.

        Args:
            input_ids: Token ids, shape (K, L).
            attention_mask: 1 where there is a token, shape (K, L).
            chunk: Labels encoded at once.
            pool: Function of states (K, L, d), token ids and mask that returns encodings (K, D), in
                place of the mean.

        Returns:
            Label encodings, shape (K, d).

        Raises:
            ValueError: If there are no labels.
        """
        if not len(input_ids):
            raise ValueError("candidate_input_ids: got no labels, expected at least one")
        again = torch.is_grad_enabled() and len(input_ids) > chunk and not self.text_is_frozen
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
        with full_precision(states.device):
            return masked_mean(states, mask) if pool is None else pool(states, ids, mask)

    def whole_text(self, states: EncoderStates) -> Tensor:
        """States of the whole texts, (B, d), such as that of BERT's first token."""
        return text_state(self.config.text_config, states.text, states.text_mask)

    @staticmethod
    def inside(span_positions: Tensor, length: int) -> Tensor:
        """Tokens between the markers, of ``length`` tokens, bool, shape (B, spans, length)."""
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
        """Tokens of the context, that is, neither markers nor mention, bool, shape (B, n).

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
        """Projects image states (B, m, d') to the text's width, (B, m, d), in float32 at least.

        Raises:
            ValueError: If the model has no image encoder.
        """
        if self.vision_model is None:
            raise ValueError(
                "image_features: this model has no image encoder (vision_config is None)"
            )
        return wide(image) if self.image_projection is None else self.image_projection(image)

    def check_spans(self, span_positions: Tensor | None) -> None:
        """Checks that the number of spans is that of the task.

        Raises:
            ValueError: Naming the expected shape.
        """
        spans = self.config.num_spans
        if span_positions is None or span_positions.shape[1:] != (spans, 2):
            got = None if span_positions is None else tuple(span_positions.shape)
            raise ValueError(
                f"span_positions: got shape {got}, expected (B, {spans}, 2) for task "
                f"{self.config.task!r}"
            )


__all__ = ["Encoders", "HMGRLPreTrainedModel"]
