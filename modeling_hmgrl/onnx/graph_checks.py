"""Checks of exported graphs: that they run together and compute finite numbers."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

_LISTED = 3  # names in an error


def check_graphs(model: Any, pixel_shape: list[int] | None) -> None:
    """Computes a score with all graphs of a model, for texts of a single token repeated.

    Args:
        model: A :class:`ONNXZeroShotTyping`.
        pixel_shape: Shape of one image, or None for a model of text alone.

    Raises:
        ValueError: If a graph cannot run, or its output is not finite; the message names the file
            and, if onnx is installed, the weights that are not finite.
    """
    ids = torch.zeros(1, 5, dtype=torch.long)
    spans = torch.tensor([[1, 3]]).expand(1, model.config.num_spans, 2)
    try:
        states = None if pixel_shape is None else model.encode_image(torch.zeros(pixel_shape))
        samples = model.encode(ids, span_positions=spans, image_features=states)
        model.score(samples, model.prepare_labels(model.encode_labels(ids)))
    except Exception as error:  # onnxruntime's errors have no common base class
        reason = " ".join(str(error).split())[:500]
        raise ValueError(f"{model.folder}: the graphs cannot be used ({reason})") from error


def check_output(file: Path, name: str, values: np.ndarray) -> None:
    """Checks an output of a graph.

    Args:
        file: File of the graph.
        name: Name of the output.
        values: Its values.

    Raises:
        FloatingPointError: If a value is not finite.
    """
    if np.isfinite(values).all():
        return
    bad = _weights_that_are_not_finite(file)
    shown = ", ".join(bad[:_LISTED]) + (", …" if len(bad) > _LISTED else "")
    which = f"{len(bad)} weights are not finite ({shown})" if bad else "are the weights finite?"
    raise FloatingPointError(
        f"{file}: the output {name!r} has NaN or infinite values, expected numbers; {which}"
    )


def _weights_that_are_not_finite(file: Path) -> list[str]:
    """Names of such weights; none if onnx is not installed, which only an export requires."""
    try:
        onnx = import_module("onnx")
    except ImportError:
        return []
    weights = onnx.load(file, load_external_data=False).graph.initializer
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    return [
        weight.name
        for weight in weights
        if weight.data_type in floats
        and weight.data_location == onnx.TensorProto.DEFAULT
        and not np.isfinite(onnx.numpy_helper.to_array(weight)).all()
    ]


__all__ = ["check_graphs", "check_output"]
