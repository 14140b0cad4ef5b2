"""Cache of encoder states on disk, shared by runs and processes.

A cache folder belongs to one encoder with its weights and preprocessing; the caller includes a hash
of them in the folder's name, so that its content never becomes stale. Items (images, texts) are
arrays of shape (rows, width) in half precision, identified by a key computed from their content.
They are stored consecutively in files of at most about a hundred megabytes or a minute of encoding,
each with an index file. A file and then its index are renamed when they are complete, so that an
incomplete file is never read. After an interruption, what was encoded is kept; a killed process
loses at most the last minute. One process writes at a time; the others wait and read its output.

Items are read instead of memory-mapped, as the pages of a mapping count as memory of the process
until the kernel reclaims them, and a pass over a large cache would appear to exhaust the memory.
"""

import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from tqdm.auto import tqdm

from ..storage import write_atomically
from .locks import locked

SHARD_BYTES = 128 * 1024 * 1024
SHARD_SECONDS = 60.0
_TYPE = np.dtype("<f2")


class StateCache:
    """Cached states of one encoder.

    Args:
        folder: The cache folder, created if it does not exist.

    Attributes:
        width: Width of a row; None if the cache is empty.

    Examples:
        >>> cache = StateCache("states")
        >>> def encode(keys):
        ...     return [np.ones((len(key), 4), dtype=np.float16) for key in keys]
        >>> cache = cache.fill(["ab", "abc"], encode, batch_size=2, purpose="", show_progress=False)
        >>> states = np.empty((3, 4), dtype=np.float16)
        >>> cache.read_into("abc", states)
        >>> len(cache), cache.width, cache.rows("ab"), float(states.sum())
        (2, 4, 2, 12.0)
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.width: int | None = None
        self._read: set[str] = set()
        self._locations: dict[str, tuple[Path, int, int]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Reads the indices of items that other processes have written in the meantime."""
        for index in sorted(self.folder.glob("*.json")):
            if index.name in self._read:
                continue
            # Complete by construction, unless the disk lost data. What is lost is encoded again,
            # possibly under the same name.
            try:
                content = json.loads(index.read_text(encoding="utf-8"))
            except ValueError:
                continue
            path, width = index.with_suffix(".bin"), int(content["width"])
            rows = sum(content["rows"])
            if not path.is_file() or path.stat().st_size != rows * width * _TYPE.itemsize:
                continue
            self._read.add(index.name)
            self.width, first = width, 0
            for key, count in zip(content["keys"], content["rows"], strict=True):
                self._locations[key] = (path, first, count)
                first += count

    def __contains__(self, key: str) -> bool:
        return key in self._locations

    def __len__(self) -> int:
        return len(self._locations)

    def rows(self, key: str) -> int:
        """Number of rows of an item."""
        return self._locations[key][2]

    def read_into(self, key: str, out: np.ndarray) -> None:
        """Reads an item.

        Args:
            key: Key of the item.
            out: Contiguous half-precision array to read it into, shape (rows, width).

        Raises:
            OSError: If the file is shorter than its index states.
        """
        path, first, count = self._locations[key]
        size = count * out.shape[-1] * _TYPE.itemsize
        with path.open("rb", buffering=0) as file:
            file.seek(first * out.shape[-1] * _TYPE.itemsize)
            view = out.data.cast("B")
            read = 0
            while read < size:
                got = file.readinto(view[read:size])
                if not got:
                    raise OSError(f"{path}: ended {size - read} bytes early; delete it and restart")
                read += got

    def fill(
        self,
        keys: Iterable[str],
        encode: Callable[[Sequence[str]], Sequence[np.ndarray]],
        batch_size: int,
        purpose: str,
        show_progress: bool = True,
    ) -> Self:
        """Encodes the items that are not cached yet.

        If it is interrupted, or the encoder fails, the items encoded so far are kept.

        Args:
            keys: Keys of the items.
            encode: Returns the array, shape (rows, width), of each key of a batch.
            batch_size: Number of items encoded at once.
            purpose: Description of the progress bar.
            show_progress: Whether to show the progress bar.

        Returns:
            The cache itself, which then contains all items.

        Raises:
            OSError: If the disk has not enough free space for the items.
        """
        wanted = list(dict.fromkeys(keys))
        if all(key in self._locations for key in wanted):
            return self
        with locked(self.folder / "lock", f"feature cache {self.folder}", wait=True):
            self.refresh()
            for stale in self.folder.glob("*.partial"):  # of a process that was killed
                stale.unlink(missing_ok=True)
            missing = [key for key in wanted if key not in self._locations]
            writer = _ShardWriter(self.folder)
            try:
                with tqdm(total=len(missing), desc=purpose, disable=not show_progress) as bar:
                    for start in range(0, len(missing), batch_size):
                        part = missing[start : start + batch_size]
                        # A list, as a batch with an error must not be written in part.
                        for key, states in list(zip(part, encode(part), strict=True)):
                            writer.add(key, states)
                        done = start + len(part)
                        _check_room(self.folder, writer.bytes * (len(missing) - done) // done)
                        bar.update(len(part))
                writer.close()
            except OSError:
                raise  # the disk may be full
            except BaseException:
                writer.close()
                raise
            finally:
                writer.abandon()
            self.refresh()
        return self


class _ShardWriter:
    """Writes items to files of limited size, and closes each after a limited time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bytes = folder, 0
        self._file: Any = None
        self._opened = 0.0
        self._part = folder / f"{uuid.uuid4().hex}.partial"
        self._keys: list[str] = []
        self._rows: list[int] = []
        self._width = 0

    def add(self, key: str, states: np.ndarray) -> None:
        if self._file is None:
            self._file, self._opened = self._part.open("wb"), time.monotonic()
        content = np.ascontiguousarray(states, dtype=_TYPE)
        self._file.write(content.data)
        self._keys.append(key)
        self._rows.append(len(content))
        self._width = content.shape[-1]
        self.bytes += content.nbytes
        age = time.monotonic() - self._opened
        if self._file.tell() >= SHARD_BYTES or age >= SHARD_SECONDS:
            self.close()

    def close(self) -> None:
        """Completes the open file, whose name is the hash of its keys."""
        if self._file is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        name = hashlib.sha256("\n".join(self._keys).encode()).hexdigest()[:32]
        self._part.replace(self.folder / f"{name}.bin")
        index = {"width": self._width, "keys": self._keys, "rows": self._rows}
        write_atomically(self.folder / f"{name}.json", json.dumps(index).encode())
        self._keys, self._rows = [], []

    def abandon(self) -> None:
        """Removes an incomplete file."""
        try:
            if self._file is not None:
                self._file.close()  # flushes its buffer, which fails again on a full disk
        finally:
            self._part.unlink(missing_ok=True)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"the states need {needed / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free; choose "
            "another feature_dir",
            str(folder),
        )
