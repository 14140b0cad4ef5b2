"""The processor: converts texts, mentions, images and label texts to tensors."""

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

from .config_checks import check_image_processor, check_lengths
from .entity_markers import (
    MARKERS,
    MarkedText,
    Span,
    check_spans,
    mark_texts,
    token_of,
)
from .images import open_image
from .label_parts import SEPARATOR, tokenize_labels

logger = logging.get_logger(__name__)

_MAX_PROMPT_MENTION = 16  # tokens of a mention in a prompt


MAX_ASPECT_RATIO = 100
"""Largest ratio of the sides of an image, for processors that keep it."""


class HMGRLProcessor(ProcessorMixin):
    """Converts texts with mentions, images and label texts to model inputs.

    Args:
        image_processor: Any image processor; None requires ``use_images=False``.
        tokenizer: A fast tokenizer of a text encoder, to which the four entity markers are added.
        task: "typing" (one span) or "relation" (two spans, head first).
        max_length: Maximum number of tokens of a text, special tokens and markers included (128 in
            the paper). Longer texts are reduced to a window around their mentions.
        label_max_length: Maximum number of tokens of a label text; longer ones are truncated with a
            warning.
        pad_to_max_length: Whether to pad to these lengths instead of the longest of the batch, as
            in the paper, where padding is not masked.
        use_images: Whether the model reads images.
        prompt: Whether to append ``head [MASK] tail`` to each text, for methods that predict the
            relation at a masked token.

    Raises:
        ValueError: If the tokenizer is not a fast one, the task is unknown, the image processor is
            missing or has impossible sizes, or a length is too small or too large.

    Examples:
        >>> from transformers import BertTokenizer
        >>> from modeling_hmgrl import HMGRLProcessor
        >>> words = "[PAD] [UNK] [CLS] [SEP] [MASK] * the fox saw animal tool".split()
        >>> tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
        >>> processor = HMGRLProcessor(None, tokenizer, use_images=False)
        >>> inputs = processor("the fox saw", [[4, 7]], labels=["animal", "tool"])
        >>> processor.tokenizer.decode(inputs["input_ids"][0])
        '[CLS] the [E1] fox [/E1] saw [SEP]'
        >>> inputs["span_positions"].tolist(), inputs["candidate_input_ids"].shape
        ([[[2, 4]]], torch.Size([2, 3]))
    """

    marker_initials = {  # noqa: RUF012 - read only
        "[E1]": '"', "[/E1]": '"', "[E2]": "*", "[/E2]": "*",
    }  # fmt: skip
    """Punctuation whose embedding initialises each marker, as it often surrounds words in texts; if
    the tokenizer does not know it, the mean of all embeddings initialises the marker."""

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
            raise ValueError(
                "tokenizer: expected a fast tokenizer, which provides character offsets"
            )
        if tokenizer.pad_token_id is None:
            raise ValueError(
                "tokenizer: got one without a padding token, expected that of an encoder"
            )
        check_lengths(max_length=max_length, label_max_length=label_max_length)
        if task not in ("typing", "relation"):
            raise ValueError(f"task: got {task!r}, expected 'typing' or 'relation'")
        if image_processor is None:
            if use_images:
                raise ValueError("image_processor: got None, expected one unless use_images=False")
            # required by ProcessorMixin, but not used
            image_processor = ViTImageProcessorPil()
        check_image_processor(image_processor.to_dict())
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
        self.separator_id = token_of(tokenizer, SEPARATOR)
        super().__init__(image_processor, tokenizer)
        # The special tokens that the tokenizer adds, derived from a text of one token.
        content = tokenizer("a", add_special_tokens=False).input_ids
        full = tokenizer("a").input_ids
        start = next(i for i in range(len(full)) if full[i : i + len(content)] == content)
        self._prefix, self._suffix = full[:start], full[start + len(content) :]
        special = len(self._prefix) + len(self._suffix)
        if prompt and (task != "relation" or tokenizer.mask_token_id is None):
            raise ValueError("prompt: requires task='relation' and a tokenizer with a mask token")
        minimum = special + 2 * len(markers) + self._max_prompt_tokens
        if max_length < minimum:
            raise ValueError(
                f"max_length: got {max_length}, expected at least {minimum} for markers and "
                "mentions"
            )
        if label_max_length <= special:
            raise ValueError(
                f"label_max_length: got {label_max_length}, expected at least {special + 1}"
            )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Loads a processor, as ProcessorMixin does.

        Raises:
            ValueError: If a file is invalid.
            OSError: If there is no such processor.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
            name = pretrained_model_name_or_path
            raise ValueError(f"{name}: its processor cannot be created ({error})") from error

    @classmethod
    def from_backbones(
        cls, text: str, vision: str | None = None, **settings: Any
    ) -> "HMGRLProcessor":
        """Creates a processor for pretrained encoders.

        Args:
            text: Folder or Hub name of the text encoder.
            vision: Folder or Hub name of the image encoder; None for text only.
            **settings: Arguments of the class.
        """
        tokenizer = AutoTokenizer.from_pretrained(text)
        if vision is None:
            return cls(None, tokenizer, use_images=False, **settings)
        return cls(AutoImageProcessor.from_pretrained(vision), tokenizer, **settings)

    @property
    def _max_prompt_tokens(self) -> int:
        """Maximum number of tokens of a prompt."""
        return 2 * _MAX_PROMPT_MENTION + 1 + len(self._suffix) if self.prompt else 0

    @property
    def vocabulary_size(self) -> int:
        """Number of token embeddings that the tokenizer requires; its ids may have gaps."""
        return max(self.tokenizer.get_vocab().values()) + 1

    def marker_sources(self) -> dict[int, int | None]:
        """Returns the token whose embedding initialises each marker, None if it is unknown."""
        tokenizer = self.tokenizer
        sources = {}
        for marker, initial in self.marker_initials.items():
            source = token_of(tokenizer, initial)
            unknown = source == tokenizer.unk_token_id
            sources[tokenizer.convert_tokens_to_ids(marker)] = None if unknown else source
        return sources

    @property
    def num_spans(self) -> int:
        """Number of spans of each sample."""
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
            text: B texts, or a single text.
            spans: For each text its mentions as character offsets [[start, end], ...], end
                exclusive; one for typing, two for relations, head first.
            images: For each text an image (see :func:`images.open_image`) or None; None if no text
                has an image.
            labels: Texts of the candidate labels.
            generator_labels: Texts of the labels to generate synthetic samples for.

        Returns:
            Inputs of the model: input_ids and attention_mask (B, n), span_positions
            (B, spans, 2), pixel_values (B, 3, height, width) and image_mask (B,) if there are
            images, candidate_input_ids and candidate_attention_mask (K, L), and synthetic_input_ids
            and synthetic_attention_mask for the generator labels. The attribute ``windows`` holds
            for each text None, or the character ranges kept if the text exceeds ``max_length``.

        Raises:
            ValueError: If a sample is invalid; the message names the sample, the field and the
                expected value.
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
        """Encodes texts with validated spans; see :meth:`__call__`.

        Returns:
            The tensors, and for each text the character ranges kept (None for the whole text).
        """
        marked = self.mark(texts, spans)
        batch = self.pad([sample.ids for sample in marked])
        batch["span_positions"] = torch.tensor([sample.positions for sample in marked])
        return dict(batch), [sample.kept for sample in marked]

    def mark(
        self, texts: Sequence[str], spans: Sequence[Sequence[Span]], with_offsets: bool = False
    ) -> list[MarkedText]:
        """Tokenises texts with validated spans, special tokens and markers included.

        Args:
            texts: Texts.
            spans: Validated spans of each text.
            with_offsets: Whether to keep the character range of each token, which takes more memory
                than the tokens.

        Returns:
            One :class:`MarkedText` for each text.
        """
        special = len(self._prefix) + len(self._suffix)
        max_tokens = self.max_length - special - self._max_prompt_tokens
        return [
            self._add_special_tokens(sample, with_offsets)
            for sample in mark_texts(self.tokenizer, texts, spans, max_tokens)
        ]

    def _add_special_tokens(self, sample: MarkedText, with_offsets: bool) -> MarkedText:
        """Adds the tokenizer's special tokens and the prompt to a marked text."""
        shift, suffix = len(self._prefix), self._suffix + self._prompt_of(sample)
        offsets = None
        if with_offsets:
            offsets = [*[None] * shift, *(sample.offsets or ()), *[None] * len(suffix)]
        return MarkedText(
            self._prefix + sample.ids + suffix,
            [(start + shift, end + shift) for start, end in sample.positions],
            sample.kept,
            offsets,
        )

    def _prompt_of(self, sample: MarkedText) -> list[int]:
        """Tokens of ``head [MASK] tail`` with long mentions truncated, or an empty list."""
        if not self.prompt:
            return []
        head, tail = (
            [i for i in sample.ids[start + 1 : end] if i not in self._marker_ids][
                :_MAX_PROMPT_MENTION
            ]
            for start, end in sample.positions
        )
        return [*head, self.tokenizer.mask_token_id, *tail, *self._suffix]

    def unknown_mentions(self, sample: MarkedText) -> list[int]:
        """Indices of the mentions of a marked text that consist only of unknown tokens."""
        unknown = {self.tokenizer.unk_token_id, *self._marker_ids}
        return [
            index
            for index, (start, end) in enumerate(sample.positions)
            if unknown.issuperset(sample.ids[start + 1 : end])
        ]

    def unknown_texts(self, texts: Sequence[str]) -> list[str]:
        """The label texts that consist only of unknown tokens."""
        rows = self.unknown_rows(self.encode_labels(texts)["candidate_input_ids"])
        return [text for text, is_unknown in zip(texts, rows, strict=True) if is_unknown]

    def unknown_rows(self, input_ids: torch.Tensor) -> list[bool]:
        """Whether each row of :meth:`encode_labels`, (K, L), consists only of unknown tokens."""
        tokenizer = self.tokenizer
        neutral = {*self._prefix, *self._suffix, self.separator_id}
        neutral |= {tokenizer.unk_token_id, tokenizer.pad_token_id} - {None}
        return torch.isin(input_ids, torch.tensor(sorted(neutral))).all(1).tolist()

    def pad(self, rows: Sequence[Sequence[int]], max_length: int | None = None) -> BatchFeature:
        """Pads rows of token ids to the longest row.

        Args:
            rows: Token ids, special tokens included.
            max_length: Length to which :attr:`pad_to_max_length` pads; :attr:`max_length` if None.

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
        """Encodes images, of which some or all may be None; see :meth:`__call__`.

        Returns:
            pixel_values (count, 3, height, width), 0 for missing images, and image_mask (count,);
            empty if no sample has an image.

        Raises:
            ValueError: If an image is invalid, or the processor reads text only.
        """
        if images is None:
            return {}
        _check_list("images", images, count)
        present = [index for index, image in enumerate(images) if image is not None]
        if not present:
            return {}
        if not self.use_images:
            raise ValueError("images: this processor reads text only, expected None")
        opened = [
            open_image(images[index], f"sample {index}.image", side=self.image_side)
            for index in present
        ]
        self._check_shapes(opened, [f"sample {index}.image" for index in present])
        pixels = self.image_processor(opened, return_tensors="pt")["pixel_values"]
        mask = torch.zeros(count, dtype=torch.bool)
        mask[present] = True
        if len(present) < count:
            pixels = pixels.new_zeros(count, *pixels.shape[1:]).index_copy(
                0, torch.tensor(present), pixels
            )
        return {"pixel_values": pixels, "image_mask": mask}

    def _check_shapes(self, images: list[Any], names: list[str]) -> None:
        """Rejects narrow images that a processor which keeps their shape would enlarge."""
        if "shortest_edge" not in dict(getattr(self.image_processor, "size", None) or {}):
            return
        for image, name in zip(images, names, strict=True):
            if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
                raise ValueError(
                    f"{name}: {image.width} x {image.height} pixels, expected sides in a ratio of "
                    f"at most {MAX_ASPECT_RATIO}"
                )

    @property
    def image_side(self) -> int | None:
        """Longest side of an image after the image processor, in pixels."""
        sizes = [getattr(self.image_processor, name, None) for name in ("size", "crop_size")]
        sides = [value for size in sizes for value in dict(size or {}).values() if value]
        return max(sides, default=None)

    def encode_labels(
        self, labels: Sequence[str], prefix: str = "candidate"
    ) -> dict[str, torch.Tensor]:
        """Encodes label texts.

        Args:
            labels: Label texts.
            prefix: Prefix of the tensors' names: "candidate" for labels to score, "synthetic" for
                labels to generate samples for.

        Returns:
            ``{prefix}_input_ids`` and ``{prefix}_attention_mask``, shape (K, L).

        Raises:
            ValueError: If the list is empty, or a label is not a string or blank.
        """
        name = "labels" if prefix == "candidate" else "generator_labels"
        if isinstance(labels, str) or not hasattr(labels, "__len__") or not len(labels):
            raise ValueError(f"{name}: got {labels!r}, expected a list of at least one label text")
        for index, label in enumerate(labels):
            if not isinstance(label, str) or not label.strip():
                raise ValueError(f"{name}[{index}]: got {label!r}, expected a non-blank string")
        ids = tokenize_labels(self.tokenizer, labels, self.separator_id)
        max_tokens = self.label_max_length - len(self._prefix) - len(self._suffix)
        truncated = [labels[i] for i in range(len(labels)) if len(ids[i]) > max_tokens]
        if truncated:
            logger.warning_once(
                f"{len(truncated)} label texts were truncated to {self.label_max_length} tokens, "
                f"such as {truncated[0][:80]!r}; increase label_max_length to keep them"
            )
        rows = [self._prefix + row[:max_tokens] + self._suffix for row in ids]
        batch = self.pad(rows, self.label_max_length)
        return {
            f"{prefix}_input_ids": batch["input_ids"],
            f"{prefix}_attention_mask": batch["attention_mask"],
        }


def _check_list(name: str, values: Any, count: int | None = None) -> None:
    """Checks that an argument is a list of ``count`` samples."""
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        raise ValueError(
            f"{name}: got {type(values).__name__}, expected a list, one element for each sample"
        )
    if count is not None and len(values) != count:
        raise ValueError(f"{name}: got {len(values)} samples, expected {count}, as many as texts")


__all__ = ["HMGRLProcessor"]
