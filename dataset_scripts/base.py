"""One builder for all sources, and the loader that hands their splits to training.

A source is a module with three functions: `text_files(options)` and `image_files(options)` say
what the cache key depends on, `read(options)` returns a `Corpus`. Splitting, checking pictures,
counting and caching are the same for all and live here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from types import MappingProxyType, ModuleType
from typing import Any

import datasets

from . import mnre, protocol, records, sample
from .files import content_digest, find_picture, listing_digest, read_json, write_json
from .options import LabelText, OnError, SourceOptions
from .protocol import SPLITS, ClassPartition, Split, split_samples
from .schema import Corpus, DataReport, Task

SOURCES: MappingProxyType[str, ModuleType] = MappingProxyType(
    {"sample": sample, "mnre": mnre, "records": records}
)

# Part of every cache key: raise it whenever the same files give other rows or another report.
BUILDER_VERSION = "1"

_OUTCOME_FILE = "gzs.json"


@dataclass
class GZSConfig(datasets.BuilderConfig):
    """Configuration of `GZSBuilder`.

    Attributes:
        source: Name of the source, a key of `SOURCES`.
        options: The caller's choices.
    """

    source: str = "sample"
    options: SourceOptions = field(default_factory=SourceOptions)


@dataclass(frozen=True)
class GZSData:
    """A data set that is ready for training.

    Attributes:
        task: `"typing"` or `"relation"`.
        splits: `train`, `validation` and `test` with the columns `id`, `text`, `image` (or null),
            `spans`, `label` (one `ClassLabel` over all names), `seen` and `split`.
        partition: The groups of labels.
        label_texts: Text shown to the encoder for each label.
        report: What the source held and what became of it.
    """

    task: Task
    splits: datasets.DatasetDict
    partition: ClassPartition
    label_texts: dict[str, str]
    report: DataReport


class GZSBuilder(datasets.GeneratorBasedBuilder):
    """Builds the three splits of a source.

    `datasets` ignores the content of files in its cache key. It is told here: edited text, another
    picture, another choice or another version of the protocol give new data.

    Args:
        source: Name of the source, a key of `SOURCES`.
        options: The caller's choices.
        cache_dir: Where built data are kept; None takes the default of `datasets`.

    Raises:
        ValueError: If the source is unknown or an option does not fit it.
        FileNotFoundError: If its files are absent.
    """

    BUILDER_CONFIG_CLASS = GZSConfig

    def __init__(
        self, source: str, options: SourceOptions | None = None, cache_dir: str | None = None
    ) -> None:
        if source not in SOURCES:
            raise ValueError(f"source: expected one of {sorted(SOURCES)}, got {source!r}")
        options = SourceOptions() if options is None else options
        super().__init__(
            cache_dir=cache_dir,
            dataset_name=f"hmgrl_{source}",
            config_name=source,
            config_id=f"seed-{options.seed}",
            hash=fingerprint(source, options),
            source=source,
            options=options,
        )

    def _info(self) -> datasets.DatasetInfo:
        # The label names are known once the files are read, so the features come with the splits.
        return datasets.DatasetInfo()

    def _split_generators(self, dl_manager: Any) -> list[Any]:  # noqa: ARG002
        corpus, rows = self._collected
        self.info.features = make_features(corpus.partition)
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"rows": rows[split]})
            for split in SPLITS
        ]

    def _generate_examples(self, rows: list[dict[str, Any]]) -> Iterator[tuple[int, Any]]:
        yield from enumerate(rows)

    @cached_property
    def _collected(self) -> tuple[Corpus, dict[Split, list[dict[str, Any]]]]:
        """The corpus with its finished report, and the rows of each split."""
        source, options = self.config.source, self.config.options
        corpus = SOURCES[source].read(options)
        rows = collect(corpus, options.seed)
        corpus.report.settings = {
            "task": corpus.task,
            "seed": options.seed,
            "protocol_version": protocol.PROTOCOL_VERSION,
            "label_text": options.label_text,
            "on_error": options.on_error,
            # Lists, as JSON knows them: a report read from the cache equals the one written.
            "partition": {name: list(group) for name, group in asdict(corpus.partition).items()},
        }
        return corpus, rows

    def load(self) -> GZSData:
        """Builds the data or takes them from the cache.

        Raises:
            RecordError: If a record is faulty and the options say to stop there.
            ValueError: If the labels or samples do not suffice for the protocol.
        """
        self.download_and_prepare()
        outcome = read_json(self.cache_dir, _OUTCOME_FILE)
        if outcome is None:
            # Just built, or built by a process that ended before it came here.
            corpus, _ = self._collected
            outcome = {
                "task": corpus.task,
                "partition": asdict(corpus.partition),
                "label_texts": corpus.label_texts,
                "report": corpus.report.to_dict(),
            }
            write_json(self.cache_dir, _OUTCOME_FILE, outcome)
        return GZSData(
            task=outcome["task"],
            splits=self.as_dataset(),
            partition=ClassPartition(**outcome["partition"]),
            label_texts=outcome["label_texts"],
            report=DataReport.from_dict(outcome["report"]),
        )


def fingerprint(source: str, options: SourceOptions) -> str:
    """Returns the cache key of a source with its files as they are now.

    Args:
        source: Name of the source, a key of `SOURCES`.
        options: The caller's choices.
    """
    reader = SOURCES[source]
    parts = {
        "source": source,
        "options": asdict(options),
        "protocol": protocol.PROTOCOL_VERSION,
        "builder": BUILDER_VERSION,
        "texts": content_digest(reader.text_files(options)),
        "images": listing_digest(reader.image_files(options)),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def make_features(partition: ClassPartition) -> datasets.Features:
    """Returns the columns, with one `ClassLabel` over the labels of all groups."""
    return datasets.Features(
        {
            "id": datasets.Value("string"),
            "text": datasets.Value("string"),
            "image": datasets.Image(),
            "spans": datasets.List(datasets.List(datasets.Value("int32"))),
            "label": datasets.ClassLabel(names=list(partition.labels)),
            "seen": datasets.Value("bool"),
            "split": datasets.Value("string"),
        }
    )


def collect(corpus: Corpus, seed: int) -> dict[Split, list[dict[str, Any]]]:
    """Splits a corpus, looks at its pictures and completes its report.

    Args:
        corpus: The checked records. Its report is filled in.
        seed: Seed of the protocol; not used where the records name their split.

    Returns:
        The rows of each split, in the order of the records.

    Raises:
        ValueError: If there are too few samples for the protocol.
    """
    report = corpus.report
    assignment: list[Split | None] = [record.split for record in corpus.records]
    if None in assignment:
        assignment = split_samples(
            [record.label for record in corpus.records],
            corpus.partition,
            seed,
            ids=[record.id for record in corpus.records],
        )
    rows: dict[Split, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    report.splits = {split: dict.fromkeys(corpus.partition.labels, 0) for split in SPLITS}
    report.images = dict.fromkeys(("found", "missing", "unreadable", "none"), 0)
    looked_up: dict[str, tuple[dict[str, Any] | None, str]] = {}
    progress = datasets.utils.tqdm(
        zip(corpus.records, assignment, strict=True),
        total=len(assignment),
        desc="Checking pictures",
        unit=" records",
    )
    for record, split in progress:
        if split is None:
            report.leave_out("label outside the partition", record.place, record.label)
            continue
        image, state, problem = None, "none", ""
        if record.image is not None:
            if record.image not in looked_up:
                looked_up[record.image] = find_picture(
                    record.image, corpus.image_root, corpus.pictures
                )
            image, problem = looked_up[record.image]
            state = "unreadable" if problem else "missing" if image is None else "found"
        report.images[state] += 1
        if state in ("unreadable", "missing"):
            detail = f"{record.image}: {problem}" if problem else str(record.image)
            report.note(f"picture {state}", record.place, detail)
        rows[split].append(
            {
                "id": record.id,
                "text": record.text,
                "image": image,
                "spans": [list(span) for span in record.spans],
                "label": record.label,
                "seen": record.label in corpus.partition.seen,
                "split": split,
            }
        )
        report.splits[split][record.label] += 1
        report.records_out += 1
    report.images["distinct"] = len(looked_up)
    report.check()
    return rows


def load_gzs(
    source: str = "sample",
    data_dir: str | None = None,
    image_dir: str | None = None,
    *,
    seed: int = 0,
    task: Task | None = None,
    counts: Sequence[int] | None = None,
    seen: Sequence[str] | None = None,
    validation_unseen: Sequence[str] | None = None,
    test_unseen: Sequence[str] | None = None,
    label_text: LabelText = "raw",
    on_error: OnError = "raise",
    cache_dir: str | None = None,
) -> GZSData:
    """Loads a source and splits it by the generalized zero-shot protocol.

    Args:
        source: `"sample"` (embedded), `"mnre"` or `"records"` (the caller's own JSON Lines).
        data_dir: Folder of the files; for `"records"` also the file itself.
        image_dir: Folder of the pictures. Absent pictures give null and are counted.
        seed: Seed of the protocol.
        task: `"typing"` or `"relation"`, or None to find out.
        counts: Numbers of seen, validation-unseen and test-unseen labels; None divides them as
            evenly as possible (MNRE: 8, 7, 7).
        seen: Labels with training samples, given together with the next two in place of `counts`.
        validation_unseen: Labels first met in validation.
        test_unseen: Labels first met in test.
        label_text: `"raw"` shows label names as they are, `"verbalised"` as a clause (MNRE).
        on_error: `"raise"` stops at the first faulty record, `"report"` leaves it out and counts.
        cache_dir: Where built data are kept; None takes the default of `datasets`.

    Returns:
        The splits, the partition, the label texts and the report.

    Raises:
        ValueError: If an argument does not fit, or the data do not suffice for the protocol.
        RecordError: If a record is faulty and `on_error` is `"raise"`.
        FileNotFoundError: If files are absent.

    Example:
        >>> data = load_gzs("mnre", data_dir="MNRE/mnre_txt", image_dir="MNRE/img", seed=1)
        >>> data.splits["train"].features["label"].names
    """
    options = SourceOptions(
        data_dir=data_dir,
        image_dir=image_dir,
        seed=seed,
        task=task,
        counts=counts,
        seen=seen,
        validation_unseen=validation_unseen,
        test_unseen=test_unseen,
        label_text=label_text,
        on_error=on_error,
    )
    return GZSBuilder(source, options, cache_dir).load()
