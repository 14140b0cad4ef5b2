"""What the methods of this folder share beside the contract of :mod:`modeling_zero_shot_typing`."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from ..configuration_hmgrl import ZeroShotTypingConfig
from ..encoders import Encoders
from ..layers import Fp32Linear, zeros
from ..modeling_zero_shot_typing import ZeroShotTypingModel
from ..outputs import EncoderStates
from ..scoring import LabelScorer


class Method(ZeroShotTypingModel):
    """A method on the shared encoders, scored by the shared scorer.

    A subclass adds its parts in :meth:`build`.

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
        if config.task not in self.tasks:
            raise ValueError(
                f"task: got {config.task!r}, expected one of {self.tasks} for {config.model_type}"
            )
        if config.vision_config is not None and not self.uses_images:
            raise ValueError(
                f"vision_config: {config.model_type} is a method of text alone, expected None"
            )
        if config.label_parts and not self.takes_label_parts:
            raise ValueError(
                f"label_parts: got True, expected False for {config.model_type}, whose labels are "
                "compared in a way of its own"
            )
        super().__init__(config)
        self.backbone = Encoders(config, text_model, vision_model)
        self.scorer = self.make_scorer(config)
        self.build(config)
        self.post_init()
        self.apply_freezing()

    def make_scorer(self, config: Any) -> Any:
        """Makes what scores samples against labels."""
        return LabelScorer(config)

    def build(self, config: Any) -> None:
        """Makes the method's own modules."""


class ContextMethod(Method):
    """A method for typing that asks the context, the tokens outside of the mention, by attention.

    It is a method of text alone, and its attention starts uniform.
    """

    uses_images = False
    tasks = ("typing",)
    _keep_in_fp32_modules_strict = ["scorer", "query", "key"]  # noqa: RUF012 - the form it asks for

    def build(self, config: Any) -> None:
        """Makes the attention."""
        self.query = Fp32Linear(config.text_width, config.text_width, init_weight=zeros)
        self.key = Fp32Linear(config.text_width, config.text_width, bias=False)

    def context_of(self, states: EncoderStates) -> Tensor:
        """Which tokens are context, bool, shape (B, n)."""
        return self.encoders.outside(states.span_positions, states.text_mask, states.text)

    def pool_context(self, states: EncoderStates, mention: Tensor) -> tuple[Tensor, Tensor]:
        """Pools the context with mentions (B, d) as queries: (B, d), and the weights, (B, n)."""
        text = states.text
        logits = (self.key(text) @ self.query(mention).unsqueeze(-1)).squeeze(-1)
        weights = masked_softmax(logits / text.shape[-1] ** 0.5, self.context_of(states))
        return (weights.unsqueeze(1) @ text).squeeze(1), weights


def image_mean(image: Tensor, mask: Tensor) -> Tensor:
    """Mean of the image states (B, m, d), 0 where there is no picture, (B, d)."""
    return image.mean(1) * mask.to(image.dtype).unsqueeze(1)


def entity_of(mentions: Tensor) -> Tensor:
    """Mentions (B, spans, d) side by side, (B, spans d)."""
    return torch.cat(mentions.unbind(1), dim=-1)


def masked_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis where ``mask`` is set; 0 throughout where it is set nowhere."""
    weights = logits.masked_fill(~mask, -torch.inf).softmax(-1)
    return weights.masked_fill(~mask.any(-1, keepdim=True), 0.0)


def margin_loss(likeness: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Margin loss against the hardest other label of the batch.

    Args:
        likeness: Of samples and labels, shape (B, K).
        labels: Index of the true label, shape (B,).
        margin: By how much the true label is to lead.

    Returns:
        Mean over samples of ``max(0, margin - s_y + max_k s_k)``, k over the other true labels of
        the batch; 0 where there is none.
    """
    met = torch.zeros(likeness.shape[1], dtype=torch.bool, device=likeness.device)
    met[labels] = True
    own = F.one_hot(labels, likeness.shape[1]).bool()
    hardest = likeness.masked_fill(own | ~met, -torch.inf).max(1).values
    true = likeness.gather(1, labels.unsqueeze(1)).squeeze(1)
    return (margin - true + hardest).clamp(min=0).mean()


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004 - the form autograd asks for
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # noqa: ARG004
        return -gradients[0]


def reversed_gradient(x: Tensor) -> Tensor:
    """Passes ``x`` on and turns its gradient round: what minimises the loss then maximises it.

    Source: Ganin and Lempitsky 2015, "Unsupervised domain adaptation by backpropagation".
    """
    return _Reversed.apply(x)
