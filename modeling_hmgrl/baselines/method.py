"""What the methods of this folder share beside the contract of :mod:`zero_shot_typing`."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..configuration_hmgrl import ZeroShotTypingConfig
from ..encoders import Encoders
from ..fusion import LabelScorer
from ..zero_shot_typing import ZeroShotTypingModel


class Method(ZeroShotTypingModel):
    """A method on the shared encoders, scored by the shared scorer.

    A subclass adds its parts in :meth:`build`.

    Args:
        config: Configuration.
        text_model: Text encoder to use instead of a new one.
        vision_model: Image encoder to use instead of a new one.
    """

    uses_images = True
    """Whether the method looks at pictures."""
    tasks: tuple[str, ...] = ("typing", "relation")
    """Tasks the method is made for."""

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
        super().__init__(config)
        self.backbone = Encoders(config, text_model, vision_model)
        self.scorer = LabelScorer(config)
        self.build(config)
        self.post_init()
        self.apply_freezing()

    def build(self, config: Any) -> None:
        """Makes the method's own modules."""


def image_mean(image: Tensor, mask: Tensor) -> Tensor:
    """Mean of the image states (B, m, d), 0 where there is no picture, (B, d)."""
    return image.mean(1) * mask.to(image.dtype).unsqueeze(1)


def entity_of(mentions: Tensor) -> Tensor:
    """Mentions (B, spans, d) side by side, (B, spans d)."""
    return torch.cat(mentions.unbind(1), dim=-1)


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
