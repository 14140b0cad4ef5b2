import dataclasses
import json
import typing

import pytest
from tiny_world import tiny_config, tiny_text_config, tiny_vision_config
from transformers import AutoConfig, BertConfig, ViTConfig

from modeling_hmgrl import HMGRLConfig
from modeling_hmgrl.configuration_hmgrl import PAPER_SETTINGS, ZeroShotTypingConfig

# What the library notes about the file itself, for its own configurations as well.
LIBRARY_FIELDS = {"transformers_version", "_name_or_path"}

FAMILIES = {
    "default": {},
    "text only": {"vision": False},
    "paper typing": {"paper": True},
    "paper relation": {"paper": True, "task": "relation"},
    "hyperbolic": {
        "score_function": "geodesic",
        "latent": "wrapped_normal",
        "hvib_layer": "fully_lorentz",
        "hyperbolic_translation": True,
    },
    "after training": {
        "calibration_gamma": 0.25,
        "seen_labels": ["animal", "fête", "动物"],
        "generator_labels": [],
        "label_texts": {"animal": "a living being"},
        "freeze_text": True,
    },
}


def own_fields():
    return [name for name in HMGRLConfig.field_names() if not name.endswith("_config")]


@pytest.mark.parametrize("settings", FAMILIES.values(), ids=FAMILIES)
def test_round_trip_keeps_every_field(settings, tmp_path):
    config = tiny_config(**settings)
    config.save_pretrained(tmp_path)
    for loaded in (
        HMGRLConfig.from_pretrained(tmp_path),
        AutoConfig.from_pretrained(tmp_path),
        HMGRLConfig.from_dict(config.to_dict()),
    ):
        assert type(loaded) is HMGRLConfig
        before, after = config.to_dict(), loaded.to_dict()
        for name in LIBRARY_FIELDS:
            before.pop(name, None), after.pop(name, None)
        assert before == after
        for name in own_fields():
            assert getattr(loaded, name) == getattr(config, name), name
        assert type(loaded.text_config) is BertConfig
        if config.vision_config is None:
            assert loaded.vision_config is None
        else:
            assert type(loaded.vision_config) is ViTConfig


