"""Which encoders are accepted, errors for the others, whole checkpoints, and the command line."""

import json

import pytest
import torch
import transformers as hf
from cli_world import data_options, train, write_data
from encoder_world import (
    SMALL,
    TEXT,
    VISION_SMALL,
    both_folder,
    byte_level,
    pipeline_of,
    text_folder,
    vision_folder,
)
from tiny_world import LABELS, tiny_batch, tiny_picture

from hmgrl_cli.cli import main
from modeling_hmgrl import HMGRLForZeroShotTyping, HMGRLProcessor
from modeling_hmgrl.backbones import encoder_config, pretrained_encoder
from modeling_hmgrl.baselines import METHODS
from modeling_hmgrl.baselines.training_free import _encode

LAYERS = {"d_model": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 20}

WRONG = {
    "T5": ("text", lambda: hf.T5Config(**LAYERS), "'t5' has an encoder and a decoder"),
    "BART": ("text", lambda: hf.BartConfig(vocab_size=20), "'bart' has an encoder and a decoder"),
    "mBART": ("text", lambda: hf.MBartConfig(vocab_size=20), "'mbart' has an encoder and a dec"),
    "GPT-2": ("text", lambda: hf.GPT2Config(vocab_size=20), "'gpt2' is a decoder"),
    "Llama": ("text", lambda: hf.LlamaConfig(vocab_size=20), "'llama' is a decoder"),
    "Qwen3": ("text", lambda: hf.Qwen3Config(vocab_size=20), "'qwen3' is a decoder"),
    "BERT as a decoder": ("text", lambda: hf.BertConfig(is_decoder=True), "'bert' is a decoder"),
    "ViT as text": ("text", hf.ViTConfig, "'vit' does not encode texts"),
    "BERT as image": ("image", hf.BertConfig, "'bert' does not encode images"),
    "ConvNeXt": ("image", hf.ConvNextConfig, "'convnext' has no states of one width"),
    "ResNet": ("image", hf.ResNetConfig, "'resnet' has no states of one width"),
    "MAE": ("image", hf.ViTMAEConfig, "'vit_mae' hides a random part of the image"),
    "NaFlex": ("image", hf.Siglip2Config, "'siglip2_vision_model' takes a variable"),
    "Whisper": ("text", hf.WhisperConfig, "'whisper' has an encoder and a decoder"),
}


@pytest.mark.parametrize("name", WRONG)
def test_models_that_are_no_such_encoders_are_refused(name, tmp_path):
    side, make, message = WRONG[name]
    make().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        pretrained_encoder(str(tmp_path), side)
    assert str(error.value).startswith(f"{side} encoder {str(tmp_path)!r}: ")
    assert ", expected a" in str(error.value)


def test_loaded_models_are_refused_alike():
    t5 = hf.T5EncoderModel(hf.T5Config(**LAYERS, d_ff=8, d_kv=8))
    with pytest.raises(ValueError, match="text encoder T5EncoderModel: 't5' has an encoder and a"):
        pretrained_encoder(t5, "text")


@pytest.mark.parametrize("name", ["T5", "GPT-2", "ConvNeXt"])
def test_the_command_line_refuses_them_in_one_line(name, folder, tmp_path, capsys):
    side, make, message = WRONG[name]
    make().save_pretrained(tmp_path / "wrong")
    encoders = [text_folder("bert", folder), vision_folder("vit", folder)]
    encoders[side == "image"] = str(tmp_path / "wrong")
    data = write_data(tmp_path / "data", 24)
    assert train(data, encoders, tmp_path / "run") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"hmgrl train: {side} encoder ")
    assert message in error


@pytest.mark.parametrize(
    ("text", "vision", "more"),
    [
        ("roberta", "siglip", ["--gradient-checkpointing", "--references"]),
        ("deberta-v3", "dinov2-registers", ["--set", "freeze_text=true", "--references"]),
        ("mpnet", "clip", ["--gradient-checkpointing"]),
    ],
)
def test_the_command_line_trains_and_predicts(text, vision, more, folder, tmp_path, capsys, caplog):
    data = write_data(tmp_path / "data", 36)
    encoders = text_folder(text, folder), vision_folder(vision, folder)
    assert train(data, encoders, tmp_path / "run", *more) == 0
    capsys.readouterr()
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"text": "anna sees the fox", "mention": "fox"}')
    asked = ["--model", str(tmp_path / "run"), "--input", str(lines), "--labels", *LABELS[:3]]
    assert main(["predict", *asked]) == 0
    assert json.loads(capsys.readouterr().out)["prediction"]["label"] in LABELS[:3]
    unsupported = "gradient_checkpointing: MPNetModel does not support it"
    assert (unsupported in caplog.text) == (text == "mpnet")


