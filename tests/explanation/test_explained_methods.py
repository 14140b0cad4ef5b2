"""Explanations of the compared methods."""

import pytest
import torch
from explanation_world import RECORD, TEXT
from tiny_world import LABELS, SEEN, tiny_method, tiny_processor

from modeling_hmgrl import ZeroShotTypingPipeline
from modeling_hmgrl.baselines import METHODS
from modeling_hmgrl.explanation.attribution import explain


def method_pipe(name, task):
    """A pipeline of a compared method whose own weights are not those of the start."""
    settings = {"use_images": METHODS[name].uses_images, **METHODS[name].processor_settings}
    processor = tiny_processor(task, **settings)
    model = tiny_method(name, task, seen_labels=SEEN)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if not any(part in key for part in ("text_model", "vision_model", "log_scale")):
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.05)
    return ZeroShotTypingPipeline(model, processor, device="cpu")


def method_record(name, task):
    record = {"text": TEXT, "mention": "fox" if task == "typing" else ["anna", "fox"]}
    return {**record, "image": RECORD["image"]} if METHODS[name].uses_images else record


METHOD_CASES = [(name, task) for name, method in METHODS.items() for task in method.tasks]
WITH_ATTENTION = {"hmgrl", "mg_vmoe", "dbzfet", "mzet", "re_matching"}


@pytest.mark.parametrize(("name", "task"), METHOD_CASES)
def test_occlusion_works_with_every_method(name, task):
    pipe, record = method_pipe(name, task), method_record(name, task)
    found = explain(pipe, record, LABELS, method="occlusion", regions=2)
    label, [marked] = found.label, pipe.processor.mark([TEXT], [spans_of(record)])
    row = next(i for i, word in enumerate(found.words) if word.text == "fox")
    [fox] = pipe.processor.tokenizer("fox", add_special_tokens=False).input_ids
    place = marked.ids.index(fox)  # of a prompt's tokens none is hidden
    ids = [pipe.processor.tokenizer.mask_token_id if i == place else t
           for i, t in enumerate(marked.ids)]  # fmt: skip
    batch = pipe.processor([TEXT], [spans_of(record)], [record.get("image")], labels=[label])

    def score(ids):
        with torch.no_grad():
            return float(pipe.model(**{**batch, "input_ids": torch.tensor([ids])}).logits)

    assert found.words[row].weight == pytest.approx(score(marked.ids) - score(ids), abs=1e-3)
    assert abs(found.text_share) > 1e-3
    assert (found.image is not None) == METHODS[name].uses_images


def spans_of(record):
    mentions = [record["mention"]] if isinstance(record["mention"], str) else record["mention"]
    return [(TEXT.index(one), TEXT.index(one) + len(one)) for one in mentions]


@pytest.mark.parametrize(("name", "task"), METHOD_CASES)
def test_attention_is_shown_where_a_method_has_it(name, task):
    pipe, record = method_pipe(name, task), method_record(name, task)
    if name not in WITH_ATTENTION:
        kind = pipe.model.config.model_type
        with pytest.raises(ValueError, match=f"method: .* type '{kind}'.*expected 'occlusion'"):
            explain(pipe, record, LABELS)
        return
    found = explain(pipe, record, LABELS)
    words = sum(word.weight for word in found.words)
    assert words + found.special == pytest.approx(found.text_share)
    assert found.text_share + found.image_share == pytest.approx(1)
    assert (found.image_share > 0) == METHODS[name].uses_images
