"""What a resumed run must have in common with the interrupted one, and how two runs differ."""

import hashlib
import json
from typing import Any

from ..hub import public_name
from ..reports.run_report import FREE_ARGUMENTS
from ..storage import encoder_key, settings_of
from .batching import Samples
from .frozen_features import image_key

_SHOWN = 10  # differences that a message lists
_LENGTH = 200  # characters of a value in a message
_ABSENT = "absent"
_FINGERPRINT = "fingerprint"
# Settings that do not change the states of an encoder, but training.
_TRAINED = ("freeze_text", "freeze_vision")
_VOLATILE = ("transformers_version",)


def identify_run(
    model: Any,
    processor: Any,
    arguments: Any,
    labels: Any,
    samples: dict[str, Samples],
    label_names: list[str],
    **more: Any,
) -> dict[str, Any]:
    """Describes everything that determines the result of a run.

    Args:
        model: The model before training, not sharded.
        processor: Its processor.
        arguments: Arguments of the run; those that may change when a run is resumed are omitted.
        labels: Label sets.
        samples: Tokenised samples by split. Their digest depends on tokens, mentions, labels and
            the content of images.
        label_names: Names of the labels in the samples.
        **more: Further properties.

    Returns:
        JSON-serialisable dict.
    """
    config = model.config
    encoders = getattr(model, model.base_model_prefix)
    parts = {
        "text": (encoders.text_model, config.text_config),
        "vision": (encoders.vision_model, config.vision_config),
    }
    settings = settings_of(config) | {name: getattr(config, name) for name in _TRAINED}
    every = [*labels.seen, *labels.validation_unseen, *labels.test_unseen, *labels.generator]
    identity = {
        **{name: v for name, v in arguments.to_dict().items() if name not in FREE_ARGUMENTS},
        **more,
        "model": type(model).__name__,
        "dtype": str(model.dtype),
        "configuration": {name: v for name, v in settings.items() if name not in _VOLATILE},
        "processor": settings_of(processor),
        "encoders": {
            name: {
                "name": public_name(part_config.name_or_path),
                _FINGERPRINT: encoder_key(part, name),
            }
            for name, (part, part_config) in parts.items()
            if part is not None
        },
        "seen labels": list(labels.seen),
        "validation-unseen labels": list(labels.validation_unseen),
        "test-unseen labels": list(labels.test_unseen),
        "generator labels": list(labels.generator),
        "label texts": dict(zip(every, labels.texts_of(every), strict=True)),
        "data": {
            split: {"samples": len(rows), "digest": _digest(rows, label_names)}
            for split, rows in samples.items()
        },
    }
    return json.loads(json.dumps(identity, default=str))  # as it is read from a checkpoint


def _digest(samples: Samples, label_names: list[str]) -> str:
    """Hash of the samples of a split, in order."""
    digest = hashlib.sha256()
    for index, text in enumerate(samples.texts):
        key = None
        if samples.keys is not None:
            key = samples.keys[index]
        elif samples.images is not None:
            image = samples.images[index]["image"]
            key = None if image is None else image_key(image)
        sample = [text.ids, text.positions, label_names[samples.labels[index]], key]
        digest.update(json.dumps(sample).encode() + b"\n")
    return digest.hexdigest()[:16]


def differences(then: Any, now: Any) -> list[str]:
    """Lists how two runs differ, as :func:`identify_run` describes them.

    Encoders of equal fingerprint are equal, whatever their names.

    Examples:
        >>> differences({"seed": 0, "labels": {"a": "A"}}, {"seed": 1, "labels": {"a": "B"}})
        ['seed: was 0, is 1', "labels.a: was 'A', is 'B'"]
    """
    found = _compare(then, now, "")
    more = len(found) - _SHOWN
    return [*found[:_SHOWN], f"and {more} more"] if more > 0 else found


def _compare(then: Any, now: Any, name: str) -> list[str]:
    if then == now:
        return []
    if isinstance(then, dict) and isinstance(now, dict):
        if _FINGERPRINT in then and then[_FINGERPRINT] == now.get(_FINGERPRINT):
            return []
        return [
            line
            for key in dict.fromkeys([*then, *now])
            for line in _compare(
                then.get(key, _ABSENT), now.get(key, _ABSENT), f"{name}.{key}" if name else key
            )
        ]
    if isinstance(then, list) and isinstance(now, list):
        left, right = ([v for v in a if v not in b] for a, b in ((then, now), (now, then)))
        if left or right:
            return [f"{name}: only then {_show(left)}, only now {_show(right)}"]
        return [f"{name}: in another order"]
    return [f"{name}: was {_show(then)}, is {_show(now)}"]


def _show(value: Any) -> str:
    text = value if value is _ABSENT else repr(value)
    return text if len(text) <= _LENGTH else f"{text[:_LENGTH]}…"
