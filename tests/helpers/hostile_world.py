"""Hostile inputs that several test files use, and bounds on what they may cost."""

import math
import resource
import struct
import time
import zlib
from contextlib import contextmanager
from pathlib import Path

MEGABYTE = 1_000_000


def peak_megabytes():
    """The largest memory of this process so far.

    On Linux that of getrusage includes the process that started this one.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    [peak] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(peak.split()[1]) / 1024


GOOD = {"text": "anna sees the fox", "mention": "fox"}


@contextmanager
def bounded(seconds=10, megabytes=400):
    """Fails if what is inside takes longer, or makes the process grow more."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < seconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < megabytes * 1000


def is_answer(result):
    numbers = [*result["scores"], *result["probabilities"]]
    assert all(math.isfinite(number) for number in numbers)
    assert result["label"] == result["labels"][0]
    return True


def refused(pipe, record, field, place="input", **options):
    """Whether an input is refused by an error that names the field; False if it is answered."""
    try:
        result = pipe(record, **options)
    except (ValueError, OSError) as caught:
        error = str(caught)
    else:
        return not is_answer(result)
    assert error.startswith(f"{place}.{field}" if field else place)
    assert len(error) < 1000
    return True


def png(width, height, depth=8, kind=2, chunks=()):
    """The few bytes of a PNG that claims to be that large."""

    def chunk(name, content):
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    parts = [chunk(name, content) for name, content in chunks]
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(parts) + chunk(b"IEND", b"")


HUGE_PNG = png(2**31 - 1, 2**31 - 1)


def deep(depth=100_000):
    value = "x"
    for _ in range(depth):
        value = [value]
    return value


class Mute:
    """An object that cannot show itself."""

    def __repr__(self):
        raise RuntimeError("no")
