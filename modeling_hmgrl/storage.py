"""What is kept on disk: whole JSON files, and the key under which computed states are kept."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

# Fields that say how a model or a processor was loaded or what is done with its scores, not what
# its encoders compute.
_APART = (
    "_name_or_path", "architectures", "auto_map", "custom_pipelines", "dtype",
    "calibration_gamma", "probability_temperature", "seen_labels", "generator_labels",
    "label_texts", "freeze_text", "freeze_vision",
)  # fmt: skip


def encoder_key(model: Any, preprocessing: Any) -> str:
    """Hash of an encoder's weights and settings and of what comes before it.

    Args:
        model: The encoder, a model of transformers.
        preprocessing: JSON-able description of the preprocessing.
    """
    described = [preprocessing, settings_of(model.config)]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype}".encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().float().numpy()).data)
    return digest.hexdigest()[:32]


def settings_of(part: Any) -> dict[str, Any]:
    """Settings of a configuration or processor, the same before saving and after loading."""
    return _without_apart(part.to_dict())


def _without_apart(values: dict[str, Any]) -> dict[str, Any]:
    """Leaves those fields out, also of the settings of encoders inside a model's."""
    return {
        name: _without_apart(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if name not in _APART
    }


def write_json(path: Path, content: Any) -> None:
    """Writes JSON so that a reader never sees half of it."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
