"""What a frozen image encoder says of each picture: computed once, kept on disk, memory-mapped.

A cache file holds the states of one set of pictures. Its name is a hash of the pictures' bytes, the
encoder's weights and the preprocessing, so a file is never stale; it is renamed into place when it
is complete, so a cut-off one is never read.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor
from tqdm.auto import tqdm


def image_bytes(image: dict[str, Any]) -> bytes:
    """Bytes of an undecoded picture, ``{"bytes", "path"}`` as datasets stores it."""
    return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()


def image_key(image: dict[str, Any]) -> str:
    """Hash of a picture's bytes."""
    return hashlib.sha256(image_bytes(image)).hexdigest()


def encoder_key(model: torch.nn.Module, image_processor: Any) -> str:
    """Hash of an image encoder's weights and of the preprocessing before it."""
    digest = hashlib.sha256(json.dumps(image_processor.to_dict(), sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().float().numpy()).data)
    return digest.hexdigest()


class ImageFeatures:
    """Memory-mapped states of an image encoder.

    Args:
        path: A complete cache file, of shape (pictures, m, d'), half precision.
        rows: Row of each picture, by :func:`image_key`.
    """

    def __init__(self, path: Path, rows: dict[str, int]) -> None:
        self.path, self.rows = path, rows
        self.states = np.load(path, mmap_mode="r", allow_pickle=False)

    def batch(self, keys: Iterable[str | None]) -> dict[str, Tensor]:
        """Looks up a batch.

        Args:
            keys: For each of B samples its picture's key, or None.

        Returns:
            image_features (B, m, d') in half precision, 0 where absent, and image_mask (B,);
            nothing if no sample has a picture.
        """
        keys = list(keys)
        present = [index for index, key in enumerate(keys) if key is not None]
        if not present:
            return {}
        states = np.zeros((len(keys), *self.states.shape[1:]), dtype=self.states.dtype)
        mask = torch.zeros(len(keys), dtype=torch.bool)
        for index in present:
            states[index] = self.states[self.rows[keys[index]]]  # type: ignore[index]
            mask[index] = True
        return {"image_features": torch.from_numpy(states), "image_mask": mask}


def compute_features(
    model: Any,
    processor: Any,
    images: dict[str, dict[str, Any]],
    directory: str | Path,
    batch_size: int = 32,
    show_progress: bool = True,
) -> ImageFeatures:
    """Encodes distinct pictures with the model's image encoder, or finds that done.

    Args:
        model: A :class:`HMGRLModel` whose image encoder is frozen.
        processor: A :class:`HMGRLProcessor`.
        images: Undecoded pictures by :func:`image_key`.
        directory: Folder of cache files.
        batch_size: Pictures encoded at once.
        show_progress: Whether to show a progress bar.

    Returns:
        The features.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    keys = sorted(images)
    encoder = encoder_key(model.vision_model, processor.image_processor)
    name = hashlib.sha256("\n".join([encoder, *keys]).encode()).hexdigest()[:32]
    path = directory / f"{name}.npy"
    rows = {key: row for row, key in enumerate(keys)}
    if path.exists():
        return ImageFeatures(path, rows)
    partial = directory / f"{name}.{os.getpid()}.partial"
    starts = range(0, len(keys), batch_size)
    states: np.memmap | None = None
    try:
        for start in tqdm(starts, desc="Encoding pictures", disable=not show_progress):
            part = keys[start : start + batch_size]
            pixels = processor.encode_images([images[key] for key in part], len(part))
            with torch.inference_mode():
                encoded = model.encode_image(pixels["pixel_values"].to(model.device))
            encoded = encoded.float().cpu().numpy()
            if states is None:
                shape = (len(keys), *encoded.shape[1:])
                states = open_memmap(partial, mode="w+", dtype=np.float16, shape=shape)
            states[start : start + len(part)] = encoded
        assert states is not None
        states.flush()
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return ImageFeatures(path, rows)
