"""LoRA adapters of PEFT: they are trained beside a frozen encoder and saved as plain weights."""

import pytest
import torch
from tiny_world import (
    tiny_batch,
    tiny_label_sets,
    tiny_model,
    tiny_processor,
    tiny_records,
)
from transformers import pipeline

from modeling_hmgrl import HMGRLForZeroShotTyping, HMGRLTrainer, HMGRLTrainingArguments
from modeling_hmgrl.adapters import has_adapters

peft = pytest.importorskip("peft")
# PEFT calls a method that newer releases of transformers rename.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def adapted(way="wrapped", freeze_text=True, **settings):
    model = tiny_model(vision=False, freeze_text=freeze_text)
    options = {"r": 2, "target_modules": ["query", "value"], "lora_dropout": 0.1} | settings
    config = peft.LoraConfig(**options)
    torch.manual_seed(0)
    if way == "wrapped":
        model.hmgrl.text_model = peft.get_peft_model(model.hmgrl.text_model, config)
    else:
        peft.inject_adapter_in_model(config, model.hmgrl.text_model)
    return model.eval()


def trained(folder, model, **arguments):
    data = tiny_records(48, images=False)
    settings = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-2, "head_learning_rate": 3e-3}
    settings |= {"progress": False, "tracker": "none", "feature_dir": str(folder / "features")}
    trainer = HMGRLTrainer(
        model,
        tiny_processor(use_images=False),
        HMGRLTrainingArguments(str(folder / "run"), **(settings | arguments)),
        tiny_label_sets(),
        data["train"],
        data["validation"],
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("freeze_text", [True, False])
@pytest.mark.parametrize("way", ["wrapped", "injected"])
def test_adapters_get_gradients_and_other_weights_of_the_encoder_do_not(way, freeze_text):
    model = adapted(way, freeze_text).train()
    model.apply_freezing()
    model(**tiny_batch(images=False)).loss.backward()
    reached = {n: p.grad is not None for n, p in model.hmgrl.text_model.named_parameters()}
    assert sum("lora_" in name for name in reached) == 8
    assert all(has == ("lora_" in name) for name, has in reached.items())


@pytest.mark.parametrize("way", ["wrapped", "injected"])
def test_a_run_trains_adapters_and_the_pipeline_loads_the_result(way, tmp_path):
    model = adapted(way)
    names = [n for n, _ in model.named_parameters() if "lora_B" in n]
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    trainer = trained(tmp_path, model)
    parameters = dict(model.named_parameters())
    assert len(names) == 4
    assert all(parameters[name].abs().max() > 0 for name in names)
    frozen = [n for n in before if "text_model" in n and "lora_" not in n]
    assert all(torch.equal(parameters[name], before[name]) for name in frozen)
    assert not has_adapters(trainer.model)  # those of the best epoch, merged
    batch = tiny_batch(images=False)
    loaded = HMGRLForZeroShotTyping.from_pretrained(tmp_path / "run")
    plain = tiny_model(vision=False)
    assert loaded.state_dict().keys() == plain.state_dict().keys()
    changed = "hmgrl.text_model.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(loaded.state_dict()[changed], plain.state_dict()[changed])
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, trainer.model.eval()(**batch).logits)
    pipe = pipeline("multimodal-zero-shot-typing", model=str(tmp_path / "run"))
    assert pipe("the fox", spans=[(4, 7)], labels=["animal", "tool"])["label"]


def test_saving_merges_a_copy_and_leaves_the_adapters(tmp_path):
    model = adapted()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    batch = tiny_batch(images=False)
    model.save_pretrained(tmp_path)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    loaded = HMGRLForZeroShotTyping.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, loaded(**batch).logits)


def test_an_encoder_with_adapters_can_be_passed_to_a_new_model():
    text = adapted().hmgrl.text_model
    state = {name: value.clone() for name, value in text.state_dict().items()}
    model = HMGRLForZeroShotTyping.from_backbones(text, processor=tiny_processor())
    now = model.hmgrl.text_model.state_dict()
    assert all(torch.equal(now[n], value) for n, value in state.items() if "embed" not in n)
    assert sum(p.requires_grad for p in model.hmgrl.text_model.parameters()) == 8


def test_adapters_that_cannot_be_merged_are_refused(tmp_path):
    model = tiny_model(vision=False)
    config = peft.PrefixTuningConfig(num_virtual_tokens=2, task_type="FEATURE_EXTRACTION")
    model.hmgrl.text_model = peft.get_peft_model(model.hmgrl.text_model, config)
    with pytest.raises(ValueError, match="expected adapters that can be merged"):
        model.save_pretrained(tmp_path)
