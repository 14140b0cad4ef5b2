"""HMGRL for generalized zero-shot typing: six-term loss, synthetic samples of unseen labels.

Source: HMGRL (arXiv 2603.16259); :class:`HMGRLConfig` names the departures from it.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers import initialization as init

from .configuration_hmgrl import HMGRLConfig
from .encoders import Encoders, HMGRLPreTrainedModel
from .layers import Curvature, Fp32Linear, zeros
from .lorentz import full_precision, wide
from .losses import (
    alignment_loss,
    bottleneck_kl,
    contrastive_loss,
    cvae_loss,
    own_label_scores,
    unseen_loss,
)
from .modeling_zero_shot_typing import ZeroShotTypingModel
from .outputs import EncoderStates, HMGRLModelOutput, TrainingStep
from .pooling import masked_mean
from .scoring import MAX_LOG_SCALE, LabelScorer
from .variational import HMCVAE, HVIB

# Numbers, 64 MB in float32, that a chunk of labels of the generator may hold at once per tensor.
CHUNK_NUMBERS = 2**24


class CrossModalAttention(nn.Module):
    """Pools the tokens of both modalities into one vector per sample.

    "additive" is the attention of the paper: softmax over ``w . [e; F_j] + b``, in which the
    entity's term ``w_e . e + b`` is the same for every token and cancels. "query" is a scaled dot
    product of a projected entity query with projected tokens, initialised to be uniform within a
    modality and to give both modalities the same share.

    Args:
        config: Configuration of the model.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        width = config.text_width
        query = (config.num_spans + 1) * width
        self.kind = config.attention
        if self.kind == "additive":
            self.score = Fp32Linear(query + width, 1)
        else:
            self.query = Fp32Linear(query, width, init_weight=zeros)  # uniform attention
            self.key = Fp32Linear(width, width, bias=False)
            self.modality_bias = nn.Parameter(torch.empty(2))

    def init_parameters(self) -> None:
        """Initialises both modalities to the same share."""
        if self.kind == "query":
            init.zeros_(self.modality_bias)

    def forward(
        self,
        entity: Tensor,
        text: Tensor,
        image: Tensor | None,
        text_mask: Tensor | None,
        image_mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Pools ``[text; image]``.

        Args:
            entity: Entity query e, shape (B, 2d) for typing, (B, 3d) for relations.
            text: Text tokens, shape (B, n, d).
            image: Image tokens, shape (B, m, d), or None.
            text_mask: Text tokens that count, bool, shape (B, n); all if None.
            image_mask: Samples with an image, bool, shape (B,); all if None.

        Returns:
            The pooled vectors, shape (B, d), and the attention over [text; image], (B, n + m).
        """
        tokens = text if image is None else torch.cat([text, image], dim=1)
        n, m = text.shape[1], tokens.shape[1] - text.shape[1]
        if self.kind == "additive":
            # the layer of [e; F_j] without copying e to every token, in the tokens' precision
            weight, bias = self.score.weight.to(tokens.dtype), self.score.bias.to(tokens.dtype)
            w_entity, w_token = weight.split([entity.shape[-1], text.shape[-1]], dim=1)
            logits = tokens @ w_token[0] + (entity @ w_entity[0] + bias).unsqueeze(1)
        else:
            keys = self.key(tokens)
            logits = (keys @ self.query(entity).unsqueeze(-1)).squeeze(-1) / keys.shape[-1] ** 0.5
            # new_full, because Python numbers would be constants of an exported graph
            count = logits.new_full((), n) if text_mask is None else text_mask.sum(1, keepdim=True)
            share = (self.modality_bias[0] - count.to(logits.dtype).log()).expand(text.shape[0], n)
            if m:
                log_m = logits.new_full((), m).log()
                image_share = (self.modality_bias[1] - log_m).expand(text.shape[0], m)
                share = torch.cat([share, image_share], dim=1)
            logits = logits + share
        mask = _fusion_mask(text_mask, image_mask, text, m)
        if mask is not None:
            logits = logits.masked_fill(~mask, -math.inf)
        weights = logits.softmax(dim=1)
        return (weights.unsqueeze(1) @ tokens).squeeze(1), weights


def _fusion_mask(
    text_mask: Tensor | None, image_mask: Tensor | None, text: Tensor, patches: int
) -> Tensor | None:
    """Fused tokens that count, bool, shape (B, n + m); None if all of them do."""
    if text_mask is None and (image_mask is None or not patches):
        return None
    ones = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
    parts = [ones if text_mask is None else text_mask.bool()]
    if patches:
        present = ones[:, 0] if image_mask is None else image_mask.bool()
        parts.append(present.unsqueeze(1).expand(-1, patches))
    return torch.cat(parts, dim=1)


class HMGRLModel(Encoders):
    """Text and image encoder, variational bottleneck, cross-modal fusion.

    Args:
        config: Configuration.
        text_model: Text encoder to use instead of a new one.
        vision_model: Image encoder to use instead of a new one.

    Example:
        >>> import torch
        >>> from transformers import BertConfig
        >>> from modeling_hmgrl import HMGRLConfig, HMGRLModel
        >>> text = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1,
        ...                   num_attention_heads=2, intermediate_size=16)
        >>> model = HMGRLModel(HMGRLConfig(text_config=text, bottleneck_size=4)).eval()
        >>> ids = torch.tensor([[2, 11, 12, 13, 3]])  # markers at positions 1 and 3
        >>> model(ids, span_positions=torch.tensor([[[1, 3]]])).representation.shape
        torch.Size([1, 24])
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
        text_features: Tensor | None = None,
    ) -> HMGRLModelOutput:
        """Encodes samples to representations.

        Args:
            input_ids: Token ids, shape (B, n).
            attention_mask: 1 where there is a token, shape (B, n).
            span_positions: Token positions of the opening and closing marker of each mention,
                shape (B, spans, 2).
            pixel_values: Images, shape (B, 3, height, width), or None for text only.
            image_features: Image encoder's states, shape (B, m, d'), instead of images.
            image_mask: Samples that have an image, shape (B,); all if None.
            text_features: Text encoder's states, shape (B, n, d), instead of encoding the texts.

        Returns:
            :class:`HMGRLModelOutput`.
        """
        states = self.encode_states(
            input_ids,
            attention_mask,
            span_positions,
            pixel_values,
            image_features,
            image_mask,
            text_features,
        )
        with full_precision(states.text.device):
            return self.fuse(states)

    def fuse(self, states: EncoderStates) -> HMGRLModelOutput:
        """Passes encoder states through bottleneck and fusion.

        Args:
            states: Encoder states of a batch.

        Returns:
            :class:`HMGRLModelOutput`.
        """
        c, noise = self.curvature(), states.noise

        # Both modalities pass the same bottleneck (eq. 4); in evaluation, Z is the mean.
        text_z, text_kl = self._through_bottleneck(states.text, c, noise.get("text"))
        image_z, image_kl = None, None
        if states.image is not None:
            image_z, image_kl = self._through_bottleneck(states.image, c, noise.get("image"))

        # The entity query consists of encoder states: [h_CLS; mentions] (eq. 6).
        mentions = self.mentions(states.text, states.span_positions)
        entity = torch.cat([self.whole_text(states), *mentions.unbind(1)], dim=-1)

        # The query pools the tokens of both modalities; H = [entity; pooled].
        pooled, attention = self.fusion(
            entity, text_z, image_z, states.text_mask, states.image_mask
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
        """Samples of states (B, n, d) and divergences (B, n); the states without a bottleneck."""
        if self.hvib is None:
            return states, None
        posterior = self.hvib(states, c, noise)
        return posterior.sample, posterior.kl


class HMGRLForZeroShotTyping(ZeroShotTypingModel):
    """HMGRL for generalized zero-shot entity typing and relation extraction.

    The labels are an argument of every call, never a weight.

    Args:
        config: Configuration.
        text_model: Text encoder to use instead of a new one.
        vision_model: Image encoder to use instead of a new one.

    Example:
        >>> import torch
        >>> from transformers import BertConfig
        >>> from modeling_hmgrl import HMGRLConfig, HMGRLForZeroShotTyping
        >>> text = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1,
        ...                   num_attention_heads=2, intermediate_size=16)
        >>> config = HMGRLConfig(text_config=text, bottleneck_size=4, generator_latent_size=4)
        >>> model = HMGRLForZeroShotTyping(config).eval()
        >>> output = model(
        ...     input_ids=torch.tensor([[2, 11, 12, 13, 3]]),  # markers at positions 1 and 3
        ...     span_positions=torch.tensor([[[1, 3]]]),
        ...     candidate_input_ids=torch.tensor([[2, 20, 3], [2, 21, 3], [2, 22, 3]]),
        ...     labels=torch.tensor([1]),
        ... )
        >>> output.logits.shape, sorted(output.loss_terms)
        (torch.Size([1, 3]), ['bottleneck', 'classification', 'cvae'])
    """

    base_model_prefix = "hmgrl"
    uses_generator_labels = True
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
            parts=bool(config.label_parts),
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

    def represent(self, states: EncoderStates) -> HMGRLModelOutput:
        """Passes encoder states through bottleneck and fusion; see :meth:`HMGRLModel.fuse`."""
        return self.hmgrl.fuse(states)

    def curvature(self) -> Any:
        """Squared radius of the hyperboloid: a constant, or the learnt value."""
        return self.hmgrl.curvature()

    def more_losses(self, step: TrainingStep) -> dict[str, Tensor]:
        """The five further terms by name (eq. 14); a term of weight 0 is not computed."""
        config, c, encoded = self.config, self.curvature(), step.encoded
        h, synthetic = encoded.representation, step.synthetic_embeddings
        terms: dict[str, Tensor] = {}

        # L_reg: what the bottleneck keeps of texts and of the images that are present (eq. 4).
        image_kl = encoded.image_kl
        patch_mask = None
        if image_kl is not None and step.image_mask is not None:
            patch_mask = step.image_mask.bool().unsqueeze(1).expand(image_kl.shape)
        if config.weight_bottleneck and encoded.text_kl is not None:
            kl = bottleneck_kl(encoded.text_kl, step.text_mask, step.gather)
            if image_kl is not None:
                kl = kl + bottleneck_kl(image_kl, patch_mask, step.gather)
            terms["bottleneck"] = 0.5 * kl

        # L_con: agreement of the two modalities of a sample (eq. 5).
        if config.weight_contrastive and encoded.image_states is not None:
            terms["contrastive"] = self._contrast(step)

        # L_cvae: the generator reconstructs real representations (eq. 11).
        if config.weight_cvae:
            by_label = config.generator_condition == "label"
            condition = step.candidate_embeddings[step.labels] if by_label else encoded.condition
            noise = self._noise(step, "encode", h, len(h))
            posterior = self.hmcvae.encode(h, c, noise)
            decoded = self.hmcvae.decode(posterior.sample, condition)
            terms["cvae"] = cvae_loss(h.detach(), decoded, posterior.kl, config.generator_kl_weight)

        # L_u and L_sda: the scorer learns from synthetic samples of unseen labels (eq. 12-13).
        if synthetic is not None and (config.weight_unseen or config.weight_alignment):
            draws = config.generator_samples or len(h)
            noise = self._noise(step, "generate", synthetic, len(synthetic), draws)
            unseen, own_scores = self._synthetic_losses(synthetic, noise)
            if config.weight_unseen:
                terms["unseen"] = unseen
            if config.weight_alignment:
                positive = config.alignment == "positive_part"
                terms["alignment"] = alignment_loss(own_scores, positive)
        return terms

    def _noise(self, step: TrainingStep, name: str, like: Tensor, *shape: int) -> Tensor:
        """Noise of HMCVAE's latents, (*shape, d_v); the same in every evaluation of a loss."""
        if name in step.noise:
            return step.noise[name]
        shape, dtype = (*shape, self.hmcvae.latent), wide(like).dtype
        if self.training:
            return torch.randn(shape, device=like.device, dtype=dtype)
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(like.device, dtype)

    def _contrast(self, step: TrainingStep) -> Tensor:
        """L_con between the means of both modalities' tokens, over all processes (eq. 5)."""
        text = masked_mean(step.encoded.text_states, step.text_mask)
        image = masked_mean(step.encoded.image_states, None)
        if self.contrast_log_scale is not None:
            scale = self.contrast_log_scale.clamp(max=MAX_LOG_SCALE).exp()
            text = F.normalize(text, dim=-1) * scale
            # Projected images are initialised to 0, where the gradient of a normalisation explodes.
            image = F.normalize(image, dim=-1, eps=1e-2)
        mask = None
        if step.image_mask is not None:
            mask = step.gather(step.image_mask.to(text.dtype)) > 0
        return contrastive_loss(step.gather(text), step.gather(image), mask)

    def _synthetic_losses(self, embeddings: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """L_u, and the score of each label's synthetic samples on that label (eq. 12-13).

        Labels are taken in chunks, which are computed once more in the backward pass if there are
        several: memory grows with the number U of labels and not with its square.

        Args:
            embeddings: Encodings of the labels, shape (U, d).
            noise: Latents, shape (U, draws, d_v).

        Returns:
            Scalar, and shape (U,).
        """
        embeddings = wide(embeddings).detach()
        labels, c = self.scorer.project_labels(embeddings), self.curvature()
        labels = self.scorer.to_score_space(labels, c)
        # numbers that a label contributes to a chunk: representations, and distances or products
        each = labels.numel() if self.config.score_function == "geodesic" else len(labels)
        each = noise.shape[1] * (each + self.config.representation_size)
        chunk = max(1, CHUNK_NUMBERS // each)
        again = torch.is_grad_enabled() and len(labels) > chunk
        losses, own = [], []
        for first in range(0, len(labels), chunk):
            rows = slice(first, first + chunk)
            inputs = (embeddings[rows], noise[rows], labels, c, first)
            loss, scores = (
                checkpoint(self._chunk_losses, *inputs, use_reentrant=False)
                if again
                else self._chunk_losses(*inputs)
            )
            losses.append(loss * (len(scores) / len(labels)))
            own.append(scores)
        return torch.stack(losses).sum(), torch.cat(own)

    def _chunk_losses(self, *inputs: Any) -> tuple[Tensor, Tensor]:
        """L_u of a chunk of labels, and the scores of their synthetic samples on their label."""
        scores, first = self._score_synthetic(*inputs[:-1]), inputs[-1]
        return unseen_loss(scores, first), own_label_scores(scores, first)

    def _score_synthetic(
        self, embeddings: Tensor, noise: Tensor, labels: Tensor, c: float | Tensor
    ) -> Tensor:
        """Scores synthetic samples of N labels against all, (N, U) or (N, draws, U) (eq. 12)."""
        synthetic = self.hmcvae.generate(embeddings, noise.shape[1], noise)
        if self.config.generator_draws == "averaged":
            synthetic = synthetic.mean(1)
        samples = self.scorer.to_score_space(self.scorer.project_samples(synthetic), c)
        return self.scorer.compare(samples, labels, c)


__all__ = ["CrossModalAttention", "HMGRLForZeroShotTyping", "HMGRLModel", "HMGRLPreTrainedModel"]
