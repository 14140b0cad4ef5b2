"""Components that the baselines share beyond :mod:`modeling_zero_shot_typing`."""

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
    """Base class of baselines: shared encoders and, by default, the shared scorer.

    A subclass adds its own modules in :meth:`build`.

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
                f"vision_config: {config.model_type} is a text-only method, expected None"
            )
        if config.label_parts and not config.takes_label_parts:
            raise ValueError(
                f"label_parts: got True, expected False for {config.model_type}, which does not "
                "compare labels by parts, or does so always"
            )
        super().__init__(config)
        self.backbone = Encoders(config, text_model, vision_model)
        self.scorer = self.make_scorer(config)
        self.build(config)
        self.post_init()
        self.apply_freezing()

    def make_scorer(self, config: Any) -> Any:
        """Creates the module that scores samples against labels."""
        return LabelScorer(config)

    def build(self, config: Any) -> None:
        """Creates the method's own modules."""


class ContextMethod(Method):
    """Base class of typing baselines that attend over the context: the tokens outside the mention.

    They use text only. The attention is initialised to uniform weights.
    """

    uses_images = False
    tasks = ("typing",)
    _keep_in_fp32_modules_strict = ["scorer", "query", "key"]  # noqa: RUF012 - as in transformers

    def build(self, config: Any) -> None:
        """Creates the attention."""
        self.query = Fp32Linear(config.text_width, config.text_width, init_weight=zeros)
        self.key = Fp32Linear(config.text_width, config.text_width, bias=False)

    def context_of(self, states: EncoderStates) -> Tensor:
        """Mask of the context tokens, bool, shape (B, n)."""
        return self.encoders.outside(states.span_positions, states.text_mask, states.text)

    def pool_context(self, states: EncoderStates, mention: Tensor) -> tuple[Tensor, Tensor]:
        """Pools the context with mentions (B, d) as queries.

        Returns:
            Pooled context, shape (B, d), and attention weights, shape (B, n).
        """
        text = states.text
        logits = (self.key(text) @ self.query(mention).unsqueeze(-1)).squeeze(-1)
        weights = masked_softmax(logits / text.shape[-1] ** 0.5, self.context_of(states))
        return (weights.unsqueeze(1) @ text).squeeze(1), weights


def image_mean(image: Tensor, mask: Tensor) -> Tensor:
    """Mean of the image states (B, m, d), shape (B, d); 0 for samples without an image."""
    return image.mean(1) * mask.to(image.dtype).unsqueeze(1)


def entity_of(mentions: Tensor) -> Tensor:
    """Concatenates mentions (B, spans, d) to entities, shape (B, spans d)."""
    return torch.cat(mentions.unbind(1), dim=-1)


def masked_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis where ``mask`` is set; rows without any set entry become 0.

    Examples:
        >>> masked_softmax(torch.zeros(2, 2), torch.tensor([[True, False], [False, False]]))
        tensor([[1., 0.],
                [0., 0.]])
    """
    weights = logits.masked_fill(~mask, -torch.inf).softmax(-1)
    return weights.masked_fill(~mask.any(-1, keepdim=True), 0.0)


def margin_loss(similarity: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Margin loss against the hardest other label of the batch.

    Args:
        similarity: Similarities s of samples and labels, shape (B, K).
        labels: Index of the true label y, shape (B,).
        margin: Margin between the true and the hardest other label.

    Returns:
        Mean over samples of ``max(0, margin - s_y + max_k s_k)``, with k over the other true labels
        of the batch; 0 if there is no other one.

    Examples:
        >>> similarity = torch.tensor([[0.5, 0.25], [0.75, 1.0]])
        >>> margin_loss(similarity, torch.tensor([0, 1]), margin=0.5)
        tensor(0.2500)
    """
    in_batch = torch.zeros(similarity.shape[1], dtype=torch.bool, device=similarity.device)
    in_batch[labels] = True
    own = F.one_hot(labels, similarity.shape[1]).bool()
    hardest = similarity.masked_fill(own | ~in_batch, -torch.inf).max(1).values
    true = similarity.gather(1, labels.unsqueeze(1)).squeeze(1)
    return (margin - true + hardest).clamp(min=0).mean()


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004 - required by autograd
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # noqa: ARG004
        return -gradients[0]


def reversed_gradient(x: Tensor) -> Tensor:
    """Returns ``x`` and reverses its gradient, so that minimising a loss maximises it in ``x``.

    Source: Ganin and Lempitsky 2015, "Unsupervised domain adaptation by backpropagation".

    Examples:
        >>> x = torch.tensor(2.0, requires_grad=True)
        >>> reversed_gradient(x).square().backward()
        >>> x.grad
        tensor(-4.)
    """
    return _Reversed.apply(x)
