"""Tiny encoders of the families that people use, with tokenizers and image processors in code.

Vocabularies are trained in memory on :func:`corpus`; weights are random.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tiny_world import LABELS, NAMES, THINGS, VERBS, tiny_tokenizer, vocabulary
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from modeling_hmgrl import ZeroShotTypingPipeline

SMALL = {"bottleneck_size": 12, "generator_latent_size": 10}
"""Sizes of HMGRL that make a model of two encoders small."""

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
OTHER = "éüñçåøßнаукмиЖ東京大学한국"


@cache
def corpus() -> tuple[str, ...]:
    """Sentences and labels by parts, in which most words occur after a blank."""
    lines = [f"{a} sees the {b} near {c} today" for a in NAMES for v in THINGS.values() for b in v
             for c in NAMES]  # fmt: skip
    lines += [f"{a} {verb} {b}" for a in NAMES for verb in VERBS.values() for b in NAMES]
    lines += [f"person; {verb} the {label}; {label}" for label, verb in VERBS.items()]
    return (
        *lines,
        *LABELS,
        LETTERS,
        " ".join(LETTERS),
        OTHER,
        " ".join(OTHER),
        "\"*[]/.,:;!?'-_()",
    )


def wordpiece(kind: str = "bert") -> Any:
    """WordPiece, with the special tokens of BERT or those of MPNet."""
    if kind == "bert":
        return tiny_tokenizer()
    words = [word for word in vocabulary() if word not in ("[PAD]", "[CLS]", "[SEP]", "[MASK]")]
    tokens = ["<s>", "<pad>", "</s>", *words, "<mask>"]
    return hf.MPNetTokenizer(vocab={token: i for i, token in enumerate(tokens)})


def _trained(model: Any, before: Any, trainer: Any) -> dict[str, Any]:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = before
    tokenizer.train_from_iterator(corpus(), trainer)
    return json.loads(tokenizer.to_str())["model"]


@cache
def _bytes(specials: tuple[str, ...], suffix: str = "") -> tuple[dict[str, int], list[Any]]:
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix=suffix,
        show_progress=False,
    )
    before = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model = models.BPE(end_of_word_suffix=suffix)
    made = _trained(model, before, trainer)
    vocab = dict(made["vocab"])
    for byte in pre_tokenizers.ByteLevel.alphabet() if suffix else ():
        vocab.setdefault(byte + suffix, len(vocab))
    return vocab, [tuple(pair) for pair in made["merges"]]


def byte_level(kind: str = "roberta") -> Any:
    """Byte-level BPE: RoBERTa's, whose offsets omit blanks, or ModernBERT's, or CLIP's."""
    if kind == "roberta":
        vocab, merges = _bytes(("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
        return hf.RobertaTokenizer(vocab=dict(vocab), merges=list(merges))
    if kind == "clip":
        vocab, merges = _bytes(("<|startoftext|>", "<|endoftext|>"), "</w>")
        return hf.CLIPTokenizer(vocab=dict(vocab), merges=list(merges))
    vocab, merges = _bytes(("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"))
    tokenizer = Tokenizer(models.BPE(vocab, list(merges)))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, vocab[token]) for token in ("[CLS]", "[SEP]")],
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]",
        mask_token="[MASK]", model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


@cache
def _pieces(specials: tuple[str, ...], unknown: str, separator: str) -> list[tuple[str, float]]:
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=list(specials), unk_token=unknown, show_progress=False
    )
    before = pre_tokenizers.Metaspace(prepend_scheme="always")
    made = [
        (piece, float(score))
        for piece, score in _trained(models.Unigram(), before, trainer)["vocab"]
    ]
    # ";" alone is one token ("▁;") in some vocabularies and two ("▁", ";") in others
    made = [(p, s) for p, s in made if ";" not in p]
    forms = {"one": ["▁;", ";"], "two": [";"]}[separator]
    words = {f"▁{word}" for line in corpus() for word in line.split() if word.isalpha()}
    words -= {piece for piece, _ in made}
    return [*made, *((form, -5.0) for form in forms), *((word, -6.0) for word in sorted(words))]


def unigram(kind: str = "xlm-r", separator: str = "two") -> Any:
    """SentencePiece's Unigram: that of XLM-R and multilingual E5, or that of DeBERTa-v3."""
    if kind == "xlm-r":
        specials = ("<s>", "<pad>", "</s>", "<unk>")
        pieces = [*_pieces(specials, "<unk>", separator), ("<mask>", 0.0)]
        tokenizer = hf.XLMRobertaTokenizer(vocab=pieces)
        tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
        return tokenizer
    specials = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
    pieces = list(_pieces(specials, "[UNK]", separator))
    return hf.DebertaV2Tokenizer(vocab=pieces, unk_id=3)


SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "initializer_range": 0.2,
}  # fmt: skip


def _text(config: Any, tokenizer: Any, **settings: Any) -> Any:
    return config(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id,
        **{**SMALL, "max_position_embeddings": 130, **settings},
    )  # fmt: skip


def _modernbert(tokenizer: Any) -> Any:
    config = _text(
        hf.ModernBertConfig, tokenizer, local_attention=16, global_attn_every_n_layers=2,
        bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
    )  # fmt: skip
    config.vocab_size += 7  # padded to a round number, as in its checkpoints
    return config


