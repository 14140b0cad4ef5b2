"""The root of the package is what travels with a checkpoint, and nothing else."""

import ast
import json
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_world import tiny_processor
from transformers.dynamic_module_utils import get_relative_import_files

import modeling_hmgrl
from modeling_hmgrl import HMGRLForZeroShotTyping

ROOT = Path(modeling_hmgrl.__file__).parent
CARRIED = ("configuration_hmgrl", "modeling_hmgrl", "pipeline_hmgrl", "processing_hmgrl")
FILES = sorted(file for file in ROOT.glob("*.py") if file.name != "__init__.py")
FOLDERS = sorted(folder.name for folder in ROOT.iterdir() if (folder / "__init__.py").is_file())
SOURCES = (
    "modeling_hmgrl", "dataset_scripts", "hmgrl", "hmgrl_cli", "experiments", "benchmarks", "demo",
    "tests",
)  # fmt: skip
REPOSITORY = Path(__file__).parents[2]
LEGACY = REPOSITORY / "tests" / "golden" / "checkpoint_0_1"


def imports_of(file):
    """(level, module) of every relative import of a file."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [
        (node.level, node.module or "")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]


def test_the_root_is_the_closure_of_the_classes_that_are_loaded():
    closure = {ROOT / f"{name}.py" for name in CARRIED}
    for file in list(closure):
        closure |= {Path(name) for name in get_relative_import_files(str(file))}
    assert closure == set(FILES)


def test_a_checkpoint_carries_exactly_the_root(tmp_path):
    HMGRLForZeroShotTyping.from_pretrained(LEGACY).save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.glob("*.py")} == {file.name for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_of_the_root_imports_files_of_the_root_by_name(file):
    for level, module in imports_of(file):
        assert level == 1, "a checkpoint's folder has no parent"
        assert module, "transformers' loader does not see `from . import name`"
        assert module.split(".")[0] not in FOLDERS


def test_metrics_know_nothing_of_the_model():
    for file in (ROOT / "metrics").glob("*.py"):
        assert all(level == 1 for level, _ in imports_of(file)), file.name


def test_reports_do_not_import_training():
    for file in (ROOT / "reports").glob("*.py"):
        assert not any(module.startswith("training") for _, module in imports_of(file)), file.name


def graph_of(*packages):
    """Imports at the top level of modules, by module; those inside functions cannot be cyclic."""
    files = {}
    for package in packages:
        for file in (REPOSITORY / package).rglob("*.py"):
            parts = file.relative_to(REPOSITORY).with_suffix("").parts
            files[".".join(parts).removesuffix(".__init__")] = file
    graph = {}
    for name, file in files.items():
        package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
        graph[name] = found = set()
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                above = package[: len(package) + 1 - node.level] if node.level else []
                module = ".".join([*above, *([node.module] if node.module else [])])
                names = {f"{module}.{alias.name}" for alias in node.names}
                found |= {full if full in files else module for full in names}
        found &= files.keys() - {name}
    return graph


def test_imports_are_not_circular_and_point_downwards():
    graph = graph_of("modeling_hmgrl", "dataset_scripts", "hmgrl", "hmgrl_cli")
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError
    assert len(order) > 100
    root = {f"modeling_hmgrl.{file.stem}" for file in FILES}
    for name in root:
        assert graph[name] <= root, f"{name}: a checkpoint carries no folder"
    for name, found in graph.items():
        if name.startswith("modeling_hmgrl.metrics"):
            assert all(module.startswith("modeling_hmgrl.metrics") for module in found), name
        if name.startswith("modeling_hmgrl.reports"):
            assert not any(module.startswith("modeling_hmgrl.training") for module in found), name
    for name, found in graph.items():
        package = name.split(".")[0]
        below = {
            "modeling_hmgrl": {"modeling_hmgrl"},
            "dataset_scripts": {"dataset_scripts"},
            "hmgrl": {"hmgrl", "modeling_hmgrl", "dataset_scripts", "hmgrl_cli"},
            "hmgrl_cli": {"hmgrl_cli", "modeling_hmgrl", "dataset_scripts"},
        }[package]
        assert {module.split(".")[0] for module in found} <= below, name


def test_the_root_is_small_enough_to_be_read():
    entries = [entry for entry in ROOT.iterdir() if entry.name != "__pycache__"]
    assert len(entries) <= 33


@pytest.mark.parametrize("folder", SOURCES)
def test_every_file_is_small_enough_to_be_read(folder):
    files = list((REPOSITORY / folder).rglob("*.py"))
    assert files
    for file in files:
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 450, file


def test_a_checkpoint_of_the_first_version_gives_the_same_scores():
    tensors = load_file(LEGACY / "expected.safetensors")
    expected = tensors.pop("logits")
    batch = {name.removeprefix("input/"): value for name, value in tensors.items()}
    batch = {
        name.replace("generator_label_", "synthetic_").replace("label_", "candidate_"): value
        for name, value in batch.items()
    }
    assert json.loads((LEGACY / "config.json").read_text())["model_type"] == "hmgrl"
    model = HMGRLForZeroShotTyping.from_pretrained(LEGACY)
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, expected, rtol=1e-6, atol=1e-6)
