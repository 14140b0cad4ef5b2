"""The pipeline ``multimodal-zero-shot-typing``: text, mention and picture in, labels out."""

import os
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import count, islice
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from transformers import Pipeline

from .entity_markers import MarkedText, shown
from .hub import TASK
from .label_cache import LabelCache
from .pipeline_inputs import Candidates, Failure, Query, make_candidates, make_query
from .ranking import Prediction, best_labels, first_of_same, predictions

LOOKAHEAD = 4
"""Batches over which inputs are sorted by length, so that little is padded; their pictures are
held."""
_BOUNDS = {"top_k": (1, 1_000_000_000), "batch_size": (1, 100_000), "num_workers": (0, 1_000)}
# From this many labels on, encoding them shows a progress bar.
_MANY_LABELS = 2_000


@dataclass(frozen=True)
class Call:
    """Arguments of one call."""

    labels: Any = None
    seen: Collection[str] | None = None
    top_k: int | None = 5
    batch_size: int = 32
    num_workers: int | None = None
    on_error: str = "raise"
    image_hosts: Collection[str] = ()

    def __post_init__(self) -> None:
        for name, (least, most) in _BOUNDS.items():
            value: Any = getattr(self, name)
            if value is None and name != "batch_size":
                continue
            if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
                raise ValueError(f"{name}: got {shown(value)}, expected {least} or more")
            if int(value) > most:
                raise ValueError(f"{name}: got {shown(value)}, expected at most {most}")
        for name in ("seen", "image_hosts"):
            value = getattr(self, name)
            if value is not None and not _are_names(value):
                raise ValueError(f"{name}: got {shown(value)}, expected a list of names")
        if not isinstance(self.on_error, str) or self.on_error not in ("raise", "return"):
            raise ValueError(f"on_error: got {shown(self.on_error)}, expected 'raise' or 'return'")


