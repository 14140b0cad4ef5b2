"""Writes predictions so that an interrupted run, even a killed one, can be resumed.

Progress is stored beside the output as `NAME.progress.json`: the number of input lines processed,
their hash, the number of bytes written, and the options that the predictions depend on. It is
written after the predictions; a resumed run truncates the output to the recorded size, which also
removes an incomplete line.

With several processes each writes a part, `NAME.part-0-of-2`, with its own progress; the parts are
merged at the end. A file is locked while a process writes it, and symbolic links are not followed.
"""

import argparse
import glob
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from itertools import cycle, islice
from pathlib import Path
from typing import Any, BinaryIO

from dataset_scripts.files import load_json
from dataset_scripts.schema import show
from modeling_hmgrl.label_cache import TEXTS_NAME, VECTORS_NAME
from modeling_hmgrl.storage import atomic_path, write_json
from modeling_hmgrl.training.locks import holder_path, lock_path, locked

from .arguments import UsageError

_CACHE_FILES = (TEXTS_NAME, VECTORS_NAME)
_NO_PROGRESS = (
    "--output {path}: cannot be resumed without {name}; expected --overwrite to start over"
)


@dataclass
class Progress:
    """Progress of a run, as stored in `NAME.progress.json`.

    Attributes:
        chunks: Number of chunks of the input up to the last one that this process completed.
        lines: Number of input lines up to there, including blank ones.
        digest: Hash of these lines.
        bytes: Number of bytes written.
        answered: Number of lines written.
        bad: Number of these that hold an error.
        warned: Number of these whose prediction has warnings.
        finished: Whether the input was processed completely.
    """

    chunks: int = 0
    lines: int = 0
    digest: str = ""
    bytes: int = 0
    answered: int = 0
    bad: int = 0
    warned: int = 0
    finished: bool = False


def progress_path(path: Path) -> Path:
    """Path of the progress of an output file."""
    return path.with_name(f"{path.name}.progress.json")


def part_path(path: Path, index: int, count: int) -> Path:
    """Path of one process's part of an output file."""
    return path.with_name(f"{path.name}.part-{index}-of-{count}")


def find_parts(path: Path) -> list[Path]:
    """Finds all parts of an output file, and their progress files."""
    return sorted(path.parent.glob(f"{glob.escape(path.name)}.part-*-of-*"))


def read_progress(path: Path, choices: Mapping[str, Any]) -> Progress:
    """Reads the progress of an output file.

    Args:
        path: The output file.
        choices: The options of this run that predictions depend on.

    Raises:
        ValueError: If the progress cannot be parsed, or was written with other options.
        FileNotFoundError: If there is none.
    """
    source = progress_path(path)
    if not source.is_file():
        raise FileNotFoundError(_NO_PROGRESS.format(path=path, name=source.name))
    try:
        content = load_json(source)
        if isinstance(content, dict):
            content.setdefault("warned", 0)  # missing in files of earlier versions
        progress = Progress(**{field.name: content[field.name] for field in fields(Progress)})
        before = dict(content["choices"])
        for field in fields(Progress):
            value, default = content[field.name], field.default
            if type(value) is not type(default) or (isinstance(value, int) and value < 0):
                raise TypeError(f"{field.name}: got {show(value)}")
    except KeyError as error:
        raise ValueError(f"{source}: expected the progress of a prediction, no {error}") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{source}: expected the progress of a prediction ({error})") from error
    for name in sorted({*before, *choices}):
        if before.get(name) != choices.get(name):
            raise ValueError(
                f"{path}: started with {name} {before.get(name)!r}, got {choices.get(name)!r}; "
                "expected the same value, or --overwrite to start over"
            )
    return progress


def write_progress(path: Path, progress: Progress, choices: Mapping[str, Any]) -> None:
    """Writes the progress of an output file atomically."""
    write_json(progress_path(path), {**asdict(progress), "choices": dict(choices)})


class PredictionWriter:
    """Writes predictions one after the other and records the progress.

    Args:
        stream: Binary stream to write to.
        progress: Progress so far.
        path: Path of the output file; None for a stream that cannot be resumed.
        choices: The options that the predictions depend on.
    """

    def __init__(
        self,
        stream: BinaryIO,
        progress: Progress,
        path: Path | None = None,
        choices: Mapping[str, Any] | None = None,
    ) -> None:
        self.progress = progress
        self._stream, self._path, self._choices = stream, path, choices or {}
        self._bytes, self._answered = progress.bytes, progress.answered
        self._bad, self._warned = progress.bad, progress.warned

    @classmethod
    def open(cls, path: Path, choices: Mapping[str, Any], resume: bool) -> "PredictionWriter":
        """Opens an output file, either to resume it or to start over.

        Raises:
            ValueError: If the file cannot be resumed.
            OSError: If it cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        if not resume or not path.exists():
            write_progress(path, Progress(), choices)
            return cls(_open(path, "wb"), Progress(), path, choices)
        progress = read_progress(path, choices)
        size = path.stat().st_size
        if size < progress.bytes:
            raise ValueError(
                f"{path}: got {size:,} bytes, expected the {progress.bytes:,} written before, or "
                "--overwrite to start over"
            )
        stream = _open(path, "ab")
        stream.truncate(progress.bytes)
        return cls(stream, progress, path, choices)

    def write(self, line: bytes, bad: bool, warned: bool = False) -> None:
        """Writes a line, and whether it holds an error or a prediction with warnings."""
        self._stream.write(line)
        self._bytes += len(line)
        self._answered += 1
        self._bad += bad
        self._warned += warned

    def flush(self) -> None:
        """Flushes the stream."""
        self._stream.flush()

    def commit(self, chunks: int, lines: int, digest: str, finished: bool = False) -> None:
        """Records that a chunk is complete; see :class:`Progress`."""
        self.flush()
        self.progress = Progress(
            chunks,
            lines,
            digest,
            self._bytes,
            self._answered,
            self._bad,
            self._warned,
            finished,
        )
        if self._path is not None:
            write_progress(self._path, self.progress, self._choices)

    def close(self) -> None:
        """Closes the file."""
        if self._path is not None:
            self._stream.close()


def _open(path: Path, mode: str) -> Any:
    """Opens a file to write to, but not a symbolic link, which may have been put in its place."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)

    return open(path, mode, opener=opener)


