import importlib.util
import json
import re
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModel
from transformers.dynamic_module_utils import get_imports, get_relative_import_files

import modeling_hmgrl

ROOT = Path(modeling_hmgrl.__file__).parent.parent
MODULES = sorted(file.stem for file in Path(modeling_hmgrl.__file__).parent.glob("*.py"))

IMPORT = """
import json, sys, time
begin = time.perf_counter()
import torch
from transformers import (AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor, AutoTokenizer,
    BatchFeature, Pipeline, PreTrainedModel, ProcessorMixin, ViTImageProcessorPil)
middle = time.perf_counter()
before = set(sys.modules)
import modeling_hmgrl
end = time.perf_counter()
print(json.dumps({
    "libraries": middle - begin,
    "ours": end - middle,
    "new": sorted(set(sys.modules) - before),
    "all": sorted(sys.modules),
}))
"""


@pytest.fixture(scope="module")
def imported():
    """What a fresh interpreter loads, and for how long, when it imports the package."""
    run = subprocess.run(
        [sys.executable, "-W", "error::FutureWarning", "-c", IMPORT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(run.stdout)


def test_the_public_names_are_the_documented_ones():
    assert modeling_hmgrl.__all__ == [
        "GZSMetric",
        "HMGRLConfig",
        "HMGRLForZeroShotTyping",
        "HMGRLModel",
        "HMGRLProcessor",
        "HMGRLTrainer",
        "HMGRLTrainingArguments",
        "LabelCache",
        "ONNXZeroShotTyping",
        "Prototypes",
        "ZeroShotTypingPipeline",
        "evaluate_scores",
        "explain",
        "export_onnx",
        "gzs_scores",
    ]


@pytest.mark.parametrize("name", modeling_hmgrl.__all__)
def test_every_public_name_is_there_and_documented(name):
    value = getattr(modeling_hmgrl, name)
    assert value.__module__.startswith("modeling_hmgrl.")
    assert value.__doc__
    assert value.__doc__.strip()
    home = import_module(value.__module__)
    assert getattr(home, name) is value


def test_star_import_gives_the_public_names():
    scope = {}
    exec("from modeling_hmgrl import *", scope)
    assert set(modeling_hmgrl.__all__) <= set(scope)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'HMGRLNothing'"):
        _ = modeling_hmgrl.HMGRLNothing


@pytest.mark.parametrize("module", MODULES)
def test_what_a_module_exports_is_there(module):
    loaded = import_module(f"modeling_hmgrl.{module}" if module != "__init__" else "modeling_hmgrl")
    assert loaded.__doc__
    for name in getattr(loaded, "__all__", ()):
        assert hasattr(loaded, name), name


def test_importing_loads_nothing_that_only_training_needs(imported):
    ours = [name for name in imported["new"] if name.startswith("modeling_hmgrl")]
    foreign = [name for name in imported["new"] if not name.startswith("modeling_hmgrl")]
    assert foreign == []
    folders = {path.parent.name for path in (ROOT / "modeling_hmgrl").glob("*/__init__.py")}
    assert {"training", "metrics", "onnx"} <= folders
    assert not {name.split(".")[1] for name in ours if "." in name} & folders
    heavy = {"datasets", "evaluate", "geoopt", "pyarrow", "pandas", "matplotlib", "tensorboard"}
    assert not heavy & set(imported["all"])


def test_importing_is_cheap_beside_its_libraries(imported):
    assert imported["ours"] < 0.1 * imported["libraries"] + 0.1


def test_auto_classes_know_the_model():
    assert type(AutoConfig.for_model("hmgrl")) is modeling_hmgrl.HMGRLConfig
    assert AutoModel._model_mapping[modeling_hmgrl.HMGRLConfig] is (
        modeling_hmgrl.HMGRLForZeroShotTyping
    )


@pytest.mark.parametrize(
    "module", ["configuration_hmgrl", "modeling_hmgrl", "pipeline_hmgrl", "processing_hmgrl"]
)
def test_code_that_travels_with_a_checkpoint_is_flat(module):
    """A checkpoint carries the file and the files of its folder that it imports; no more."""
    file = importlib.util.find_spec(f"modeling_hmgrl.{module}").origin
    carried = [Path(name) for name in get_relative_import_files(file)]
    folder = Path(file).parent
    assert all(name.parent == folder for name in carried)
    for name in (Path(file), *carried):
        text = name.read_text(encoding="utf-8")
        assert "from .." not in text
        # an example in a docstring, which begins with >>>, is no import to transformers
        assert "modeling_hmgrl" not in get_imports(name)
        assert not re.search(r"^\s*(import|from) modeling_hmgrl", text, re.MULTILINE)
        assert not any(f"import {lib}\n" in text for lib in ("datasets", "accelerate", "evaluate"))


FACADE = """
import sys
import hmgrl
from transformers import AutoConfig, pipelines
assert hmgrl.HMGRLConfig is type(AutoConfig.for_model("hmgrl"))
assert hmgrl.ZeroShotTypingPipeline.__name__ == "ZeroShotTypingPipeline"
assert "multimodal-zero-shot-typing" in pipelines.PIPELINE_REGISTRY.get_supported_tasks()
assert not {"datasets", "evaluate", "geoopt", "hmgrl_cli"} & set(sys.modules)
import modeling_hmgrl
assert hmgrl.__all__ == [*modeling_hmgrl.__all__, "LabelSets", "load_gzs"]
for name in modeling_hmgrl.__all__:
    assert getattr(hmgrl, name) is getattr(modeling_hmgrl, name)
import dataset_scripts
assert hmgrl.load_gzs is dataset_scripts.load_gzs
assert hmgrl.LabelSets.__module__ == "modeling_hmgrl.metrics.label_sets"
assert set(hmgrl.__all__) <= set(dir(hmgrl))
try:
    hmgrl.nothing
except AttributeError as error:
    assert str(error) == "module 'hmgrl' has no attribute 'nothing'"
print(hmgrl.__version__)
"""


def test_one_import_registers_and_names_everything():
    run = subprocess.run(
        [sys.executable, "-c", FACADE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == metadata.version("hmgrl")


def test_the_command_line_imports_no_library_for_its_help():
    code = (
        "import sys; from hmgrl_cli.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'transformers', 'datasets', 'hmgrl'} & set(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip().endswith("set()")


def test_the_package_is_marked_as_typed():
    assert (ROOT / "modeling_hmgrl" / "py.typed").is_file()