def test_two_configs_loaded_from_one_file_are_equal(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    assert HMGRLConfig.from_pretrained(tmp_path) == HMGRLConfig.from_pretrained(tmp_path)
    changed = HMGRLConfig.from_pretrained(tmp_path, calibration_gamma=1.0)
    assert changed != HMGRLConfig.from_pretrained(tmp_path)
    assert changed.calibration_gamma == 1.0


def test_sub_configs_may_be_given_as_dicts():
    text, vision = tiny_text_config(), tiny_vision_config()
    config = HMGRLConfig(text_config=text.to_dict(), vision_config=vision.to_dict())
    assert isinstance(config.text_config, BertConfig)
    assert config.text_config.hidden_size == text.hidden_size
    assert isinstance(config.vision_config, ViTConfig)
    assert config.vision_config.hidden_size == vision.hidden_size


def test_a_saved_file_is_plain_json_and_names_the_code(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert content["model_type"] == "hmgrl"
    assert content["auto_map"]["AutoConfig"] == "configuration_hmgrl.HMGRLConfig"


# Ranges: each entry is a field, a value it must refuse, and words of the message.
REFUSED = [
    ("squared_radius", 0, "positive"),
    ("squared_radius", -1.0, "positive"),
    ("squared_radius", float("nan"), "positive"),
    ("temperature_init", 0.0, "positive"),
    ("bottleneck_size", 0, "2 or more"),
    ("bottleneck_size", 1, "2 or more"),
    ("generator_latent_size", 1, "2 or more"),
    ("generator_latent_size", -3, "2 or more"),
    ("projection_size", 0, "positive number or None"),
    ("dropout", 1.0, "[0, 1)"),
    ("dropout", -0.1, "[0, 1)"),
    ("ranking_margin", -1, "0 or more"),
    ("calibration_gamma", -0.5, "0 or more"),
    ("calibration_gamma", float("nan"), "0 or more"),
    ("generator_kl_weight", -1, "0 or more"),
    *((f"weight_{name}", -0.1, "0 or more") for name in (
        "classification", "bottleneck", "contrastive", "cvae", "unseen", "alignment",
    )),
    # refused by type
    ("task", "tagging", "typing"),
    ("score_function", "euclid", "cosine"),
    ("classification_loss", "hinge", "cross_entropy"),
    ("attention", "none", "additive"),
    ("span_pooling", "max", "marker"),
    ("alignment", "off", "positive_part"),
    ("contrast_function", "l2", "cosine"),
    ("projection_init", "zero", "similarity"),
    ("generator_draws", "all", "averaged"),
    ("generator_condition", "text", "mention"),
    ("generator_input", "scaled", "normalized"),
    ("hvib_layer", "poincare", "fully_lorentz"),
    ("hmcvae_layer", "poincare", "fully_lorentz"),
    ("latent", "uniform", "wrapped_normal"),
    ("mask_padding", "yes", "bool"),
    ("bottleneck_size", 12.5, "int"),
    ("weight_cvae", "1", "float"),
    ("seen_labels", "animal", "list"),
    ("seen_labels", [1], "str"),
    ("label_texts", {"animal": 3}, "str"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value", "expectation"), REFUSED)
def test_a_refused_value_is_named_with_what_was_expected(field, value, expectation):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the library wraps some of ours
        tiny_config(**{field: value})
    message = f"{caught.value} {caught.value.__cause__}"
    assert field in message
    assert expectation in message
    if not isinstance(value, list | dict):
        assert str(value) in message or "2 or more" in expectation


@pytest.mark.parametrize(
    ("field", "value"),
    [("calibration_gamma", 0), ("dropout", 0), ("weight_unseen", 0), ("squared_radius", 2),
     ("projection_size", None), ("bottleneck_size", 2), ("ranking_margin", 0)],
)  # fmt: skip
def test_a_value_at_the_edge_is_taken(field, value):
    assert getattr(tiny_config(**{field: value}), field) == value


def test_learnt_point_and_learnt_radius_do_not_go_together():
    with pytest.raises(Exception, match="hyperbolic_translation and learnable_curvature"):
        tiny_config(hyperbolic_translation=True, learnable_curvature=True)


@pytest.mark.parametrize("spans", [("typing", 1), ("relation", 2)])
def test_widths_follow_task_and_encoder(spans):
    task, count = spans
    config = tiny_config(task)
    assert (config.num_spans, config.text_width) == (count, 32)
    assert config.representation_size == (count + 2) * 32


def test_text_of_a_label_is_its_name_unless_given():
    config = tiny_config(label_texts={"/per/org": "person works for organization"})
    assert config.text_of("/per/org") == "person works for organization"
    assert config.text_of("/org/loc") == "/org/loc"
    assert tiny_config().text_of("/per/org") == "/per/org"


@pytest.mark.parametrize(("task", "weight"), [("typing", 10.0), ("relation", 1.0)])
def test_the_papers_switch_sets_every_documented_field(task, weight):
    config = HMGRLConfig.paper(task, text_config=tiny_text_config())
    assert config.task == task
    assert config.weight_unseen == config.weight_alignment == weight
    for name, value in PAPER_SETTINGS.items():
        assert getattr(config, name) == value, name
    # What the class documents as the paper's is what the switch sets.
    assert (config.score_function, config.classification_loss) == ("dot", "ranking")
    assert (config.attention, config.span_pooling) == ("additive", "marker")
    assert (config.mask_padding, config.residual_bottleneck) == (False, False)
    assert (config.generator_draws, config.generator_condition) == ("averaged", "mention")
    assert config.generator_kl_weight == 1.0
    # Switches between named ways are all decided by it, whichever way is the default.
    hints = ZeroShotTypingConfig.__annotations__ | HMGRLConfig.__annotations__
    named = {
        field.name
        for field in dataclasses.fields(HMGRLConfig)
        if typing.get_origin(hints.get(field.name)) is typing.Literal
    }
    assert named - {"task"} <= set(PAPER_SETTINGS)


def test_an_override_of_the_papers_switch_wins():
    config = HMGRLConfig.paper(
        "relation",
        text_config=tiny_text_config(),
        hvib_layer="euclidean",
        weight_unseen=0.0,
        projection_size=None,
    )
    assert (config.hvib_layer, config.weight_unseen) == ("euclidean", 0.0)
    assert config.projection_size is None
    assert config.weight_alignment == 1.0


def test_the_papers_switch_refuses_an_unknown_task():
    with pytest.raises(ValueError, match=r"task: got 'tagging', expected one of .*relation"):
        HMGRLConfig.paper("tagging")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature_init": 0.005}, "temperature_init: got 0.005, expected 0.01 or more"),
        (
            {"learnable_curvature": True, "squared_radius": 20.0},
            "squared_radius: got 20.0 with learnable_curvature, expected a number from 0.1 to 10",
        ),
    ],
)
def test_initial_values_beyond_their_bound_are_refused(settings, message):
    with pytest.raises(Exception, match=message):
        tiny_config(**settings)
    assert tiny_config(temperature_init=0.01, squared_radius=20.0).squared_radius == 20.0
