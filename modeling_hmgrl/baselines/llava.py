"""LLaVA: zero-shot prompting of a vision-language model, without training.

Source: Liu et al. 2023, "Visual instruction tuning", a baseline of HMGRL (arXiv 2603.16259). Any
image-text-to-text model of transformers can be used. Predictions are either generated and matched
to a label, or every label is scored by its likelihood as the answer; such scores can be calibrated
like those of any other method.

Memory for llava-hf/llava-1.5-7b-hf: about 14 GB of weights in half precision, plus about 0.35 GB of
keys and values for each prompt of 700 tokens, and as much again for each label of ``label_batch``.
"""

import copy
import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor

from ..entity_markers import check_spans
from ..images import open_image

DEFAULT = "llava-hf/llava-1.5-7b-hf"
"""Checkpoint that the paper compares with."""

_QUESTIONS = {
    "typing": "What is the type of {mentions}?",
    "relation": "What is the relation of {mentions}, in this order?",
}


def make_prompt(text: str, spans: Any, labels: Sequence[str], has_image: bool) -> str:
    """Builds the prompt that asks for the label of a sample.

    Args:
        text: Sentence.
        spans: Character offsets of one mention (typing) or two (relation, head first).
        labels: Candidate labels, as they appear in the prompt.
        has_image: Whether the prompt comes with an image.

    Returns:
        The prompt, without the image token, which the chat template adds.

    Examples:
        >>> print(make_prompt("Anna sees a fox", [(12, 15)], ["animal", "tool"], has_image=False))
        Read the sentence: Anna sees a fox
        What is the type of "fox"? Answer with one of these and nothing else: animal; tool.
    """
    mentions = " and ".join(f'"{text[start:end]}"' for start, end in spans)
    question = _QUESTIONS["typing" if len(spans) == 1 else "relation"].format(mentions=mentions)
    task = "Look at the picture and read the sentence" if has_image else "Read the sentence"
    options = "; ".join(labels)
    return f"{task}: {text}\n{question} Answer with one of these and nothing else: {options}."


def match_answer(answer: str, labels: Sequence[str]) -> int | None:
    """Matches a generated answer to a label.

    Args:
        answer: Generated text.
        labels: Labels as they appear in the prompt.

    Returns:
        Index of the label that equals the answer, or else of the first label that occurs in it as
        whole words, the longest one if several begin at the same position; None without a match.

    Examples:
        >>> match_answer("It is a power tool.", ["tool", "power tool"])
        1
    """
    normalized = _normalize(answer)
    names = [_normalize(label) for label in labels]
    if normalized in names:
        return names.index(normalized)
    matches = []
    for index, label in enumerate(names):
        found = re.search(rf"(?<!\w){re.escape(label)}(?!\w)", normalized) if label else None
        if found:
            matches.append((found.start(), -len(label), index))
    return min(matches)[2] if matches else None


def _normalize(text: str) -> str:
    return " ".join(re.sub(r"[_/.\"'*]+", " ", text.casefold()).split())


