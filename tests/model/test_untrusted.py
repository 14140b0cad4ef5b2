"""Checkpoints of strangers: remote code, poisoned configurations, pickles."""

import json
import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_world import tiny_model, tiny_processor
from transformers import AutoModel, BertModel, pipeline

from modeling_hmgrl import HMGRLForZeroShotTyping, HMGRLModel, ZeroShotTypingPipeline
from modeling_hmgrl.pipeline_hmgrl import TASK

REMOTE = """
import importlib.abc, json, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Absent())
try:
    import modeling_hmgrl
    raise SystemExit("the package is importable")
except ModuleNotFoundError:
    pass
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline
trust = {trust!r}
options = {{}} if trust is None else {{"trust_remote_code": trust}}
config = AutoConfig.from_pretrained({folder!r}, **options)
processor = AutoProcessor.from_pretrained({folder!r}, **options)
model = AutoModel.from_pretrained({folder!r}, **options)
assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
batch = processor("boris sees the fox", [[15, 18]], labels=["animal", "tool"])
with torch.no_grad():
    logits = model(**batch).logits
pipe = pipeline("multimodal-zero-shot-typing", model={folder!r}, **options)
assert type(pipe).__module__.startswith("transformers_modules."), type(pipe).__module__
scores = pipe("boris sees the fox", mention="fox", labels=["animal", "tool"], top_k=None)["scores"]
pipe.save_pretrained("again")
pipe = pipeline("multimodal-zero-shot-typing", model="./again", trust_remote_code=True)
again = pipe("boris sees the fox", mention="fox", labels=["animal", "tool"], top_k=None)["scores"]
assert again == scores, (again, scores)
frozen = not any(p.requires_grad for p in model.hmgrl.vision_model.parameters())
print(json.dumps({{"logits": logits.tolist(), "frozen": frozen, "task": config.task,
                  "scores": scores}}))
"""


def run_remote(folder, tmp_path, trust, absent=("modeling_hmgrl",)):
    code = REMOTE.format(folder=str(folder), trust=trust, absent=absent)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PYTHON"))}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-I", "-c", code],
        cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=120, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture
def shared_folder(tmp_path):
    folder = tmp_path / "shared-model"
    model, processor = tiny_model(), tiny_processor()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    batch = processor("boris sees the fox", [[15, 18]], labels=["animal", "tool"])
    with torch.no_grad():
        return folder, model(**batch).logits


def test_remote_code_loads_where_the_package_is_absent(shared_folder, tmp_path):
    folder, logits = shared_folder
    done = run_remote(folder, tmp_path, trust=True)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert torch.allclose(torch.tensor(result["logits"]), logits, atol=1e-6)
    assert result["scores"] == pytest.approx(sorted(logits[0].tolist(), reverse=True), abs=1e-4)
    assert result["frozen"]
    assert result["task"] == "typing"


def test_remote_code_needs_no_library_of_training(shared_folder, tmp_path):
    absent = ("modeling_hmgrl", "geoopt", "evaluate")
    done = run_remote(shared_folder[0], tmp_path, trust=True, absent=absent)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("trust", [False, None])
def test_remote_code_needs_trust(shared_folder, tmp_path, trust):
    done = run_remote(shared_folder[0], tmp_path, trust=trust)
    assert done.returncode != 0
    assert "trust_remote_code" in done.stderr
    assert not list((tmp_path / "hf").rglob("modeling_hmgrl.py"))


@pytest.fixture
def trap(tmp_path):
    """A folder whose code, if run, leaves a mark."""
    folder, mark = tmp_path / "trap", tmp_path / "executed"
    folder.mkdir()
    (folder / "trap.py").write_text(
        f"from pathlib import Path\nPath({str(mark)!r}).touch()\n"
        "from transformers import BertConfig, BertModel\n"
        "class TrapConfig(BertConfig):\n    model_type = 'bert'\n"
        "class TrapModel(BertModel):\n    config_class = TrapConfig\n"
    )
    return folder, mark


