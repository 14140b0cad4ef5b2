"""Runs the examples in the docstrings of the packages."""

import doctest
import pkgutil
from importlib import import_module

import pytest

import dataset_scripts
import hmgrl
import hmgrl_cli
import modeling_hmgrl
from modeling_hmgrl.baselines import METHODS

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FINDER = doctest.DocTestFinder(exclude_empty=True)

ONNX = ("modeling_hmgrl.onnx.export", "modeling_hmgrl.onnx.modeling_onnx")
"""Modules that share a folder, as the second loads what the first exports."""


def modules():
    for package in (modeling_hmgrl, hmgrl, hmgrl_cli, dataset_scripts):
        yield package.__name__
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                yield found.name


CASES = [
    pytest.param(ONNX, marks=pytest.mark.slow),
    *((name,) for name in modules() if name not in ONNX),
]


@pytest.mark.parametrize("names", CASES, ids=lambda names: names[-1])
def test_the_examples_of_a_module_run(names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in names:
        module = import_module(name)
        for public in getattr(module, "__all__", ()):
            getattr(module, public)  # names that the module defines on first access
        said = []
        runner = doctest.DocTestRunner(optionflags=OPTIONS)
        for example in FINDER.find(module, name):
            runner.run(example, out=said.append)
        assert not runner.failures, "".join(said)


def has_example(value):
    found = FINDER.find(value, value.__name__, module=import_module(value.__module__))
    return any(test.examples for test in found)


@pytest.mark.parametrize("name", modeling_hmgrl.__all__)
def test_public_names_have_an_example(name):
    assert has_example(getattr(modeling_hmgrl, name))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "hmgrl"])
def test_models_of_baselines_have_an_example(name):
    assert has_example(METHODS[name])
