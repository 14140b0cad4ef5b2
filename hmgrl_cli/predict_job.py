"""Runs `hmgrl predict`: reads the input, predicts, and writes the output of one process."""

import argparse
import hashlib
import json
import os
import sys
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dataset_scripts.schema import Place, RecordError
from modeling_hmgrl.label_cache import TEXTS_NAME
from modeling_hmgrl.pipeline_hmgrl import LOOKAHEAD, ZeroShotTypingPipeline
from modeling_hmgrl.pipeline_inputs import FIELDS, IGNORED_FIELDS, make_candidates
from modeling_hmgrl.training.locks import locked

from .distributed import Processes
from .predict_input import (
    Chunk,
    LineReader,
    add_fields,
    count_lines,
    decode_line,
    encode_line,
    iterate_chunks,
    locate_error,
    make_input,
    parse_record,
    round_prediction,
)
from .predict_output import (
    PredictionWriter,
    Progress,
    find_parts,
    merge,
    part_path,
    progress_path,
    read_progress,
)

# Most names of unread fields that the summary lists.
_MAX_NAMES = 10


class SizedIterator:
    """An iterator of known length, which lets the pipeline look ahead.

    Args:
        items: The items.
        count: Number of items.
    """

    def __init__(self, items: Iterator[Any], count: int) -> None:
        self._items, self._count = items, count

    def __iter__(self) -> Iterator[Any]:
        return self._items

    def __len__(self) -> int:
        return self._count


@dataclass(frozen=True)
class InputOptions:
    """How input lines are read.

    Attributes:
        name: Name of the input in error messages.
        image_dir: Folder of the images, or None.
        use_images: Whether images are read.
        image_hosts: Hosts from which images may be fetched.
        needs_labels: Whether each record must contain its own labels.
    """

    name: str
    image_dir: Path | None = None
    use_images: bool = True
    image_hosts: Collection[str] = ()
    needs_labels: bool = False


@dataclass(frozen=True)
class _PendingLine:
    """A line whose prediction is pending; `chunk` is set on the last line of a chunk."""

    place: Place
    text: str | None = None
    values: dict[str, Any] | None = None
    error: str | None = None
    chunk: Chunk | None = None


class Predictor:
    """Reads lines, predicts and writes the predictions in order.

    Args:
        pipe: The pipeline.
        input_options: How lines are read.
        writer: Writer of the predictions.
        stop: Whether to stop at an invalid line.

    Attributes:
        unread: Names of the first few fields that the pipeline does not read.
    """

    def __init__(
        self, pipe: Any, input_options: InputOptions, writer: PredictionWriter, stop: bool
    ) -> None:
        self.pipe, self.writer, self.stop = pipe, writer, stop
        self.input_options = input_options
        self.unread: dict[str, None] = {}
        self._pending: deque[_PendingLine] = deque()

    def run(self, chunks: Iterable[Chunk], count: int | None, **call: Any) -> Iterator[None]:
        """Predicts chunks, and yields after each line.

        Args:
            chunks: The chunks.
            count: Number of lines in the chunks, if it is known.
            **call: Arguments of the pipeline's call.

        Raises:
            ValueError: At an invalid line, if ``stop`` is set; predictions before it are written.
        """
        values = self._inputs(chunks)
        inputs = values if count is None else SizedIterator(values, count)
        for prediction in self.pipe(inputs, on_error="skip", **call):
            line = self._pending.popleft()
            error = line.error
            if error is None and "error" in prediction:
                error = locate_error(prediction["error"], line.place)
            if error is not None and self.stop:
                self.writer.flush()
                raise ValueError(f"{error} (use --on-error skip to continue past invalid lines)")
            warned = error is None and bool(prediction["warnings"])
            self.writer.write(_output_line(line, prediction, error), error is not None, warned)
            if (chunk := line.chunk) is not None:
                self.writer.commit(chunk.index + 1, chunk.lines, chunk.digest)
            yield

    def _inputs(self, chunks: Iterable[Chunk]) -> Iterator[dict[str, Any] | None]:
        """Yields the pipeline's inputs; None for a line that is invalid, to preserve the order."""
        for chunk in chunks:
            for number, raw in chunk.rows:
                last = number == chunk.rows[-1][0]
                line = self._read(number, raw, chunk if last else None)
                self._pending.append(line)
                yield line.values

    def _read(self, number: int, raw: bytes, chunk: Chunk | None) -> _PendingLine:
        options = self.input_options
        place, text = Place(options.name, number), None
        try:
            line = decode_line(raw, place)
            record = parse_record(line, place)
            text = line  # from here on the error can be added to the record
            if not options.use_images:
                record.pop("image", None)
            if options.needs_labels and record.get("labels") is None:
                expected = "labels, since neither --labels nor the model defines any"
                raise RecordError(place, "labels", expected, "none", "missing")
            self._note_unread(record)
            values = make_input(record, place, FIELDS, options.image_dir, options.image_hosts)
        except ValueError as error:
            return _PendingLine(place, text, None, locate_error(str(error), place), chunk)
        return _PendingLine(place, text, values, None, chunk)

    def _note_unread(self, record: dict[str, Any]) -> None:
        for name in record:
            if name not in FIELDS and name not in IGNORED_FIELDS and len(self.unread) < _MAX_NAMES:
                self.unread[name] = None