class PromptedTyping:
    """An image-text-to-text model that is prompted for types or relations.

    Args:
        model: The model.
        processor: Its processor, whose chat template is used if it has one.
        label_batch: Number of labels scored at once.
    """

    def __init__(self, model: Any, processor: Any, label_batch: int = 8) -> None:
        self.model, self.processor, self.label_batch = model.eval(), processor, label_batch
        self.processor.tokenizer.padding_side = "left"  # answers are appended at the right
        # The name of the argument depends on the version of transformers.
        known = inspect.signature(model.forward).parameters
        self._cache_name = "cache" if "cache" in known else "past_key_values"

    @classmethod
    def from_pretrained(cls, name: str = DEFAULT, **options: Any) -> "PromptedTyping":
        """Loads a checkpoint from safetensors, without remote code.

        Args:
            name: Folder or Hub name.
            **options: Options of ``from_pretrained``, such as ``dtype`` or ``device_map``.
        """
        model = AutoModelForImageTextToText.from_pretrained(name, use_safetensors=True, **options)
        return cls(model, AutoProcessor.from_pretrained(name))

    def answers(
        self,
        records: Sequence[Any],
        labels: Sequence[str],
        batch_size: int = 4,
        max_new_tokens: int = 24,
        show_progress: bool = False,
    ) -> list[tuple[int | None, str]]:
        """Generates answers by greedy decoding and matches them to labels.

        Args:
            records: Mappings with ``text``, ``spans`` and optionally ``image``.
            labels: Labels as they appear in the prompt.
            batch_size: Prompts per batch.
            max_new_tokens: Maximum length of an answer, in tokens.
            show_progress: Whether to show a progress bar.

        Returns:
            For each record the index of the label, or None if the answer matches none, and the
            answer itself.
        """
        found = []
        for inputs in self._batches(records, labels, batch_size, show_progress):
            with torch.inference_mode():
                ids = self.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
            new = ids[:, inputs["input_ids"].shape[1] :]
            texts = self.processor.tokenizer.batch_decode(new, skip_special_tokens=True)
            found += [(match_answer(text, labels), text.strip()) for text in texts]
        return found

    def scores(
        self, records: Sequence[Any], labels: Sequence[str], show_progress: bool = False
    ) -> np.ndarray:
        """Scores labels by their likelihood as the answer.

        Args:
            records: As for :meth:`answers`.
            labels: Labels as they appear in the prompt.
            show_progress: Whether to show a progress bar.

        Returns:
            Mean log-probability of each label's tokens after the prompt, shape (N, K), float32.
        """
        tokenizer = self.processor.tokenizer
        answers = [
            torch.tensor(tokenizer(" " + label, add_special_tokens=False).input_ids)
            for label in labels
        ]
        rows = []
        for inputs in self._batches(records, labels, 1, show_progress):
            rows.append(self._likelihoods(inputs, answers))
        return torch.stack(rows).numpy() if rows else np.zeros((0, len(labels)), np.float32)

    @torch.inference_mode()
    def _likelihoods(self, inputs: Any, answers: list[Tensor]) -> Tensor:
        """Mean log-probability of each answer after one prompt, (K,).

        The prompt is encoded once; the answers share its keys and values.
        """
        device = inputs["input_ids"].device
        length = inputs["input_ids"].shape[1]
        prompt = self.model(**inputs, use_cache=True)
        first = prompt.logits[:, -1:].float().log_softmax(-1)
        found = []
        for start in range(0, len(answers), self.label_batch):
            part = answers[start : start + self.label_batch]
            cache = copy.deepcopy(prompt.past_key_values)  # encoding the answers appends to it
            cache.batch_repeat_interleave(len(part))
            ids = torch.nn.utils.rnn.pad_sequence(part, batch_first=True).to(device)
            mask = torch.nn.utils.rnn.pad_sequence(
                [torch.ones_like(answer) for answer in part], batch_first=True
            ).to(device)
            whole = torch.cat([inputs["attention_mask"].expand(len(part), length), mask], dim=1)
            rest = {self._cache_name: cache, "use_cache": True}
            logits = self.model(input_ids=ids, attention_mask=whole, **rest).logits
            log_probabilities = torch.cat(
                [first.expand(len(part), -1, -1), logits[:, :-1].float().log_softmax(-1)], dim=1
            )
            of_tokens = log_probabilities.gather(2, ids.unsqueeze(-1)).squeeze(-1) * mask
            found.append(of_tokens.sum(1) / mask.sum(1))
        return torch.cat(found).cpu()

    def _batches(
        self, records: Sequence[Any], labels: Sequence[str], size: int, show_progress: bool
    ) -> Iterator[Any]:
        bar = tqdm(total=len(records), desc="Asking", unit="prompt", disable=not show_progress)
        for start in range(0, len(records), size):
            part = [records[row] for row in range(start, min(start + size, len(records)))]
            prompts, images = [], []
            for row, record in enumerate(part, start):
                place = f"records[{row}]"
                spans = record["spans"]
                spans = check_spans(record["text"], spans, len(spans), place)
                image = record.get("image")
                image = None if image is None else open_image(image, f"{place}.image")
                prompt = make_prompt(record["text"], spans, labels, has_image=image is not None)
                prompts.append(self._chat(prompt, image))
                if image is not None:
                    images.append(image)
            inputs = self.processor(
                text=prompts, images=images or None, padding=True, return_tensors="pt"
            )
            yield inputs.to(self.model.device, self.model.dtype)
            bar.update(len(part))
        bar.close()

    def _chat(self, prompt: str, image: Image.Image | None) -> str:
        """Formats the prompt as a conversation with the model."""
        content: list[dict[str, str]] = [] if image is None else [{"type": "image"}]
        content.append({"type": "text", "text": prompt})
        if getattr(self.processor, "chat_template", None):
            return self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
        token = "" if image is None else f"{self.processor.image_token}\n"
        return f"USER: {token}{prompt} ASSISTANT:"


__all__ = ["DEFAULT", "PromptedTyping", "make_prompt", "match_answer"]
