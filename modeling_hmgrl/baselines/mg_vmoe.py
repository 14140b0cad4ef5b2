"""MG-VMoE: a variational mixture of experts instead of HMGRL's bottleneck.

Source: Zhou et al. 2025, in the form of the baseline of HMGRL (arXiv 2603.16259). Three parts: the
mixture of experts, over whose output the entity attends; the contrastive loss between modalities,
as in HMGRL; and a graph of the samples of a batch with a virtual adversarial perturbation.

The original trains the perturbation by a separate optimizer on the negative divergence. Here its
gradient is reversed (:func:`reversed_gradient`), which is equivalent, as Adam updates each
parameter independently.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .. import losses
from ..configuration_hmgrl import SHARED_PAPER_SETTINGS, ZeroShotTypingConfig
from ..layers import Fp32Linear, zeros
from ..modeling_hmgrl import CrossModalAttention
from ..outputs import EncoderStates, SampleEncoding, TrainingStep
from ..scoring import MAX_LOG_SCALE
from ..variational import MAX_LOG_VAR, RESIDUAL_LOG_VAR
from .base import Method, entity_of, reversed_gradient


class MGVMoEConfig(ZeroShotTypingConfig):
    """Configuration of :class:`MGVMoEForZeroShotTyping`.

    Args:
        num_experts: Number of experts E; 8 in the paper.
        attention: As in :class:`HMGRLConfig`; "additive" in the paper.
        residual_experts: Whether the experts' prior and posterior are centred on the token, as
            those of HMGRL's residual bottleneck; False in the paper.
        normalized_graph: Whether the samples of the graph are scaled to unit length; False in the
            paper, whose dot products saturate the two-way softmax.
        weight_bottleneck: Weight of the experts' divergence and of the entropy of their weights.
        weight_contrastive: Weight of L_con.
        weight_adversarial: Weight of the divergence under perturbation.
    """

    model_type = "hmgrl-mg-vmoe"

    num_experts: int = 8
    attention: Literal["query", "additive"] = "query"
    residual_experts: bool = True
    normalized_graph: bool = True
    weight_bottleneck: float | int = 0.001
    weight_contrastive: float | int = 0.1
    weight_adversarial: float | int = 0.1

    @classmethod
    def paper_settings(cls, task: str) -> dict[str, Any]:
        """Published settings; all weights are 1."""
        del task
        return SHARED_PAPER_SETTINGS | {
            "attention": "additive",
            "residual_experts": False,
            "normalized_graph": False,
            "weight_bottleneck": 1.0,
            "weight_contrastive": 1.0,
            "weight_adversarial": 1.0,
        }

    @property
    def block_factors(self) -> list[float]:
        """Weights of [h_CLS; mentions; pooled fusion], as for HMGRL."""
        return [0.0, *[1 / self.num_spans] * self.num_spans, 1.0]

    @property
    def first_mention(self) -> int:
        """Index of the first mention, after h_CLS."""
        return 1


class Mixture(NamedTuple):
    """Output of the experts for tokens.

    Attributes:
        sample: Mixture of samples in training, of means in evaluation, shape (B, n, d).
        cost: Divergence summed over experts and dimensions, plus the entropy of the experts'
            weights, shape (B, n).
    """

    sample: Tensor
    cost: Tensor


class VariationalExperts(nn.Module):
    """Z = sum_e pi_e (mu_e + sigma_e * eps), pi = softmax(Dense(X)).

    Args:
        width: Width of the tokens.
        experts: Number of experts E.
        residual: Whether prior N(X, 0.01 I) and posterior are centred on the token; otherwise the
            prior is N(0, I).

    Examples:
        >>> experts = VariationalExperts(width=8, experts=2, residual=False).eval()
        >>> mixture = experts(torch.randn(3, 5, 8))
        >>> mixture.sample.shape, mixture.cost.shape
        (torch.Size([3, 5, 8]), torch.Size([3, 5]))
    """

    def __init__(self, width: int, experts: int, residual: bool) -> None:
        super().__init__()
        self.experts, self.residual = experts, residual
        self.prior_log_var = RESIDUAL_LOG_VAR if residual else 0.0
        self.gate = Fp32Linear(width, experts)
        if residual:
            self.mu = Fp32Linear(width, width * experts, init_weight=zeros)
            self.log_var = Fp32Linear(
                width, width * experts, init_weight=zeros, init_bias=RESIDUAL_LOG_VAR
            )
        else:
            self.mu = Fp32Linear(width, width * experts)
            self.log_var = Fp32Linear(width, width * experts)

    def forward(self, x: Tensor) -> Mixture:
        """Encodes tokens (B, n, d); noise is drawn only in training."""
        shape = (*x.shape[:-1], self.experts, x.shape[-1])
        gate = self.gate(x).softmax(-1)
        mu = self.mu(x).view(shape)
        log_var = self.log_var(x).view(shape).clamp(max=MAX_LOG_VAR)
        scale = math.exp(-0.5 * self.prior_log_var)
        kl = losses.gaussian_kl(mu * scale, log_var - self.prior_log_var).sum(-1)
        drawn = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu) if self.training else mu
        mixed = (gate.unsqueeze(-1) * drawn).sum(-2)
        entropy = -(gate * gate.clamp(min=1e-30).log()).sum(-1)
        return Mixture(x + mixed if self.residual else mixed, kl + entropy)


@dataclass
class MGVMoEEncoding(SampleEncoding):
    """Samples of MG-VMoE.

    Attributes:
        text_states: Mixed text tokens, shape (B, n, d).
        image_states: Mixed image tokens, shape (B, m, d), or None.
        text_cost: Cost of each text token, shape (B, n).
        image_cost: Cost of each image token, shape (B, m), or None.
    """

    text_states: Tensor = None  # type: ignore[assignment]
    image_states: Any = None
    text_cost: Tensor = None  # type: ignore[assignment]
    image_cost: Any = None


class MGVMoEForZeroShotTyping(Method):
    """MG-VMoE: experts, contrastive loss, graph and virtual adversarial perturbation.

    Examples:
        >>> import torch
        >>> from transformers import BertConfig, ViTConfig
        >>> size = dict(
        ...     hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        ... )
        >>> config = MGVMoEConfig(
        ...     text_config=BertConfig(vocab_size=30, **size),
        ...     vision_config=ViTConfig(image_size=16, patch_size=8, **size),
        ... )
        >>> model = MGVMoEForZeroShotTyping(config).eval()
        >>> output = model(
        ...     input_ids=torch.randint(30, (2, 6)),
        ...     span_positions=torch.tensor([[[1, 3]], [[2, 4]]]),
        ...     pixel_values=torch.randn(2, 3, 16, 16),
        ...     candidate_input_ids=torch.randint(30, (5, 3)),
        ... )
        >>> output.logits.shape
        torch.Size([2, 5])
    """

    config: MGVMoEConfig
    _keep_in_fp32_modules_strict = [  # noqa: RUF012 - as in transformers
        "image_projection", "scorer", "experts", "fusion", "perturbation", "contrast_log_scale",
    ]  # fmt: skip

    def build(self, config: MGVMoEConfig) -> None:
        """Creates experts, fusion and perturbation."""
        width = config.text_width
        self.experts = VariationalExperts(width, config.num_experts, config.residual_experts)
        self.fusion = CrossModalAttention(config)
        self.perturbation = nn.Parameter(torch.empty(1, 2 * width))
        if config.vision_config is not None:
            self.contrast_log_scale = nn.Parameter(torch.empty(1))

    def init_parameters(self) -> None:
        """Initialises the perturbation to small values, the temperature to that of the config."""
        init.normal_(self.perturbation, 0.0, 0.02)
        if self.config.vision_config is not None:
            init.constant_(self.contrast_log_scale, -math.log(self.config.temperature_init))

    def represent(self, states: EncoderStates) -> MGVMoEEncoding:
        """Computes H = [h_CLS; mentions; r]."""
        text = states.text
        text_z = self.experts(text)
        image_z = None if states.image is None else self.experts(states.image)
        mentions = self.encoders.mentions(text, states.span_positions)
        entity = torch.cat([self.encoders.whole_text(states), entity_of(mentions)], dim=-1)
        pooled, attention = self.fusion(
            entity,
            text_z.sample,
            None if image_z is None else image_z.sample,
            states.text_mask,
            states.image_mask,
        )
        return MGVMoEEncoding(
            representation=torch.cat([entity, pooled], dim=-1),
            attention=attention,
            text_states=text_z.sample,
            image_states=None if image_z is None else image_z.sample,
            text_cost=text_z.cost,
            image_cost=None if image_z is None else image_z.cost,
        )

    def more_losses(self, step: TrainingStep) -> dict[str, Tensor]:
        """Costs of the experts, contrastive loss and divergence under perturbation."""
        encoded, mask = step.encoded, step.image_mask
        cost = losses.bottleneck_kl(encoded.text_cost, step.text_mask, step.gather)
        text = losses.masked_mean(encoded.text_states, step.text_mask)
        image = torch.zeros_like(text)
        terms = {}
        if encoded.image_states is not None:
            patches = None
            if mask is not None:
                patches = mask.bool().unsqueeze(1).expand(encoded.image_cost.shape)
            cost = cost + losses.bottleneck_kl(encoded.image_cost, patches, step.gather)
            image = losses.masked_mean(encoded.image_states, patches)
            scale = self.contrast_log_scale.clamp(max=MAX_LOG_SCALE).exp()
            terms["contrastive"] = losses.contrastive_loss(
                step.gather(F.normalize(text, dim=-1) * scale),
                step.gather(F.normalize(image, dim=-1)),
                None if mask is None else step.gather(mask.to(text.dtype)) > 0,
            )
        samples = torch.cat([image, text], dim=-1)
        return terms | {"bottleneck": 0.5 * cost, "adversarial": self.adversarial(samples)}

    def adversarial(self, samples: Tensor) -> Tensor:
        """KL divergence of the graph's outputs under the perturbation, plus the latter's norm.

        The model minimises the divergence, the perturbation maximises it.

        Args:
            samples: [v; t] of each sample, shape (B, 2d).

        Returns:
            Scalar.
        """
        r = self.perturbation
        plain = self.graph(samples).log_softmax(-1)
        perturbed = self.graph(samples + reversed_gradient(r)).log_softmax(-1)
        divergence = (plain.exp() * (plain - perturbed)).sum(-1).mean()
        return divergence + torch.linalg.vector_norm(r)

    def graph(self, samples: Tensor) -> Tensor:
        """Logits of each sample for similar and for dissimilar samples of the batch, shape (B, 2).

        Edges g are the cosines of the samples, mapped to [0, 1]; the logits are h . (g h) and
        h . ((1 - g) h).
        """
        edges = (F.cosine_similarity(samples.unsqueeze(1), samples.unsqueeze(0), dim=-1) + 1) / 2
        h = F.normalize(samples, dim=-1) if self.config.normalized_graph else samples
        return torch.stack([(h * (edges @ h)).sum(-1), (h * ((1 - edges) @ h)).sum(-1)], dim=-1)