class ZeroShotTypingPipeline(Pipeline):
    """Types mentions, or names relations, among labels given by name at call time.

    Made by ``transformers.pipeline("multimodal-zero-shot-typing", model=...)`` or directly from a
    model and its processor. The label vectors it computes stay in :attr:`label_cache`, for later
    calls.

    Args:
        model: Trained model, or whatever answers its ``encode``, ``encode_image``,
            ``encode_labels``, ``prepare_labels`` and ``score``.
        processor: Its processor.
        **options: Those of ``transformers.Pipeline``, such as ``device``, and those of a call,
            which then hold for all calls.
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False

    def __init__(self, model: Any, processor: Any = None, **options: Any) -> None:
        if processor is None:
            raise ValueError("processor: got None, expected the model's HMGRLProcessor")
        calls = {name: options.pop(name) for name in Call.__annotations__ if name in options}
        super().__init__(model=model, processor=processor, **{"task": TASK, **options})
        self.model.eval()
        self._defaults = calls
        self.parse_call(calls)
        self._last: tuple[Any, Candidates] | None = None
        self.label_cache = LabelCache(model, processor)

    def parse_call(self, given: Mapping[str, Any]) -> Call:
        """Checks the options of a call, those of the pipeline standing in for what is not given.

        Args:
            given: Options by name.

        Returns:
            The options of the call.

        Raises:
            TypeError: If there is no such option.
            ValueError: If one has a value that it cannot have.
        """
        if unknown := sorted(set(given) - set(Call.__annotations__)):
            raise TypeError(
                f"{unknown[0]}: no argument of this pipeline, expected one of mention, spans, "
                f"occurrence, image, {', '.join(Call.__annotations__)}"
            )
        return Call(**{**self._defaults, **given})

    def __call__(
        self,
        inputs: Any,
        *,
        mention: str | Sequence[str] | None = None,
        spans: Any = None,
        occurrence: int | Sequence[int | None] | None = None,
        image: Any = None,
        **options: Any,
    ) -> Any:
        """Predicts.

        Args:
            inputs: A text, with ``mention`` or ``spans``; or a mapping with the fields ``text``,
                ``mention`` or ``spans``, and perhaps ``occurrence``, ``image`` and ``labels``; or a
                list, a Dataset, a generator of such mappings.
            mention: The mention as it stands in the text; for relations the pair (head, tail).
            spans: In its place, character offsets ``[[start, end], ...]``, end exclusive.
            occurrence: Which occurrence of the mention is meant, counted from 0, where there are
                several; for relations one number (or None) for each mention.
            image: A path, encoded bytes, a PIL picture, an array, or None. An address only together
                with ``image_hosts``.
            **options: ``labels``: names to choose from, or a mapping of names to the texts that the
                encoder is shown for them (a description; None for the name itself); all labels
                known from training by default. An input's own ``labels`` go before.
                ``seen``: names of the labels that were seen in training, from which gamma is taken
                off; those of the config by default.
                ``top_k``: labels returned, 5 by default; None for all.
                ``batch_size``: inputs encoded at once, 32 by default.
                ``num_workers``: threads that open pictures ahead; by default none on a CPU, which
                is busy, and up to 8 beside an accelerator.
                ``on_error``: "raise", or "return" a :class:`Failure` in the place of that input.
                ``image_hosts``: hosts from which pictures are fetched, see :func:`fetching.fetch`.

        Returns:
            A :class:`Prediction` for one input, a list for a list, an iterator for a Dataset or
            anything else that is iterated, in order.

        Raises:
            ValueError: Naming the input, the field and what was expected.
            TypeError: If an argument is not known.
        """
        call = self.parse_call(options)
        fields = {"mention": mention, "spans": spans, "occurrence": occurrence, "image": image}
        fields = {name: value for name, value in fields.items() if value is not None}
        if isinstance(inputs, str):
            return next(self._stream([{"text": inputs, **fields}], call, place="input"))
        if fields:
            raise ValueError(f"{next(iter(fields))}: expected with a single text only")
        if isinstance(inputs, Mapping):
            return next(self._stream([inputs], call, place="input"))
        if not isinstance(inputs, Iterable):
            raise ValueError(
                f"inputs: got {type(inputs).__name__}, expected a text, a mapping or several"
            )
        results = self._stream(inputs, call)
        return list(results) if isinstance(inputs, list | tuple) else results

    def across_processes(self, inputs: Sequence[Any], **options: Any) -> list[Any]:
        """Predicts with all processes that accelerate or torchrun started, each for its share.

        Args:
            inputs: List or Dataset, the same in all processes.
            **options: As of a call.

        Returns:
            The predictions for all inputs, in order, in each process.
        """
        # A statement in its place would make transformers refuse this file, as part of a
        # checkpoint, to everyone without accelerate.
        accelerate = import_module("accelerate")
        state = accelerate.PartialState()
        mine = range(state.process_index, len(inputs), state.num_processes)
        results = list(self(_Share(inputs, mine), **options))
        found = dict(accelerate.utils.gather_object(list(zip(mine, results, strict=True))))
        return [found[index] for index in range(len(inputs))]

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Saves model and processor, with all code that the pipeline needs.

        The folder works, also where this package is not installed, in
        ``pipeline("multimodal-zero-shot-typing", model=folder, trust_remote_code=True)``.

        Args:
            save_directory: The folder; made if it does not exist.
            **kwargs: Those of ``save_pretrained`` of both.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def _stream(
        self, inputs: Iterable[Any], call: Call, place: str | None = None
    ) -> Iterator[Prediction | Failure]:
        """Predictions in the order of the inputs; ``place`` names a single one in errors."""
        # What comes one by one is answered a batch at a time, not held back to be sorted.
        window = call.batch_size * (LOOKAHEAD if hasattr(inputs, "__len__") else 1)
        default = None if call.labels is None else self.candidates(call.labels)
        places = (place or f"inputs[{index}]" for index in count())
        workers = call.num_workers
        if workers is None:
            workers = 0 if self.device.type == "cpu" else min(8, os.cpu_count() or 1)
        numbered = zip(inputs, places, strict=False)  # places have no end
        # closed even where what is between raises: no thread is left behind
        with closing(_ahead(partial(self.prepare, call), numbered, workers, window)) as checked:
            while part := list(islice(checked, window)):
                good = [query for query in part if isinstance(query, Query)]
                found = iter(self.predict_batch(good, default, call))
                for query in part:
                    yield next(found) if isinstance(query, Query) else query

    def prepare(self, call: Call, numbered: tuple[Any, str]) -> Query | Failure:
        """Checks one input and opens its image.

        Args:
            call: Options of the call.
            numbered: The input, and how errors name it.

        Returns:
            The input, or what was wrong with it if the call accepts failures.

        Raises:
            ValueError: If the input is faulty and the call does not accept failures.
            FileNotFoundError: The same for an image that is not there.
        """
        record, place = numbered
        try:
            return make_query(record, self.processor, self.model.config, place, call.image_hosts)
        except (ValueError, OSError) as error:
            if call.on_error == "raise":
                raise
            return Failure(error=str(error))

    def candidates(self, labels: Any) -> Candidates:
        """Candidates of a call; those of the call before are kept, as a list may be long."""
        config, given = self.model.config, labels
        known = dict(config.label_texts or {})
        if isinstance(labels, Mapping):
            texts = (known.get(k, k) if v is None else v for k, v in labels.items())
            given = (*labels, *texts)
        if not isinstance(given, list | tuple) or not _are_names(given):
            return make_candidates(labels, config)
        asked = (type(labels), tuple(given), known)
        last = self._last  # read once, as another thread may set it
        if last is None or last[0] != asked:
            last = self._last = (asked, make_candidates(labels, config))
        return last[1]

    @torch.inference_mode()
    def predict_batch(
        self, queries: list[Query], default: Candidates | None, call: Call
    ) -> list[Prediction]:
        """Predictions for inputs that were checked, in their order."""
        if not queries:  # all inputs of this window were faulty
            return []
        if default is None and any(query.labels is None for query in queries):
            default = self.candidates(None)
        asked: list[Any] = [query.labels or default for query in queries]
        distinct = _distinct(asked)
        if len(distinct) > 1:  # new texts of all lists are encoded together, not list by list
            texts = (text for labels in distinct for text in labels.texts)
            self.label_cache.vectors(list(dict.fromkeys(texts)))
        chosen: Any = None  # one list's vectors at a time, as there may be one for each input
        choice: Any = None
        marked = self.processor.mark([q.text for q in queries], [q.spans for q in queries])
        order = batching_order(queries, [len(sample.ids) for sample in marked])
        results: dict[int, Prediction] = {}
        for start in range(0, len(order), call.batch_size):
            rows = order[start : start + call.batch_size]
            encoded = self.encode([queries[row] for row in rows], [marked[row] for row in rows])
            for labels in _distinct(asked[row] for row in rows):
                here = [place for place, row in enumerate(rows) if asked[row] == labels]
                if labels is not chosen:
                    choice = *self.label_vectors(labels, call), first_of_same(labels.texts)
                    chosen = labels
                vectors, seen, same = choice
                found = best_labels(
                    partial(self.model.score, _rows_of(encoded, here, len(rows))),
                    vectors,
                    seen,
                    self.model.config.calibration_gamma,
                    self.model.config.probability_temperature,
                    call.top_k,
                    same,
                )
                mine = [rows[place] for place in here]
                windows = [marked[row].kept for row in mine]
                named = predictions(found, labels.names, seen, windows)
                results |= zip(mine, named, strict=True)
        return [results[row] for row in range(len(queries))]

    def label_vectors(self, labels: Candidates, call: Call) -> tuple[Tensor, Tensor]:
        """Label vectors (K, d_p), and which labels gamma is taken off, (K,)."""
        known = self.model.config.seen_labels or () if call.seen is None else call.seen
        known = set(known)
        many = len(labels.texts) >= _MANY_LABELS
        vectors = self.label_cache.vectors(labels.texts, show_progress=many)
        return vectors, torch.tensor([name in known for name in labels.names])

    def encode(self, queries: list[Query], marked: list[MarkedText]) -> Any:
        """Encodes a batch; a picture that several inputs share is encoded once."""
        device = self.model.device
        inputs = self.processor.pad([sample.ids for sample in marked])
        inputs["span_positions"] = torch.tensor([sample.positions for sample in marked])
        distinct = {q.image_key: q.pixels for q in queries if q.pixels is not None}
        if distinct:
            pixels = torch.cat(list(distinct.values())).to(device)
            states = self.model.encode_image(pixels)
            place = {key: index for index, key in enumerate(distinct)}
            where = torch.tensor([place.get(q.image_key, 0) for q in queries])
            mask = torch.tensor([q.pixels is not None for q in queries])
            inputs["image_features"] = states[where.to(states.device)]
            inputs["image_mask"] = mask
        return self.model.encode(**{name: value.to(device) for name, value in inputs.items()})

    def _sanitize_parameters(self, **parameters: Any) -> Any:
        """What the base class asks for; the arguments of a call are checked in :class:`Call`."""
        if parameters:
            raise TypeError(f"{next(iter(parameters))}: no argument of this pipeline")
        return {}, {}, {}

    def preprocess(self, input_: Any, **_: Any) -> Query:
        """Checks one input and opens its picture; see :func:`pipeline_inputs.make_query`."""
        return make_query(input_, self.processor, self.model.config, "input")

    def _forward(self, input_tensors: Any, **_: Any) -> Any:
        """Predicts for one checked input."""
        return self.predict_batch([input_tensors], None, self.parse_call({}))

    def postprocess(self, model_outputs: Any, **_: Any) -> Prediction:
        """Returns the one prediction."""
        return model_outputs[0]


@dataclass(frozen=True)
class _Share:
    """Some of the inputs, read as they come: a Dataset decodes its pictures when asked for them."""

    inputs: Sequence[Any]
    indices: range

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Any]:
        return (self.inputs[index] for index in self.indices)


def _are_names(value: Any) -> bool:
    """Whether it is a collection of strings; 100,000 are looked through in no time."""
    if isinstance(value, str | Mapping) or not isinstance(value, Collection):
        return False
    return all(issubclass(kind, str) for kind in set(map(type, value)))


def _distinct(labels: Iterable[Candidates]) -> list[Candidates]:
    """Each once; what is one object is not compared in full."""
    return list(dict.fromkeys({id(one): one for one in labels}.values()))


def batching_order(queries: list[Query], lengths: list[int]) -> list[int]:
    """Inputs of one picture side by side, of like length otherwise."""
    first: dict[str | None, int] = {}
    for query in queries:
        first.setdefault(query.image_key, 0 if query.image_key is None else len(first) + 1)
    return sorted(
        range(len(queries)), key=lambda row: (first[queries[row].image_key], lengths[row])
    )


def _rows_of(encoded: Any, rows: list[int], total: int) -> Any:
    """The given samples of an encoded batch."""
    if len(rows) == total:
        return encoded
    return type(encoded)(**{name: value[rows] for name, value in encoded.items()})


def _ahead(
    function: Callable[[Any], Any], items: Iterable[Any], workers: int, limit: int
) -> Generator[Any, None, None]:
    """Maps in order; with workers, in threads that run at most ``limit`` items ahead."""
    if not workers:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Any]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > limit:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


__all__ = ["TASK", "ZeroShotTypingPipeline"]
