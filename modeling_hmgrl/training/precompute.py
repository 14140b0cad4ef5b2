"""What is done once before training: pictures hashed, texts tokenised, frozen encoders run."""

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
    """The splits, ready for batches.

    Attributes:
        samples: Tokenised samples by split.
        images: States of all pictures, if the image encoder is frozen and there are any.
        texts: States of all texts, if the text encoder is frozen.
        use_images: Whether there are pictures and an image encoder for them.
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
    """Tokenises the splits and encodes what frozen encoders say of them.

    Without any picture the image column goes, and with it the visual half of the model's work. With
    a trained image encoder pictures stay undecoded in the records and are opened batch by batch.

    Args:
        model: The model, on its device.
        processor: Its processor.
        splits: Records by split.
        arguments: Arguments of the run.
        accelerator: Its accelerator; one process encodes, the others read what it wrote.

    Raises:
        OSError: If the disk has no room for the states.
    """
    from datasets import Image  # noqa: PLC0415 - only to read pictures as bytes

    config, backbone = model.config, getattr(model, model.base_model_prefix)
    backbone.train(backbone.training)  # a new model's frozen encoders would still drop out
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
    elif config.freeze_vision:
        for name, data in splits.items():
            keys = [None if image is None else image_key(image) for image in data["image"]]
            pictures = data.select_columns("image")
            for row, key in enumerate(keys):
                if key is not None:
                    images.setdefault(key, partial(_picture, pictures, row))
            splits[name] = data.remove_columns("image").add_column("image_key", keys)
    samples = {name: Samples(data, processor, shows) for name, data in splits.items()}
    # Padding takes part in what an encoder says where it is not masked; such states depend on the
    # batch and cannot be kept.
    keeps_texts = config.freeze_text and config.mask_padding
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
        if keeps_texts:
            rows = (text.ids for split in samples.values() for text in split.texts)
            states["texts"] = text_features(
                backbone, processor, rows, arguments.feature_dir, arguments.eval_batch_size, shows
            )
    return Prepared(samples, states["images"], states["texts"], use_images)


def _picture(pictures: Any, row: int) -> dict[str, Any]:
    """An undecoded picture, read when it is needed."""
    return pictures[row]["image"]
