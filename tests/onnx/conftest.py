"""Exported models that the tests of this folder share."""

import shutil
from pathlib import Path

import pytest
from onnx_world import processor_of, trained

from modeling_hmgrl.onnx.export import export_onnx, quantize_onnx
from modeling_hmgrl.onnx.modeling_onnx import ONNXZeroShotTyping


@pytest.fixture(scope="session")
def model():
    return trained()


@pytest.fixture(scope="session")
def exported(model, tmp_path_factory):
    """Folder of an export with pictures."""
    return export_onnx(model, processor_of(model), tmp_path_factory.mktemp("onnx") / "typing")


@pytest.fixture(scope="session")
def quantized(exported):
    folder = exported.parent / "quantized"
    shutil.copytree(exported, folder)
    quantize_onnx(folder)
    return folder


@pytest.fixture(scope="session")
def runner(exported):
    return ONNXZeroShotTyping.from_pretrained(exported, threads=1)


@pytest.fixture(scope="session")
def text_model():
    return trained(
        "relation",
        vision=False,
        score_function="geodesic",
        hvib_layer="fully_lorentz",
        hyperbolic_translation=True,
        squared_radius=2.0,
        residual_bottleneck=False,
        mask_padding=False,
    )


@pytest.fixture(scope="session")
def exported_text(text_model, tmp_path_factory):
    """Folder of a text-only export, for relations, with the other settings."""
    folder = tmp_path_factory.mktemp("onnx") / "text"
    return export_onnx(text_model, processor_of(text_model), folder)


@pytest.fixture
def copy_of(tmp_path):
    """Copies a folder, so that it can be spoilt."""
    return lambda folder: Path(shutil.copytree(folder, tmp_path / "copy"))
