"""The pipeline ``multimodal-zero-shot-typing``: labels for mentions in texts with images."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import count, islice
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Pipeline

from .entity_markers import MarkedText, short_repr
from .hub import TASK, save_pipeline_code
from .label_cache import LabelCache
from .label_parts import warn_of_unsplit_texts
from .pipeline_inputs import (
    Candidates,
    Failure,
    Query,
    are_strings,
    batching_order,
    label_warnings,
    make_candidates,
    make_query,
    mention_warnings,
    prefetch,
    undecoded,
)
from .ranking import Prediction, best_labels, first_occurrences, to_predictions

LOOKAHEAD = 4
"""Number of batches whose inputs are sorted by length; their images are held in memory."""
_BOUNDS = {"top_k": (1, 1_000_000_000), "batch_size": (1, 100_000), "num_workers": (0, 1_000)}
# Number of labels from which their encoding shows a progress bar.
_PROGRESS_BAR_LABELS = 2_000


@dataclass(frozen=True)
class Call:
    """Options of one call, see :meth:`ZeroShotTypingPipeline.__call__`."""

    labels: Any = None
    seen: Collection[str] | None = None
    top_k: int | None = 5
    batch_size: int = 32
    num_workers: int | None = None
    on_error: str = "raise"
    image_hosts: Collection[str] = ()
    allow_private_addresses: bool = False

    def __post_init__(self) -> None:
        for name, (least, most) in _BOUNDS.items():
            value: Any = getattr(self, name)
            if value is None and name != "batch_size":
                continue
            if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
                raise ValueError(f"{name}: got {short_repr(value)}, expected {least} or more")
            if int(value) > most:
                raise ValueError(f"{name}: got {short_repr(value)}, expected at most {most}")
        for name in ("seen", "image_hosts"):
            value = getattr(self, name)
            if value is not None and not are_strings(value):
                raise ValueError(f"{name}: got {short_repr(value)}, expected a list of names")
        if not isinstance(self.allow_private_addresses, bool):
            value = short_repr(self.allow_private_addresses)
            raise ValueError(f"allow_private_addresses: got {value}, expected True or False")
        if isinstance(self.on_error, str) and self.on_error == "return":  # earlier name of "skip"
            object.__setattr__(self, "on_error", "skip")
        if not isinstance(self.on_error, str) or self.on_error not in ("raise", "skip"):
            raise ValueError(
                f"on_error: got {short_repr(self.on_error)}, expected 'raise' or 'skip'"
            )


class ZeroShotTypingPipeline(Pipeline):
    """Predicts types of mentions, or relations, among candidate labels given by name.

    Create it by ``transformers.pipeline("multimodal-zero-shot-typing", model=...)`` or directly
    from a model and its processor. :attr:`label_cache` keeps the label vectors for later calls.

    Args:
        model: Trained model, or an object with the same ``encode``, ``encode_image``,
            ``encode_labels``, ``prepare_labels`` and ``score``.
        processor: Its processor.
        **options: Options of ``transformers.Pipeline``, such as ``device``, and options of a call,
            which then apply to all calls.

    Examples:
        >>> from transformers import BertConfig, BertTokenizer
        >>> from modeling_hmgrl import HMGRLConfig, HMGRLForZeroShotTyping
        >>> from modeling_hmgrl import HMGRLProcessor, ZeroShotTypingPipeline
        >>> words = "[PAD] [UNK] [CLS] [SEP] [MASK] * the fox saw animal tool".split()
        >>> tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
        >>> processor = HMGRLProcessor(None, tokenizer, use_images=False)
        >>> text_config = BertConfig(
        ...     vocab_size=len(words), hidden_size=16, num_attention_heads=2, num_hidden_layers=1
        ... )
        >>> model = HMGRLForZeroShotTyping(HMGRLConfig(text_config=text_config)).eval()
        >>> model.add_markers(processor)
        >>> pipe = ZeroShotTypingPipeline(model, processor, device="cpu")
        >>> prediction = pipe("the fox", mention="fox", labels=["animal", "tool"])
        >>> sorted(prediction["labels"]), round(sum(prediction["probabilities"]), 6)
        (['animal', 'tool'], 1.0)
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False

    def __init__(self, model: Any, processor: Any = None, **options: Any) -> None:
        if processor is None:
            raise ValueError("processor: got None, expected the model's HMGRLProcessor")
        defaults = {name: options.pop(name) for name in Call.__annotations__ if name in options}
        super().__init__(model=model, processor=processor, **{"task": TASK, **options})
        self.model.eval()
        self._defaults = defaults
        self.parse_call(defaults)
        self._last_candidates: tuple[Any, Candidates] | None = None
        self.label_cache = LabelCache(model, processor)
        self._reported_texts: set[str] = set()

    def parse_call(self, given: Mapping[str, Any]) -> Call:
        """Validates the options of a call and adds the defaults of the pipeline.

        Args:
            given: Options by name.

        Returns:
            The options of the call.

        Raises:
            TypeError: If an option is unknown.
            ValueError: If a value is invalid.
        """
        if unknown := sorted(set(given) - set(Call.__annotations__)):
            raise TypeError(
                f"{unknown[0]}: unknown argument, expected one of mention, spans, "
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
        """Predicts labels.

        Args:
            inputs: A text, with ``mention`` or ``spans``; or a mapping with the fields ``text``,
                ``mention`` or ``spans``, and optionally ``occurrence``, ``image`` and ``labels``;
                or a list, a Dataset or a generator of such mappings.
            mention: The mention, a substring of the text; for relations the pair (head, tail).
            spans: Instead of ``mention``, character offsets ``[[start, end], ...]``, end exclusive.
            occurrence: Index of the occurrence of the mention, counted from 0, if there are
                several; for relations one number (or None) for each mention.
            image: A path, encoded bytes, a PIL image, an array, or None. A URL requires
                ``image_hosts``.
            **options: ``labels``: candidate names, or a mapping of names to the texts that the
                encoder reads for them (a description; None for the name itself); by default all
                labels known from training. The ``labels`` of an input take precedence.
                ``seen``: names of the labels that were seen in training, from whose scores gamma is
                subtracted; by default those of the configuration.
                ``top_k``: number of labels returned, 5 by default; None for all.
                ``batch_size``: number of inputs encoded at once, 32 by default.
                ``num_workers``: number of threads that open images ahead; by default 0 on a CPU,
                which is busy, and up to 8 with an accelerator.
                ``on_error``: "raise", or "skip" for a :class:`Failure` as the result of an invalid
                input.
                ``image_hosts``: hosts from which images may be fetched, see :func:`fetching.fetch`.
                ``allow_private_addresses``: whether these hosts may have a loopback or private
                address; False by default.

        Returns:
            A :class:`Prediction` for one input, a list for a list, and an iterator, in order, for a
            Dataset or any other iterable.

        Raises:
            ValueError: If an input or option is invalid; the message names the input, the field and
                the expected value.
            TypeError: If an argument is unknown.
        """
        call = self.parse_call(options)
        fields = {"mention": mention, "spans": spans, "occurrence": occurrence, "image": image}
        fields = {name: value for name, value in fields.items() if value is not None}
        if isinstance(inputs, str):
            return next(self._stream([{"text": inputs, **fields}], call, name="input"))
        if fields:
            raise ValueError(f"{next(iter(fields))}: expected only with a single text")
        if isinstance(inputs, Mapping):
            return next(self._stream([inputs], call, name="input"))
        if not isinstance(inputs, Iterable):
            raise ValueError(
                f"inputs: got {type(inputs).__name__}, expected a text, a mapping or an iterable "
                "of mappings"
            )
        results = self._stream(inputs, call)
        return list(results) if isinstance(inputs, list | tuple) else results

    def across_processes(self, inputs: Sequence[Any], **options: Any) -> list[Any]:
        """Predicts with all processes of accelerate or torchrun, a part of the inputs in each.

        Args:
            inputs: List or Dataset, the same in all processes.
            **options: Options of a call.

        Returns:
            The predictions for all inputs, in order, in each process.
        """
        # With an import statement, transformers would require accelerate of everyone who loads this
        # file from a checkpoint.
        accelerate = import_module("accelerate")
        state = accelerate.PartialState()
        indices = range(state.process_index, len(inputs), state.num_processes)
        results = list(self(_Subset(undecoded(inputs), indices), **options))
        gathered = dict(accelerate.utils.gather_object(list(zip(indices, results, strict=True))))
        return [gathered[index] for index in range(len(inputs))]

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Saves the model and the processor with the code of the pipeline.

        Without this package, load the folder by
        ``pipeline("multimodal-zero-shot-typing", model=folder, trust_remote_code=True)``.

        Args:
            save_directory: The folder, created if it does not exist.
            **kwargs: Arguments of ``save_pretrained`` of the model and the processor.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        config = self.model.config
        if self.model._auto_class is not None and not config.custom_pipelines:
            # transformers copies the code of model and pipeline from a local folder to two folders.
            config.custom_pipelines = save_pipeline_code(Path(save_directory), Path(__file__))
            config.save_pretrained(save_directory)
        self.processor.save_pretrained(save_directory, **kwargs)

    def _stream(
        self, inputs: Iterable[Any], call: Call, name: str | None = None
    ) -> Iterator[Prediction | Failure]:
        """Predictions in the order of the inputs; ``name`` names a single input in errors."""
        # Inputs of a stream are not delayed for sorting: each batch is predicted when it is full.
        window = call.batch_size * (LOOKAHEAD if hasattr(inputs, "__len__") else 1)
        default = None if call.labels is None else self.candidates(call.labels)
        inputs = undecoded(inputs)
        names = (name or f"inputs[{index}]" for index in count())
        workers = call.num_workers
        if workers is None:
            workers = 0 if self.device.type == "cpu" else min(8, os.cpu_count() or 1)
        named = zip(inputs, names, strict=False)  # names are infinite
        prepared = prefetch(partial(self.prepare, call), named, workers, window)
        with closing(prepared):  # also ends its threads if an error is raised
            while part := list(islice(prepared, window)):
                queries = [query for query in part if isinstance(query, Query)]
                results = iter(self.predict_batch(queries, default, call))
                for query in part:
                    yield next(results) if isinstance(query, Query) else query

    def prepare(self, call: Call, named: tuple[Any, str]) -> Query | Failure:
        """Validates one input and opens its image.

        Args:
            call: Options of the call.
            named: The input, and its name in errors.

        Returns:
            The input, or a failure if it is invalid and ``call.on_error`` is "skip".

        Raises:
            ValueError: If the input is invalid and ``call.on_error`` is "raise".
            FileNotFoundError: If its image does not exist and ``call.on_error`` is "raise".
        """
        record, name = named
        try:
            return make_query(
                record,
                self.processor,
                self.model.config,
                name,
                call.image_hosts,
                call.allow_private_addresses,
            )
        except (ValueError, OSError) as error:
            if call.on_error == "raise":
                raise
            return Failure(error=str(error))

    def candidates(self, labels: Any) -> Candidates:
        """Validates candidate labels; the last ones are cached, as a list may be long."""
        config, given = self.model.config, labels
        known = dict(config.label_texts or {})
        if isinstance(labels, Mapping):
            texts = (known.get(k, k) if v is None else v for k, v in labels.items())
            given = (*labels, *texts)
        if not isinstance(given, list | tuple) or not are_strings(given):
            return make_candidates(labels, config)
        key = (type(labels), tuple(given), known)
        last = self._last_candidates  # read once, as another thread may set it
        if last is None or last[0] != key:
            last = self._last_candidates = (key, make_candidates(labels, config))
        return last[1]

    @torch.inference_mode()
    def predict_batch(
        self, queries: list[Query], default: Candidates | None, call: Call, known: Any = None
    ) -> list[Prediction]:
        """Predicts labels for validated inputs, in their order.

        ``known`` is the result of :meth:`encode` for a single input, if it has been computed.
        """
        if not queries:  # all inputs of this window were invalid
            return []
        if default is None and any(query.labels is None for query in queries):
            default = self.candidates(None)
        candidates: list[Any] = [query.labels or default for query in queries]
        distinct = _unique(candidates)
        if len(distinct) > 1:  # encode the new texts of all lists together, not list by list
            texts = (text for labels in distinct for text in labels.texts)
            self.label_cache.vectors(list(dict.fromkeys(texts)))
        # Only one list's vectors are held at a time, as every input may have its own list.
        current: Any = None
        current_inputs: Any = None
        marked = self.processor.mark([q.text for q in queries], [q.spans for q in queries])
        doubts = list(map(partial(mention_warnings, self.processor), queries, marked))
        order = batching_order(queries, [len(sample.ids) for sample in marked])
        results: dict[int, Prediction] = {}
        for start in range(0, len(order), call.batch_size):
            rows = order[start : start + call.batch_size]
            encoded = known
            if known is None:
                encoded = self.encode([queries[row] for row in rows], [marked[row] for row in rows])
            for labels in _unique(candidates[row] for row in rows):
                indices = [index for index, row in enumerate(rows) if candidates[row] == labels]
                if labels is not current:
                    vectors_and_seen = self.label_vectors(labels, call)
                    unknown = self.label_cache.unknown(labels.texts)  # known from the encoding
                    notes = label_warnings(unknown, len(labels.texts))
                    first = first_occurrences(labels.texts)
                    current_inputs = (*vectors_and_seen, first, notes)
                    current = labels
                vectors, seen, first_occurrence, notes = current_inputs
                best = best_labels(
                    partial(self.model.score, _select_rows(encoded, indices, len(rows))),
                    vectors,
                    seen,
                    self.model.config.calibration_gamma,
                    self.model.config.probability_temperature,
                    call.top_k,
                    first_occurrence,
                )
                selected = [rows[index] for index in indices]
                windows = [marked[row].kept for row in selected]
                warnings = [doubts[row] + notes for row in selected]
                predictions = to_predictions(best, labels.names, seen, windows, warnings)
                results |= zip(selected, predictions, strict=True)
        return [results[row] for row in range(len(queries))]

    def label_vectors(self, labels: Candidates, call: Call) -> tuple[Tensor, Tensor]:
        """Label vectors (K, d_p), and which labels gamma is subtracted from, (K,)."""
        seen = set(self.model.config.seen_labels or () if call.seen is None else call.seen)
        show_progress = len(labels.texts) >= _PROGRESS_BAR_LABELS
        if self.model.config.label_parts:
            warn_of_unsplit_texts(labels.texts, self._reported_texts)
        vectors = self.label_cache.vectors(labels.texts, show_progress)
        return vectors, torch.tensor([name in seen for name in labels.names])

    def encode(self, queries: list[Query], marked: list[MarkedText]) -> Any:
        """Encodes a batch; an image that several inputs share is encoded once."""
        device = self.model.device
        inputs = self.processor.pad([sample.ids for sample in marked])
        inputs["span_positions"] = torch.tensor([sample.positions for sample in marked])
        distinct = {q.image_key: q.pixels for q in queries if q.pixels is not None}
        if distinct:
            pixels = torch.cat(list(distinct.values())).to(device)
            states = self.model.encode_image(pixels)
            index_of = {key: index for index, key in enumerate(distinct)}
            indices = torch.tensor([index_of.get(q.image_key, 0) for q in queries])
            mask = torch.tensor([q.pixels is not None for q in queries])
            inputs["image_features"] = states[indices.to(states.device)]
            inputs["image_mask"] = mask
        return self.model.encode(**{name: value.to(device) for name, value in inputs.items()})

    def _sanitize_parameters(self, **parameters: Any) -> Any:
        """Required by the base class; :class:`Call` validates the options of a call."""
        if parameters:
            raise TypeError(f"{next(iter(parameters))}: unknown argument of this pipeline")
        return {}, {}, {}

    def preprocess(self, input_: Any, **_: Any) -> Query:
        """Validates one input and opens its image; see :func:`pipeline_inputs.make_query`."""
        return make_query(input_, self.processor, self.model.config, "input")

    def _forward(self, input_tensors: Any, **_: Any) -> Any:
        """Predicts labels for one validated input."""
        return self.predict_batch([input_tensors], None, self.parse_call({}))

    def postprocess(self, model_outputs: Any, **_: Any) -> Prediction:
        """Returns the prediction."""
        return model_outputs[0]


@dataclass(frozen=True)
class _Subset:
    """Lazy subset of the inputs, as a Dataset decodes images on access."""

    inputs: Sequence[Any]
    indices: range

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Any]:
        return (self.inputs[index] for index in self.indices)


def _unique(labels: Iterable[Candidates]) -> list[Candidates]:
    """Removes duplicates; identical objects are not compared element by element."""
    return list(dict.fromkeys({id(one): one for one in labels}.values()))


def _select_rows(encoded: Any, rows: list[int], total: int) -> Any:
    """Selects samples of an encoded batch."""
    if len(rows) == total:
        return encoded
    return type(encoded)(**{name: value[rows] for name, value in encoded.items()})


__all__ = ["TASK", "ZeroShotTypingPipeline"]
