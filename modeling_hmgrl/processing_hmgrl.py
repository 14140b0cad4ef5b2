"""The processor: text, mentions, pictures and label names to tensors."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BatchFeature,
    ProcessorMixin,
    ViTImageProcessorPil,
)
from transformers.utils import logging

from .entity_markers import MARKERS, MarkedText, Span, check_spans, mark_texts
from .images import open_image

logger = logging.get_logger(__name__)

_PROMPT_MENTION = 16  # most tokens of a mention in a prompt


class HMGRLProcessor(ProcessorMixin):
    """Turns sentences with marked mentions, pictures and label names into model inputs.

    Args:
        image_processor: Any image processor; may be None if there are no pictures.
        tokenizer: A fast tokenizer of a BERT-like model. It gains the four marker tokens.
        task: "typing" (one span) or "relation" (two spans, head first).
        max_length: Most tokens of a text, special tokens and markers included (128 in the paper).
            Longer texts are windowed around their mentions.
        label_max_length: Most tokens of a label's text; longer ones are cut, with a warning.
        pad_to_max_length: Whether to pad to those lengths instead of to the longest of the batch,
            as the paper's settings need, which let padding take part.
        use_images: Whether pictures are taken; False for a model of text alone.
        prompt: Whether ``head [MASK] tail`` follows each text, for methods that ask a masked token
            for the relation.

    Raises:
        ValueError: If the tokenizer is not a fast one, the task is unknown, there is no image
            processor for pictures, or a length leaves no room.
    """

    marker_initials = {  # noqa: RUF012 - read only
        "[E1]": '"', "[/E1]": '"', "[E2]": "*", "[/E2]": "*",
    }  # fmt: skip
    """Punctuation from whose embedding each marker starts: it stands around words in any text."""

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        task: str = "typing",
        max_length: int = 128,
        label_max_length: int = 64,
        pad_to_max_length: bool = False,
        use_images: bool = True,
        prompt: bool = False,
    ) -> None:
        if tokenizer is None or not tokenizer.is_fast:
            raise ValueError("tokenizer: expected a fast tokenizer, which knows character offsets")
        if task not in ("typing", "relation"):
            raise ValueError(f"task: got {task!r}, expected 'typing' or 'relation'")
        if image_processor is None:
            if use_images:
                raise ValueError("image_processor: got None, expected one unless use_images=False")
            # an attribute of a processor cannot be absent; this one is not used
            image_processor = ViTImageProcessorPil()
        markers = [marker for pair in MARKERS for marker in pair]
        tokenizer.add_special_tokens(
            {"extra_special_tokens": markers}, replace_extra_special_tokens=False
        )
        self.task = task
        self.max_length = max_length
        self.label_max_length = label_max_length
        self.pad_to_max_length = pad_to_max_length
        self.use_images = use_images
        self.prompt = prompt
        self._marker_ids = set(tokenizer.convert_tokens_to_ids(markers))
        super().__init__(image_processor, tokenizer)
        # what the tokenizer puts before and after one text, found from a text of one token
        bare = tokenizer("a", add_special_tokens=False).input_ids
        full = tokenizer("a").input_ids
        start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
        self._prefix, self._suffix = full[:start], full[start + len(bare) :]
        around = len(self._prefix) + len(self._suffix)
        if prompt and (task != "relation" or tokenizer.mask_token_id is None):
            raise ValueError("prompt: expected only for relations and a tokenizer with a mask")
        least = around + 2 * len(markers) + self._prompt_room
        if max_length < least:
            raise ValueError(
                f"max_length: got {max_length}, expected at least {least} for markers and mentions"
            )
        if label_max_length <= around:
            raise ValueError(
                f"label_max_length: got {label_max_length}, expected at least {around + 1}"
            )

    @classmethod
    def from_backbones(
        cls, text: str, vision: str | None = None, **settings: Any
    ) -> "HMGRLProcessor":
        """Makes a processor for pretrained encoders.

        Args:
            text: Folder or Hub name of the text encoder.
            vision: Folder or Hub name of the image encoder; None for text alone.
            **settings: Arguments of the class.
        """
        tokenizer = AutoTokenizer.from_pretrained(text)
        if vision is None:
            return cls(None, tokenizer, use_images=False, **settings)
        return cls(AutoImageProcessor.from_pretrained(vision), tokenizer, **settings)

    @property
    def _prompt_room(self) -> int:
        """Most tokens that a prompt takes."""
        return 2 * _PROMPT_MENTION + 1 + len(self._suffix) if self.prompt else 0

    @property
    def num_spans(self) -> int:
        """Spans expected in each sample."""
        return 1 if self.task == "typing" else 2

    def __call__(
        self,
        text: str | Sequence[str],
        spans: Sequence[Any],
        images: Any = None,
        labels: Sequence[str] | None = None,
        generator_labels: Sequence[str] | None = None,
    ) -> BatchFeature:
        """Processes a batch of samples.

        Args:
            text: B texts, or one.
            spans: For each text its mentions as character offsets [[start, end], ...], end
                exclusive; one for typing, two for relations, head first.
            images: For each text a picture (see :func:`images.open_image`) or None; None if there
                are none at all.
            labels: Texts of the labels to score.
            generator_labels: Texts of the labels to imagine samples of.

        Returns:
            Inputs of the model: input_ids and attention_mask (B, n), span_positions
            (B, spans, 2), pixel_values (B, 3, height, width) and image_mask (B,) where there is a
            picture, candidate_input_ids and candidate_attention_mask (K, L), and the same for
            generator_label. Its attribute ``windows`` lists for each text None, or the character
            ranges that were kept of a text too long for ``max_length``.

        Raises:
            ValueError: Naming the sample, the field and what was expected.
        """
        if isinstance(text, str):
            text, spans = [text], [spans]
            images = None if images is None else [images]
        _check_list("text", text)
        _check_list("spans", spans, len(text))
        if len(text) == 0:
            raise ValueError("text: got no samples, expected at least one")
        checked = [
            check_spans(t, s, self.num_spans, f"sample {i}")
            for i, (t, s) in enumerate(zip(text, spans, strict=True))
        ]
        batch, windows = self.encode_texts(text, checked)
        batch.update(self.encode_images(images, len(text)))
        if labels is not None:
            batch.update(self.encode_labels(labels))
        if generator_labels is not None:
            batch.update(self.encode_labels(generator_labels, "synthetic"))
        features = BatchFeature(batch)
        features.windows = windows
        return features

    def encode_texts(
        self, texts: Sequence[str], spans: Sequence[Sequence[Span]]
    ) -> tuple[dict[str, torch.Tensor], list[list[Span] | None]]:
        """Encodes texts whose spans were checked; see :meth:`__call__`.

        Returns:
            The tensors, and for each text the ranges kept (None for the whole text).
        """
        marked = self.mark(texts, spans)
        batch = self.pad([sample.ids for sample in marked])
        batch["span_positions"] = torch.tensor([sample.positions for sample in marked])
        return dict(batch), [sample.kept for sample in marked]

    def mark(
        self, texts: Sequence[str], spans: Sequence[Sequence[Span]], with_offsets: bool = False
    ) -> list[MarkedText]:
        """Tokenises texts whose spans were checked, special tokens and markers included.

        Args:
            texts: Texts.
            spans: Checked spans of each.
            with_offsets: Whether to keep the characters of each token, which take more memory than
                the tokens.

        Returns:
            One :class:`MarkedText` for each text.
        """
        before, after = len(self._prefix), len(self._suffix)
        room = self.max_length - before - after - self._prompt_room
        return [
            self._framed(sample, with_offsets)
            for sample in mark_texts(self.tokenizer, texts, spans, room)
        ]

    def _framed(self, sample: MarkedText, with_offsets: bool) -> MarkedText:
        """A marked text between the tokenizer's own tokens, the prompt behind it."""
        before, behind = len(self._prefix), self._suffix + self._prompt_of(sample)
        offsets = None
        if with_offsets:
            offsets = [*[None] * before, *(sample.offsets or ()), *[None] * len(behind)]
        return MarkedText(
            self._prefix + sample.ids + behind,
            [(start + before, end + before) for start, end in sample.positions],
            sample.kept,
            offsets,
        )

    def _prompt_of(self, sample: MarkedText) -> list[int]:
        """Tokens of ``head [MASK] tail``, long mentions cut, or none."""
        if not self.prompt:
            return []
        head, tail = (
            [i for i in sample.ids[start + 1 : end] if i not in self._marker_ids][:_PROMPT_MENTION]
            for start, end in sample.positions
        )
        return [*head, self.tokenizer.mask_token_id, *tail, *self._suffix]

    def pad(self, rows: Sequence[Sequence[int]], max_length: int | None = None) -> BatchFeature:
        """Pads rows of token ids to the longest.

        Args:
            rows: Token ids, special tokens included.
            max_length: Length to which :attr:`pad_to_max_length` pads; that of texts if None.

        Returns:
            input_ids and attention_mask, shape (rows, n).
        """
        width = max(len(row) for row in rows)
        if self.pad_to_max_length:
            width = max(width, self.max_length if max_length is None else max_length)
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.as_tensor(row)
            mask[index, : len(row)] = 1
        return BatchFeature({"input_ids": ids, "attention_mask": mask})

    def encode_images(self, images: Any, count: int) -> dict[str, torch.Tensor]:
        """Encodes pictures, of which some or all may be None; see :meth:`__call__`.

        Returns:
            pixel_values (count, 3, height, width), 0 where absent, and image_mask (count,); nothing
            if no sample has a picture.

        Raises:
            ValueError: If a picture cannot be used, or the processor is of text alone.
        """
        if images is None:
            return {}
        _check_list("images", images, count)
        present = [index for index, image in enumerate(images) if image is not None]
        if not present:
            return {}
        if not self.use_images:
            raise ValueError("images: this processor is of text alone, expected None")
        opened = [
            open_image(images[index], f"sample {index}.image", side=self.image_side)
            for index in present
        ]
        pixels = self.image_processor(opened, return_tensors="pt")["pixel_values"]
        mask = torch.zeros(count, dtype=torch.bool)
        mask[present] = True
        if len(present) < count:
            pixels = pixels.new_zeros(count, *pixels.shape[1:]).index_copy(
                0, torch.tensor(present), pixels
            )
        return {"pixel_values": pixels, "image_mask": mask}

    @property
    def image_side(self) -> int | None:
        """Longest side of what the image processor makes of an image, in pixels."""
        sizes = [getattr(self.image_processor, name, None) for name in ("size", "crop_size")]
        sides = [value for size in sizes for value in dict(size or {}).values() if value]
        return max(sides, default=None)

    def encode_labels(
        self, labels: Sequence[str], prefix: str = "candidate"
    ) -> dict[str, torch.Tensor]:
        """Encodes label texts.

        Args:
            labels: Label texts.
            prefix: What the tensors' names begin with: "candidate" for labels to score,
                "synthetic" for labels that the generator makes samples of.

        Returns:
            ``{prefix}_input_ids`` and ``{prefix}_attention_mask``, shape (K, L).

        Raises:
            ValueError: If there are none, or one is no text or blank.
        """
        name = "labels" if prefix == "candidate" else "generator_labels"
        if isinstance(labels, str) or not hasattr(labels, "__len__") or not len(labels):
            raise ValueError(f"{name}: got {labels!r}, expected a list of at least one label text")
        for index, label in enumerate(labels):
            if not isinstance(label, str) or not label.strip():
                raise ValueError(f"{name}[{index}]: got {label!r}, expected a text not blank")
        ids = self.tokenizer(
            list(labels),
            add_special_tokens=False,
            return_attention_mask=False,
            split_special_tokens=True,
            verbose=False,
        ).input_ids
        room = self.label_max_length - len(self._prefix) - len(self._suffix)
        cut = [labels[i] for i in range(len(labels)) if len(ids[i]) > room]
        if cut:
            logger.warning(
                f"{len(cut)} label texts were cut to {self.label_max_length} tokens, among them "
                f"{cut[0][:80]!r}; a larger label_max_length keeps them whole"
            )
        rows = [self._prefix + row[:room] + self._suffix for row in ids]
        batch = self.pad(rows, self.label_max_length)
        return {
            f"{prefix}_input_ids": batch["input_ids"],
            f"{prefix}_attention_mask": batch["attention_mask"],
        }


def _check_list(name: str, values: Any, count: int | None = None) -> None:
    """Checks that an argument is a list, of ``count`` samples."""
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        raise ValueError(f"{name}: got {type(values).__name__}, expected a list over samples")
    if count is not None and len(values) != count:
        raise ValueError(f"{name}: got {len(values)} samples, expected {count} as of text")


__all__ = ["HMGRLProcessor"]