def _distilbert(tokenizer: Any) -> Any:
    return hf.DistilBertConfig(
        vocab_size=len(tokenizer), dim=32, n_layers=2, n_heads=4, hidden_dim=48,
        max_position_embeddings=130, initializer_range=0.2, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip


def _deberta(tokenizer: Any) -> Any:
    return _text(
        hf.DebertaV2Config, tokenizer, relative_attention=True, position_buckets=8,
        norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"],
        position_biased_input=False, type_vocab_size=0,
    )  # fmt: skip


def _clip_text(tokenizer: Any) -> Any:
    return _text(
        hf.CLIPTextConfig, tokenizer, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, max_position_embeddings=77,
    )  # fmt: skip


TEXT = {
    "bert": (wordpiece, lambda t: _text(hf.BertConfig, t)),
    "distilbert": (wordpiece, _distilbert),
    "electra": (wordpiece, lambda t: _text(hf.ElectraConfig, t, embedding_size=16)),
    "mpnet": (lambda: wordpiece("mpnet"), lambda t: _text(hf.MPNetConfig, t)),
    "roberta": (byte_level, lambda t: _text(hf.RobertaConfig, t)),
    "modernbert": (lambda: byte_level("modernbert"), _modernbert),
    "xlm-r": (unigram, lambda t: _text(hf.XLMRobertaConfig, t)),
    "e5": (lambda: unigram(separator="one"), lambda t: _text(hf.XLMRobertaConfig, t)),
    "deberta-v3": (lambda: unigram("deberta"), _deberta),
    "clip": (lambda: byte_level("clip"), _clip_text),
}
"""Family: its tokenizer, and its configuration for a tokenizer."""

POSITIONS = {"roberta": 128, "mpnet": 128, "xlm-r": 128, "e5": 128, "clip": 77,
             "modernbert": None, "deberta-v3": None}  # fmt: skip
"""Longest text in tokens; 130 for the others, None if it is unlimited."""

VISION_SMALL = {**SMALL, "hidden_size": 24, "intermediate_size": 36, "image_size": 32,
                "patch_size": 8}  # fmt: skip
VISION = {
    "vit": (lambda: hf.ViTConfig(**VISION_SMALL), 1),
    "deit": (lambda: hf.DeiTConfig(**VISION_SMALL), 2),
    "dinov2": (lambda: hf.Dinov2Config(**VISION_SMALL, mlp_ratio=2), 1),
    "dinov2-registers": (
        lambda: hf.Dinov2WithRegistersConfig(**VISION_SMALL, mlp_ratio=2, num_register_tokens=4),
        5,
    ),
    "clip": (lambda: hf.CLIPVisionConfig(**VISION_SMALL), 1),
    "siglip": (lambda: hf.SiglipVisionConfig(**VISION_SMALL), 0),
}
"""Family: its configuration, and the number of tokens before the 16 patches."""


def image_processor(family: str) -> Any:
    """Scales to 32 x 32, or resizes the shorter edge and crops the centre, as the family does."""
    if family in ("clip",):
        return hf.CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        )
    if family.startswith("dinov2"):
        return hf.BitImageProcessorPil(
            size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}
        )
    kind = {"siglip": hf.SiglipImageProcessorPil}.get(family, hf.ViTImageProcessorPil)
    return kind(size={"height": 32, "width": 32})


def _model(config: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return hf.AutoModel.from_config(config)


@cache
def text_folder(family: str, folder: Path) -> str:
    """Saves the text encoder of a family with its tokenizer; returns the folder."""
    make, configure = TEXT[family]
    tokenizer = make()
    target = folder / f"text-{family}"
    tokenizer.save_pretrained(target)
    _model(configure(tokenizer)).save_pretrained(target)
    return str(target)


@cache
def vision_folder(family: str, folder: Path) -> str:
    """Saves the image encoder of a family with its image processor; returns the folder."""
    target = folder / f"vision-{family}"
    image_processor(family).save_pretrained(target)
    _model(VISION[family][0]()).save_pretrained(target)
    return str(target)


@cache
def both_folder(family: str, folder: Path) -> str:
    """Saves a whole checkpoint of CLIP or SigLIP, with both towers; returns the folder."""
    target = folder / f"both-{family}"
    image_processor(family).save_pretrained(target)
    vision = VISION[family][0]()
    if family == "clip":
        tokenizer = byte_level("clip")
        config = hf.CLIPConfig(
            text_config=_clip_text(tokenizer).to_dict(), vision_config=vision.to_dict(),
            projection_dim=32,
        )  # fmt: skip
    else:
        tokenizer = unigram(separator="one")
        text = _text(hf.SiglipTextConfig, tokenizer, max_position_embeddings=64)
        config = hf.SiglipConfig(text_config=text.to_dict(), vision_config=vision.to_dict())
    tokenizer.save_pretrained(target)
    _model(config).save_pretrained(target)
    return str(target)


def changed_by_a_step(model: Any, batch: dict[str, Any], bfloat16: bool) -> set[str]:
    """Takes a training step; returns the names of the weights that it changes.

    Args:
        model: The model.
        batch: The batch.
        bfloat16: Whether the forward pass runs under autocast.
    """
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    assert all(p.isfinite().all() for p in model.parameters())
    return {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}


def pipeline_of(model: Any, processor: Any) -> ZeroShotTypingPipeline:
    """The pipeline of a model in evaluation mode."""
    return ZeroShotTypingPipeline(model.eval(), processor, device="cpu")
