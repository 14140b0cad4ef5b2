"""HMGRL for generalized zero-shot typing: scores, the six-term loss, imagined unseen labels.

Source: HMGRL (arXiv 2603.16259); what departs from it is named in :class:`HMGRLConfig`.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.utils import logging

from . import lorentz, losses
from .configuration_hmgrl import HMGRLConfig
from .encoder_hmgrl import HMGRLModel, HMGRLPreTrainedModel, without_pooler
from .fusion import MAX_LOG_SCALE, LabelScorer
from .outputs import HMGRLModelOutput, ZeroShotTypingOutput
from .variational import HMCVAE


def _pretrained(encoder: str | PreTrainedModel) -> PreTrainedModel:
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


class HMGRLForZeroShotTyping(HMGRLPreTrainedModel):
    """HMGRL for generalized zero-shot entity typing and relation extraction.

    The labels are an argument of every call, never a weight.

    Args:
        config: Configuration.
        text_model: Text encoder to use instead of a new one.
        vision_model: Image encoder to use instead of a new one.
    """

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
            config.text_width,
            config.generator_latent_size,
            config.hmcvae_layer,
            wrapped=config.latent == "wrapped_normal",
            normalize=config.generator_input == "normalized",
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

    @classmethod
    def from_backbones(
        cls,
        text: str | PreTrainedModel,
        vision: str | PreTrainedModel | None = None,
        *,
        processor: Any | None = None,
        paper_settings: bool = False,
        **settings: Any,
    ) -> "HMGRLForZeroShotTyping":
        """Starts from pretrained encoders, with new parameters elsewhere.

        Args:
            text: Text encoder: a model, a folder or a Hub name.
            vision: Image encoder: a model, a folder or a Hub name; None for text alone.
            processor: Processor whose tokenizer has the marker tokens; the embeddings grow to it,
                and the markers start as the punctuation that stands for them
                (:attr:`HMGRLProcessor.marker_initials`).
            paper_settings: Whether to start from :meth:`HMGRLConfig.paper`.
            **settings: Fields of :class:`HMGRLConfig`.

        Returns:
            The model, in evaluation mode as :meth:`from_pretrained` leaves it.
        """
        text_model = _pretrained(text)
        vision_model = None if vision is None else _pretrained(vision)
        make = HMGRLConfig.paper if paper_settings else HMGRLConfig
        config = make(
            attn_implementation=text_model.config._attn_implementation,  # building it sets both
            text_config=text_model.config,
            vision_config=None if vision_model is None else vision_model.config,
            **settings,
        )
        model = cls(config, text_model, vision_model)
        if processor is not None:
            model.add_markers(processor)
        return model.eval()

    @torch.no_grad()
    def add_markers(self, processor: Any) -> None:
        """Grows the token embeddings to the processor's tokenizer and starts the markers.

        Args:
            processor: A :class:`HMGRLProcessor`.
        """
        tokenizer = processor.tokenizer
        self.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        weight: Any = self.get_input_embeddings().weight
        for marker, initial in processor.marker_initials.items():
            source = tokenizer(initial, add_special_tokens=False).input_ids
            weight[tokenizer.convert_tokens_to_ids(marker)] = weight[source].mean(0)

    def get_input_embeddings(self) -> nn.Module:
        """Returns the token embeddings of the text encoder."""
        return self.hmgrl.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Sets the token embeddings of the text encoder."""
        self.hmgrl.set_input_embeddings(value)

    def encode_labels(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Encodes labels once, for use as ``label_embeddings`` in many calls; see HMGRLModel."""
        return self.hmgrl.encode_labels(input_ids, attention_mask)

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """Encodes pictures once, for use as ``image_features``; see HMGRLModel."""
        return self.hmgrl.encode_image(pixel_values)

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        span_positions: Tensor | None = None,
        image_features: Tensor | None = None,
        image_mask: Tensor | None = None,
    ) -> HMGRLModelOutput:
        """Encodes samples, for :meth:`score`; arguments as of :meth:`forward`."""
        return self.hmgrl(
            input_ids,
            attention_mask,
            span_positions,
            image_features=image_features,
            image_mask=image_mask,
        )

    def prepare_labels(self, label_embeddings: Tensor) -> Tensor:
        """Does all of scoring that depends on the labels alone, so that it can be kept.

        Args:
            label_embeddings: Label encodings, shape (K, d), as of :meth:`encode_labels`.

        Returns:
            Label vectors for :meth:`score`, shape (K, d_p).
        """
        with lorentz.full_precision(label_embeddings.device):
            projected = self.scorer.project_labels(lorentz.wide(label_embeddings))
            return self.scorer.place(projected, self.hmgrl.curvature())

    def score(self, encoded: HMGRLModelOutput, label_vectors: Tensor) -> Tensor:
        """Scores encoded samples against prepared labels.

        Args:
            encoded: Samples as of :meth:`encode`.
            label_vectors: Shape (K, d_p), as of :meth:`prepare_labels`.

        Returns:
            Logits, shape (B, K).
        """
        h, c = encoded.representation, self.hmgrl.curvature()
        with lorentz.full_precision(h.device):
            samples = self.scorer.place(self.scorer.project_samples(h), c)
            return self.scorer.compare(samples, label_vectors, c)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        span_positions: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        image_mask: Tensor | None = None,
        label_input_ids: Tensor | None = None,
        label_attention_mask: Tensor | None = None,
        label_embeddings: Tensor | None = None,
        seen_mask: Tensor | None = None,
        labels: Tensor | None = None,
        generator_label_input_ids: Tensor | None = None,
        generator_label_attention_mask: Tensor | None = None,
        generator_label_embeddings: Tensor | None = None,
        noise: dict[str, Tensor] | None = None,
        text_features: Tensor | None = None,
    ) -> ZeroShotTypingOutput:
        """Scores samples against labels and, with ``labels``, computes the loss (eq. 14).

        Args:
            input_ids: Token ids, shape (B, n).
            attention_mask: 1 where there is a token, shape (B, n).
            span_positions: Token positions of the opening and closing marker of each mention,
                shape (B, spans, 2).
            pixel_values: Pictures, shape (B, 3, height, width), or None for texts alone.
            image_features: Image encoder's states, shape (B, m, d'), instead of pictures.
            image_mask: Samples that have a picture, shape (B,); all if None.
            label_input_ids: Token ids of the K labels to score, shape (K, L).
            label_attention_mask: 1 where there is a token, shape (K, L).
            label_embeddings: Label encodings, shape (K, d), instead of token ids.
            seen_mask: Which labels had training samples, bool, shape (K,).
            labels: Index of the true label, shape (B,); it must be a seen one.
            generator_label_input_ids: Token ids of the labels to imagine samples of, (U, L').
            generator_label_attention_mask: 1 where there is a token, shape (U, L').
            generator_label_embeddings: Their encodings, shape (U, d), instead of token ids.
            noise: Noise to use: "text" (B, n, d), "image" (B, m, d), "encode" (B, d_v), "generate"
                (U, draws, d_v).
            text_features: Text encoder's states, shape (B, n, d), instead of encoding the texts.

        Returns:
            :class:`ZeroShotTypingOutput`.

        Raises:
            ValueError: If no labels are given, or the spans do not fit the task.
        """
        encoded = self.hmgrl(
            input_ids,
            attention_mask,
            span_positions,
            pixel_values,
            image_features,
            image_mask,
            noise,
            text_features,
        )
        if label_embeddings is None:
            if label_input_ids is None:
                raise ValueError("label_input_ids or label_embeddings: expected one of them")
            label_embeddings = self.encode_labels(label_input_ids, label_attention_mask)
        if generator_label_embeddings is None and generator_label_input_ids is not None:
            with torch.no_grad():  # the losses of synthetic samples do not train the encoder
                generator_label_embeddings = self.encode_labels(
                    generator_label_input_ids, generator_label_attention_mask
                )
        return self.classify(
            encoded,
            label_embeddings,
            attention_mask,
            image_mask,
            seen_mask,
            labels,
            generator_label_embeddings,
            noise,
        )

    def classify(
        self,
        encoded: HMGRLModelOutput,
        label_embeddings: Tensor,
        attention_mask: Tensor | None = None,
        image_mask: Tensor | None = None,
        seen_mask: Tensor | None = None,
        labels: Tensor | None = None,
        generator_label_embeddings: Tensor | None = None,
        noise: dict[str, Tensor] | None = None,
    ) -> ZeroShotTypingOutput:
        """Scores encoded samples against label encodings; arguments as of :meth:`forward`."""
        h = encoded.representation
        with lorentz.full_precision(h.device):
            logits = self.score(encoded, self.prepare_labels(label_embeddings))
            terms = None
            if labels is not None:
                terms = self._loss_terms(
                    encoded,
                    logits,
                    label_embeddings,
                    attention_mask,
                    image_mask,
                    seen_mask,
                    labels,
                    generator_label_embeddings,
                    noise or {},
                )
        calibrated = None
        if seen_mask is not None:
            calibrated = logits - self.config.calibration_gamma * seen_mask.to(logits.dtype)
        loss = None
        if terms is not None:
            loss = sum(
                getattr(self.config, f"weight_{name}") * term for name, term in terms.items()
            )
        return ZeroShotTypingOutput(
            loss=loss,
            loss_terms=terms,
            logits=logits,
            calibrated_logits=calibrated,
            representation=h,
            label_embeddings=label_embeddings,
            attention=encoded.attention,
        )

    def _loss_terms(
        self,
        encoded: HMGRLModelOutput,
        logits: Tensor,
        label_embeddings: Tensor,
        attention_mask: Tensor | None,
        image_mask: Tensor | None,
        seen_mask: Tensor | None,
        labels: Tensor,
        generator_labels: Tensor | None,
        noise: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        """The six terms by name; but for the first, one whose weight is 0 is not computed."""
        config, c, h = self.config, self.hmgrl.curvature(), encoded.representation
        candidates = None if seen_mask is None else seen_mask.bool()
        if config.classification_loss == "ranking":
            real = losses.ranking_loss(logits, labels, config.ranking_margin, candidates)
        else:
            real = losses.classification_loss(logits, labels, candidates)
        terms = {"classification": real}
        text_mask = attention_mask if config.mask_padding else None
        image_kl = encoded.image_kl
        patch_mask = None
        if image_kl is not None and image_mask is not None:
            patch_mask = image_mask.bool().unsqueeze(1).expand(image_kl.shape)
        if config.weight_bottleneck:
            kl = losses.bottleneck_kl(encoded.text_kl, text_mask)
            if image_kl is not None:
                kl = kl + losses.bottleneck_kl(image_kl, patch_mask)
            terms["bottleneck"] = 0.5 * kl
        if config.weight_contrastive and encoded.image_states is not None:
            terms["contrastive"] = self._contrast(encoded, text_mask, image_mask)
        if config.weight_cvae:
            by_label = config.generator_condition == "label"
            condition = label_embeddings[labels] if by_label else encoded.condition
            posterior = self.hmcvae.encode(h, c, noise.get("encode"))
            decoded = self.hmcvae.decode(posterior.sample, condition)
            terms["cvae"] = losses.cvae_loss(
                h.detach(), decoded, posterior.kl, config.generator_kl_weight
            )
        if generator_labels is not None and (config.weight_unseen or config.weight_alignment):
            scores = self._imagine(generator_labels, len(h), noise.get("generate"))
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
            self.scorer.project_samples(synthetic), projected, self.hmgrl.curvature()
        )


__all__ = ["HMGRLForZeroShotTyping", "HMGRLModel", "HMGRLPreTrainedModel"]
