"""LLaVA: a language model that sees, asked in words; nothing is trained.

Source: Liu et al. 2023, "Visual instruction tuning", prompted as a reference as in HMGRL (arXiv
2603.16259). Any checkpoint of transformers' image-text-to-text models will do. Two ways to an
answer: it is generated and matched to a label, or every label is scored by its likelihood as the
answer, which gives scores that can be calibrated like those of any other method.

Memory for llava-hf/llava-1.5-7b-hf: about 14 GB of weights in half precision, plus about 0.35 GB of
keys and values for each prompt of 700 tokens, and as much again for each label that is scored at
once.
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
"""Checkpoint of the paper's comparison."""

_QUESTIONS = {
    "typing": "What is the type of {mentions}?",
    "relation": "What is the relation of {mentions}, in this order?",
}


def make_prompt(text: str, spans: Any, labels: Sequence[str], picture: bool) -> str:
    """Asks for a label in words.

    Args:
        text: Sentence.
        spans: Character offsets of one mention (typing) or two (relation, head first).
        labels: Labels to choose from, as they are shown.
        picture: Whether a picture is shown too.

    Returns:
        The question, without the image's place, which the chat template adds.
    """
    mentions = " and ".join(f'"{text[start:end]}"' for start, end in spans)
    question = _QUESTIONS["typing" if len(spans) == 1 else "relation"].format(mentions=mentions)
    shown = "Look at the picture and read the sentence" if picture else "Read the sentence"
    options = "; ".join(labels)
    return f"{shown}: {text}\n{question} Answer with one of these and nothing else: {options}."


def match_answer(answer: str, labels: Sequence[str]) -> int | None:
    """Finds the label that an answer names.

    Args:
        answer: What was generated.
        labels: Labels as they were shown.

    Returns:
        The index of the label that the answer is; else of the one that stands first in it as whole
        words, the longer one where two begin at the same place; None if there is none.
    """
    said = _plain(answer)
    plain = [_plain(label) for label in labels]
    if said in plain:
        return plain.index(said)
    places = []
    for index, label in enumerate(plain):
        found = re.search(rf"(?<!\w){re.escape(label)}(?!\w)", said) if label else None
        if found:
            places.append((found.start(), -len(label), index))
    return min(places)[2] if places else None


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[_/.\"'*]+", " ", text.casefold()).split())


class PromptedTyping:
    """An image-text-to-text model, asked for types or relations.

    Args:
        model: The model.
        processor: Its processor; a chat template is used if it has one.
        label_batch: Labels scored at once.
    """

    def __init__(self, model: Any, processor: Any, label_batch: int = 8) -> None:
        self.model, self.processor, self.label_batch = model.eval(), processor, label_batch
        self.processor.tokenizer.padding_side = "left"  # answers are generated at the right
        # transformers renames the argument
        known = inspect.signature(model.forward).parameters
        self._cache_name = "cache" if "cache" in known else "past_key_values"

    @classmethod
    def from_pretrained(cls, name: str = DEFAULT, **options: Any) -> "PromptedTyping":
        """Loads a checkpoint, from safetensors, without code of its own.

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
        """Generates answers, without sampling, and matches them to labels.

        Args:
            records: Mappings with ``text``, ``spans`` and perhaps ``image``.
            labels: Labels as they are shown.
            batch_size: Prompts at once.
            max_new_tokens: Longest answer.
            show_progress: Whether to show a progress bar.

        Returns:
            For each record the index of the label, or None where the answer names none, and the
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
            records: As of :meth:`answers`.
            labels: Labels as they are shown.
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
        """Mean log-probability of each answer after one prompt, (K,); the prompt is read once."""
        device = inputs["input_ids"].device
        length = inputs["input_ids"].shape[1]
        read = self.model(**inputs, use_cache=True)
        first = read.logits[:, -1:].float().log_softmax(-1)
        found = []
        for start in range(0, len(answers), self.label_batch):
            part = answers[start : start + self.label_batch]
            cache = copy.deepcopy(read.past_key_values)  # reading the answers adds to it
            cache.batch_repeat_interleave(len(part))
            ids = torch.nn.utils.rnn.pad_sequence(part, batch_first=True).to(device)
            mask = torch.nn.utils.rnn.pad_sequence(
                [torch.ones_like(answer) for answer in part], batch_first=True
            ).to(device)
            whole = torch.cat([inputs["attention_mask"].expand(len(part), length), mask], dim=1)
            rest = {self._cache_name: cache, "use_cache": True}
            logits = self.model(input_ids=ids, attention_mask=whole, **rest).logits
            told = torch.cat(
                [first.expand(len(part), -1, -1), logits[:, :-1].float().log_softmax(-1)], dim=1
            )
            each = told.gather(2, ids.unsqueeze(-1)).squeeze(-1) * mask
            found.append(each.sum(1) / mask.sum(1))
        return torch.cat(found).cpu()

    def _batches(
        self, records: Sequence[Any], labels: Sequence[str], size: int, show_progress: bool
    ) -> Iterator[Any]:
        bar = tqdm(total=len(records), desc="Asking", unit="prompt", disable=not show_progress)
        for start in range(0, len(records), size):
            part = [records[row] for row in range(start, min(start + size, len(records)))]
            prompts, pictures = [], []
            for row, record in enumerate(part, start):
                place = f"records[{row}]"
                spans = record["spans"]
                spans = check_spans(record["text"], spans, len(spans), place)
                image = record.get("image")
                picture = None if image is None else open_image(image, f"{place}.image")
                prompts.append(
                    self._chat(make_prompt(record["text"], spans, labels, bool(picture)), picture)
                )
                if picture is not None:
                    pictures.append(picture)
            inputs = self.processor(
                text=prompts, images=pictures or None, padding=True, return_tensors="pt"
            )
            yield inputs.to(self.model.device, self.model.dtype)
            bar.update(len(part))
        bar.close()

    def _chat(self, prompt: str, picture: Image.Image | None) -> str:
        """The prompt as the model wants a conversation."""
        content: list[dict[str, str]] = [] if picture is None else [{"type": "image"}]
        content.append({"type": "text", "text": prompt})
        if getattr(self.processor, "chat_template", None):
            return self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
        image = "" if picture is None else f"{self.processor.image_token}\n"
        return f"USER: {image}{prompt} ASSISTANT:"


__all__ = ["DEFAULT", "PromptedTyping", "make_prompt", "match_answer"]
