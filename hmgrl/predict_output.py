"""The file of answers: a run that was stopped, even killed, goes on where it was.

Beside the file lies `NAME.progress.json`: how many lines of the input are answered, their hash, how
many bytes of answers that made, and the choices they depend on. It is written after the answers;
what the file holds beyond is cut off when the run goes on, half a line too.

Of several processes each writes a part, `NAME.part-0-of-2`, with its own progress; at the end the
parts make the file.
"""

import glob
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import cycle, islice
from pathlib import Path
from typing import Any, BinaryIO

_NO_PROGRESS = (
    "--output {path}: no {name} beside it, from which --resume would go on; --overwrite begins anew"
)


@dataclass
class Progress:
    """How far a run came.

    Attributes:
        chunks: Chunks of the input that are done, others' chunks before the last one included.
        lines: Lines of the input up to there, blank ones too.
        digest: Hash of these lines.
        bytes: Bytes of answers.
        answered: Answers.
        bad: Answers that are errors.
        finished: Whether there is no line left.
    """

    chunks: int = 0
    lines: int = 0
    digest: str = ""
    bytes: int = 0
    answered: int = 0
    bad: int = 0
    finished: bool = False


def progress_path(path: Path) -> Path:
    """Where the progress of a file of answers lies."""
    return path.with_name(f"{path.name}.progress.json")


def part_path(path: Path, index: int, count: int) -> Path:
    """Where a process writes its part of a file of answers."""
    return path.with_name(f"{path.name}.part-{index}-of-{count}")


def parts_of(path: Path) -> list[Path]:
    """All parts of a file of answers that lie there, with their progress."""
    return sorted(path.parent.glob(f"{glob.escape(path.name)}.part-*-of-*"))


def read_progress(path: Path, choices: Mapping[str, Any]) -> Progress:
    """Reads the progress of a file of answers.

    Args:
        path: The file of answers.
        choices: The choices of this run.

    Raises:
        ValueError: If it cannot be read, or was made with other choices.
        FileNotFoundError: If there is none.
    """
    place = progress_path(path)
    if not place.is_file():
        raise FileNotFoundError(_NO_PROGRESS.format(path=path, name=place.name))
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
        progress = Progress(**{field.name: content[field.name] for field in fields(Progress)})
        before = dict(content["choices"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{place}: expected what predict wrote ({error!r})") from error
    for name in sorted({*before, *choices}):
        if before.get(name) != choices.get(name):
            raise ValueError(
                f"{path}: begun with {name} {before.get(name)!r}, got {choices.get(name)!r}; "
                "expected the same as before, or --overwrite to begin anew"
            )
    return progress


def write_progress(path: Path, progress: Progress, choices: Mapping[str, Any]) -> None:
    """Writes the progress of a file of answers, so that a reader never sees half of it."""
    place = progress_path(path)
    partial = place.with_name(f"{place.name}.partial")
    content = {**asdict(progress), "choices": dict(choices)}
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.replace(place)


class Answers:
    """Answers that are written one after the other.

    Args:
        stream: Where they go.
        progress: How far they are.
        path: Their file; None for a stream that cannot be gone on with.
        choices: What they depend on.
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
        self._bytes, self._answered, self._bad = progress.bytes, progress.answered, progress.bad

    @classmethod
    def open(cls, path: Path, choices: Mapping[str, Any], resume: bool) -> "Answers":
        """Opens a file, to go on with it or anew.

        Raises:
            ValueError: If the file cannot be gone on with.
            OSError: If it cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        if not resume or not path.exists():
            write_progress(path, Progress(), choices)
            return cls(path.open("wb"), Progress(), path, choices)
        progress = read_progress(path, choices)
        size = path.stat().st_size
        if size < progress.bytes:
            raise ValueError(
                f"{path}: {size:,} bytes, expected the {progress.bytes:,} that were written; "
                "--overwrite begins anew"
            )
        os.truncate(path, progress.bytes)
        return cls(path.open("ab"), progress, path, choices)

    def write(self, line: bytes, bad: bool) -> None:
        """Writes an answer."""
        self._stream.write(line)
        self._bytes += len(line)
        self._answered += 1
        self._bad += bad

    def flush(self) -> None:
        """Hands what was written to the system."""
        self._stream.flush()

    def commit(self, chunks: int, lines: int, digest: str, finished: bool = False) -> None:
        """Records that a chunk is done; see :class:`Progress`."""
        self.flush()
        self.progress = Progress(
            chunks, lines, digest, self._bytes, self._answered, self._bad, finished
        )
        if self._path is not None:
            write_progress(self._path, self.progress, self._choices)

    def close(self) -> None:
        """Closes the file."""
        if self._path is not None:
            self._stream.close()


def check_target(path: Path, count: int, resume: bool, overwrite: bool) -> None:
    """Checks that a file of answers may be written, and removes what is to be replaced.

    Args:
        path: The file.
        count: Number of processes.
        resume: Whether to go on with what is there.
        overwrite: Whether to replace it.

    Raises:
        FileExistsError: If it is there and neither is wanted.
        FileNotFoundError: If there is no progress to go on from.
        IsADirectoryError: If it is a folder.
        ValueError: If it was begun by another number of processes.
    """
    if path.is_dir():
        raise IsADirectoryError(f"--output {path}: is a folder, expected a file")
    parts = parts_of(path)
    there = parts or (path.exists() and path.stat().st_size > 0)
    if overwrite:
        for part in parts:
            part.unlink()
        progress_path(path).unlink(missing_ok=True)
        return
    if there and not resume:
        raise FileExistsError(
            f"--output {path}: is there already; --resume goes on with it, --overwrite begins anew"
        )
    own = {part_path(path, index, count) for index in range(count if count > 1 else 0)}
    own |= {progress_path(part) for part in own}
    if other := sorted(set(parts) - own):
        raise ValueError(
            f"--output {path}: begun by another number of processes ({other[0].name}), got "
            f"{count}; expected as many, or --overwrite to begin anew"
        )
    if there and not parts and not progress_path(path).is_file():
        raise FileNotFoundError(_NO_PROGRESS.format(path=path, name=progress_path(path).name))


def merge(path: Path, count: int, size: int, choices: Mapping[str, Any]) -> Progress:
    """Makes the file of answers of its parts, which are removed then.

    Args:
        path: The file.
        count: Number of parts.
        size: Lines of a chunk; chunks went to the parts in turn.
        choices: What the answers depend on.

    Returns:
        The progress of the whole.

    Raises:
        ValueError: If a part is not finished.
    """
    parts = [part_path(path, index, count) for index in range(count)]
    states = [read_progress(part, choices) for part in parts]
    if not all(state.finished for state in states):
        raise ValueError(f"{path}: not all parts are finished; --resume goes on")
    partial = path.with_name(f"{path.name}.partial")
    streams = [part.open("rb") for part in parts]
    try:
        with partial.open("wb") as out:
            for stream in cycle(streams):
                lines = list(islice(stream, size))
                out.writelines(lines)
                if len(lines) < size:  # the last chunk, or there was none left
                    break
            written = out.tell()
    finally:
        for stream in streams:
            stream.close()
    whole = Progress(
        max(state.chunks for state in states),
        states[0].lines,
        states[0].digest,
        sum(state.bytes for state in states),
        sum(state.answered for state in states),
        sum(state.bad for state in states),
        finished=True,
    )
    if written != whole.bytes:
        raise ValueError(f"{path}: its parts do not go together; --overwrite begins anew")
    partial.replace(path)
    write_progress(path, whole, choices)
    for part in parts:
        part.unlink()
        progress_path(part).unlink()
    return whole
