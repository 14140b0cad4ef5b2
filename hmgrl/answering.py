"""Answers the lines of an input with a pipeline, a chunk at a time."""

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_scripts.schema import Place, RecordError
from modeling_hmgrl.prediction import FIELDS, IGNORED_FIELDS

from .answers import Answers
from .lines import Chunk, answered, encoded, placed, query_of, record_of, rounded, text_of

# Names of unread fields that are kept for the note at the end.
_MOST_NAMES = 10


class Sized:
    """An iterator whose length is known, which lets the pipeline look ahead.

    Args:
        items: The items.
        count: Their number.
    """

    def __init__(self, items: Iterator[Any], count: int) -> None:
        self._items, self._count = items, count

    def __iter__(self) -> Iterator[Any]:
        return self._items

    def __len__(self) -> int:
        return self._count


@dataclass(frozen=True)
class Reading:
    """How lines are read.

    Attributes:
        name: Name of the input, for errors.
        image_dir: Folder of the pictures, or None.
        use_images: Whether pictures are read.
        image_hosts: Hosts from which pictures are fetched.
        needs_labels: Whether each record must bring its labels.
    """

    name: str
    image_dir: Path | None = None
    use_images: bool = True
    image_hosts: Collection[str] = ()
    needs_labels: bool = False


@dataclass(frozen=True)
class _Line:
    """A line that waits for its answer; `chunk` is the one that it ends."""

    place: Place
    text: str | None = None
    query: dict[str, Any] | None = None
    error: str | None = None
    chunk: Chunk | None = None


class Answering:
    """Reads lines, has them answered and writes the answers in order.

    Args:
        pipe: The pipeline.
        reading: How lines are read.
        answers: Where answers go.
        stop: Whether to stop at a bad line.

    Attributes:
        unread: Names of fields that were passed through, the first few.
    """

    def __init__(self, pipe: Any, reading: Reading, answers: Answers, stop: bool) -> None:
        self.pipe, self.reading, self.answers, self.stop = pipe, reading, answers, stop
        self.unread: dict[str, None] = {}
        self._waiting: deque[_Line] = deque()

    def run(self, chunks: Iterable[Chunk], count: int | None, **call: Any) -> Iterator[None]:
        """Answers chunks, and yields after each line.

        Args:
            chunks: The chunks.
            count: Number of their lines, if it is known.
            **call: Arguments of the pipeline's call.

        Raises:
            ValueError: At a bad line, if that is wanted; the answers before it are written.
        """
        queries = self._queries(chunks)
        inputs = queries if count is None else Sized(queries, count)
        for answer in self.pipe(inputs, on_error="return", **call):
            line = self._waiting.popleft()
            error = line.error
            if error is None and "error" in answer:
                error = placed(answer["error"], line.place)
            if error is not None and self.stop:
                self.answers.flush()
                raise ValueError(f"{error} (--on-error skip goes on past bad lines)")
            self.answers.write(_written(line, answer, error), error is not None)
            if (chunk := line.chunk) is not None:
                self.answers.commit(chunk.index + 1, chunk.lines, chunk.digest)
            yield

    def _queries(self, chunks: Iterable[Chunk]) -> Iterator[dict[str, Any] | None]:
        """What the pipeline is asked; None for a line that is bad already, to keep its place."""
        for chunk in chunks:
            for number, raw in chunk.rows:
                last = number == chunk.rows[-1][0]
                line = self._line(number, raw, chunk if last else None)
                self._waiting.append(line)
                yield line.query

    def _line(self, number: int, raw: bytes, chunk: Chunk | None) -> _Line:
        place, text, reading = Place(self.reading.name, number), None, self.reading
        try:
            line = text_of(raw, place)
            record = record_of(line, place)
            text = line  # from here on it can be answered within
            if not reading.use_images:
                record.pop("image", None)
            if reading.needs_labels and record.get("labels") is None:
                expected = "labels, as neither --labels nor the model names any"
                raise RecordError(place, "labels", expected, "none", "missing")
            self._note_unread(record)
            query = query_of(record, place, FIELDS, reading.image_dir, reading.image_hosts)
        except ValueError as error:
            return _Line(place, text, None, placed(str(error), place), chunk)
        return _Line(place, text, query, None, chunk)

    def _note_unread(self, record: dict[str, Any]) -> None:
        for name in record:
            if name not in FIELDS and name not in IGNORED_FIELDS and len(self.unread) < _MOST_NAMES:
                self.unread[name] = None


def _written(line: _Line, answer: Any, error: str | None) -> bytes:
    """The line of the output."""
    if line.text is None:  # no object to add the error to
        return encoded({"line": line.place.line, "error": error})
    return answered(
        line.text, {"prediction": rounded(answer)} if error is None else {"error": error}
    )


def lines_of(total: int, size: int, first: int, takes: Any) -> int:
    """Counts the lines that a process has to answer.

    Args:
        total: Lines of the input that are not blank.
        size: Lines of a chunk.
        first: First chunk that counts.
        takes: Which chunks are the process's, by their number.
    """
    starts = range(first * size, total, size)
    return sum(min(size, total - start) for start in starts if takes(start // size))
