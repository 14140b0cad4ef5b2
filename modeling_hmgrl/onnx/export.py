"""Writes a model as ONNX graphs, to be run by :class:`onnx_runner.ONNXZeroShotTyping`."""

import copy
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.export import Dim

from ..hub import public_name
from ..pooling import masked_mean
from ..storage import write_json
from .modeling_onnx import (
    FORMAT_VERSION,
    GRAPHS,
    IMAGE_ENCODER,
    LABEL_CHUNK,
    MANIFEST,
    TEXT_ENCODER,
    graph_inputs,
    graph_names,
    read_manifest,
)

OPSET = 23
"""Version of ONNX's operators; the first with Attention as one of them."""

LEAST_OPSET = 18
"""The oldest in which torch writes all operators."""

# One file of protocol buffers holds no more.
_MAX_BYTES = 2**31 - 2**20


class _Graph(nn.Module):
    """A step of a model as a module of its own, the form that torch exports.

    Args:
        model: The model, whose weights it takes along.
        step: The step, a function of the model and the graph's inputs.
    """

    def __init__(self, model: nn.Module, step: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.step = model, step

    def forward(self, *inputs: Tensor) -> Tensor:
        """Takes the step."""
        return self.step(self.model, *inputs)


def _samples(
    model: Any,
    states: Tensor,
    span_positions: Tensor,
    attention_mask: Tensor,
    image_states: Tensor | None = None,
    image_mask: Tensor | None = None,
) -> Tensor:
    """Encoders' states to samples as they are compared with labels."""
    encoded = model.encode(
        None,
        attention_mask,
        span_positions,
        image_features=image_states,
        image_mask=image_mask,
        text_features=states,
    )
    projected = model.scorer.project_samples(encoded.representation)
    return model.scorer.place(projected, model.hmgrl.curvature())


def _label_encodings(model: Any, states: Tensor, attention_mask: Tensor) -> Tensor:
    """Text encoder's states to label encodings."""
    return masked_mean(states, attention_mask if model.config.mask_padding else None)


def _scores(model: Any, samples: Tensor, vectors: Tensor) -> Tensor:
    """Samples and label vectors to logits."""
    return model.scorer.compare(samples, vectors, model.hmgrl.curvature())


_STEPS: dict[str, Callable[..., Tensor]] = {
    TEXT_ENCODER: lambda model, ids, mask: model.hmgrl.encode_text(ids, mask),
    IMAGE_ENCODER: lambda model, pixels: model.encode_image(pixels),
    "samples": _samples,
    "label_encodings": _label_encodings,
    "label_vectors": lambda model, encodings: model.prepare_labels(encodings),
    "scores": _scores,
}


def export_onnx(
    model: Any,
    processor: Any,
    folder: str | Path,
    opset: int = OPSET,
    quantize: bool = False,
) -> Path:
    """Writes a model as ONNX graphs in float32, with its configuration and its processor.

    The graphs are those of :data:`onnx_runner.GRAPHS`; none repeats the weights of another, and
    all take any number of samples, tokens and labels. They compute what the model does in
    evaluation. What only training needs is left out.

    Args:
        model: A :class:`HMGRLForZeroShotTyping` whose labels are compared whole; it is left as it
            is.
        processor: Its processor.
        folder: Folder to write, made if it does not exist; an export that it holds is replaced.
        opset: Version of ONNX's operators, 18 or later.
        quantize: Whether the encoders are quantized, see :func:`quantize_onnx`.

    Returns:
        The folder.

    Raises:
        ImportError: If onnx, onnxscript or, for ``quantize``, onnxruntime is missing.
        ValueError: If the model is of another method or compares labels by parts, the folder holds
            a model of torch, the opset is too old, or an encoder is too large for one file.
    """
    _check_method(model.config)
    if opset < LEAST_OPSET:
        raise ValueError(f"opset: got {opset}, expected {LEAST_OPSET} or later")
    _require("onnx", "onnxscript", *(["onnxruntime"] if quantize else []))
    folder = Path(folder)
    if (folder / "model.safetensors").exists():
        raise ValueError(
            f"{folder}: holds a model of torch, whose config.json would be replaced; expected "
            "another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (MANIFEST, *(f"{name}.onnx" for name in GRAPHS)):
        (folder / stale).unlink(missing_ok=True)
    model = _plain(model)
    examples, dims = _examples(model, processor), _dims(model, processor)
    images = model.hmgrl.vision_model is not None
    for name in graph_names(images):
        inputs = graph_inputs(name, images)
        target = folder / f"{name}.onnx"
        program = _export(
            _Graph(model, _STEPS[name]).eval(),
            {key: examples[name][key] for key in inputs},
            {key: dims[key] for key in inputs},
            GRAPHS[name][1],
            opset,
        )
        _check_size(program, target)
        program.save(target)
    _save_settings(model, processor, folder)
    content = {
        "format_version": FORMAT_VERSION,
        "opset": opset,
        "task": model.config.task,
        "images": images,
        "quantized": False,
        "versions": {name: version(name) for name in ("torch", "transformers", "onnx")},
    }
    write_json(folder / MANIFEST, content)  # last: without it nothing of the folder is read
    if quantize:
        quantize_onnx(folder)
    return folder


def quantize_onnx(folder: str | Path) -> None:
    """Quantizes the encoders of an export, in place.

    The weights of their linear layers become 8-bit integers, with a scale for each output, and so
    do the tables of embeddings. Activations are scaled to 8 bits as they come, all of a batch by
    one scale: scores then depend a little on what else is in the batch.

    Args:
        folder: Folder that :func:`export_onnx` wrote.

    Raises:
        ImportError: If onnx or onnxruntime is missing.
        FileNotFoundError: If the folder holds no export.
        ValueError: If it is quantized already.
    """
    _require("onnx", "onnxruntime")
    folder = Path(folder)
    content = read_manifest(folder)
    if content["quantized"]:
        raise ValueError(f"{folder}: quantized already, expected an export in float32")
    (folder / MANIFEST).unlink()
    for name in (TEXT_ENCODER, *([IMAGE_ENCODER] if content["images"] else [])):
        _quantize(folder / f"{name}.onnx")
    write_json(folder / MANIFEST, content | {"quantized": True})


def _check_method(config: Any) -> None:
    """Says so if the graphs cannot compute what a model computes."""
    if config.model_type != "hmgrl":
        raise ValueError(
            f"model: got the method {config.model_type!r}, expected 'hmgrl', the one whose steps "
            "the graphs compute; run other methods with torch"
        )
    if config.label_parts:
        raise ValueError(
            "model: compares labels by parts (label_parts), which are found by their token ids; "
            "expected label_parts=False, as the graphs encode labels without them"
        )


def _require(*names: str) -> None:
    for name in names:
        try:
            import_module(name)
        except ImportError as error:
            raise ImportError(
                f'{name}: not installed, expected it for an export; pip install "hmgrl[onnx]"'
            ) from error


def _plain(model: Any) -> Any:
    """The model in float32 on the CPU and in evaluation mode, a copy if it is not so already."""
    done = all(p.dtype == torch.float32 and p.device.type == "cpu" for p in model.parameters())
    if done and not model.training:
        return model
    return copy.deepcopy(model).to("cpu", torch.float32).eval()


def _examples(model: Any, processor: Any) -> dict[str, dict[str, Tensor]]:
    """Inputs that each graph is traced with; sizes that have nothing to do with each other differ.

    Returns:
        For each graph its inputs by name.
    """
    config, batch, tokens, labels = model.config, 3, 7, 5
    ids = torch.zeros(batch, tokens, dtype=torch.long)
    states = torch.zeros(batch, tokens, config.text_width)
    mask = torch.ones_like(ids)
    spans = torch.tensor([[1, 3]]).expand(batch, config.num_spans, 2).clone()
    encodings = torch.ones(labels, config.text_width)
    examples = {
        TEXT_ENCODER: {"input_ids": ids, "attention_mask": mask},
        "samples": {"states": states, "span_positions": spans, "attention_mask": mask},
        "label_encodings": {"states": states, "attention_mask": mask},
        "label_vectors": {"encodings": encodings},
    }
    with torch.no_grad():
        if model.hmgrl.vision_model is not None:
            blank = Image.new("RGB", (64, 64))
            pixels = processor.encode_images([blank], 1)["pixel_values"].repeat(batch, 1, 1, 1)
            examples[IMAGE_ENCODER] = {"pixel_values": pixels}
            examples["samples"] |= {
                "image_states": model.encode_image(pixels),
                "image_mask": torch.ones(batch, dtype=torch.bool),
            }
        examples["scores"] = {
            "samples": _samples(model, **examples["samples"]),
            "vectors": model.prepare_labels(encodings),
        }
    return examples


def _dims(model: Any, processor: Any) -> dict[str, dict[int, Any]]:
    """Axes of each input whose size is left open."""
    batch, patches = Dim("batch"), Dim("patches")
    # no more than the processor gives: encoders have a position table of some length
    tokens = Dim("tokens", max=max(processor.max_length, processor.label_max_length))
    # Geodesic distances are computed for so many labels at once; the runner goes on to the next.
    geodesic = model.config.score_function == "geodesic"
    labels = Dim("labels", max=LABEL_CHUNK) if geodesic else Dim("labels")
    return {
        "input_ids": {0: batch, 1: tokens},
        "attention_mask": {0: batch, 1: tokens},
        "pixel_values": {0: batch},
        "states": {0: batch, 1: tokens},
        "span_positions": {0: batch},
        "image_states": {0: batch, 1: patches},
        "image_mask": {0: batch},
        "encodings": {0: labels},
        "samples": {0: batch},
        "vectors": {0: labels},
    }


def _export(
    graph: nn.Module, example: dict[str, Tensor], dims: dict[str, Any], output: str, opset: int
) -> Any:
    shapes = (tuple(dims.values()),)
    with _quietly(), torch.no_grad():
        # Not left to torch.onnx, which fixes a size that it cannot keep open, and says nothing.
        program = torch.export.export(graph, tuple(example.values()), dynamic_shapes=shapes)
        exported: Any = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            opset_version=opset,
            input_names=list(example),
            output_names=[output],
            dynamic_shapes=shapes,  # for the names of the axes
        )
    # Where each operator stands in the source, with paths of this machine.
    clear = import_module("onnx_ir.passes.common").ClearMetadataAndDocStringPass()
    clear(exported.model)
    return exported


@contextmanager
def _quietly() -> Iterator[None]:
    """Leaves out what torch says of its own inside while it exports."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        # torch's use of what torch calls deprecated
        warnings.filterwarnings("ignore", r".*LeafSpec", FutureWarning)
        # axes of like size share one name
        warnings.filterwarnings("ignore", r"# The axis name", UserWarning)
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _check_size(program: Any, target: Path) -> None:
    size = sum(value.const_value.nbytes for value in program.model.graph.initializers.values())
    if size > _MAX_BYTES:
        raise ValueError(
            f"{target.name}: weights of {size / 1e9:.1f} GB, expected at most "
            f"{_MAX_BYTES / 1e9:.1f} GB, which one file can hold"
        )


def _quantize(file: Path) -> None:
    quantization = import_module("onnxruntime.quantization")
    prepare = import_module("onnxruntime.quantization.shape_inference").quant_pre_process
    with tempfile.TemporaryDirectory() as scratch:
        prepared = Path(scratch) / "prepared.onnx"
        # shapes alone: an optimized graph is one for this machine
        prepare(file, prepared, skip_optimization=True, skip_symbolic_shape=True)
        quantization.quantize_dynamic(
            prepared,
            file,
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            per_channel=True,
            # 7 bits: on CPUs without VNNI, products of 8 bits overflow the 16 bits of their sum
            reduce_range=True,
            weight_type=quantization.QuantType.QInt8,
        )


def _save_settings(model: Any, processor: Any, folder: Path) -> None:
    """Saves configuration and processor without their code, which the runner does not read."""
    config, processor = copy.deepcopy(model.config), copy.copy(processor)
    for name in ("auto_map", "custom_pipelines"):
        if hasattr(config, name):
            delattr(config, name)
    for part in (config.text_config, config.vision_config):
        if part is not None:
            part.name_or_path = public_name(part.name_or_path)
    config.to_json_file(folder / "config.json")
    processor._auto_class = None
    processor.save_pretrained(folder)


__all__ = ["OPSET", "export_onnx", "quantize_onnx"]