def check_files(options: argparse.Namespace, count: int) -> None:
    """Checks that the files that a run writes are no symbolic links and not read by it.

    Args:
        options: Options of the command, whose output is a file.
        count: Number of processes.

    Raises:
        IsADirectoryError: If the output is a folder.
        UsageError: If a file to write is a symbolic link, or the same file as an input, the file of
            labels, or a file of the label cache.
    """
    output, cache = Path(options.output), options.label_cache
    if output.is_dir():
        raise IsADirectoryError(f"--output {output}: is a folder, expected a file")
    parts = [part_path(output, index, count) for index in range(count)]
    beside = [*find_parts(output), *parts, *map(progress_path, [output, *parts])]
    beside += [lock_path(output), holder_path(lock_path(output))]
    written = {output: f"--output {output}"}
    written |= {path: f"{path}, which belongs to --output" for path in beside}
    for path, name in written.items():
        if path.is_symlink():
            raise UsageError(f"{name}: is a symbolic link, expected a file or a new name")
    read = {} if options.input == "-" else {Path(options.input): f"--input {options.input}"}
    if options.labels_file is not None:
        read[options.labels_file] = f"--labels-file {options.labels_file}"
    if cache is not None:
        stored = {cache / name: f"a file of --label-cache ({name})" for name in _CACHE_FILES}
        _check_distinct(stored, read)
        read |= stored
    _check_distinct(written, read)


def _check_distinct(written: Mapping[Path, str], read: Mapping[Path, str]) -> None:
    for target, name in written.items():
        for source, other in read.items():
            both_exist = target.exists() and source.exists()
            if target.resolve() == source.resolve() or (both_exist and target.samefile(source)):
                raise UsageError(f"{name}: same file as {other}, expected another file")


@contextmanager
def lock_output(path: Path, index: int, count: int) -> Iterator[None]:
    """Locks what a process writes within the context: the output file, its part, or both.

    Args:
        path: The output file.
        index: Index of the process.
        count: Number of processes.

    Raises:
        BlockingIOError: If another run is writing it.
    """
    paths = [path] if index == 0 else []
    if count > 1:
        paths.append(part_path(path, index, count))
    with ExitStack() as stack:
        for name in paths:
            stack.enter_context(locked(lock_path(name), f"--output {name}"))
        yield


def check_target(path: Path, count: int, resume: bool, overwrite: bool) -> None:
    """Checks that an output file may be written; with ``overwrite``, removes parts and progress.

    Args:
        path: The output file.
        count: Number of processes.
        resume: Whether to resume an existing output.
        overwrite: Whether to replace an existing output.

    Raises:
        FileExistsError: If the output exists and neither is requested.
        FileNotFoundError: If the output has no progress to resume from.
        ValueError: If the output was started with another number of processes.
    """
    parts = find_parts(path)
    exists = parts or (path.exists() and path.stat().st_size > 0)
    if overwrite:
        for part in parts:
            part.unlink()
        progress_path(path).unlink(missing_ok=True)
        return
    if exists and not resume:
        raise FileExistsError(
            f"--output {path}: exists already; expected --resume to continue it, or --overwrite to "
            "start over"
        )
    own = {part_path(path, index, count) for index in range(count if count > 1 else 0)}
    own |= {progress_path(part) for part in own}
    if other := sorted(set(parts) - own):
        raise ValueError(
            f"--output {path}: started with another number of processes ({other[0].name}), got "
            f"{count}; expected the same number, or --overwrite to start over"
        )
    if exists and not parts and not progress_path(path).is_file():
        raise FileNotFoundError(_NO_PROGRESS.format(path=path, name=progress_path(path).name))


def merge(path: Path, count: int, size: int, choices: Mapping[str, Any]) -> Progress:
    """Merges the parts of all processes into the output file and removes them.

    Args:
        path: The output file.
        count: Number of parts.
        size: Number of lines in a chunk; chunks were assigned to the parts in turn.
        choices: The options that the predictions depend on.

    Returns:
        The progress of the whole output.

    Raises:
        ValueError: If a part is unfinished, or the sizes do not match.
    """
    parts = [part_path(path, index, count) for index in range(count)]
    states = [read_progress(part, choices) for part in parts]
    if not all(state.finished for state in states):
        raise ValueError(f"{path}: some parts are unfinished; expected --resume to finish them")
    whole = Progress(
        max(state.chunks for state in states),
        states[0].lines,
        states[0].digest,
        sum(state.bytes for state in states),
        sum(state.answered for state in states),
        sum(state.bad for state in states),
        sum(state.warned for state in states),
        finished=True,
    )
    with atomic_path(path) as partial, ExitStack() as stack:
        streams = [stack.enter_context(part.open("rb")) for part in parts]
        out = stack.enter_context(partial.open("wb"))
        for stream in cycle(streams):
            lines = list(islice(stream, size))
            out.writelines(lines)
            if len(lines) < size:  # the last chunk, or no chunk remained
                break
        if out.tell() != whole.bytes:
            raise ValueError(f"{path}: the parts do not match; expected --overwrite to start over")
    write_progress(path, whole, choices)
    for part in parts:
        part.unlink()
        progress_path(part).unlink()
    return whole
