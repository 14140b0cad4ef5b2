"""Methods that HMGRL is compared with, under the same contract; importing registers them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModel, AutoProcessor

from ..configuration_hmgrl import HMGRLConfig
from ..modeling_hmgrl import HMGRLForZeroShotTyping
from ..processing_hmgrl import HMGRLProcessor
from ..zero_shot_typing import ZeroShotTypingModel
from .mg_vmoe import MGVMoEConfig, MGVMoEForZeroShotTyping
from .mmproto import MMProtoConfig, MMProtoForZeroShotTyping
from .movcnet import MOVCNetConfig, MOVCNetForZeroShotTyping
from .proto import ProtoConfig, ProtoForZeroShotTyping

if TYPE_CHECKING:
    from .references import label_similarity, majority

METHODS: dict[str, type[ZeroShotTypingModel]] = {
    "hmgrl": HMGRLForZeroShotTyping,
    "proto": ProtoForZeroShotTyping,
    "mmproto": MMProtoForZeroShotTyping,
    "movcnet": MOVCNetForZeroShotTyping,
    "mg_vmoe": MGVMoEForZeroShotTyping,
}
"""Trainable methods by the name that ``--method`` takes."""

for _model in METHODS.values():
    _config: Any = _model.config_class
    if _config is not HMGRLConfig:
        AutoConfig.register(_config.model_type, _config)
        AutoModel.register(_config, _model)
        AutoProcessor.register(_config, HMGRLProcessor)


def __getattr__(name: str) -> Any:
    if name in ("label_similarity", "majority"):
        return getattr(import_module(".references", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "METHODS",
    "MGVMoEConfig",
    "MGVMoEForZeroShotTyping",
    "MMProtoConfig",
    "MMProtoForZeroShotTyping",
    "MOVCNetConfig",
    "MOVCNetForZeroShotTyping",
    "ProtoConfig",
    "ProtoForZeroShotTyping",
    "label_similarity",
    "majority",
]
