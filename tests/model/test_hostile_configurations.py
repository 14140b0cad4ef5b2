"""Configuration files with impossible values end in an error that names the field, at once."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_world import save_backbones, tiny_config, tiny_model, tiny_processor, tiny_text_config
from transformers import AutoConfig

from modeling_hmgrl import HMGRLConfig, HMGRLForZeroShotTyping, HMGRLProcessor

SECONDS, MEGABYTES = 2, 300
HELPERS = Path(__file__).parents[1] / "helpers"

# Loads each configuration, and says how long that took and how much more memory it needed. The
# times are those of the processor, as other processes may run.
MEASURED = """
import json, sys, time
from pathlib import Path
from transformers.utils import logging
sys.path.insert(0, sys.argv[3])
from hostile_world import peak_megabytes
from modeling_hmgrl import HMGRLForZeroShotTyping
folder, cases = Path(sys.argv[1]), json.loads(sys.argv[2])
logging.set_verbosity_error()
logging.disable_progress_bar()
HMGRLForZeroShotTyping.from_pretrained(folder)
whole = (folder / "config.json").read_text()
for part, field, value in cases:
    content = json.loads(whole)
    (content[part] if part else content)[field] = value
    (folder / "config.json").write_text(json.dumps(content))
    before, begin = peak_megabytes(), time.process_time()
    try:
        HMGRLForZeroShotTyping.from_pretrained(folder)
        error = "loaded"
    except ValueError as caught:
        error = str(caught)
    print(json.dumps([error, time.process_time() - begin, peak_megabytes() - before]))
"""

ABSURD = [
    ("text_config", "num_hidden_layers", 10**7),
    ("text_config", "num_hidden_layers", -1),
    ("text_config", "hidden_size", 10**9),
    ("text_config", "hidden_size", -32),
    ("text_config", "intermediate_size", 10**12),
    ("text_config", "num_attention_heads", 0),
    ("text_config", "vocab_size", 10**10),
    ("text_config", "max_position_embeddings", 10**15),
    ("text_config", "num_labels", 10**9),
    ("text_config", "layer_norm_eps", math.nan),
    ("text_config", "initializer_range", 10**400),
    ("vision_config", "image_size", 200_000),
    ("vision_config", "image_size", [10**9, 10**9]),
    ("vision_config", "num_hidden_layers", 10**7),
    ("vision_config", "patch_size", 0),
    ("vision_config", "num_channels", 10**9),
    ("", "num_labels", 10**9),
    ("", "projection_size", 10**12),
    ("", "bottleneck_size", 10**9),
    ("", "generator_latent_size", -5),
    ("", "calibration_gamma", math.nan),
    ("", "calibration_gamma", math.inf),
    ("", "probability_temperature", 1e-320),
    ("", "squared_radius", 1e300),
    ("", "dropout", math.nan),
    ("", "weight_cvae", math.inf),
    ("", "attn_implementation", "user/kernel"),
    ("text_config", "_attn_implementation", "kernels-community/flash-attn"),
    ("vision_config", "attn_implementation", "flash_attention_2"),
    ("", "experts_implementation", {"text_config": "user/kernel"}),
    ("", "bottleneck_size", "12"),
    ("text_config", "hidden_act", "no such function"),
    ("text_config", "pad_token_id", 10**6),
    # possible, but not the sizes of the weights
    ("text_config", "hidden_size", 65_536),
    ("text_config", "intermediate_size", 1_000_000),
    ("vision_config", "image_size", 4_096),
    ("", "bottleneck_size", 65_536),
]


def test_absurd_configurations_are_refused_at_once(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path), json.dumps(ABSURD), str(HELPERS)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(ABSURD)
    for (part, field, value), (error, seconds, megabytes) in zip(ABSURD, results, strict=True):
        case = f"{part}.{field} = {value}: {error}"
        assert field in error or "of another shape" in error or part in error, case
        assert seconds < SECONDS, case
        assert megabytes < MEGABYTES, case
        assert len(error) < 1000, case


def test_the_auto_class_names_the_field_too(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content["text_config"]["num_hidden_layers"] = 10**7
    (tmp_path / "config.json").write_text(json.dumps(content))
    expected = r"text_config\.num_hidden_layers: got 10000000, expected a number from 1 to 128"
    for load in (AutoConfig.from_pretrained, HMGRLConfig.from_pretrained):
        with pytest.raises(ValueError, match=expected):
            load(tmp_path)


def test_a_kernel_may_be_named_by_the_user_but_not_by_a_file(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(Exception, match=r"user/kernel|`kernels`") as caught:  # not installed
        HMGRLForZeroShotTyping.from_pretrained(tmp_path, attn_implementation="user/kernel")
    assert "configuration file" not in str(caught.value)


def test_an_encoder_that_cannot_be_created_is_named():
    config = tiny_config()
    config.text_config.pad_token_id = 10**6
    with pytest.raises(ValueError, match="text_config: an encoder cannot be created from it"):
        HMGRLForZeroShotTyping(config)
    with pytest.raises(Exception, match=r"text_config\.hidden_size: got -8, expected a number"):
        HMGRLConfig(text_config=tiny_text_config().to_dict() | {"hidden_size": -8})


def test_the_configuration_of_a_backbone_is_checked(tmp_path):
    text, _ = save_backbones(tmp_path)
    path = Path(text) / "config.json"
    content = json.loads(path.read_text())
    for field, value in (("num_hidden_layers", 10**7), ("attn_implementation", "user/kernel")):
        path.write_text(json.dumps(content | {field: value}))
        with pytest.raises(ValueError, match=rf"encoder '.*{field}: got"):
            HMGRLForZeroShotTyping.from_backbones(text)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("max_length", 10**9, "max_length: got 1000000000, expected at most 100000"),
        ("max_length", "64", "max_length: got '64'"),
        ("max_length", -1, "max_length: got -1, expected at least"),
        ("label_max_length", 10**7, "label_max_length: got 10000000"),
        ("label_max_length", math.nan, "label_max_length: got nan"),
        ("size", {"height": 200_000, "width": 200_000}, r"size\.(height|width): got 200000"),
        ("size", {"shortest_edge": -5}, r"size\.shortest_edge: got -5"),
        ("crop_size", {"height": 10**9, "width": 32}, r"crop_size\.height: got 1000000000"),
        ("image_mean", [math.nan] * 3, r"image_mean\[\d\]: got nan, expected a finite number"),
        ("image_std", [0.0, 1.0, 1.0], "image_std: got .*, expected positive numbers"),
        ("rescale_factor", math.inf, "rescale_factor: got inf, expected a finite number"),
    ],
)
def test_absurd_processors_are_refused(field, value, message, tmp_path):
    tiny_processor().save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    content = json.loads(path.read_text())
    (content if "length" in field else content["image_processor"])[field] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        HMGRLProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("pad_token", None), ("extra_special_tokens", 5), ("model_max_length", "x")],
)
def test_absurd_tokenizers_are_refused(field, value, tmp_path):
    tiny_processor().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ValueError, match=r"processor cannot be created|without a padding token"):
        HMGRLProcessor.from_pretrained(tmp_path)
