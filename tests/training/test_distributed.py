"""Two processes compute what one does: the same batches, losses, weights and metrics."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file

SCRIPT = Path(__file__).parents[1] / "helpers" / "run_tiny.py"


def run(folder, processes, *options, expected=0, **arguments):
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
    command = [*start, str(SCRIPT), str(folder), *options, "--arguments", json.dumps(arguments)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, timeout=300
    )
    assert done.returncode == expected, done.stderr[-3000:]
    return json.loads((folder / "report.json").read_text()) if not expected else {}


def difference(one, two):
    one, two = (load_file(folder / "model.safetensors") for folder in (one, two))
    assert one.keys() == two.keys()
    # An attention key's bias cancels in the softmax: its gradient is rounding alone, to which Adam
    # gives the size of any other.
    names = [name for name in one if not name.endswith("key.bias")]
    return max((one[name].double() - two[name].double()).abs().max().item() for name in names)


def test_two_processes_equal_one(tmp_path):
    options = ["--constant-noise", "--dtype", "float64"]
    settings = {"epochs": 2, "learning_rate": 1e-3, "head_learning_rate": 1e-3}
    one = run(tmp_path / "one", 1, *options, batch_size=16, **settings)
    two = run(tmp_path / "two", 2, *options, batch_size=8, **settings)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert difference(tmp_path / "one", tmp_path / "two") < 1e-9
    for split in ("validation", "test"):
        for part in ("seen", "unseen", "overall"):
            assert one[split][part] == pytest.approx(two[split][part])
    assert one["images_used"]


def test_accumulated_batches_equal_one_but_for_contrast(tmp_path):
    settings = {"epochs": 1, "learning_rate": 1e-3, "head_learning_rate": 1e-3}
    one = run(tmp_path / "one", 1, "--constant-noise", batch_size=16, **settings)
    parts = {"batch_size": 4, "gradient_accumulation_steps": 2}
    two = run(tmp_path / "two", 2, "--constant-noise", **parts, **settings)
    assert [epoch["step"] for epoch in one["history"]] == [e["step"] for e in two["history"]]
    # Negatives of the contrast are those of one batch over all processes, not of the whole step.
    assert 1e-5 < difference(tmp_path / "one", tmp_path / "two") < 0.1


def test_two_processes_resume_to_the_bit(tmp_path):
    settings = {"epochs": 2, "save_steps": 2}
    run(tmp_path / "whole", 2, **settings)
    kill = ["--kill-step", "4"]
    run(tmp_path / "cut", 2, *kill, expected=1, **settings)
    assert not (tmp_path / "cut" / "report.json").exists()
    run(tmp_path / "cut", 2, resume=True, **settings)
    assert difference(tmp_path / "whole", tmp_path / "cut") == 0


def test_sharded_weights_are_those_of_whole_ones(tmp_path):
    run(tmp_path / "whole", 2, "--constant-noise", epochs=1)
    run(tmp_path / "sharded", 2, "--constant-noise", "--fsdp", epochs=1)
    assert difference(tmp_path / "whole", tmp_path / "sharded") < 1e-6
    names = [{p.name for p in (tmp_path / n).iterdir()} for n in ("whole", "sharded")]
    assert names[0] == names[1]


def test_weights_sharded_with_a_bfloat16_policy_train_as_float32_does(tmp_path):
    options = ["--constant-noise", "--fsdp"]
    run(tmp_path / "float32", 2, *options, epochs=1)
    report = run(tmp_path / "bfloat16", 2, *options, "--bfloat16", epochs=1)
    apart = difference(tmp_path / "float32", tmp_path / "bfloat16")
    assert 0 < apart < 0.05  # of the width of a step's rounding, and not of a lost layer
    assert math.isfinite(report["history"][-1]["overall"]["f1"])


CONFIGS = Path(__file__).parents[2] / "configs" / "accelerate"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_configurations_are_read_by_accelerate(path):
    config = load_config_from_file(str(path))
    assert config.num_processes > 1
    assert config.mixed_precision == "bf16"


def ranks(folder, processes=2, launcher=(), **options):
    """Results of :mod:`run_ranks` by process."""
    module = ["accelerate.commands.launch", "--cpu", f"--num_processes={processes}", *launcher]
    module += ["--num_machines=1", "--dynamo_backend=no"]
    if not launcher:
        module = ["torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
    command = [sys.executable, "-m", *module, str(SCRIPT.with_name("run_ranks.py")), str(folder)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, json.dumps(options)],
        capture_output=True, text=True, env=environment, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank-{n}.json").read_text()) for n in range(processes)]


def test_processes_share_weights_and_draw_different_noise(tmp_path):
    first, second = ranks(tmp_path, what="trainer")
    assert first["weights"] == second["weights"]
    assert first["noise"] != second["noise"]
    [alone] = ranks(tmp_path, 1, what="trainer")
    assert first["noise"] == alone["noise"]


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "bf16"), ({"mixed_precision": "no"}, "no")], ids=["none", "no"]
)
def test_the_precision_of_the_launcher_applies_unless_one_is_given(tmp_path, given, expected):
    [found] = ranks(tmp_path, 1, ["--mixed_precision=bf16"], what="trainer", **given)
    assert (found["used"], found["reported"]) == (expected, expected)


def test_a_process_without_images_does_not_block_the_others(tmp_path):
    first, second = ranks(tmp_path, what="images")
    assert len(first) == 4
    for name, one in first.items():
        two = second[name]
        assert one["gradient"] == pytest.approx(two["gradient"], rel=1e-6), name
        for a, b in zip(one["losses"], two["losses"], strict=True):
            assert a.keys() == b.keys()
            assert all(math.isfinite(value) for value in (*a.values(), *b.values()))
            assert a["contrastive"] == pytest.approx(b["contrastive"], rel=1e-5)  # of all images
