"""Configuration of HMGRL: encoders, widths, named settings, loss weights, labels, calibration."""

import math
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .config_checks import check_implementations, check_numbers
from .hub import is_remote

SHARED_PAPER_SETTINGS: dict[str, Any] = {
    "label_parts": False,
    "score_function": "dot",
    "classification_loss": "ranking",
    "span_pooling": "marker",
    "mask_padding": False,
    "projection_init": "random",
    "squared_radius": 1.0,
    "projection_size": 768,
    "weight_classification": 1.0,
}
"""What ``paper`` sets for every method: the setting in which the paper compares them."""

PAPER_SETTINGS: dict[str, Any] = SHARED_PAPER_SETTINGS | {
    "attention": "additive",
    "bottleneck": "variational",
    "alignment": "positive_part",
    "contrast_function": "dot",
    "residual_bottleneck": False,
    "generator_draws": "averaged",
    "generator_samples": 0,
    "generator_condition": "mention",
    "generator_input": "raw",
    "generator_kl_weight": 1.0,
    "hvib_layer": "lorentz",
    "hmcvae_layer": "lorentz",
    "latent": "normal",
    "learnable_curvature": False,
    "weight_bottleneck": 1.0,
    "weight_contrastive": 1.0,
    "weight_cvae": 1.0,
}
"""What :meth:`HMGRLConfig.paper` sets, beside the weights of L_u and L_sda."""

PAPER_TASK_WEIGHTS = {"typing": 10.0, "relation": 1.0}
"""eta = zeta of the authors' scripts, for each task."""


_MOST = 1e9


