"""Export of a model to ONNX graphs, for :class:`modeling_onnx.ONNXZeroShotTyping`."""

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
from ..pooling import masked_mean, pool_parts
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
"""Default version of the ONNX operators, the first with an Attention operator."""

LEAST_OPSET = 18
"""Oldest version for which torch exports all operators."""

# Limit of a protocol buffers file.
_MAX_BYTES = 2**31 - 2**20


class _Graph(nn.Module):
    """A step of a model as a module, which torch can export.

    Args:
        model: The model that holds the weights.
        step: The step, a function of the model and the graph's inputs.
    """

    def __init__(self, model: nn.Module, step: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.step = model, step

    def forward(self, *inputs: Tensor) -> Tensor:
        """Computes the step."""
        return self.step(self.model, *inputs)


def _samples(
    model: Any,
    states: Tensor,
    span_positions: Tensor,
    attention_mask: Tensor,
    image_states: Tensor | None = None,
    image_mask: Tensor | None = None,
) -> Tensor:
    """Computes sample vectors, which are compared with label vectors, from encoder states."""
    encoded = model.encode(
        None,
        attention_mask,
        span_positions,
        image_features=image_states,
        image_mask=image_mask,
        text_features=states,
    )
    projected = model.scorer.project_samples(encoded.representation)
    return model.scorer.to_score_space(projected, model.hmgrl.curvature())


def _label_encodings(
    model: Any, states: Tensor, attention_mask: Tensor, input_ids: Tensor | None = None
) -> Tensor:
    """Computes label encodings from text states, by parts if token ids are given."""
    mask = attention_mask if model.config.mask_padding else None
    if input_ids is None:
        return masked_mean(states, mask)
    return pool_parts(states, input_ids, mask, model.config.separator_id)


def _scores(model: Any, samples: Tensor, vectors: Tensor) -> Tensor:
    """Computes logits from sample vectors and label vectors."""
    return model.scorer.compare(samples, vectors, model.hmgrl.curvature())


def _text_states(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Computes the text encoder's states."""
    encoder = model.hmgrl.text_model
    if not hasattr(encoder, "rotary_emb"):
        return model.hmgrl.encode_text(input_ids, attention_mask)
    # The operator for rotary positions requires those of every sample, not of one for all.
    positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
    return encoder(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=positions
    ).last_hidden_state


_STEPS: dict[str, Callable[..., Tensor]] = {
    TEXT_ENCODER: _text_states,
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
    """Exports a model to ONNX graphs in float32, with its configuration and its processor.

    The graphs are those of :data:`modeling_onnx.GRAPHS`. They share no weights and accept any
    number of samples, tokens and labels. They compute the model in evaluation mode; modules that
    only training requires are omitted.

    Args:
        model: A :class:`HMGRLForZeroShotTyping`; it is not modified.
        processor: Its processor.
        folder: Output folder, created if it does not exist; an existing export is replaced.
        opset: Version of the ONNX operators, 18 or later.
        quantize: Whether to quantize the encoders, see :func:`quantize_onnx`.

    Returns:
        The folder.

    Raises:
        ImportError: If onnx, onnxscript or, for ``quantize``, onnxruntime is missing.
        ValueError: If the model is of another method, the folder holds
            a model of torch, the opset is too old, or an encoder is too large for one file.

    Examples:
        >>> from transformers import BertConfig, BertTokenizer, ViTImageProcessorPil
        >>> from modeling_hmgrl import HMGRLConfig, HMGRLForZeroShotTyping, HMGRLProcessor
        >>> words = "[PAD] [UNK] [CLS] [SEP] [MASK] * the fox saw animal tool".split()
        >>> tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
        >>> processor = HMGRLProcessor(ViTImageProcessorPil(), tokenizer, use_images=False)
        >>> text_config = BertConfig(
        ...     vocab_size=len(words), hidden_size=16, num_attention_heads=2, num_hidden_layers=1
        ... )
        >>> model = HMGRLForZeroShotTyping(HMGRLConfig(text_config=text_config)).eval()
        >>> model.add_markers(processor)
        >>> folder = export_onnx(model, processor, "exported")
        >>> sorted(path.name for path in folder.glob("*.onnx"))
        ['label_encodings.onnx', 'label_vectors.onnx', 'samples.onnx', 'scores.onnx',
         'text_encoder.onnx']
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
    model = _prepared(model)
    examples, dims = _examples(model, processor), _dims(model, processor)
    images = model.hmgrl.vision_model is not None
    for name in graph_names(images):
        inputs = graph_inputs(name, images, model.config.label_parts)
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
    write_json(folder / MANIFEST, content)  # last, as an export without it is not loaded
    if quantize:
        quantize_onnx(folder)
    return folder


def quantize_onnx(folder: str | Path) -> None:
    """Quantizes the encoders of an export in place.

    Embedding tables and the weights of linear layers become 8-bit integers, the latter with a scale
    for each output. Activations are quantized dynamically to 8 bits with one scale for the whole
    batch, so that scores depend slightly on the other samples of the batch.

    Args:
        folder: Folder that :func:`export_onnx` wrote.

    Raises:
        ImportError: If onnx or onnxruntime is missing.
        FileNotFoundError: If the folder holds no export.
        ValueError: If it is already quantized.
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
    """Raises a ValueError if the graphs do not support a model."""
    if config.model_type != "hmgrl":
        raise ValueError(
            f"model: got the method {config.model_type!r}, expected 'hmgrl'; the export does not "
            "support other methods"
        )


def _require(*names: str) -> None:
    for name in names:
        try:
            import_module(name)
        except ImportError as error:
            raise ImportError(
                f'{name}: not installed, required for an export; pip install "hmgrl[onnx]"'
            ) from error


def _prepared(model: Any) -> Any:
    """Returns the model in float32, on the CPU and in evaluation mode; a copy if necessary."""
    done = all(p.dtype == torch.float32 and p.device.type == "cpu" for p in model.parameters())
    if done and not model.training:
        return model
    return copy.deepcopy(model).to("cpu", torch.float32).eval()


def _examples(model: Any, processor: Any) -> dict[str, dict[str, Tensor]]:
    """Inputs for tracing each graph; unrelated axes have different sizes.

    Returns:
        Inputs by name, for each graph.
    """
    config, batch, tokens, labels = model.config, 3, 7, 5
    ids = torch.zeros(batch, tokens, dtype=torch.long)
    states = torch.zeros(batch, tokens, config.text_width)
    mask = torch.ones_like(ids)
    spans = torch.tensor([[1, 3]]).expand(batch, config.num_spans, 2).clone()
    encodings = torch.ones(labels, config.label_width)
    examples = {
        TEXT_ENCODER: {"input_ids": ids, "attention_mask": mask},
        "samples": {"states": states, "span_positions": spans, "attention_mask": mask},
        "label_encodings": {"states": states, "attention_mask": mask, "input_ids": ids},
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
    """Dynamic axes of each input."""
    batch, patches = Dim("batch"), Dim("patches")
    # Limited by the processor, as the position tables of encoders are of finite length.
    tokens = Dim("tokens", max=max(processor.max_length, processor.label_max_length))
    # Geodesic distances are computed for chunks of labels, over which the runner iterates.
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
        # Not exported by torch.onnx, which silently fixes sizes that it cannot keep dynamic.
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
    # Removes source locations of the operators, which contain paths of this machine.
    clear = import_module("onnx_ir.passes.common").ClearMetadataAndDocStringPass()
    clear(exported.model)
    return exported


@contextmanager
def _quietly() -> Iterator[None]:
    """Suppresses messages of torch about its own implementation."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        # Use of a deprecated class within torch.
        warnings.filterwarnings("ignore", r".*LeafSpec", FutureWarning)
        # Axes of equal size share one name.
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
        # Without optimization, which would be specific to this machine.
        prepare(file, prepared, skip_optimization=True, skip_symbolic_shape=True)
        quantization.quantize_dynamic(
            prepared,
            file,
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            per_channel=True,
            # 7 bits, as sums of 8-bit products overflow 16 bits on CPUs without VNNI.
            reduce_range=True,
            weight_type=quantization.QuantType.QInt8,
        )


def _save_settings(model: Any, processor: Any, folder: Path) -> None:
    """Saves configuration and processor without their code, which the runner does not load."""
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
