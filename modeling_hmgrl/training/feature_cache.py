"""Encoder states on disk: written once, shared by runs and processes, read a row at a time.

A cache folder belongs to one encoder with its weights and preprocessing; its caller puts a hash of
them into the folder's name, so nothing in it is ever stale. Items (pictures, texts) are arrays of
shape (rows, width) in half precision, known by a key made of their content. They lie one after the
other in files of some hundred megabytes, each with an index beside it. A file and then its index
are renamed into place when they are complete, so that a cut-off write is never read and interrupted
work goes on where it stopped. One process writes at a time; the others wait and find its work done.

Rows are read, not memory-mapped: pages of a mapping count as the process's memory until the kernel
wants them back, and a pass over a large cache would seem to fill the machine.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from filelock import FileLock
from tqdm.auto import tqdm

SHARD_BYTES = 128 * 1024 * 1024
_TYPE = np.dtype("<f2")


class StateCache:
    """Items of one encoder.

    Args:
        folder: The cache folder; it is made if it does not exist.

    Attributes:
        width: Width of a row, or None while there is no item.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.width: int | None = None
        self._read: set[str] = set()
        self._places: dict[str, tuple[Path, int, int]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Learns of items that other runs or processes have written since."""
        for index in sorted(self.folder.glob("*.json")):
            if index.name in self._read:
                continue
            # Complete by construction, unless the disk itself lost something; what it lost is
            # encoded again and may come back under its old name.
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
                self._places[key] = (path, first, count)
                first += count

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def rows(self, key: str) -> int:
        """Number of rows of an item."""
        return self._places[key][2]

    def read_into(self, key: str, out: np.ndarray) -> None:
        """Reads an item.

        Args:
            key: Key of the item.
            out: Half-precision array that takes it, contiguous, shape (rows, width).

        Raises:
            OSError: If the file was cut off after it was opened.
        """
        path, first, count = self._places[key]
        size = count * out.shape[-1] * _TYPE.itemsize
        with path.open("rb", buffering=0) as file:
            file.seek(first * out.shape[-1] * _TYPE.itemsize)
            view = out.data.cast("B")
            read = 0
            while read < size:
                got = file.readinto(view[read:size])
                if not got:
                    raise OSError(f"{path}: ended {size - read} bytes early; delete it and go on")
                read += got

    def fill(
        self,
        keys: Iterable[str],
        encode: Callable[[Sequence[str]], Sequence[np.ndarray]],
        batch_size: int,
        purpose: str,
        show_progress: bool = True,
    ) -> Self:
        """Encodes what is not there yet.

        Args:
            keys: Keys of the items wanted.
            encode: Returns the array, shape (rows, width), of each key of a batch.
            batch_size: Items encoded at once.
            purpose: What the progress bar says.
            show_progress: Whether to show it.

        Returns:
            The cache itself, which holds all of them.

        Raises:
            OSError: If the disk has no room for the items.
        """
        wanted = list(dict.fromkeys(keys))
        if all(key in self._places for key in wanted):
            return self
        with FileLock(self.folder / "lock"):
            self.refresh()
            for stale in self.folder.glob("*.partial"):  # of a process that was killed
                stale.unlink(missing_ok=True)
            missing = [key for key in wanted if key not in self._places]
            writer = _ShardWriter(self.folder)
            try:
                with tqdm(total=len(missing), desc=purpose, disable=not show_progress) as bar:
                    for start in range(0, len(missing), batch_size):
                        part = missing[start : start + batch_size]
                        for key, states in zip(part, encode(part), strict=True):
                            writer.add(key, states)
                        done = start + len(part)
                        _check_room(self.folder, writer.bytes * (len(missing) - done) // done)
                        bar.update(len(part))
                writer.close()
            finally:
                writer.abandon()
            self.refresh()
        return self


class _ShardWriter:
    """Writes items into files of bounded size."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bytes = folder, 0
        self._file: Any = None
        self._part = folder / f"{os.getpid()}.partial"
        self._keys: list[str] = []
        self._rows: list[int] = []
        self._width = 0

    def add(self, key: str, states: np.ndarray) -> None:
        if self._file is None:
            self._file = self._part.open("wb")
        content = np.ascontiguousarray(states, dtype=_TYPE)
        self._file.write(content.data)
        self._keys.append(key)
        self._rows.append(len(content))
        self._width = content.shape[-1]
        self.bytes += content.nbytes
        if self._file.tell() >= SHARD_BYTES:
            self.close()

    def close(self) -> None:
        """Completes the file that is open; its name comes from the keys in it."""
        if self._file is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        name = hashlib.sha256("\n".join(self._keys).encode()).hexdigest()[:32]
        self._part.replace(self.folder / f"{name}.bin")
        index = {"width": self._width, "keys": self._keys, "rows": self._rows}
        self._part.write_text(json.dumps(index), encoding="utf-8")
        self._part.replace(self.folder / f"{name}.json")
        self._keys, self._rows = [], []

    def abandon(self) -> None:
        """Removes what is not complete."""
        try:
            if self._file is not None:
                self._file.close()  # writes what is buffered, which a full disk refuses once more
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
