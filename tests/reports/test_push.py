"""A run is pushed to the Hub and loaded from it, with the real client and a local server."""

import json
import re
from shutil import copytree

import pytest
import torch
from hub_server import HubServer
from huggingface_hub import ModelCard, parse_eval_result_entries
from safetensors.torch import load
from tiny_world import tiny_label_sets, tiny_method, tiny_model, tiny_processor, tiny_records
from yaml import safe_load

from modeling_hmgrl import (
    HMGRLForZeroShotTyping,
    HMGRLTrainer,
    HMGRLTrainingArguments,
    ZeroShotTypingPipeline,
)
from modeling_hmgrl.reports.push import push_run

WEIGHT = "hmgrl.fusion.key.weight"

PUSH = """
import json, sys
from pathlib import Path
import torch
from huggingface_hub import HfApi
from modeling_hmgrl import HMGRLForZeroShotTyping, HMGRLProcessor, ZeroShotTypingPipeline
from modeling_hmgrl.reports.push import push_run
folder, api, refused = Path(sys.argv[1]), HfApi(), {}

def refusal(name, *args, **options):
    try:
        push_run(*args, **options)
        refused[name] = "it was pushed"
    except (OSError, ValueError) as error:
        refused[name] = f"{type(error).__name__}: {error}"

refusal("unfinished", folder.parent, "me/unfinished")
refusal("no user", folder, "model")
refusal("wrong token", folder, "me/model", token="wrong")
refusal("reader", folder, "me/model", token="reader")
refusal("of another", folder, "you/model")
urls = [push_run(folder, "me/model")]
first = urls[0].rsplit("/", 1)[1]
api.create_tag("me/model", tag="v1", revision=first)
api.create_branch("me/model", branch="old", revision=first)
# What is left of a checkpoint of another form must not be loaded in the place of the new one.
api.upload_file(
    repo_id="me/model", path_or_fileobj=b"{}", path_in_repo="old.safetensors.index.json"
)
model = HMGRLForZeroShotTyping.from_pretrained(folder)
with torch.no_grad():
    model.hmgrl.fusion.key.weight += 1
model.save_pretrained(folder)
urls.append(push_run(folder, "me/model", dataset="me/things"))
pipe = ZeroShotTypingPipeline(model, HMGRLProcessor.from_pretrained(folder))
pipe.push_to_hub("me/pipe", private=True)
model.push_to_hub("me/alone")
print(json.dumps({"urls": urls, "refused": refused}))
"""

LOAD = """
import json, sys
import torch
from transformers import AutoModel, AutoProcessor, pipeline
import modeling_hmgrl
from modeling_hmgrl.pipeline_hmgrl import TASK, ZeroShotTypingPipeline
first, card = json.loads(open(sys.argv[1] + "/first.json").read())
found = {}
for revision in (None, first, "v1", "old"):
    pipe = pipeline(TASK, model="me/model", revision=revision)
    assert type(pipe) is ZeroShotTypingPipeline
    found[str(revision)] = pipe.model.hmgrl.fusion.key.weight.sum().item()
for name, options in {
    "absent": {"model": "me/absent"},
    "absent revision": {"model": "me/model", "revision": "v2"},
    "wrong token": {"model": "me/pipe", "token": "wrong"},
    "no token": {"model": "me/pipe", "token": False},
}.items():
    try:
        pipeline(TASK, **options)
        found[name] = "it was loaded"
    except Exception as error:
        found[name] = f"{type(error).__name__}: {error}"
assert type(AutoModel.from_pretrained("me/alone")) is modeling_hmgrl.HMGRLForZeroShotTyping
exec(card)
found["card"] = result
print(json.dumps(found))
"""

