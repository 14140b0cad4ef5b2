"""HMGRL for generalized zero-shot typing: the six-term loss and imagined unseen labels.

Source: HMGRL (arXiv 2603.16259); what departs from it is named in :class:`HMGRLConfig`.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

from . import lorentz, losses
from .configuration_hmgrl import HMGRLConfig
from .encoder_hmgrl import HMGRLModel
from .encoders import HMGRLPreTrainedModel
from .fusion import MAX_LOG_SCALE, LabelScorer
from .outputs import HMGRLModelOutput, TrainingStep
from .variational import HMCVAE
from .zero_shot_typing import ZeroShotTypingModel


class HMGRLForZeroShotTyping(ZeroShotTypingModel):
    """HMGRL for generalized zero-shot entity typing and relation extraction.

    The labels are an argument of every call, never a weight.

    Args:
        config: Configuration.
        text_model: Text encoder to use instead of a new one.
        vision_model: Image encoder to use instead of a new one.
    """

    base_model_prefix = "hmgrl"
    imagines_labels = True
    config: HMGRLConfig

    def __init__(
        self,
        config: HMGRLConfig,
        text_model: PreTrainedModel | None = None,
        vision_model: PreTrainedModel | None = None,
    ) -> None:
        super().__init__(config)
        self.hmgrl = HMGRLModel(config, text_model, vision_model)
        self.hmcvae = HMCVAE(
            config.representation_size,
            config.label_width,
            config.generator_latent_size,
            config.hmcvae_layer,
            wrapped=config.latent == "wrapped_normal",
            normalize=config.generator_input == "normalized",
            parts=config.label_parts,
            translation=config.hyperbolic_translation,
            c=config.squared_radius,
        )
        self.scorer = LabelScorer(config)
        cosine_contrast = config.contrast_function == "cosine" and self.hmgrl.vision_model
        self.contrast_log_scale = nn.Parameter(torch.empty(1)) if cosine_contrast else None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self and self.contrast_log_scale is not None:
            init.constant_(self.contrast_log_scale, -math.log(self.config.temperature_init))

    def encode(self, *args: Any, **kwargs: Any) -> HMGRLModelOutput:
        """Encodes samples; arguments and output as of :class:`HMGRLModel`."""
        return self.hmgrl(*args, **kwargs)

    def curvature(self) -> Any:
        """Squared radius of the hyperboloid, learnt or not."""
        return self.hmgrl.curvature()

    def more_losses(self, step: TrainingStep) -> dict[str, Tensor]:
        """The five further terms by name (eq. 14); one whose weight is 0 is not computed."""
        config, c, encoded = self.config, self.curvature(), step.encoded
        h, generator_labels = encoded.representation, step.generator_labels
        terms: dict[str, Tensor] = {}
        image_kl = encoded.image_kl
        patch_mask = None
        if image_kl is not None and step.image_mask is not None:
            patch_mask = step.image_mask.bool().unsqueeze(1).expand(image_kl.shape)
        if config.weight_bottleneck and encoded.text_kl is not None:
            kl = losses.bottleneck_kl(encoded.text_kl, step.text_mask)
            if image_kl is not None:
                kl = kl + losses.bottleneck_kl(image_kl, patch_mask)
            terms["bottleneck"] = 0.5 * kl
        if config.weight_contrastive and encoded.image_states is not None:
            terms["contrastive"] = self._contrast(encoded, step.text_mask, step.image_mask)
        if config.weight_cvae:
            by_label = config.generator_condition == "label"
            condition = step.label_embeddings[step.labels] if by_label else encoded.condition
            posterior = self.hmcvae.encode(h, c, step.noise.get("encode"))
            decoded = self.hmcvae.decode(posterior.sample, condition)
            terms["cvae"] = losses.cvae_loss(
                h.detach(), decoded, posterior.kl, config.generator_kl_weight
            )
        if generator_labels is not None and (config.weight_unseen or config.weight_alignment):
            draws = config.generator_samples or len(h)
            scores = self._imagine(generator_labels, draws, step.noise.get("generate"))
            if config.weight_unseen:
                terms["unseen"] = losses.unseen_loss(scores)
            if config.weight_alignment:
                positive = config.alignment == "positive_part"
                terms["alignment"] = losses.alignment_loss(scores, positive)
        return terms

    def _contrast(
        self, encoded: HMGRLModelOutput, text_mask: Tensor | None, image_mask: Tensor | None
    ) -> Tensor:
        """L_con between the means of both modalities' tokens (eq. 5)."""
        text = losses.masked_mean(encoded.text_states, text_mask)
        image = losses.masked_mean(encoded.image_states, None)
        if self.contrast_log_scale is not None:
            scale = self.contrast_log_scale.clamp(max=MAX_LOG_SCALE).exp()
            text = F.normalize(text, dim=-1) * scale
            image = F.normalize(image, dim=-1)
        mask = None if image_mask is None else image_mask.bool()
        return losses.contrastive_loss(text, image, mask)

    def _imagine(self, label_embeddings: Tensor, draws: int, noise: Tensor | None) -> Tensor:
        """Scores of synthetic samples of U labels, (U, U) or (U, draws, U) (eq. 12)."""
        label_embeddings = lorentz.wide(label_embeddings).detach()
        synthetic = self.hmcvae.generate(label_embeddings, draws, noise)
        if self.config.generator_draws == "averaged":
            synthetic = synthetic.mean(1)
        projected = self.scorer.project_labels(label_embeddings)
        return self.scorer.score(
            self.scorer.project_samples(synthetic), projected, self.curvature()
        )


__all__ = ["HMGRLForZeroShotTyping", "HMGRLModel", "HMGRLPreTrainedModel"]
