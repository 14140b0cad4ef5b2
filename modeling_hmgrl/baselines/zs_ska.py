"""ZS-SKA: a prompt, virtual label words and analogies.

Source: Gong and Eldardiry 2024, "Prompt-based zero-shot relation extraction with semantic knowledge
augmentation". The prompt ``head [MASK] tail`` follows the sentence, and the state of the mask
represents the relation. A label is represented by its encoding and by a virtual word: the weighted
mean of the words of its name and their nearest neighbours in the encoder's vocabulary. Samples of
unseen relations are synthesised from seen ones by analogy: a state close to the seen label is
translated by the difference of the two labels. Scores are distances to the labels as prototypes.

Departures: the knowledge source is the encoder's table of token embeddings; the analogy applies to
the states and not to the words of the input, which avoids a second encoding of every sample. The
processor adds the prompt (``HMGRLProcessor(prompt=True)``).
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import lorentz, losses
from ..configuration_hmgrl import SHARED_PAPER_SETTINGS, ZeroShotTypingConfig
from ..layers import Fp32Linear, zeros
from ..outputs import EncoderStates, SampleEncoding, TrainingStep
from .base import Method


class ZSSKAConfig(ZeroShotTypingConfig):
    """Configuration of :class:`ZSSKAForZeroShotTyping`.

    Args:
        neighbours: Number of nearest words added to those of a label's name.
        word_temperature: Temperature of the words' weights.
        weight_augmented: Weight of the loss on samples synthesised by analogy.
        mask_token_id: Token id of the mask, set when the markers are added.
    """

    model_type = "hmgrl-zs-ska"
    takes_label_parts = False

    task: Literal["typing", "relation"] = "relation"
    neighbours: int = 5
    word_temperature: float | int = 0.1
    weight_augmented: float | int = 0.5
    mask_token_id: int | None = None

    @property
    def label_width(self) -> int:
        """Width of [encoding; virtual word]."""
        return 2 * self.text_width

    @classmethod
    def label_text(cls, paper: bool = False) -> str:
        """Words, as the method writes them into its prompt."""
        return "raw" if paper else "verbalised"

    @classmethod
    def paper_settings(cls, task: str) -> dict[str, Any]:
        """Published settings: distances and cross-entropy."""
        del task
        return SHARED_PAPER_SETTINGS | {
            "score_function": "euclidean",
            "classification_loss": "cross_entropy",
            "weight_augmented": 1.0,
        }

    @property
    def block_factors(self) -> list[float]:
        """Weight of the mask."""
        return [1.0]


class ZSSKAForZeroShotTyping(Method):
    """ZS-SKA: the mask of a prompt against labels with virtual words; text only.

    Examples:
        >>> import torch
        >>> from transformers import BertConfig
        >>> text_config = BertConfig(
        ...     vocab_size=30, hidden_size=8, num_attention_heads=2, num_hidden_layers=1
        ... )
        >>> config = ZSSKAConfig(text_config=text_config, mask_token_id=4)
        >>> model = ZSSKAForZeroShotTyping(config).eval()
        >>> output = model(
        ...     input_ids=torch.tensor([[2, 7, 8, 9, 10, 4, 3], [2, 9, 8, 7, 6, 4, 3]]),
        ...     span_positions=torch.tensor([[[1, 2], [3, 4]], [[1, 2], [3, 4]]]),
        ...     candidate_input_ids=torch.randint(30, (5, 3)),
        ... )
        >>> output.logits.shape
        torch.Size([2, 5])
    """

    config: ZSSKAConfig
    uses_images = False
    uses_generator_labels = True
    tasks = ("relation",)
    processor_settings = {"prompt": True}  # noqa: RUF012 - read only
    _keep_in_fp32_modules_strict = ["scorer", "word_projection"]  # noqa: RUF012 - as in transformers

    def build(self, config: ZSSKAConfig) -> None:
        """Creates the projection of virtual words, initialised to 0."""
        size = config.projection_size or config.text_width
        self.word_projection = Fp32Linear(config.text_width, size, init_weight=zeros)

    def add_markers(self, processor: Any) -> None:
        """Adds the markers and records the id of the mask token."""
        super().add_markers(processor)
        self.config.mask_token_id = processor.tokenizer.mask_token_id

    def represent(self, states: EncoderStates) -> SampleEncoding:
        """Returns the state of the mask.

        Raises:
            ValueError: If a text has no mask.
        """
        mask_id, text = self.config.mask_token_id, states.text
        masks = states.input_ids.eq(-1 if mask_id is None else mask_id)
        if not masks.any(1).all():
            raise ValueError(
                "input_ids: a text has no [MASK], expected a processor with prompt=True"
            )
        positions = torch.arange(masks.shape[1], device=masks.device)
        last = (masks * positions).amax(1)  # the sentence, before the prompt, may contain one too
        return SampleEncoding(text[torch.arange(len(text), device=text.device), last])

    def encode_labels(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Encodes labels, (K, 2d): [encoding; virtual word]."""
        return self.encoders.encode_labels(input_ids, attention_mask, pool=self.pool_words)

    def pool_words(self, states: Tensor, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Computes encodings and virtual words of labels.

        Args:
            states: Text states, shape (K, L, d).
            ids: Token ids, shape (K, L), with a special token at both ends.
            mask: Attention mask, shape (K, L); all ones if None.

        Returns:
            [encoding; virtual word], shape (K, 2d).
        """
        counted = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        encoding = losses.masked_mean(states, counted)
        words = counted.clone()
        words[:, 0] = False
        words &= counted.long().cumsum(1) < counted.sum(1, keepdim=True)
        words |= ~words.any(1, keepdim=True) & counted
        embeddings: Any = self.get_input_embeddings()
        table = lorentz.wide(embeddings.weight.detach())
        own = table[ids]
        center = losses.masked_mean(own, words)
        similarity = F.normalize(center, dim=-1) @ F.normalize(table, dim=-1).T
        nearest = similarity.topk(min(self.config.neighbours, len(table)), dim=1).indices
        candidates = torch.cat([own, table[nearest]], dim=1)
        present = torch.cat([words, torch.ones_like(nearest, dtype=torch.bool)], dim=1)
        logits = F.cosine_similarity(candidates, center.unsqueeze(1), dim=-1)
        logits = (logits / self.config.word_temperature).masked_fill(~present, -torch.inf)
        virtual = (logits.softmax(1).unsqueeze(1) @ candidates).squeeze(1)
        return torch.cat([encoding, virtual], dim=-1)

    def prepare_labels(self, candidate_embeddings: Tensor) -> Tensor:
        """Label vectors from encodings and virtual words, (K, d_p)."""
        encoding, virtual = lorentz.wide(candidate_embeddings).chunk(2, dim=-1)
        projected = self.scorer.project_labels(encoding) + self.word_projection(virtual)
        return self.scorer.to_score_space(projected, self.curvature())

    def more_losses(self, step: TrainingStep) -> dict[str, Tensor]:
        """Cross-entropy of samples synthesised by analogy, over the unseen labels."""
        unseen = step.synthetic_embeddings
        if unseen is None or not self.config.weight_augmented:
            return {}
        h = step.encoded.representation
        width = h.shape[-1]
        target = torch.randint(len(unseen), (len(h),), device=h.device)
        seen = lorentz.wide(step.candidate_embeddings)[step.labels, :width].detach()
        synthetic = analogy(h, seen, lorentz.wide(unseen)[target, :width])
        logits = self.score(SampleEncoding(synthetic), self.prepare_labels(unseen))
        return {"augmented": losses.classification_loss(logits, target)}


def analogy(h: Tensor, seen: Tensor, unseen: Tensor) -> Tensor:
    """Translates states by the difference of two labels, weighted by their similarity to the first.

    Args:
        h: States, shape (B, d).
        seen: Encodings of their labels, shape (B, d).
        unseen: Encodings of the target labels, shape (B, d).

    Returns:
        ``h + max(0, cos(h, seen)) (unseen - seen)``, shape (B, d).

    Examples:
        >>> h, seen, unseen = torch.tensor([[[2.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]])
        >>> analogy(h, seen, unseen)
        tensor([[1., 1.]])
    """
    close = F.cosine_similarity(h, seen, dim=-1).clamp(min=0).unsqueeze(1)
    return h + close * (unseen - seen)