REMOTE = """
import json, os, sys
from pathlib import Path
from transformers import AutoModel, pipeline
found, task = {}, "multimodal-zero-shot-typing"
card, inputs = json.loads(Path("remote.json").read_text())
modules = Path(os.environ["HF_HOME"]) / "modules"
for options in ({}, {"trust_remote_code": False}):
    try:
        pipeline(task, model="me/pipe", **options)
        raise SystemExit("code was run without trust")
    except ValueError as error:
        assert "trust_remote_code" in str(error), error
assert not list(modules.rglob("*hmgrl*.py")), list(modules.rglob("*hmgrl*.py"))
exec(card)
found["card"] = result
pipe = pipeline(task, model="me/pipe", trust_remote_code=True)
assert type(pipe).__module__.startswith("transformers_modules."), type(pipe).__module__
found["result"] = pipe(**inputs)
old = pipeline(task, model="me/model", revision="v1", trust_remote_code=True)
found["old"] = old.model.hmgrl.fusion.key.weight.sum().item()
pipe.save_pretrained("again")
found["again"] = pipeline(task, model="again", trust_remote_code=True)(**inputs)
alone = AutoModel.from_pretrained("me/alone", trust_remote_code=True)
assert type(alone).__module__.startswith("transformers_modules."), type(alone).__module__
found["files"] = sorted(file.name for file in modules.rglob("*.py"))
assert not {"modeling_hmgrl", "datasets", "accelerate", "geoopt"} & set(sys.modules)
print(json.dumps(found))
"""

ARGUMENTS = {"text": "boris sees the fox", "mention": "fox", "labels": ["animal", "tool", "plum"]}


def code_blocks(card):
    return re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a finished run, with things beside it that are nobody's business."""
    home = tmp_path_factory.mktemp("secret-home")
    data, folder = tiny_records(24), home / "run"
    arguments = HMGRLTrainingArguments(
        str(folder), epochs=1, tracker="none", progress=False, feature_dir=str(home / "features")
    )
    model = tiny_model()
    model.config.text_config.name_or_path = str(home / "my-encoder")
    note = {"count": 1, "examples": [{"file": str(home), "line": 1, "detail": "private words"}]}
    HMGRLTrainer(
        model, tiny_processor(), arguments, tiny_label_sets(),
        data["train"], data["validation"], data["test"],
        {"source": "tiny", "notes": {"odd": note}},
    ).train()  # fmt: skip
    (folder / "logs").mkdir(exist_ok=True)
    (folder / "logs" / "events").write_text("stays at home")
    (folder / "notes.txt").write_text("stays at home")
    return folder


@pytest.fixture(scope="module")
def pushed(run, tmp_path_factory):
    """The server after the pushes, what the client said, and the first commit's weights."""
    weights = HMGRLForZeroShotTyping.from_pretrained(run).state_dict()[WEIGHT]
    with HubServer() as server:
        said = json.loads(server.run_client(PUSH, run, tmp_path_factory.mktemp("push")))
        yield server, said, weights


def test_a_push_is_one_commit_and_a_second_push_another(pushed):
    server, said, weights = pushed
    repository = server.repositories["me/model"]
    assert repository.commits[::2] == ["hmgrl, typing, seed 0"] * 2
    first, second = (url.rsplit("/", 1)[1] for url in said["urls"])
    before, after = repository.snapshots[first], repository.snapshots[second]
    for files in (before, after):
        wanted = {"README.md", "config.json", "model.safetensors", "report.json", "tokenizer.json",
                  "processor_config.json", "pipeline_hmgrl.py", "modeling_hmgrl.py"}  # fmt: skip
        assert wanted <= set(files)
    assert torch.equal(load(before["model.safetensors"])[WEIGHT], weights)
    assert torch.equal(load(after["model.safetensors"])[WEIGHT], weights + 1)
    assert "old.safetensors.index.json" not in after


