"""The interface of all methods, with the steps that they share.

A method defines how it represents encoder states (:meth:`ZeroShotTypingModel.represent`), how it
scores representations against labels, and which losses it adds. Encoding, the choice of labels,
calibration and the sum of the losses are implemented here. The labels are an argument of every
call, never a weight.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .backbones import aligning_projection, max_tokens, pretrained_encoder
from .configuration_hmgrl import ZeroShotTypingConfig
from .encoders import Encoders, HMGRLPreTrainedModel
from .lorentz import full_precision, wide
from .losses import classification_loss, ranking_loss
from .outputs import EncoderStates, Gather, TrainingStep, ZeroShotTypingOutput, local
from .pooling import pool_parts
from .scoring import LabelScorer


class ZeroShotTypingModel(HMGRLPreTrainedModel):
    """Base class of all methods for generalized zero-shot typing.

    A subclass sets ``scorer`` or overrides :meth:`prepare_labels` and :meth:`score`.

    Args:
        config: Configuration.
        text_model: Text encoder to use instead of a new one.
        vision_model: Image encoder to use instead of a new one.
    """

    base_model_prefix = "backbone"
    uses_images = True
    """Whether the method uses images."""
    tasks: tuple[str, ...] = ("typing", "relation")
    """Tasks that the method supports."""
    processor_settings: dict[str, Any] = {}  # noqa: RUF012 - read only
    """Arguments that its processor requires."""
    uses_generator_labels = False
    """Whether training uses labels without samples, for which a generator makes synthetic ones."""
    noise: dict[str, Tensor] = {}  # noqa: RUF012 - read only
    """Noise by name that replaces random draws; only tests set it."""
    gather: Gather = staticmethod(local)
    """How losses collect tensors of all processes; :class:`HMGRLTrainer` sets it while training."""
    config: ZeroShotTypingConfig
    scorer: LabelScorer

    @property
    def encoders(self) -> Encoders:
        """Text and image encoder."""
        return getattr(self, self.base_model_prefix)

    @classmethod
    def from_backbones(
        cls,
        text: str | PreTrainedModel,
        vision: str | PreTrainedModel | None = None,
        *,
        processor: Any | None = None,
        paper_settings: bool = False,
        **settings: Any,
    ) -> Any:
        """Creates a model from pretrained encoders; all other parameters are new.

        Args:
            text: Text encoder: a model, a folder or a Hub name.
            vision: Image encoder: a model, a folder or a Hub name; None for text only. Of a
                checkpoint with both, such as CLIP's, only the tower asked for is taken; if it is
                given twice, image states are initialised to be aligned with those of texts where
                the checkpoint has projections (:func:`backbones.aligning_projection`).
            processor: Processor whose tokenizer has the entity markers; the token embeddings are
                resized to it, and those of the markers are initialised to those of punctuation
                (:attr:`HMGRLProcessor.marker_initials`).
            paper_settings: Whether to use the method's settings as published.
            **settings: Fields of the method's configuration.

        Returns:
            The model in evaluation mode, as from :meth:`from_pretrained`.

        Raises:
            ValueError: If a model is not an encoder of texts or of image patches.
        """
        text_model = pretrained_encoder(text, "text")
        vision_model = None if vision is None else pretrained_encoder(vision, "image")
        encoders = {"text_config": text_model, "vision_config": vision_model}
        attention: Any = {
            name: encoder.config._attn_implementation
            for name, encoder in encoders.items()
            if encoder is not None
        }
        if len(set(attention.values())) == 1:
            attention = text_model.config._attn_implementation  # of the model as well
        make = cls.config_class.paper if paper_settings else cls.config_class
        config = make(
            attn_implementation=attention,
            text_config=text_model.config,
            vision_config=None if vision_model is None else vision_model.config,
            **settings,
        )
        model = cls(config, text_model, vision_model)
        projection = aligning_projection(text) if text == vision else None
        if projection is not None and config.projection_init == "similarity":
            model.encoders.image_projection.weight.data.copy_(projection)
        if processor is not None:
            model.add_markers(processor)
        return model.eval()

    @torch.no_grad()
    def add_markers(self, processor: Any) -> None:
        """Resizes the token embeddings to the processor's tokenizer, initialises the markers.

        Args:
            processor: A :class:`HMGRLProcessor`.

        Raises:
            ValueError: If the text encoder cannot read texts as long as the processor's.
        """
        self._check_lengths(processor)
        self.config.separator_id = processor.separator_id
        weight: Any = self.get_input_embeddings().weight
        mean = weight.mean(0)
        self.resize_token_embeddings(processor.vocabulary_size, mean_resizing=False)
        weight = self.get_input_embeddings().weight
        for marker, source in processor.marker_sources().items():
            weight[marker] = mean if source is None else weight[source]

    def _check_lengths(self, processor: Any) -> None:
        """Raises a ValueError if texts may be longer than the text encoder's position table."""
        limit = max_tokens(self.encoders.text_model)
        kind: Any = self.config.text_config
        for name in ("max_length", "label_max_length"):
            length = getattr(processor, name)
            if limit is not None and length > limit:
                raise ValueError(
                    f"{name}: got {length}, expected at most {limit}, the number of positions of "
                    f"the text encoder {kind.model_type!r}"
                )

    def get_input_embeddings(self) -> nn.Module:
        """Returns the token embeddings of the text encoder."""
        return self.encoders.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Sets the token embeddings of the text encoder."""
        self.encoders.set_input_embeddings(value)

    def encode_labels(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Encodes labels, for use as ``candidate_embeddings``; see :class:`Encoders`.

        Args:
            input_ids: Token ids, shape (K, L).
            attention_mask: 1 where there is a token, shape (K, L).

        Returns:
            Label encodings, shape (K, d); with ``config.label_parts`` [head; tail; context],
            shape (K, 3d).
        """
        if self.config.label_parts:
            return self.encode_parts(input_ids, attention_mask)
        return self.encoders.encode_labels(input_ids, attention_mask)

    def encode_parts(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        encoders: Encoders | None = None,
    ) -> Tensor:
        """Encodes labels by parts, (K, 3d), with the model's encoders or those given."""
        pool = partial(pool_parts, separator_id=self.config.separator_id)
        return (encoders or self.encoders).encode_labels(input_ids, attention_mask, pool=pool)

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """Encodes images, for use as ``image_features``; see :class:`Encoders`."""
        return self.encoders.encode_image(pixel_values)

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        span_positions: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        image_mask: Tensor | None = None,
        text_features: Tensor | None = None,
    ) -> Any:
        """Encodes samples, for :meth:`score`; arguments as of :meth:`forward`.

        Returns:
            The method's encoding of the samples, a ModelOutput of tensors whose first axis is the
            batch, among them ``representation`` (B, D).
        """
        states = self.encoders.encode_states(
            input_ids,
            attention_mask,
            span_positions,
            pixel_values,
            image_features,
            image_mask,
            text_features,
            self.noise,
        )
        with full_precision(states.text.device):
            return self.represent(states)

    def represent(self, states: EncoderStates) -> Any:
        """Computes the method's encoding of samples from encoder states.

        Args:
            states: Encoder states of a batch.

        Returns:
            As :meth:`encode`.
        """
        raise NotImplementedError(f"{type(self).__name__}: expected a method represent")

    def curvature(self) -> Any:
        """Squared radius of the hyperboloid, for geodesic scores."""
        return self.config.squared_radius

    def prepare_labels(self, candidate_embeddings: Tensor) -> Tensor:
        """Computes the part of scoring that depends only on the labels and can be cached.

        Args:
            candidate_embeddings: Label encodings, shape (K, d), as of :meth:`encode_labels`.

        Returns:
            Label vectors for :meth:`score`, shape (K, d_p).
        """
        with full_precision(candidate_embeddings.device):
            projected = self.scorer.project_labels(wide(candidate_embeddings))
            return self.scorer.to_score_space(projected, self.curvature())

    def score(self, encoded: Any, label_vectors: Tensor) -> Tensor:
        """Scores encoded samples against prepared labels.

        Args:
            encoded: Samples as of :meth:`encode`.
            label_vectors: Shape (K, d_p), as of :meth:`prepare_labels`.

        Returns:
            Logits, shape (B, K).
        """
        h, c = encoded.representation, self.curvature()
        with full_precision(h.device):
            samples = self.scorer.to_score_space(self.scorer.project_samples(h), c)
            return self.scorer.compare(samples, label_vectors, c)

    def observe_labels(self, candidate_embeddings: Tensor, seen_mask: Tensor | None) -> None:
        """Called in training before labels are scored, for methods that memorise them.

        Args:
            candidate_embeddings: Label encodings, shape (K, d).
            seen_mask: Labels with training samples, shape (K,); all if None.
        """
        del candidate_embeddings, seen_mask

    def classification_loss(self, step: TrainingStep) -> Tensor:
        """Loss of the scores of real samples, over the seen labels."""
        if self.config.classification_loss == "ranking":
            margin = self.config.ranking_margin
            return ranking_loss(step.logits, step.labels, margin, step.candidates)
        return classification_loss(step.logits, step.labels, step.candidates)

    def loss_terms(self, step: TrainingStep) -> dict[str, Tensor]:
        """All loss terms by name, before their weights."""
        return {"classification": self.classification_loss(step)} | self.more_losses(step)

    def more_losses(self, step: TrainingStep) -> dict[str, Tensor]:
        """Further loss terms by name; the configuration has ``weight_{name}`` for each.

        Args:
            step: Inputs of the losses.
        """
        del step
        return {}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        span_positions: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        image_mask: Tensor | None = None,
        candidate_input_ids: Tensor | None = None,
        candidate_attention_mask: Tensor | None = None,
        candidate_embeddings: Tensor | None = None,
        seen_mask: Tensor | None = None,
        labels: Tensor | None = None,
        synthetic_input_ids: Tensor | None = None,
        synthetic_attention_mask: Tensor | None = None,
        synthetic_embeddings: Tensor | None = None,
        text_features: Tensor | None = None,
    ) -> ZeroShotTypingOutput:
        """Scores samples against labels and, with ``labels``, computes the loss.

        Args:
            input_ids: Token ids, shape (B, n).
            attention_mask: 1 where there is a token, shape (B, n).
            span_positions: Token positions of the opening and closing marker of each mention,
                shape (B, spans, 2).
            pixel_values: Images, shape (B, 3, height, width), or None for text only.
            image_features: Image encoder's states, shape (B, m, d'), instead of images.
            image_mask: Samples that have an image, shape (B,); all if None.
            candidate_input_ids: Token ids of the K labels to score, shape (K, L).
            candidate_attention_mask: 1 where there is a token, shape (K, L).
            candidate_embeddings: Label encodings, shape (K, d), instead of token ids.
            seen_mask: Which labels had training samples, bool, shape (K,).
            labels: Index of the true label, shape (B,); seen labels in training.
            synthetic_input_ids: Token ids of the labels to generate samples for, (U, L').
            synthetic_attention_mask: 1 where there is a token, shape (U, L').
            synthetic_embeddings: Their encodings, shape (U, d), instead of token ids.
            text_features: Text encoder's states, shape (B, n, d), instead of encoding the texts.

        Returns:
            :class:`ZeroShotTypingOutput`.

        Raises:
            ValueError: If no labels are given, or the spans do not fit the task.
        """
        if labels is not None and self.gather is not local:
            pixel_values, image_features, image_mask = self._declare_images(
                input_ids, pixel_values, image_features, image_mask
            )
        encoded = self.encode(
            input_ids,
            attention_mask,
            span_positions,
            pixel_values,
            image_features,
            image_mask,
            text_features,
        )
        if candidate_embeddings is None:
            if candidate_input_ids is None:
                raise ValueError(
                    "candidate_input_ids or candidate_embeddings: expected one of them"
                )
            candidate_embeddings = self.encode_labels(candidate_input_ids, candidate_attention_mask)
        wanted = self.uses_generator_labels and labels is not None and synthetic_embeddings is None
        if wanted and synthetic_input_ids is not None:
            with torch.no_grad():  # the losses of synthetic samples do not train the encoder
                synthetic_embeddings = self.encode_labels(
                    synthetic_input_ids, synthetic_attention_mask
                )
        return self.classify(
            encoded,
            candidate_embeddings,
            attention_mask,
            image_mask,
            seen_mask,
            labels,
            synthetic_embeddings,
        )

    def _declare_images(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None,
        image_features: Tensor | None,
        image_mask: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Image inputs and mask of a process of a distributed run, even if it has no image.

        Losses gather tensors of all processes, forward and backward. A process that omitted a term
        or an encoder, because no sample of its batch has an image, would leave the others waiting.
        """
        vision: Any = self.config.vision_config
        if vision is None:
            return pixel_values, image_features, image_mask
        size, device = len(input_ids), input_ids.device
        absent = pixel_values is None and image_features is None
        if image_mask is None or absent:
            image_mask = torch.full((size,), not absent, device=device)
        if absent and self.encoders.vision_is_frozen:
            image_features = torch.zeros(size, 1, vision.hidden_size, device=device)
        elif absent:
            edges = getattr(vision, "image_size", 224)
            edges = (edges, edges) if isinstance(edges, int) else tuple(edges)
            pixel_values = torch.zeros(size, vision.num_channels, *edges, device=device)
        return pixel_values, image_features, image_mask

    def classify(
        self,
        encoded: Any,
        candidate_embeddings: Tensor,
        attention_mask: Tensor | None = None,
        image_mask: Tensor | None = None,
        seen_mask: Tensor | None = None,
        labels: Tensor | None = None,
        synthetic_embeddings: Tensor | None = None,
    ) -> ZeroShotTypingOutput:
        """Scores encoded samples against label encodings; arguments as of :meth:`forward`."""
        h = encoded.representation
        if self.training and labels is not None:
            self.observe_labels(candidate_embeddings, seen_mask)
        with full_precision(h.device):
            logits = self.score(encoded, self.prepare_labels(candidate_embeddings))
            terms = None
            if labels is not None:
                step = TrainingStep(
                    encoded,
                    logits,
                    candidate_embeddings,
                    labels,
                    None if seen_mask is None else seen_mask.bool(),
                    attention_mask if self.config.mask_padding else None,
                    image_mask,
                    synthetic_embeddings,
                    self.noise,
                    self.gather,
                )
                terms = self.loss_terms(step)
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
            candidate_embeddings=candidate_embeddings,
            attention=encoded.get("attention"),
        )


__all__ = ["ZeroShotTypingModel"]