def _output_line(line: _PendingLine, prediction: Any, error: str | None) -> bytes:
    """Formats one line of the output."""
    if line.text is None:  # no object to add the error to
        return encode_line({"line": line.place.line, "error": error})
    return add_fields(
        line.text,
        {"prediction": round_prediction(prediction)} if error is None else {"error": error},
    )


def count_assigned_lines(total: int, size: int, first: int, is_assigned: Any) -> int:
    """Counts the lines that are assigned to a process.

    Args:
        total: Number of non-blank lines of the input.
        size: Number of lines in a chunk.
        first: Index of the first chunk to count.
        is_assigned: Whether the chunk of an index is assigned to the process.
    """
    starts = range(first * size, total, size)
    return sum(min(size, total - start) for start in starts if is_assigned(start // size))


class PredictionJob:
    """Predicts this process's share of an input.

    Args:
        options: Options of the command.
        processes: The processes that share the input.
        pipe: The pipeline.
        labels: Labels to choose from, or None for those of the model.

    Raises:
        ValueError: If the labels are invalid.
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
        # Input from a pipe is predicted batch by batch: sorting by length would delay the output.
        self.is_file = self.source is not None and self.source.is_file()
        self.size = options.batch_size * (LOOKAHEAD if self.is_file else 1)
        config = pipe.model.config
        known = labels is not None or config.seen_labels or config.generator_labels
        name = "--labels" if options.labels_file is None else f"--labels-file {options.labels_file}"
        self.candidates = make_candidates(labels, config, name) if known else None
        self.choices = self._choices() if self.output else {}
        self.blank, self.predicted, self.seconds = 0, 0, 0.0
        self.unread: list[str] = []

    def _choices(self) -> dict[str, Any]:
        """Everything that the predictions depend on, as JSON values."""
        options, config = self.options, self.pipe.model.config
        labels = "those of each record"
        if self.candidates is not None:
            content = json.dumps([self.candidates.names, self.candidates.texts]).encode()
            digest = hashlib.sha256(content).hexdigest()[:16]
            labels = f"{len(self.candidates.names)} of hash {digest}"
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
            "allow-private-addresses": options.allow_private_addresses,
        }

    def _image_dir(self) -> Path | None:
        if self.options.image_dir is not None or not self.is_file:
            return self.options.image_dir
        return self.source.parent  # type: ignore[union-attr]

    def encode_labels(self) -> None:
        """Computes the label vectors, or loads them from the label cache.

        Raises:
            ValueError: If the cache was written by another model.
            OSError: If the cache cannot be written.
        """
        folder, cache = self.options.label_cache, self.pipe.label_cache
        if folder is not None and not self.processes.is_main:
            self.processes.wait()  # the main process computes the vectors, the others load them
        with self._locked_label_cache():
            if folder is not None and (folder / TEXTS_NAME).is_file():
                cache.load(folder)
            if self.candidates is not None:
                show = self.processes.is_main and not self.options.no_progress
                known = len(cache)
                cache.vectors(self.candidates.texts, show_progress=show)
                self._save_label_cache(known)
        if folder is not None and self.processes.is_main:
            self.processes.wait()

    def _locked_label_cache(self) -> AbstractContextManager[None]:
        """Context in which no other run writes the label cache; waits for one that does."""
        folder = self.options.label_cache
        if folder is None or (folder.is_dir() and not os.access(folder, os.W_OK)):
            return nullcontext()  # a folder that cannot be written holds no lock either
        return locked(folder / ".lock", f"--label-cache {folder}", wait=True)

    def _save_label_cache(self, known: int) -> None:
        folder, cache = self.options.label_cache, self.pipe.label_cache
        if folder is not None and self.processes.is_main and len(cache) > known:
            cache.save(folder)

    def completed_progress(self) -> Progress | None:
        """Returns the progress of an output that is already complete, or None.

        Raises:
            ValueError: If the output belongs to another input or to other options.
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
            for part in find_parts(output):  # left behind if the run was killed after merging them
                part.unlink()
        return progress

    @contextmanager
    def _reader(self, progress: Progress) -> Iterator[LineReader]:
        """Opens the input after the lines that were already processed."""
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
                f"{reader.name}: has more lines than the {reader.lines - 1:,} of the finished "
                "output; expected the same input, or --overwrite to start over"
            )

    def _open_output(self) -> PredictionWriter:
        if self.output is None:
            return PredictionWriter(sys.stdout.buffer, Progress())
        path, processes = self.output, self.processes
        if processes.count > 1:
            path = part_path(path, processes.index, processes.count)
        return PredictionWriter.open(path, self.choices, self.options.resume)

    def run(self) -> Progress:
        """Predicts the remaining lines and merges the parts of all processes.

        Returns:
            The progress of the whole output.

        Raises:
            ValueError: At an invalid line with `--on-error raise`, or if the output cannot be
                resumed.
            OSError: If the output cannot be written.
        """
        begin, known = time.perf_counter(), len(self.pipe.label_cache)
        writer = self._open_output()
        try:
            with self._reader(writer.progress) as reader:
                if writer.progress.finished:
                    self._check_end(reader)
                else:
                    self._predict(reader, writer)
                self.blank = reader.blank
        finally:
            writer.close()
        with self._locked_label_cache():
            self._save_label_cache(known)
        self.processes.wait()
        progress, count = writer.progress, self.processes.count
        if count > 1 and self.processes.is_main:
            assert self.output is not None  # ensured by check_usage
            progress = merge(self.output, count, self.size, self.choices)
        self.seconds = time.perf_counter() - begin
        return progress

    def _predict(self, reader: LineReader, writer: PredictionWriter) -> None:
        options, before, is_assigned = self.options, writer.progress, self.processes.is_assigned
        count = None
        if self.is_file:
            total = count_lines(self.source)  # type: ignore[arg-type]
            count = count_assigned_lines(total, self.size, before.chunks, is_assigned)
        input_options = InputOptions(
            reader.name,
            self._image_dir(),
            not options.no_images,
            options.image_hosts,
            self.candidates is None,
        )
        predictor = Predictor(self.pipe, input_options, writer, options.on_error == "raise")
        lines = predictor.run(
            iterate_chunks(reader, self.size, before.chunks, is_assigned),
            count,
            labels=self.labels,
            seen=options.seen,
            top_k=options.top_k,
            batch_size=options.batch_size,
            num_workers=options.num_workers,
            image_hosts=options.image_hosts,
            allow_private_addresses=options.allow_private_addresses,
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
                self.predicted += 1
                bar.update()
        writer.commit(writer.progress.chunks, reader.lines, reader.digest, finished=True)
        self.unread = list(predictor.unread)

    def summary(self, progress: Progress) -> str:
        """Summarises the run in one line."""
        parts = [f"{progress.answered:,} lines written"]
        if before := progress.answered - self.predicted:
            others = "other processes or " if self.processes.count > 1 else ""
            parts.append(f"{before:,} of them by {others}earlier runs")
        if progress.bad:
            parts.append(f"{progress.bad:,} of them invalid, see their field `error`")
        if progress.warned:
            parts.append(f"{progress.warned:,} of them with `warnings` in their prediction")
        if self.blank:
            parts.append(f"{self.blank:,} blank lines skipped")
        if self.predicted:
            parts.append(f"{self.predicted / self.seconds:,.1f} lines/s")
        if self.unread:
            parts.append(f"fields passed through: {', '.join(map(repr, self.unread))}")
        return "; ".join(parts)
