"""HMGRL: generalized zero-shot multimodal entity typing and relation extraction.

Importing this package registers its classes with AutoConfig, AutoModel, AutoProcessor and as a
pipeline, and marks them so that checkpoints carry the code that loads them where the package is not
installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_hmgrl import HMGRLConfig
from .hub import TASK
from .label_cache import LabelCache
from .modeling_hmgrl import HMGRLForZeroShotTyping, HMGRLModel
from .pipeline_hmgrl import ZeroShotTypingPipeline
from .processing_hmgrl import HMGRLProcessor

if TYPE_CHECKING:
    from .explanation.attribution import explain
    from .explanation.prototypes import Prototypes
    from .metrics.gzs_scores import GZSMetric, evaluate_scores, gzs_scores
    from .onnx.export import export_onnx
    from .onnx.modeling_onnx import ONNXZeroShotTyping
    from .training.trainer import HMGRLTrainer
    from .training.training_arguments import HMGRLTrainingArguments

_LAZY = {
    "GZSMetric": "metrics.gzs_scores",
    "evaluate_scores": "metrics.gzs_scores",
    "explain": "explanation.attribution",
    "export_onnx": "onnx.export",
    "gzs_scores": "metrics.gzs_scores",
    "HMGRLTrainer": "training.trainer",
    "HMGRLTrainingArguments": "training.training_arguments",
    "ONNXZeroShotTyping": "onnx.modeling_onnx",
    "Prototypes": "explanation.prototypes",
}

AutoConfig.register(HMGRLConfig.model_type, HMGRLConfig)
AutoModel.register(HMGRLConfig, HMGRLForZeroShotTyping)
AutoProcessor.register(HMGRLConfig, HMGRLProcessor)
HMGRLConfig.register_for_auto_class()
HMGRLForZeroShotTyping.register_for_auto_class("AutoModel")
HMGRLProcessor.register_for_auto_class()
# Here and not beside the class: a checkpoint's copy of it must not replace the package's.
PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=ZeroShotTypingPipeline, pt_model=AutoModel)


if not TYPE_CHECKING:  # so that type checkers report unknown names

    def __getattr__(name: str) -> Any:
        if name in _LAZY:
            return getattr(import_module(f".{_LAZY[name]}", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
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
