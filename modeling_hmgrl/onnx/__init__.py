"""Export of models to ONNX, and inference with onnxruntime."""

from .export import export_onnx
from .modeling_onnx import ONNXZeroShotTyping

__all__ = ["ONNXZeroShotTyping", "export_onnx"]
