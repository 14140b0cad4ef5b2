"""The prompted reference, on a tiny random checkpoint of the real class and its real processor."""

import numpy as np
import pytest
import torch
from tiny_world import LABELS, tiny_picture, vocabulary
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from modeling_hmgrl.baselines.llava import PromptedTyping, make_prompt, match_answer

RECORDS = [
    {"text": "anna sees the fox", "spans": [[14, 17]], "image": tiny_picture("animal")},
    {"text": "boris feeds the old hen today", "spans": [[20, 23]], "image": None},
    {"text": "chen drives", "spans": [[0, 4], [5, 11]], "image": tiny_picture("tool")},
]


def tokenizer():
    words = dict(vocabulary())
    for extra in ("<image>", "<s>", "</s>", "user", "assistant", "Ġ"):
        words.setdefault(extra, len(words))
    made = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", eos_token="</s>", bos_token="<s>",
        unk_token="[UNK]", extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    words = tokenizer()
    image_token = words.convert_tokens_to_ids("<image>")
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            image_size=32, patch_size=8, projection_dim=16,
        ),
        text_config=LlamaConfig(
            vocab_size=len(words), hidden_size=16, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, initializer_range=0.5,
        ),
        image_token_index=image_token,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlavaForConditionalGeneration(config).save_pretrained(folder)
    image = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    LlavaProcessor(
        image, words, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def asked(folder):
    return PromptedTyping.from_pretrained(str(folder))


def test_likelihoods_are_those_of_a_plain_computation(asked):
    found = asked.scores(RECORDS, LABELS)
    assert found.shape == (3, len(LABELS))
    words = asked.processor.tokenizer
    for row, record in enumerate(RECORDS):
        [inputs] = asked._batches([record], LABELS, 1, False)
        for k, label in enumerate(LABELS):
            answer = torch.tensor([words(" " + label, add_special_tokens=False).input_ids])
            ids = torch.cat([inputs["input_ids"], answer], 1)
            rest = {n: v for n, v in inputs.items() if n == "pixel_values"}
            with torch.no_grad():
                logits = asked.model(input_ids=ids, attention_mask=torch.ones_like(ids), **rest)
            told = logits.logits[0].log_softmax(-1)[-answer.shape[1] - 1 : -1]
            own = told.gather(1, answer[0].unsqueeze(1)).mean()
            assert found[row, k] == pytest.approx(own.item(), abs=1e-4)


def test_label_batches_change_nothing(folder):
    whole = PromptedTyping.from_pretrained(
        str(folder),
    ).scores(RECORDS[:2], LABELS)
    small = PromptedTyping.from_pretrained(str(folder))
    small.label_batch = 2
    np.testing.assert_allclose(small.scores(RECORDS[:2], LABELS), whole, atol=1e-5)


def test_the_prompt_is_read_once(folder, monkeypatch):
    asked = PromptedTyping.from_pretrained(str(folder))
    asked.label_batch = 2
    forward, lengths = asked.model.forward, []

    def counted(*args, **kwargs):
        lengths.append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(asked.model, "forward", counted)
    asked.scores(RECORDS[:1], LABELS)
    [prompt] = asked._batches(RECORDS[:1], LABELS, 1, False)
    whole = prompt["input_ids"].shape[1]
    assert lengths[0] == whole
    assert len(lengths) == 1 + len(LABELS) / 2
    assert max(lengths[1:]) < whole  # answers alone


def test_the_image_takes_part(asked):
    with_it, without = (
        asked.scores([{**RECORDS[0], "image": image}], LABELS)
        for image in (RECORDS[0]["image"], None)
    )
    assert np.abs(with_it - without).max() > 1e-4


def test_answers_are_the_same_alone_and_together(asked):
    together = asked.answers(RECORDS[:2], LABELS, batch_size=2, max_new_tokens=6)
    alone = [asked.answers([record], LABELS, max_new_tokens=6)[0] for record in RECORDS[:2]]
    assert together == alone
    assert all(index is None or 0 <= index < len(LABELS) for index, _ in together)


def test_the_prompt_names_sentence_mentions_and_labels():
    text = make_prompt("anna sees the fox", [(14, 17)], ["animal", "a tool"], has_image=True)
    assert "picture" in text
    assert 'type of "fox"' in text
    assert text.endswith("animal; a tool.")
    pair = make_prompt("anna met boris", [(0, 4), (9, 14)], ["peer"], has_image=False)
    assert 'relation of "anna" and "boris"' in pair
    assert "picture" not in pair


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("animal", 0),
        ("Animal.", 0),
        (" It is a power tool, not an animal", 2),
        ("tool", 1),
        ("tools", None),
        ("/per/org/member_of", 3),
        ("per org member of", 3),
        ("", None),
    ],
)
def test_answers_are_matched_to_labels(answer, index):
    assert match_answer(answer, ["animal", "tool", "power tool", "/per/org/member_of"]) == index


def test_errors_name_the_record(asked):
    with pytest.raises(ValueError, match=r"records\[1\]\.spans: got \[0, 99\]"):
        asked.answers([RECORDS[1], {"text": "ab", "spans": [[0, 99]]}], LABELS)