def test_nothing_of_the_machine_is_pushed(pushed, run):
    server, _, _ = pushed
    for name in ("me/model", "me/pipe", "me/alone"):
        repository = server.repositories[name]
        files = repository.snapshots[repository.references["main"]]
        assert not {"notes.txt", "logs/events", "run.json"} & set(files)
        for secret in (b"secret-home", b"private words", b"stays at home"):
            assert not [file for file, content in files.items() if secret in content]
    report, config = (
        json.loads(server.files["report.json"]),
        json.loads(server.files["config.json"]),
    )
    assert report["data"]["notes"] == {"odd": {"count": 1}}
    assert report["encoders"]["text"] == "my-encoder"
    assert report["base_models"] == []
    assert config["text_config"]["_name_or_path"] == "./my-encoder"


def test_only_the_code_that_loading_needs_travels(pushed, run):
    server, _, _ = pushed
    code = {name for name in server.files if name.endswith(".py")}
    assert {file.name for file in run.glob("*.py")} == code  # so the run's own folder works too
    assert not code & {"trainer.py", "reporting.py", "card.py", "features.py", "evaluation.py"}
    for name in ("me/pipe", "me/alone"):
        repository = server.repositories[name]
        files = repository.snapshots[repository.references["main"]]
        assert {file for file in files if file.endswith(".py")} >= code - {"processing_hmgrl.py"}


def test_scores_are_pushed_as_results_where_the_data_are_on_the_hub(pushed):
    server, said, _ = pushed
    repository = server.repositories["me/model"]
    first, second = (url.rsplit("/", 1)[1] for url in said["urls"])
    assert ".eval_results/hmgrl.yaml" not in repository.snapshots[first]
    card = ModelCard(repository.snapshots[first]["README.md"].decode())
    assert len(card.data.eval_results) == 7
    files = repository.snapshots[second]
    entries = parse_eval_result_entries(safe_load(files[".eval_results/hmgrl.yaml"]))
    report = json.loads(files["report.json"])
    values = {entry.task_id: entry.value for entry in entries}
    assert values["overall_f1"] == round(100 * report["test"]["overall"]["f1"], 2)
    assert values["ausuc"] == round(100 * report["test"]["ausuc"], 2)
    assert len(entries) == 7
    for entry in entries:
        assert entry.dataset_id == "me/things"
        assert entry.source_url == f"{server.url}/me/model/blob/main/report.json"
        assert "class-transductive; seed 0; gamma" in entry.notes
    card = ModelCard(files["README.md"].decode())
    assert card.data.eval_results is None
    assert card.data.datasets == ["me/things"]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("unfinished", "FileNotFoundError: .*holds no report.json, expected a finished run"),
        ("no user", "ValueError: repo_id: got 'model', expected 'user/name'"),
        ("wrong token", "401.*Invalid credentials"),
        ("reader", "403.*rights to create a model"),
        ("of another", "403.*rights to create.*you/model"),
    ],
)
def test_a_push_that_cannot_be_is_refused_with_its_reason(pushed, case, message):
    server, said, _ = pushed
    assert re.search(message, said["refused"][case], flags=re.DOTALL), said["refused"][case]
    assert set(server.repositories) == {"me/model", "me/pipe", "me/alone"}


def test_a_push_that_breaks_off_leaves_what_was_there(pushed, run, tmp_path):
    server, _, _ = pushed
    before = dict(server.repositories["me/model"].references)
    server.refuse_commits = True
    try:
        said = server.run_client(
            "import sys\nfrom modeling_hmgrl.reports.push import push_run\n"
            "try:\n    push_run(sys.argv[1], 'me/model')\n"
            "except OSError as error:\n    print(' '.join(str(error).split()))",
            run, tmp_path,
        )  # fmt: skip
    finally:
        server.refuse_commits = False
    assert "Storage limit reached" in said
    assert server.repositories["me/model"].references == before


def test_loading_with_the_package_at_any_revision(pushed, tmp_path):
    server, said, weights = pushed
    first = said["urls"][0].rsplit("/", 1)[1]
    card = code_blocks(server.files["README.md"].decode())[0]
    assert "trust" not in card
    (tmp_path / "first.json").write_text(json.dumps([first, card]))
    found = json.loads(server.run_client(LOAD, tmp_path, tmp_path / "home"))
    assert found["None"] == pytest.approx((weights + 1).sum().item(), abs=1e-3)
    for revision in (first, "v1", "old"):
        assert found[revision] == pytest.approx(weights.sum().item(), abs=1e-3)
    assert found["card"]["label"] in ("baked goods", "public transport", "legal document")
    assert "me/absent" in found["absent"]
    assert "v2" in found["absent revision"]
    for case in ("wrong token", "no token"):
        assert re.search("401|private|credentials|token", found[case]), found[case]


