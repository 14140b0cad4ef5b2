"""Cached states of frozen encoders: keys of the items, encoding, and reading of batches."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..storage import encoder_key, settings_of
from .feature_cache import StateCache


def image_bytes(image: dict[str, Any]) -> bytes:
    """Bytes of an undecoded image, ``{"bytes", "path"}`` as datasets stores it."""
    return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()


def image_key(image: dict[str, Any]) -> str:
    """Hash of an image's bytes."""
    if image["bytes"] is None:
        return _file_key(image["path"])
    return hashlib.sha256(image["bytes"]).hexdigest()


@cache  # many samples share an image; files are assumed not to change during a run
def _file_key(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def image_features(
    model: Any,
    processor: Any,
    images: dict[str, Callable[[], dict[str, Any]]],
    directory: str | Path,
    batch_size: int = 32,
    show_progress: bool = True,
) -> StateCache:
    """Encodes distinct images with the model's image encoder unless they are cached.

    Args:
        model: A :class:`HMGRLModel` whose image encoder is frozen.
        processor: A :class:`HMGRLProcessor`.
        images: Function that reads the undecoded image, by :func:`image_key`.
        directory: Folder of caches.
        batch_size: Number of images encoded at once.
        show_progress: Whether to show a progress bar.

    Returns:
        The cache, which contains all images by their key.

    Raises:
        OSError: If the disk has not enough free space.
    """

    def encode(keys: Sequence[str]) -> Sequence[np.ndarray]:
        pixels = processor.encode_images([images[key]() for key in keys], len(keys))
        with torch.inference_mode():
            states = model.encode_image(pixels["pixel_values"].to(model.device))
        return list(states.half().cpu().numpy())

    key = encoder_key(model.vision_model, settings_of(processor.image_processor))
    return StateCache(Path(directory) / key).fill(
        images, encode, batch_size, "Encoding images", show_progress
    )


def text_key(ids: Sequence[int]) -> str:
    """Hash of a text's token ids."""
    return hashlib.sha256(np.asarray(ids, dtype="<i8").tobytes()).hexdigest()


def text_features(
    model: Any,
    processor: Any,
    rows: Iterable[Sequence[int]],
    directory: str | Path,
    batch_size: int = 32,
    show_progress: bool = True,
) -> StateCache:
    """Encodes distinct texts with the model's text encoder unless they are cached.

    Args:
        model: A :class:`HMGRLModel` whose text encoder is frozen.
        processor: A :class:`HMGRLProcessor`.
        rows: Token ids of each text, special tokens included.
        directory: Folder of caches.
        batch_size: Number of texts encoded at once.
        show_progress: Whether to show a progress bar.

    Returns:
        The cache, which contains all texts by :func:`text_key`.

    Raises:
        OSError: If the disk has not enough free space.
    """
    ids_of = {text_key(ids): ids for ids in rows}

    def encode(keys: Sequence[str]) -> list[np.ndarray]:
        batch = processor.pad([ids_of[key] for key in keys]).to(model.device)
        with torch.inference_mode():
            states = model.encode_text(batch["input_ids"], batch["attention_mask"])
        states = states.half().cpu().numpy()
        return [row[: len(ids_of[key])] for row, key in zip(states, keys, strict=True)]

    # Sorted by length to reduce padding.
    ordered = sorted(ids_of, key=lambda key: (len(ids_of[key]), key))
    key = encoder_key(model.text_model, "text")
    return StateCache(Path(directory) / key).fill(
        ordered, encode, batch_size, "Encoding texts", show_progress
    )


def read_batch(cache_of_encoder: StateCache, keys: Sequence[str | None]) -> tuple[Tensor, Tensor]:
    """Reads a batch of items, padded to the longest.

    Args:
        cache_of_encoder: The cache.
        keys: Key of each of B items, or None for an absent one; at least one is not None.

    Returns:
        States in half precision, shape (B, rows, width), 0 if absent, and the mask of present
        items, shape (B,).
    """
    lengths = [0 if key is None else cache_of_encoder.rows(key) for key in keys]
    states = np.zeros((len(keys), max(lengths), cache_of_encoder.width or 0), dtype=np.float16)
    for out, key, length in zip(states, keys, lengths, strict=True):
        if key is not None:
            cache_of_encoder.read_into(key, out[:length])
    return torch.from_numpy(states), torch.tensor([key is not None for key in keys])
