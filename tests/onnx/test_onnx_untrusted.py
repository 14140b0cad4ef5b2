"""Folders of others: no file outside is read, no code is run; folders of the hub."""

import json

import numpy as np
import onnx
import pytest
import torch
from hub_server import HubServer
from onnx import TensorProto, helper

from modeling_hmgrl.onnx.modeling_onnx import ONNXZeroShotTyping


def graph_with(weight, operator="Add", domain=""):
    """A graph in the place of label_vectors.onnx that adds a weight of 32 numbers."""
    node = helper.make_node(operator, ["encodings", "weight"], ["vectors"], domain=domain)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["labels", 32])
        for name in ("encodings", "vectors")
    ]
    graph = helper.make_graph([node], "graph", ends[:1], ends[1:], [weight])
    opsets = [helper.make_opsetid("", 20)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def elsewhere(location):
    """A weight whose numbers lie in another file."""
    weight = TensorProto(
        name="weight", data_type=TensorProto.FLOAT, dims=[32], data_location=TensorProto.EXTERNAL
    )
    for key, value in (("location", location), ("offset", "0"), ("length", "128")):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    return weight


@pytest.mark.parametrize("way", ["up", "absolute", "link", "memory"])
def test_weights_outside_of_the_folder_are_not_read(way, exported, copy_of, tmp_path):
    folder, secret = copy_of(exported), tmp_path / "secret.bin"
    np.full(32, 7, np.float32).tofile(secret)
    (folder / "link.bin").symlink_to(secret)
    locations = {
        "up": "../secret.bin",
        "absolute": str(secret),
        "link": "link.bin",
        "memory": "*/_ORT_MEM_ADDR_/*",
    }
    onnx.save(graph_with(elsewhere(locations[way])), folder / "label_vectors.onnx")
    with pytest.raises(ValueError, match=r"label_vectors\.onnx: onnxruntime cannot use it"):
        ONNXZeroShotTyping.from_pretrained(folder)


def test_operators_of_others_are_not_run(exported, copy_of):
    folder = copy_of(exported)
    weight = onnx.numpy_helper.from_array(np.ones(32, np.float32), "weight")
    onnx.save(graph_with(weight, "Shell", "evil"), folder / "label_vectors.onnx")
    with pytest.raises(ValueError, match=r"cannot use it .*evil"):
        ONNXZeroShotTyping.from_pretrained(folder)
    onnx.save(graph_with(weight), folder / "label_vectors.onnx")  # else it would have been used
    runner = ONNXZeroShotTyping.from_pretrained(folder)
    assert torch.equal(runner.prepare_labels(torch.zeros(1, 32)), torch.ones(1, 32))


def test_code_beside_the_graphs_is_not_run(exported, copy_of, tmp_path):
    folder, mark = copy_of(exported), tmp_path / "executed"
    (folder / "trap.py").write_text(
        f"from pathlib import Path\nPath({str(mark)!r}).touch()\nclass Trap:\n    pass\n"
    )
    traps = dict.fromkeys(("AutoConfig", "AutoProcessor", "AutoImageProcessor"), "trap.Trap")
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        content = json.loads((folder / name).read_text())
        for part in (content, *(v for v in content.values() if isinstance(v, dict))):
            part["auto_map"] = traps | {"AutoTokenizer": ["trap.Trap", "trap.Trap"]}
        if "image_processor" in content:  # a class that only the folder has
            content["image_processor"]["image_processor_type"] = "Trap"
        (folder / name).write_text(json.dumps(content))
    runner = ONNXZeroShotTyping.from_pretrained(folder, threads=1)
    with pytest.raises(ValueError, match="contains custom code"):
        runner.pipeline()
    assert not mark.exists()


HUB = """
import json, sys
from pathlib import Path
from huggingface_hub import HfApi
from modeling_hmgrl.onnx.modeling_onnx import ONNXZeroShotTyping
folder, api = Path(sys.argv[1]), HfApi()
api.create_repo("me/model", private=True)
url = api.upload_folder(repo_id="me/model", folder_path=str(folder), path_in_repo="onnx")
api.create_tag("me/model", tag="v1", revision=url.oid)
for name in ("trap.py", "onnx/trap.py", "onnx/weights.bin", "onnx/deep/more.json", "other.onnx"):
    api.upload_file(repo_id="me/model", path_or_fileobj=b"raise", path_in_repo=name)
load = ONNXZeroShotTyping.from_pretrained
runner = load("me/model", subfolder="onnx", threads=1)
files = sorted(str(path.relative_to(runner.folder.parent))
               for path in runner.folder.parent.rglob("*") if path.is_file())
tagged = load("me/model", subfolder="onnx", revision="v1", token="x")
result = tagged.pipeline()("anna sees the fox", mention="fox", labels=["animal", "tool"])
errors = {}
for name, options in {
    "root": {}, "revision": {"subfolder": "onnx", "revision": "v7"},
    "token": {"subfolder": "onnx", "token": "wrong", "cache_dir": f"{folder}-other"},
}.items():
    try:
        load("me/model", **options)
    except OSError as error:
        errors[name] = type(error).__name__
print(json.dumps([files, result["scores"], errors]))
"""


def test_from_the_hub(runner, exported, tmp_path):
    with HubServer() as server:
        last = server.run_client(HUB, exported, tmp_path / "home")
    files, scores, errors = json.loads(last)
    assert files == sorted(f"onnx/{path.name}" for path in exported.iterdir())
    wanted = runner.pipeline()("anna sees the fox", mention="fox", labels=["animal", "tool"])
    assert scores == pytest.approx(wanted["scores"], abs=1e-5)
    assert errors == {
        "root": "FileNotFoundError",
        "revision": "RevisionNotFoundError",
        "token": "HfHubHTTPError",
    }
