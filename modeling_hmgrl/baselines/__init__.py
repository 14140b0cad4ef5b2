"""Baselines with the same interface as HMGRL; importing the package registers them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModel, AutoProcessor

from ..configuration_hmgrl import HMGRLConfig
from ..modeling_hmgrl import HMGRLForZeroShotTyping
from ..modeling_zero_shot_typing import ZeroShotTypingModel
from ..processing_hmgrl import HMGRLProcessor
from .dbzfet import DBZFETConfig, DBZFETForZeroShotTyping
from .mg_vmoe import MGVMoEConfig, MGVMoEForZeroShotTyping
from .mmproto import MMProtoConfig, MMProtoForZeroShotTyping
from .movcnet import MOVCNetConfig, MOVCNetForZeroShotTyping
from .mzet import MZETConfig, MZETForZeroShotTyping
from .nzfet import NZFETConfig, NZFETForZeroShotTyping
from .proto import ProtoConfig, ProtoForZeroShotTyping
from .re_matching import REMatchingConfig, REMatchingForZeroShotTyping
from .zs_bert import ZSBERTConfig, ZSBERTForZeroShotTyping
from .zs_ska import ZSSKAConfig, ZSSKAForZeroShotTyping

if TYPE_CHECKING:
    from .training_free import label_similarity, majority

METHODS: dict[str, type[ZeroShotTypingModel]] = {
    "hmgrl": HMGRLForZeroShotTyping,
    "proto": ProtoForZeroShotTyping,
    "mmproto": MMProtoForZeroShotTyping,
    "movcnet": MOVCNetForZeroShotTyping,
    "mg_vmoe": MGVMoEForZeroShotTyping,
    "dbzfet": DBZFETForZeroShotTyping,
    "mzet": MZETForZeroShotTyping,
    "nzfet": NZFETForZeroShotTyping,
    "re_matching": REMatchingForZeroShotTyping,
    "zs_bert": ZSBERTForZeroShotTyping,
    "zs_ska": ZSSKAForZeroShotTyping,
}
"""Trainable methods by their name for ``--method``."""

for _model in METHODS.values():
    _config: Any = _model.config_class
    if _config is not HMGRLConfig:
        AutoConfig.register(_config.model_type, _config)
        AutoModel.register(_config, _model)
        AutoProcessor.register(_config, HMGRLProcessor)


def __getattr__(name: str) -> Any:
    if name in ("label_similarity", "majority"):
        return getattr(import_module(".training_free", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "METHODS",
    "DBZFETConfig",
    "DBZFETForZeroShotTyping",
    "MGVMoEConfig",
    "MGVMoEForZeroShotTyping",
    "MMProtoConfig",
    "MMProtoForZeroShotTyping",
    "MOVCNetConfig",
    "MOVCNetForZeroShotTyping",
    "MZETConfig",
    "MZETForZeroShotTyping",
    "NZFETConfig",
    "NZFETForZeroShotTyping",
    "ProtoConfig",
    "ProtoForZeroShotTyping",
    "REMatchingConfig",
    "REMatchingForZeroShotTyping",
    "ZSBERTConfig",
    "ZSBERTForZeroShotTyping",
    "ZSSKAConfig",
    "ZSSKAForZeroShotTyping",
    "label_similarity",
    "majority",
]
