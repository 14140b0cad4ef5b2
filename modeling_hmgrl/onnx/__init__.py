"""Models as ONNX: writing them, and running them with onnxruntime."""

from .export import export_onnx
from .modeling_onnx import ONNXZeroShotTyping

__all__ = ["ONNXZeroShotTyping", "export_onnx"]