def test_a_text_that_is_too_long_is_one_error(folder, tmp_path, capsys):
    data = write_data(tmp_path / "data", 24)
    whole = both_folder("clip", folder)
    options = ["--text-encoder", whole, "--vision-encoder", whole, "--output-dir", str(tmp_path)]
    assert main(["train", *data_options(data), *options, "--tracker", "none"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == (
        "hmgrl train: max_length: got 128, expected at most 77, the number of positions of the "
        "text encoder 'clip_text_model'"
    )


@pytest.mark.parametrize("family", ["clip", "siglip"])
@pytest.mark.parametrize("method", ["hmgrl", "mg_vmoe", "zs_bert", "mzet"])
def test_a_whole_checkpoint_is_both_towers(family, method, folder, tmp_path):
    whole = both_folder(family, folder)
    kind = METHODS[method]
    image = whole if kind.uses_images else None
    settings = SMALL if method == "hmgrl" else {}
    task = "typing" if "typing" in kind.tasks else "relation"
    processor = HMGRLProcessor.from_backbones(whole, image, task=task, max_length=60)
    model = kind.from_backbones(whole, image, processor=processor, task=task, **settings)
    assert model.config.text_config.model_type == f"{family}_text_model"
    batch = tiny_batch(task, processor=processor, images=kind.uses_images,
                       generator=method == "hmgrl")  # fmt: skip
    model.train()(**batch).loss.backward()
    pipe = pipeline_of(model, processor)
    mention = "fox" if task == "typing" else ["anna", "fox"]
    asked = {"text": "anna sees the fox", "mention": mention}
    if kind.uses_images:
        asked["image"] = tiny_picture("animal")
    wanted = pipe(asked, labels=LABELS)
    pipe.save_pretrained(tmp_path)
    loaded, info = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    again = pipeline_of(loaded, HMGRLProcessor.from_pretrained(tmp_path))
    assert again(asked, labels=LABELS)["scores"] == pytest.approx(wanted["scores"], abs=1e-5)


def clip_of(folder, loaded=False):
    whole = both_folder("clip", folder)
    source = hf.AutoModel.from_pretrained(whole).eval() if loaded else whole
    processor = HMGRLProcessor.from_backbones(whole, whole, max_length=60)
    model = HMGRLForZeroShotTyping.from_backbones(source, source, processor=processor, **SMALL)
    return model, processor, hf.AutoModel.from_pretrained(whole).eval()


@pytest.mark.parametrize("loaded", [False, True])
def test_text_and_image_of_clip_start_aligned(loaded, folder):
    model, processor, clip = clip_of(folder, loaded)
    pixels = processor.encode_images([tiny_picture("animal")], 1)["pixel_values"]
    tokens = processor.tokenizer(["the fox"], return_tensors="pt")
    with torch.no_grad():
        image = model.hmgrl.project_image(model.encode_image(pixels))[:, 0]
        states = model.hmgrl.encode_text(**tokens)
        wanted_image = clip.get_image_features(pixel_values=pixels).pooler_output
        wanted_text = clip.get_text_features(**tokens).pooler_output
        torch.testing.assert_close(clip.text_projection(states[:, -1]), wanted_text)
        torch.testing.assert_close(clip.text_projection(image), wanted_image, atol=1e-4, rtol=1e-3)


def test_the_state_of_a_text_of_clip_is_that_of_its_last_token(folder):
    model, processor, _ = clip_of(folder)
    texts = ["anna sees the fox", "the fox sees anna near boris today"]
    batch = processor(texts, [[(14, 17)], [(4, 7)]])
    encoded = model.hmgrl.encode_states(
        batch["input_ids"], batch["attention_mask"], batch["span_positions"]
    )
    whole = model.hmgrl.whole_text(encoded)
    last = batch["attention_mask"].sum(1) - 1
    assert torch.equal(whole, encoded.text[torch.arange(2), last])
    assert not torch.allclose(whole[0], whole[1])
    assert torch.allclose(encoded.text[0, 0], encoded.text[1, 0]), "the first is causal"


def test_siglip_has_no_projections_to_take(folder):
    whole = both_folder("siglip", folder)
    processor = HMGRLProcessor.from_backbones(whole, whole, max_length=60)
    model = HMGRLForZeroShotTyping.from_backbones(whole, whole, processor=processor, **SMALL)
    assert not model.hmgrl.image_projection.weight.any()
    assert not [n for n, _ in model.named_parameters() if "vision_model.head." in n]


def test_towers_of_different_checkpoints_are_not_aligned(folder):
    whole = both_folder("clip", folder)
    processor = HMGRLProcessor.from_backbones(whole, vision_folder("clip", folder), max_length=60)
    model = HMGRLForZeroShotTyping.from_backbones(
        whole, vision_folder("clip", folder), processor=processor, **SMALL
    )
    assert not model.hmgrl.image_projection.weight.any()


@pytest.mark.parametrize("family", TEXT)
def test_the_training_free_baseline_encodes_texts(family, folder):
    name = text_folder(family, folder)
    encoder, tokenizer = hf.AutoModel.from_pretrained(name), hf.AutoTokenizer.from_pretrained(name)
    texts = ["anna sees the fox", "the old fox " * 100]
    whole, mention = _encode(encoder.eval(), tokenizer, texts, [[(14, 17)], [(8, 11)]])
    assert whole.isfinite().all()
    assert mention.shape == whole.shape == (2, 32)


def test_a_tokenizer_without_padding_is_refused():
    tokenizer = byte_level("roberta")
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="tokenizer: got one without a padding token, expected"):
        HMGRLProcessor(None, tokenizer, use_images=False)


def test_one_tower_is_configured_as_the_checkpoint_says(folder):
    whole = both_folder("clip", folder)
    assert encoder_config(whole, "text").model_type == "clip_text_model"
    assert encoder_config(whole, "image").model_type == "clip_vision_model"
    assert encoder_config(vision_folder("vit", folder), "image").model_type == "vit"
    assert VISION_SMALL["hidden_size"] != SMALL["hidden_size"]
