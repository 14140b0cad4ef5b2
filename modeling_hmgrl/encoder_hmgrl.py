"""The encoders of HMGRL with the bottleneck and the fusion.

Source: HMGRL (arXiv 2603.16259); what departs from it is named in :class:`HMGRLConfig`.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from . import lorentz
from .configuration_hmgrl import HMGRLConfig
from .encoders import Encoders, HMGRLPreTrainedModel
from .fusion import CrossModalAttention
from .lorentz_layers import Curvature
from .outputs import HMGRLModelOutput
from .variational import HVIB


class HMGRLModel(Encoders):
    """Text and image encoder, variational bottleneck, cross-modal fusion.

    Args:
        config: Configuration.
        text_model: Text encoder to use instead of a new one.
        vision_model: Image encoder to use instead of a new one.
    """

    config: HMGRLConfig

    def __init__(
        self,
        config: HMGRLConfig,
        text_model: PreTrainedModel | None = None,
        vision_model: PreTrainedModel | None = None,
    ) -> None:
        super().__init__(config, text_model, vision_model)
        self.curvature = Curvature(config.squared_radius, config.learnable_curvature)
        self.hvib = None
        if config.bottleneck == "variational":
            self.hvib = HVIB(
                config.text_width,
                config.bottleneck_size,
                config.hvib_layer,
                config.residual_bottleneck,
                translation=config.hyperbolic_translation,
                c=config.squared_radius,
            )
        self.fusion = CrossModalAttention(config)
        self.post_init()
        self.apply_freezing()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        span_positions: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        image_mask: Tensor | None = None,
        noise: dict[str, Tensor] | None = None,
        text_features: Tensor | None = None,
    ) -> HMGRLModelOutput:
        """Encodes samples to representations.

        Args:
            input_ids: Token ids, shape (B, n).
            attention_mask: 1 where there is a token, shape (B, n).
            span_positions: Token positions of the opening and closing marker of each mention,
                shape (B, spans, 2).
            pixel_values: Pictures, shape (B, 3, height, width), or None for texts alone.
            image_features: Image encoder's states, shape (B, m, d'), instead of pictures.
            image_mask: Samples that have a picture, shape (B,); all if None.
            noise: Noise of the bottleneck to use: "text" (B, n, d), "image" (B, m, d).
            text_features: Text encoder's states, shape (B, n, d), instead of encoding the texts.

        Returns:
            :class:`HMGRLModelOutput`.
        """
        text, image = self.encode_inputs(
            input_ids, attention_mask, pixel_values, image_features, image_mask, text_features
        )
        return self.fuse(text, image, span_positions, attention_mask, image_mask, noise)

    def fuse(
        self,
        text: Tensor,
        image: Tensor | None,
        span_positions: Any,
        attention_mask: Tensor | None = None,
        image_mask: Tensor | None = None,
        noise: dict[str, Tensor] | None = None,
    ) -> HMGRLModelOutput:
        """Passes encoder states through bottleneck and fusion; arguments as of :meth:`forward`.

        Args:
            text: Text encoder's states, shape (B, n, d).
            image: Image encoder's states, shape (B, m, d'), or None.
            span_positions: Shape (B, spans, 2).
            attention_mask: Shape (B, n).
            image_mask: Shape (B,).
            noise: Noise of the bottleneck to use.

        Returns:
            :class:`HMGRLModelOutput`.

        Raises:
            ValueError: If the spans are not as many as the task has, or the model is of text alone
                and there are pictures.
        """
        self.check_spans(span_positions)
        c, noise = self.curvature(), noise or {}
        text_mask = attention_mask if self.config.mask_padding else None
        with lorentz.full_precision(text.device):
            text_z, text_kl = self._through_bottleneck(text, c, noise.get("text"))
            image_z, image_kl = None, None
            if image is not None:
                projected = self.project_image(image)
                image_z, image_kl = self._through_bottleneck(projected, c, noise.get("image"))
            mentions = self.mentions(text, span_positions)
            entity = torch.cat([text[:, 0], *mentions.unbind(1)], dim=-1)
            pooled, attention = self.fusion(
                entity,
                text_z,
                image_z,
                text_mask,
                image_mask,
            )
        return HMGRLModelOutput(
            representation=torch.cat([entity, pooled], dim=-1),
            condition=mentions.mean(1),
            attention=attention,
            text_states=text_z,
            image_states=image_z,
            text_kl=text_kl,
            image_kl=image_kl,
        )

    def _through_bottleneck(
        self, states: Tensor, c: Any, noise: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Samples of states (B, n, d) and their divergences (B, n); the states if there is none."""
        if self.hvib is None:
            return states, None
        posterior = self.hvib(states, c, noise)
        return posterior.sample, posterior.kl


__all__ = ["HMGRLModel", "HMGRLPreTrainedModel"]