@strict
class ZeroShotTypingConfig(PreTrainedConfig):
    r"""Configuration that all methods share: encoders, marking, scoring, labels, calibration.

    Args:
        text_config: Configuration of any BERT-like text encoder.
        vision_config: Configuration of any ViT-like image encoder; None for a text-only model.
        task: "typing" (one span, entity type) or "relation" (two spans, head first).
        score_function: Score of a sample and a label: "dot" (paper), "cosine" with a learnt
            temperature, or a squared distance times a learnt negative factor: "geodesic" for the
            distance of the Lorentz model, "euclidean" for the ordinary one. Distances are those of
            points at learnt radii, such that their scores are initially close to those of cosines.
        classification_loss: "ranking" (HMGRL, eq. 7) or "cross_entropy", over the seen labels.
        span_pooling: "marker" (paper): state at the opening marker; "mean": mean over the tokens
            from marker to marker.
        mask_padding: Whether padding is excluded from attention pooling, means, divergences and
            label encodings. The authors' code includes it, so ``False`` requires texts of a fixed
            length: a processor with ``pad_to_max_length=True``, as ``hmgrl train --paper`` uses.
        projection_init: "random" (paper) or "similarity": the projections are initialised such
            that the untrained model scores by the similarity of mention and sentence with the
            label's encoding, and training adds to it. Image states then always pass a projection,
            which is initialised to zero; otherwise only if their width differs from the text's.
        squared_radius: Squared radius c of the hyperboloid (curvature -1/c), for geodesic scores
            and hyperbolic layers.
        projection_size: Width d_p of the score space; the text encoder's width if None.
        label_parts: Whether a relation's label is compared by parts, as in RE-Matching: a text
            "head; relation; tail" gives an encoding of each part, and the head and tail of the
            label are compared with the head and tail of the sample. Any other text serves as a
            whole for all three parts. None, the default, means True for relations if the method
            supports it; False in the paper.
        separator_id: Token id of ";", set together with the entity markers.
        dropout: Dropout before the two projections.
        ranking_margin: Margin of the ranking loss.
        temperature_init: Initial temperature of all scores but "dot" and of the contrast, at least
            0.01.
        weight_classification: Weight of the loss on real samples.
        freeze_text: Whether the text encoder is frozen.
        freeze_vision: Whether the image encoder is frozen (paper).
        calibration_gamma: Amount that calibrated stacking subtracts from the scores of seen labels
            (eq. 15); chosen on validation.
        probability_temperature: Divisor of calibrated scores before the softmax that turns them
            into probabilities; chosen on validation (see :mod:`metrics.temperature_scaling`).
        seen_labels: Names of the labels with training samples.
        generator_labels: Names of labels without samples for which the generator was trained.
        label_texts: Text that the encoder reads for a label name, if it is not the name itself.
    """

    model_type = ""
    takes_label_parts = True
    """Whether the method supports labels by parts."""
    keys_to_ignore_at_inference = [  # noqa: RUF012 - the form transformers' Trainer asks for
        "loss_terms", "calibrated_logits", "representation", "candidate_embeddings", "attention",
    ]  # fmt: skip
    sub_configs_defaults = {  # noqa: RUF012 - the form the base class asks for
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="vit", optional=True),
    }

    text_config: PreTrainedConfig | dict | None = None
    vision_config: PreTrainedConfig | dict | None = None
    task: Literal["typing", "relation"] = "typing"
    score_function: Literal["cosine", "dot", "geodesic", "euclidean"] = "cosine"
    classification_loss: Literal["cross_entropy", "ranking"] = "cross_entropy"
    span_pooling: Literal["mean", "marker"] = "mean"
    mask_padding: bool = True
    projection_init: Literal["similarity", "random"] = "similarity"
    squared_radius: float | int = 1.0
    projection_size: int | None = None
    label_parts: bool | None = None
    separator_id: int | None = None
    dropout: float | int = 0.1
    ranking_margin: float | int = 1.0
    temperature_init: float | int = 0.05
    weight_classification: float | int = 1.0
    freeze_text: bool = False
    freeze_vision: bool = True
    calibration_gamma: float | int = 0.0
    probability_temperature: float | int = 1.0
    seen_labels: list[str] | None = None
    generator_labels: list[str] | None = None
    label_texts: dict[str, str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Resolves ``label_parts``, for which None is the recommended setting of the method."""
        if self.label_parts is None:
            self.label_parts = self.task == "relation" and self.recommends_label_parts()
        super().__post_init__(**kwargs)

    @classmethod
    def label_text(cls, paper: bool = False) -> str:
        """Kind of label text to train with, as of :class:`dataset_scripts.options.SourceOptions`.

        Args:
            paper: Whether the settings are those of the paper.
        """
        return "raw" if paper else "auto"

    def recommends_label_parts(self) -> bool:
        """Whether relations are compared by parts unless ``label_parts`` is set."""
        return self.takes_label_parts

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Creates a configuration from a dict, such as the content of ``config.json``.

        Where the package is installed, the pipeline code that a checkpoint carries for users
        without the package is ignored: transformers would ask to trust that code.

        Args:
            config_dict: The fields.
            **kwargs: As of PreTrainedConfig.

        Returns:
            The configuration.

        Raises:
            ValueError: If a field is invalid or of an impossible size, or requests code of the Hub.
        """
        if not is_remote():
            config_dict = {k: v for k, v in config_dict.items() if k != "custom_pipelines"}
        labels = ("seen_labels", "generator_labels", "label_texts")
        fields = {name: value for name, value in config_dict.items() if name not in labels}
        check_implementations(fields)
        check_numbers(fields)
        try:
            return super().from_dict(config_dict, **kwargs)
        except (ValueError, OSError):
            raise
        except Exception as error:  # of various types, as a file may hold any value
            reason = " ".join(str(error).split())
            raise ValueError(f"{cls.model_type} configuration: {reason}") from error

    @classmethod
    def paper_settings(cls, task: str) -> dict[str, Any]:
        """Settings of the method as published, on the encoders that all share."""
        del task  # most methods have the same settings for both tasks
        return SHARED_PAPER_SETTINGS

    @classmethod
    def paper(cls, task: str = "typing", **overrides: Any) -> Any:
        """Creates a configuration with all settings as in the paper and its authors' code.

        Args:
            task: "typing" or "relation"; the authors' loss weights depend on it.
            **overrides: Fields with another value, as for an ablation, and the encoders' fields.

        Returns:
            The configuration.

        Raises:
            ValueError: If there is no such task.
        """
        if task not in PAPER_TASK_WEIGHTS:
            raise ValueError(f"task: got {task!r}, expected one of {sorted(PAPER_TASK_WEIGHTS)}")
        return cls(**{"task": task, **cls.paper_settings(task), **overrides})

    @classmethod
    def field_names(cls) -> list[str]:
        """Returns the fields that this package defines, those shared by all methods first."""
        own = [base for base in cls.__mro__ if issubclass(base, ZeroShotTypingConfig)]
        return [name for base in reversed(own) for name in base.__annotations__]

    def validate_settings(self) -> None:
        """Checks the ranges of the fields and their combinations.

        Raises:
            ValueError: Naming the field, its value and what was expected.
        """
        for name in ("squared_radius", "temperature_init", "probability_temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected a positive number")
        if self.temperature_init < 0.01:  # the bound of scoring.MAX_LOG_SCALE
            raise ValueError(
                f"temperature_init: got {self.temperature_init}, expected 0.01 or more"
            )
        weights = [name for name in self.field_names() if name.startswith("weight_")]
        for name in (*weights, "calibration_gamma", "ranking_margin"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected 0 or more")
        # Beyond these bounds scores or probabilities are not finite.
        for name in ("squared_radius", "probability_temperature", "calibration_gamma"):
            least = 0.0 if name == "calibration_gamma" else 1 / _MOST
            if not least <= getattr(self, name) <= _MOST:
                raise ValueError(
                    f"{name}: got {getattr(self, name)}, expected a number from {least:g} to "
                    f"{_MOST:g}"
                )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: got {self.dropout}, expected a number in [0, 1)")
        if self.label_parts and self.task != "relation":
            raise ValueError(
                f"label_parts: got True for task {self.task!r}, expected it for 'relation' only"
            )
        if self.projection_size is not None and self.projection_size < 1:
            raise ValueError(
                f"projection_size: got {self.projection_size}, expected a positive number or None"
            )

    def validate_sizes(self) -> None:
        """Checks that the encoders and layers are of a possible size.

        Raises:
            ValueError: Naming the field, its value and what was expected.
        """
        sizes = ("projection_size", "bottleneck_size", "generator_latent_size", "generator_samples")
        check_numbers({name: getattr(self, name, None) for name in sizes})
        for name in ("text_config", "vision_config"):
            part: Any = getattr(self, name)
            if isinstance(part, PreTrainedConfig):
                check_numbers(part.to_dict(), name)

    @property
    def num_spans(self) -> int:
        """Spans marked in a sample: 1 for typing, 2 for relations."""
        return 1 if self.task == "typing" else 2

    @property
    def text_width(self) -> int:
        """Width d of the text encoder."""
        return self.text_config.hidden_size  # type: ignore[union-attr]

    @property
    def block_factors(self) -> list[float]:
        """Initial weights in the score of the blocks of the representation, of width d each.

        Only ``projection_init="similarity"`` uses the values; their number is the width of the
        representation in blocks for every initialisation.
        """
        raise NotImplementedError(f"{type(self).__name__}: expected block_factors")

    @property
    def first_mention(self) -> int:
        """Index of the block of the representation that holds the first mention."""
        return 0

    @property
    def num_label_parts(self) -> int:
        """Parts by which a label is compared: the whole, or head, tail and context."""
        return 3 if self.label_parts else 1

    @property
    def label_width(self) -> int:
        """Width of a label's encoding."""
        return self.num_label_parts * self.text_width

    @property
    def representation_size(self) -> int:
        """Width D of a sample's representation."""
        return len(self.block_factors) * self.text_width

    def text_of(self, label: str) -> str:
        """Returns the text that the encoder reads for a label name."""
        return (self.label_texts or {}).get(label, label)


@strict
class HMGRLConfig(ZeroShotTypingConfig):
    r"""Configuration of :class:`HMGRLModel` and :class:`HMGRLForZeroShotTyping`.

    There are two profiles: the defaults are the recommended recipe, and :meth:`paper` sets every
    option to what the paper and its authors' code do (:data:`PAPER_SETTINGS`). Equation numbers are
    those of HMGRL (arXiv 2603.16259).

    Example:
        >>> from modeling_hmgrl import HMGRLConfig
        >>> config = HMGRLConfig(task="relation")
        >>> config.score_function, config.num_spans
        ('cosine', 2)
        >>> HMGRLConfig.paper(task="relation").score_function
        'dot'

    Args:
        attention: "additive" (paper; the entity's term cancels in the softmax, so the attention
            does not depend on the entity) or "query": scaled dot product with a projected entity
            query, initialised to give both modalities the same share.
        alignment: L_sda on the "diagonal" of the synthetic scores or on its "positive_part"
            (paper), which gives labels with a negative score no gradient.
        contrast_function: L_con on "dot" products (paper) or on "cosine" with a learnt
            temperature.
        bottleneck: "variational" (HVIB), or "none" to use encoder states directly (table 2).
        residual_bottleneck: Whether HVIB's prior and posterior are centred on the token (see
            :class:`variational.HVIB`); False in the paper.
        generator_draws: Whether the synthetic samples of a label are "averaged" before they are
            scored (paper) or "each" is scored separately.
        generator_samples: Number of synthetic samples per label and step; 0 means the batch size,
            as in the paper.
        generator_condition: What HMCVAE is conditioned on when it learns from real samples: the
            "mention" (paper, eq. 9) or the encoding of the true "label", as during generation.
        generator_input: Whether HMCVAE encodes the "raw" representation (paper), which saturates
            its layers, or the "normalized" representation.
        generator_kl_weight: Weight of the divergence inside L_cvae; 1 in the paper.
        hvib_layer: Linear layers of HVIB: "lorentz" (paper's, folds to a linear layer between two
            norm clips), "fully_lorentz" or "euclidean".
        hmcvae_layer: The same for HMCVAE.
        latent: Latent of HMCVAE: "normal" in the tangent space (paper) or "wrapped_normal" on the
            hyperboloid.
        learnable_curvature: Whether c is learnt (one log-parameter, clamped to [0.1, 10]).
        hyperbolic_translation: Whether "fully_lorentz" layers learn a translation: a point of the
            hyperboloid, trained with a Riemannian optimizer.
        bottleneck_size: Width d_z of HVIB's hyperbolic layers.
        generator_latent_size: Width d_v of HMCVAE's latent.
        weight_bottleneck: Weight of L_reg.
        weight_contrastive: Weight of L_con.
        weight_cvae: Weight of L_cvae.
        weight_unseen: Weight eta of L_u.
        weight_alignment: Weight zeta of L_sda.
    """

    model_type = "hmgrl"
    attention: Literal["query", "additive"] = "query"
    alignment: Literal["diagonal", "positive_part"] = "diagonal"
    contrast_function: Literal["cosine", "dot"] = "cosine"
    bottleneck: Literal["variational", "none"] = "variational"
    residual_bottleneck: bool = True
    generator_draws: Literal["each", "averaged"] = "each"
    generator_samples: int = 8
    generator_condition: Literal["label", "mention"] = "label"
    generator_input: Literal["normalized", "raw"] = "normalized"
    generator_kl_weight: float | int = 0.01
    hvib_layer: Literal["lorentz", "fully_lorentz", "euclidean"] = "lorentz"
    hmcvae_layer: Literal["lorentz", "fully_lorentz", "euclidean"] = "lorentz"
    latent: Literal["normal", "wrapped_normal"] = "normal"
    learnable_curvature: bool = False
    hyperbolic_translation: bool = False
    bottleneck_size: int = 128
    generator_latent_size: int = 128
    weight_bottleneck: float | int = 0.001
    weight_contrastive: float | int = 0.1
    weight_cvae: float | int = 1.0
    weight_unseen: float | int = 1.0
    weight_alignment: float | int = 1.0

    def recommends_label_parts(self) -> bool:
        """As for all methods, unless the generator is conditioned on mentions, as in the paper."""
        return self.generator_condition == "label"

    @classmethod
    def paper_settings(cls, task: str) -> dict[str, Any]:
        """:data:`PAPER_SETTINGS`, with the weights of L_u and L_sda for the task."""
        weight = PAPER_TASK_WEIGHTS[task]
        return PAPER_SETTINGS | {"weight_unseen": weight, "weight_alignment": weight}

    def validate_settings(self) -> None:
        """Checks the ranges of the fields and their combinations.

        Raises:
            ValueError: Naming the field, its value and what was expected.
        """
        super().validate_settings()
        if not 0 <= self.generator_kl_weight < math.inf:
            raise ValueError(
                f"generator_kl_weight: got {self.generator_kl_weight}, expected 0 or more"
            )
        if self.generator_samples < 0:
            raise ValueError(f"generator_samples: got {self.generator_samples}, expected 0 or more")
        for name in ("bottleneck_size", "generator_latent_size"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected 2 or more")
        if self.label_parts and self.generator_condition == "mention":
            raise ValueError(
                "generator_condition: got 'mention' with label_parts, whose encodings are wider; "
                "expected 'label'"
            )
        if self.learnable_curvature and not 0.1 <= self.squared_radius <= 10:
            raise ValueError(
                f"squared_radius: got {self.squared_radius} with learnable_curvature, expected a "
                "number from 0.1 to 10"
            )
        if self.hyperbolic_translation and self.learnable_curvature:
            raise ValueError(
                "hyperbolic_translation and learnable_curvature: a learnt point cannot stay on a "
                "hyperboloid whose radius is learnt too; expected at most one of them"
            )

    @property
    def block_factors(self) -> list[float]:
        """Initial weights of the blocks of H = [h_CLS; mentions; pooled fusion] in the score.

        q = mean of the mentions + pooled tokens; the weight of h_CLS is initialised to zero.
        """
        return [0.0, *[1 / self.num_spans] * self.num_spans, 1.0]

    @property
    def first_mention(self) -> int:
        """The mentions follow h_CLS."""
        return 1


__all__ = ["PAPER_SETTINGS", "PAPER_TASK_WEIGHTS", "HMGRLConfig", "ZeroShotTypingConfig"]
