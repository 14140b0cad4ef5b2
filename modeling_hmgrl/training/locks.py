"""Locks on files and folders that one process at a time may write, with the holder named to others.

The operating system releases the lock of a process that ends in any way, so the lock file that a
killed process left behind does not block. Lock files remain in place, as removing them would let
two processes hold the lock. A file beside each names the holder; it is for messages alone.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from transformers.utils import logging

from ..storage import write_json

_ATTEMPTS, _PAUSE = 20, 0.05

_logger = logging.get_logger(__name__)


def lock_path(path: Path) -> Path:
    """Path of the lock of an output file: a hidden file beside it."""
    return path.with_name(f".{path.name}.lock")


def holder_path(lock: Path) -> Path:
    """Path of the description of the process that holds a lock."""
    return lock.with_name(f"{lock.name}.holder")


@contextmanager
def locked(lock: Path, subject: str, wait: bool = False) -> Iterator[None]:
    """Holds a lock within the context.

    Args:
        lock: The lock file; its folder is created if it does not exist.
        subject: What the lock protects, for messages, such as "--output predictions.jsonl".
        wait: Whether to wait for a process that holds the lock, with a warning, instead of raising.

    Raises:
        BlockingIOError: Naming the process that holds the lock, its host, and since when.
        OSError: If the lock file cannot be written.

    Examples:
        >>> with locked(Path("model.lock"), "the model"):
        ...     content = json.loads(holder_path(Path("model.lock")).read_text())
        >>> content["pid"] == os.getpid(), holder_path(Path("model.lock")).exists()
        (True, False)
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    holder, file_lock = holder_path(lock), FileLock(lock)
    try:
        file_lock.acquire(timeout=0)
    except Timeout:
        message = f"{subject}: in use by {_describe_holder(holder)}"
        if not wait:
            raise BlockingIOError(f"{message}; expected one process at a time") from None
        _logger.warning(f"{message}; waiting until it has finished")
        file_lock.acquire()
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(holder, {"pid": os.getpid(), "host": socket.gethostname(), "since": since})
        yield
    finally:
        holder.unlink(missing_ok=True)  # before others can acquire the lock and write theirs
        file_lock.release()


def _describe_holder(holder: Path) -> str:
    """Describes the process that holds a lock."""
    for _ in range(_ATTEMPTS):  # it writes the description just after it acquired the lock
        try:
            found = json.loads(holder.read_text(encoding="utf-8"))
            pid, host, since = int(found["pid"]), str(found["host"]), str(found["since"])
        except (OSError, ValueError, KeyError, TypeError):
            time.sleep(_PAUSE)
            continue
        if host != socket.gethostname() or _is_running(pid):
            return f"process {pid} on {host} since {since}"
        time.sleep(_PAUSE)  # the description is that of a killed process
    return "another process"


def _is_running(pid: int) -> bool:
    """Whether a process of this host is running."""
    if os.name != "posix":  # elsewhere, signal 0 would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