@pytest.mark.parametrize("model_type", ["bert", "unheard-of"])
def test_keys_inside_a_sub_config_execute_nothing(model_type, trap, tmp_path):
    folder, mark = trap
    path = tmp_path / "model"
    tiny_model().save_pretrained(path)
    config = json.loads((path / "config.json").read_text())
    poison = {
        "trust_remote_code": True,
        "auto_map": {
            "AutoConfig": f"{folder}--trap.TrapConfig",
            "AutoModel": f"{folder}--trap.TrapModel",
        },
        "_name_or_path": str(folder),
        "model_type": model_type,
    }
    config["text_config"] |= poison
    (path / "config.json").write_text(json.dumps(config))
    for load in (
        AutoModel.from_pretrained,
        # even where the model's own code is trusted
        partial(HMGRLForZeroShotTyping.from_pretrained, trust_remote_code=True),
    ):
        if model_type == "bert":
            assert type(load(path).hmgrl.text_model) is BertModel
        else:
            with pytest.raises((ValueError, KeyError), match=model_type):
                load(path)
    assert not mark.exists()


def test_a_pipeline_that_a_checkpoint_names_executes_nothing(trap, tmp_path):
    """The installed package has its own, whatever the checkpoint says and also if it is trusted."""
    folder, mark = trap
    path = tmp_path / "model"
    tiny_model().save_pretrained(path)
    tiny_processor().save_pretrained(path)
    (path / "trap.py").write_text((folder / "trap.py").read_text())
    config = json.loads((path / "config.json").read_text())
    assert TASK in config["custom_pipelines"]
    named = {"impl": "trap.TrapModel", "pt": ["AutoModel"]}
    config["custom_pipelines"] = {TASK: named, "text-classification": named}
    (path / "config.json").write_text(json.dumps(config))
    for options in ({}, {"trust_remote_code": False}, {"trust_remote_code": True}):
        assert type(pipeline(TASK, model=path, **options)) is ZeroShotTypingPipeline
    assert not mark.exists()


class Mark:
    """Leaves a mark when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickled_checkpoint_is_refused_unless_asked_for(tmp_path):
    folder, mark = tmp_path / "model", tmp_path / "executed"
    tiny_model().save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    for load in (HMGRLForZeroShotTyping, HMGRLModel, AutoModel):
        with pytest.raises(OSError, match=r"model\.safetensors"):
            load.from_pretrained(folder)
    model = HMGRLForZeroShotTyping.from_pretrained(folder, use_safetensors=False)
    assert torch.equal(
        model.state_dict()["hmgrl.fusion.key.weight"], state["hmgrl.fusion.key.weight"]
    )
    torch.save(state | {"more": Mark(mark)}, folder / "pytorch_model.bin")
    with pytest.raises(pickle.UnpicklingError):
        HMGRLForZeroShotTyping.from_pretrained(folder, use_safetensors=False)
    assert not mark.exists()


def test_a_shard_index_names_files_of_its_folder(tmp_path):
    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder, max_shard_size="20kB")
    [index] = folder.glob("*.index.json")
    assert tiny_model().from_pretrained(folder) is not None
    content = json.loads(index.read_text())
    stolen = folder / content["weight_map"]["scorer.log_scale"]
    (tmp_path / "stolen.safetensors").write_bytes(stolen.read_bytes())
    for name in ("../stolen.safetensors", str(tmp_path / "stolen.safetensors")):
        content["weight_map"]["scorer.log_scale"] = name
        index.write_text(json.dumps(content))
        with pytest.raises(ValueError, match="expected a file of the same folder"):
            tiny_model().from_pretrained(folder)
        with pytest.raises(ValueError, match="expected a file of the same folder"):
            HMGRLForZeroShotTyping.from_pretrained(pretrained_model_name_or_path=folder)
    index.write_text('{"weight_map": []}')
    with pytest.raises(ValueError, match="expected JSON with a weight_map"):
        tiny_model().from_pretrained(folder)
