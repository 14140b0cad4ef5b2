"""The job of `hmgrl predict`: what it is given, and how far it comes."""

import argparse
import hashlib
import json
import sys
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dataset_scripts.schema import Place, RecordError
from modeling_hmgrl.label_cache import TEXTS_NAME
from modeling_hmgrl.pipeline_hmgrl import LOOKAHEAD, ZeroShotTypingPipeline
from modeling_hmgrl.pipeline_inputs import FIELDS, IGNORED_FIELDS, make_candidates

from .distributed import Processes
from .predict_input import (
    Chunk,
    LineReader,
    answered,
    chunks,
    count_lines,
    encoded,
    placed,
    query_of,
    record_of,
    rounded,
    text_of,
)
from .predict_output import (
    Answers,
    Progress,
    merge,
    part_path,
    parts_of,
    progress_path,
    read_progress,
)

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


class Job:
    """Answers an input, with the share of this process.

    Args:
        options: Those of the command.
        processes: The processes.
        pipe: The pipeline.
        labels: Labels to choose from, or None for those of the model.

    Raises:
        ValueError: If the labels are none.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        processes: Processes,
        pipe: ZeroShotTypingPipeline,
        labels: Any,
    ) -> None:
        self.options, self.processes, self.pipe, self.labels = options, processes, pipe, labels
        self.source = None if options.input == "-" else Path(options.input)
        self.output = None if options.output == "-" else Path(options.output)
        # What comes down a pipe is answered a batch at a time, not held back to be sorted.
        self.is_file = self.source is not None and self.source.is_file()
        self.size = options.batch_size * (LOOKAHEAD if self.is_file else 1)
        config = pipe.model.config
        known = labels is not None or config.seen_labels or config.generator_labels
        name = "--labels" if options.labels_file is None else f"--labels-file {options.labels_file}"
        self.candidates = make_candidates(labels, config, name) if known else None
        self.choices = self._choices() if self.output else {}
        self.blank, self.done, self.seconds = 0, 0, 0.0
        self.unread: list[str] = []

    def _choices(self) -> dict[str, Any]:
        """All that the answers depend on, as JSON knows it."""
        options, config = self.options, self.pipe.model.config
        labels = "those of each record"
        if self.candidates is not None:
            said = json.dumps([self.candidates.names, self.candidates.texts]).encode()
            labels = f"{len(self.candidates.names)} of hash {hashlib.sha256(said).hexdigest()[:16]}"
        folder = self._image_dir()
        return {
            "model": self.pipe.label_cache.key(),
            "gamma": config.calibration_gamma,
            "temperature": config.probability_temperature,
            "labels": labels,
            "seen": sorted(config.seen_labels or () if options.seen is None else options.seen),
            "top-k": options.top_k,
            "batch-size": options.batch_size,
            "lines at once": self.size,
            "processes": self.processes.count,
            "no-images": options.no_images,
            "image-dir": None if folder is None else str(folder.resolve()),
            "image-hosts": sorted(options.image_hosts),
        }

    def _image_dir(self) -> Path | None:
        if self.options.image_dir is not None or not self.is_file:
            return self.options.image_dir
        return self.source.parent  # type: ignore[union-attr]

    def encode_labels(self) -> None:
        """Computes the vectors of the labels, or reads those that are kept.

        Raises:
            ValueError: If those that are kept are of another model.
            OSError: If they cannot be kept.
        """
        folder, cache = self.options.label_cache, self.pipe.label_cache
        if folder is not None and not self.processes.is_main:
            self.processes.wait()  # what the main process computes is read
        if folder is not None and (folder / TEXTS_NAME).is_file():
            cache.load(folder)
        if self.candidates is not None:
            show = self.processes.is_main and not self.options.no_progress
            known = len(cache)
            cache.vectors(self.candidates.texts, show_progress=show)
            self._keep_labels(known)
        if folder is not None and self.processes.is_main:
            self.processes.wait()

    def _keep_labels(self, known: int) -> None:
        folder, cache = self.options.label_cache, self.pipe.label_cache
        if folder is not None and self.processes.is_main and len(cache) > known:
            cache.save(folder)

    def finished_before(self) -> Progress | None:
        """Returns the progress of an output that is complete already, or None.

        Raises:
            ValueError: If it is that of another input, or of other choices.
        """
        output, resume = self.output, self.options.resume
        if output is None or not resume or not progress_path(output).is_file():
            return None
        progress = read_progress(output, self.choices)
        if not progress.finished:
            return None
        with self._reader(progress) as reader:
            self._check_end(reader)
            self.blank = reader.blank
        if self.processes.is_main:
            for part in parts_of(output):  # left when the run was killed after it merged them
                part.unlink()
        return progress

    @contextmanager
    def _reader(self, progress: Progress) -> Iterator[LineReader]:
        """The input after the lines that are answered."""
        with ExitStack() as stack:
            stream, name = sys.stdin.buffer, "stdin"
            if self.source is not None:
                stream, name = stack.enter_context(self.source.open("rb")), self.source.name
            reader = LineReader(stream, name)
            if progress.lines:
                reader.skip(progress.lines, progress.digest)
            yield reader

    @staticmethod
    def _check_end(reader: LineReader) -> None:
        if next(iter(reader), None) is not None:
            raise ValueError(
                f"{reader.name}: has more lines than the {reader.lines - 1:,} that were answered "
                "when the output was finished; --overwrite begins anew"
            )

    def _answers(self) -> Answers:
        if self.output is None:
            return Answers(sys.stdout.buffer, Progress())
        path, processes = self.output, self.processes
        if processes.count > 1:
            path = part_path(path, processes.index, processes.count)
        return Answers.open(path, self.choices, self.options.resume)

    def run(self) -> Progress:
        """Answers what is left, and makes one file of all processes' parts.

        Returns:
            How far the whole is.

        Raises:
            ValueError: At a bad line if that is wanted, or if the output cannot be gone on with.
            OSError: If the output cannot be written.
        """
        begin, known = time.perf_counter(), len(self.pipe.label_cache)
        answers = self._answers()
        try:
            with self._reader(answers.progress) as reader:
                if answers.progress.finished:
                    self._check_end(reader)
                else:
                    self._answer(reader, answers)
                self.blank = reader.blank
        finally:
            answers.close()
        self._keep_labels(known)
        self.processes.wait()
        progress, count = answers.progress, self.processes.count
        if count > 1 and self.processes.is_main:
            assert self.output is not None  # as was checked
            progress = merge(self.output, count, self.size, self.choices)
        self.seconds = time.perf_counter() - begin
        return progress

    def _answer(self, reader: LineReader, answers: Answers) -> None:
        options, before, takes = self.options, answers.progress, self.processes.takes
        count = None
        if self.is_file:
            total = count_lines(self.source)  # type: ignore[arg-type]
            count = lines_of(total, self.size, before.chunks, takes)
        reading = Reading(
            reader.name,
            self._image_dir(),
            not options.no_images,
            options.image_hosts,
            self.candidates is None,
        )
        answering = Answering(self.pipe, reading, answers, options.on_error == "fail")
        lines = answering.run(
            chunks(reader, self.size, before.chunks, takes),
            count,
            labels=self.labels,
            seen=options.seen,
            top_k=options.top_k,
            batch_size=options.batch_size,
            num_workers=options.num_workers,
            image_hosts=options.image_hosts,
        )
        bar = tqdm(
            desc="Predicting",
            unit=" lines",
            initial=before.answered,
            total=None if count is None else before.answered + count,
            disable=options.no_progress or not self.processes.is_main,
        )
        with bar:
            for _ in lines:
                self.done += 1
                bar.update()
        answers.commit(answers.progress.chunks, reader.lines, reader.digest, finished=True)
        self.unread = list(answering.unread)

    def summary(self, progress: Progress) -> str:
        """Says in a line what came out."""
        parts = [f"{progress.answered:,} lines answered"]
        if before := progress.answered - self.done:
            shared = self.processes.count > 1
            parts.append(f"{before:,} of them by {'others or ' if shared else ''}earlier runs")
        if progress.bad:
            parts.append(f"{progress.bad:,} of them bad, see their field `error`")
        if self.blank:
            parts.append(f"{self.blank:,} blank ones left out")
        if self.done:
            parts.append(f"{self.done / self.seconds:,.1f} lines/s")
        if self.unread:
            parts.append(f"fields passed through: {', '.join(map(repr, self.unread))}")
        return "; ".join(parts)
