"""Preparation of the splits before training: tokenisation and states of frozen encoders."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from accelerate import Accelerator

from ..processing_hmgrl import HMGRLProcessor
from .batching import Samples
from .feature_cache import StateCache
from .frozen_features import image_features, image_key, text_features
from .training_arguments import HMGRLTrainingArguments


@dataclass
class Prepared:
    """Prepared splits.

    Attributes:
        samples: Tokenised samples by split.
        images: States of all images, if there are any and the image encoder is frozen.
        texts: States of all texts, if the text encoder is frozen.
        use_images: Whether there are images and the model has an image encoder.
    """

    samples: dict[str, Samples]
    images: StateCache | None
    texts: StateCache | None
    use_images: bool


def prepare(
    model: Any,
    processor: HMGRLProcessor,
    splits: dict[str, Any],
    arguments: HMGRLTrainingArguments,
    accelerator: Accelerator,
) -> Prepared:
    """Tokenises the splits and precomputes the states of frozen encoders.

    If no record has an image, the image column is removed and the model takes text only. If the
    image encoder is trained, images remain undecoded in the records and are opened batch by batch.

    Args:
        model: The model, on its device.
        processor: Its processor.
        splits: Records by split.
        arguments: Arguments of the run.
        accelerator: Its accelerator; one process encodes, the others read the states.

    Raises:
        OSError: If the disk has not enough free space for the states.
    """
    from datasets import Image  # noqa: PLC0415 - only to read images as bytes

    config, backbone = model.config, getattr(model, model.base_model_prefix)
    backbone.train(backbone.training)  # disables dropout in the frozen encoders of a new model
    shows = arguments.progress and accelerator.is_main_process
    splits = {n: data.cast_column("image", Image(decode=False)) for n, data in splits.items()}
    use_images = (
        processor.use_images
        and config.vision_config is not None
        and any(image is not None for data in splits.values() for image in data["image"])
    )
    images: dict[str, Callable[[], dict[str, Any]]] = {}
    if not use_images:
        splits = {name: data.remove_columns("image") for name, data in splits.items()}
    elif backbone.vision_is_frozen:
        for name, data in splits.items():
            keys = [None if image is None else image_key(image) for image in data["image"]]
            column = data.select_columns("image")
            for row, key in enumerate(keys):
                if key is not None:
                    images.setdefault(key, partial(_read_image, column, row))
            splits[name] = data.remove_columns("image").add_column("image_key", keys)
    samples = {name: Samples(data, processor, shows) for name, data in splits.items()}
    # If padding is not masked, states depend on the batch and cannot be cached.
    caches_texts = backbone.text_is_frozen and config.mask_padding
    states: dict[str, StateCache | None] = {"images": None, "texts": None}
    with accelerator.main_process_first():
        if images:
            states["images"] = image_features(
                backbone,
                processor,
                images,
                arguments.feature_dir,
                arguments.eval_batch_size,
                shows,
            )
        if caches_texts:
            rows = (text.ids for split in samples.values() for text in split.texts)
            states["texts"] = text_features(
                backbone, processor, rows, arguments.feature_dir, arguments.eval_batch_size, shows
            )
    return Prepared(samples, states["images"], states["texts"], use_images)


def _read_image(data: Any, row: int) -> dict[str, Any]:
    """Reads the undecoded image of a record."""
    return data[row]["image"]
