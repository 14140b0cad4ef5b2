"""A run is pushed to the Hub and loaded from it, with the real client and a local server."""

from hub_server import HubServer
from tiny_world import tiny_label_sets, tiny_model, tiny_processor, tiny_records

from modeling_hmgrl import HMGRLTrainer, HMGRLTrainingArguments

PUSH = """
import sys
from modeling_hmgrl.card import push_run
print(push_run(sys.argv[1], "me/model"))
"""
LOAD = """
import sys
import torch
from transformers import AutoModel
import modeling_hmgrl
from transformers import pipeline
from modeling_hmgrl.pipeline_hmgrl import TASK
pipe = pipeline(TASK, model="me/model")
local = pipeline(TASK, model=sys.argv[1]).model.state_dict()
state = pipe.model.state_dict()
assert all(torch.equal(value, state[name]) for name, value in local.items())
assert type(AutoModel.from_pretrained("me/model")) is type(pipe.model)
print(pipe("ada sees the plum", mention="plum", labels=["fruit", "tool"])["label"])
"""


def test_push_and_load(tmp_path):
    data, folder = tiny_records(24), tmp_path / "run"
    arguments = HMGRLTrainingArguments(
        str(folder), epochs=1, tracker="none", progress=False, feature_dir=str(tmp_path / "f")
    )
    HMGRLTrainer(
        tiny_model(), tiny_processor(), arguments, tiny_label_sets(),
        data["train"], data["validation"], data["test"], {"source": "tiny"},
    ).train()  # fmt: skip
    (folder / "logs").mkdir(exist_ok=True)
    (folder / "logs" / "events").write_text("stays at home")
    with HubServer() as server:
        url = server.run_client(PUSH, folder, tmp_path / "push_home")
        assert url.startswith(server.url)
        assert server.commits == ["hmgrl, typing, seed 0"]
        wanted = {"README.md", "config.json", "model.safetensors", "report.json", "tokenizer.json"}
        assert wanted <= set(server.files)
        assert "logs/events" not in server.files
        card = server.files["README.md"].decode()
        assert card.startswith("---\n")
        assert 'from_pretrained("me/model")' in card
        assert "hmgrl" in card
        assert server.run_client(LOAD, folder, tmp_path / "load_home") in ("fruit", "tool")