def test_loading_without_the_package(pushed, run, tmp_path):
    server, _, weights = pushed
    card = code_blocks(server.files["README.md"].decode())[1]
    inputs = {"inputs": ARGUMENTS["text"]} | {k: v for k, v in ARGUMENTS.items() if k != "text"}
    (tmp_path / "remote.json").write_text(json.dumps([card, inputs]))
    absent = ("modeling_hmgrl", "dataset_scripts", "hmgrl", "geoopt", "datasets", "accelerate",
              "evaluate")  # fmt: skip
    found = json.loads(server.run_client(REMOTE, tmp_path, tmp_path / "home", without=absent))
    model = HMGRLForZeroShotTyping.from_pretrained(run)
    expected = ZeroShotTypingPipeline(model, tiny_processor())(**inputs)
    for result in (found["result"], found["again"]):
        assert result["labels"] == expected["labels"]
        assert result["scores"] == pytest.approx(expected["scores"], abs=1e-4)
    assert found["card"]["label"] in ("baked goods", "public transport", "legal document")
    assert found["old"] == pytest.approx(weights.sum().item(), abs=1e-3)
    assert {"pipeline_hmgrl.py", "label_cache.py"} <= set(found["files"])


OTHER_METHOD = """
import json, sys
from pathlib import Path
from modeling_hmgrl.reports.push import push_run
push_run(Path(sys.argv[1]), "me/proto")
print("{}")
"""

LOAD_OTHER_METHOD = """
import json, sys
from pathlib import Path
from transformers import AutoModel
for block in json.loads(Path(sys.argv[1], "blocks.json").read_text()):
    exec(block)
assert type(AutoModel.from_pretrained("me/proto")) is ProtoForZeroShotTyping
print(json.dumps([type(model).__name__, result["labels"]]))
"""


def test_another_method_is_pushed_and_loaded_as_its_card_says(tmp_path):
    data, folder = tiny_records(24, images=False), tmp_path / "run"
    arguments = HMGRLTrainingArguments(str(folder), epochs=1, tracker="none", progress=False)
    HMGRLTrainer(
        tiny_method("proto"), tiny_processor(use_images=False), arguments, tiny_label_sets(),
        data["train"], data["validation"], data["test"], method="proto",
    ).train()  # fmt: skip
    with HubServer() as server:
        server.run_client(OTHER_METHOD, folder, tmp_path / "push")
        assert "modeling_hmgrl.py" not in server.files
        blocks = code_blocks(server.files["README.md"].decode())
        assert len(blocks) == 2
        (tmp_path / "blocks.json").write_text(json.dumps(blocks))
        kind, labels = json.loads(server.run_client(LOAD_OTHER_METHOD, tmp_path, tmp_path / "load"))
        assert server.repositories["me/proto"].commits[0] == "proto, typing, seed 0"
    assert kind == "ProtoForZeroShotTyping"
    assert set(labels) == {"baked goods", "public transport", "legal document"}


def test_push_needs_a_finished_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no report\.json"):
        push_run(tmp_path, "me/model")
    (tmp_path / "report.json").write_text("{half")
    with pytest.raises(ValueError, match=r"report\.json: expected JSON"):
        push_run(tmp_path, "me/model")


def test_a_report_of_another_model_is_not_pushed(run, tmp_path):
    folder = tmp_path / "run"
    copytree(run, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"calibration_gamma": 0.123}))
    with pytest.raises(ValueError, match=r"report\.json has gamma .*, the model 0\.123"):
        push_run(folder, "me/model")
