"""The builder of all sources, and the loader that hands their splits to training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import datasets

from .corpus import DataReport
from .files import read_json, write_json
from .images import stored_picture
from .options import SourceOptions
from .protocol import SPLITS, ClassPartition, Split
from .schema import Task
from .splitting import Division, Reading, divide

OUTCOME_FILE = "gzs.json"


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

    def outcome(self) -> dict[str, Any]:
        """Returns all but the rows as JSON knows it, the content of `gzs.json`."""
        return {
            "task": self.task,
            "partition": asdict(self.partition),
            "label_texts": self.label_texts,
            "report": self.report.to_dict(),
        }

    @classmethod
    def of(cls, splits: datasets.DatasetDict, outcome: Mapping[str, Any]) -> GZSData:
        """Returns the data of rows and what `outcome` said of them.

        Raises:
            KeyError: If something is absent.
            TypeError: If something is of another type.
            ValueError: If the groups of labels are none.
        """
        return cls(
            task=outcome["task"],
            splits=splits,
            partition=ClassPartition(**outcome["partition"]),
            label_texts=outcome["label_texts"],
            report=DataReport.from_dict(outcome["report"]),
        )


class GZSBuilder(datasets.GeneratorBasedBuilder):
    """Builds the three splits of a source.

    `datasets` ignores the content of files in its cache key. It is told here: edited text, another
    picture, another choice or another version of the protocol give new data.

    Args:
        source: Name of the source, a key of `SOURCES`, or one that is being read for several seeds.
        options: The caller's choices; with a `Reading`, its own are the default.
        cache_dir: Where built data are kept; None takes the default of `datasets`.

    Raises:
        ValueError: If the source is unknown or an option does not fit it.
        FileNotFoundError: If its files are absent.
    """

    def __init__(
        self,
        source: str | Reading,
        options: SourceOptions | None = None,
        cache_dir: str | None = None,
    ) -> None:
        reading = source
        if isinstance(reading, str):
            reading = Reading(reading, SourceOptions() if options is None else options)
        self.reading = reading
        self.options = reading.options if options is None else options
        super().__init__(
            cache_dir=cache_dir,
            dataset_name=f"hmgrl_{reading.source}",
            config_name=reading.source,
            config_id=f"seed-{self.options.seed}",
            hash=reading.fingerprint(self.options.seed),
        )

    def _info(self) -> datasets.DatasetInfo:
        # The label names are known once the files are read, so the features come with the splits.
        return datasets.DatasetInfo()

    def _split_generators(self, dl_manager: Any) -> list[Any]:  # noqa: ARG002
        self.info.features = make_features(self._division.partition)
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"split": split}) for split in SPLITS
        ]

    def _generate_examples(self, split: Split) -> Iterator[tuple[int, Any]]:
        reading, division = self.reading, self._division
        corpus = reading.corpus
        seen = frozenset(division.partition.seen)
        for index, record in enumerate(corpus.records):
            if division.assignment[index] != split:
                continue
            image = None
            if record.image is not None and reading.pictures[record.image][0] == "found":
                image = stored_picture(record.image, corpus.image_root, corpus.pictures)
            yield (
                index,
                {
                    "id": record.id,
                    "text": record.text,
                    "image": image,
                    "spans": [list(span) for span in record.spans],
                    "label": record.label,
                    "seen": record.label in seen,
                    "split": split,
                },
            )

    @cached_property
    def _division(self) -> Division:
        return divide(self.reading, self.options)

    def load(self) -> GZSData:
        """Builds the data or takes them from the cache.

        Raises:
            RecordError: If a record is faulty and the options say to stop there.
            ValueError: If the labels or samples do not suffice for the protocol.
        """
        self.download_and_prepare()
        splits = self.as_dataset()
        outcome = read_json(self.cache_dir, OUTCOME_FILE)
        if outcome is not None:
            return GZSData.of(splits, outcome)
        # Just built, or built by a process that ended before it came here.
        task, made = self.reading.corpus.task, self._division
        data = GZSData(task, splits, made.partition, made.label_texts, made.report)
        write_json(self.cache_dir, OUTCOME_FILE, data.outcome())
        return data


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


def load_gzs(
    source: str = "sample",
    data_dir: str | None = None,
    image_dir: str | None = None,
    *,
    cache_dir: str | None = None,
    **choices: Any,
) -> GZSData:
    """Loads a source and splits it by the generalized zero-shot protocol.

    Args:
        source: `"sample"` (embedded), `"mnre"`, `"wikidiverse"`, `"bio"` (files tagged by token)
            or `"records"` (the caller's own JSON Lines, CSV, Parquet or `datasets.Dataset`).
        data_dir: Folder of the files; for `"records"` and `"bio"` also the file itself.
        image_dir: Folder of the pictures. Absent pictures give null and are counted.
        cache_dir: Where built data are kept; None takes the default of `datasets`.
        **choices: The other fields of `SourceOptions`, above all:
            `seed` of the protocol; `counts` of seen, validation-unseen and test-unseen labels, or
            the lists `seen`, `validation_unseen`, `test_unseen` themselves, or WikiDiverse's
            `rotation` (otherwise labels are divided as evenly as possible: MNRE 8, 7, 7);
            `group_by="both"`, so that no sentence and no picture stands in two splits;
            `label_text="verbalised"`, `"parts"` or `"described"`, to show labels in words;
            `on_error="report"`, to leave faulty records out and count them.

    Returns:
        The splits, the partition, the label texts and the report.

    Raises:
        ValueError: If an argument does not fit, or the data do not suffice for the protocol.
        RecordError: If a record is faulty and `on_error` is `"raise"`.
        FileNotFoundError: If files are absent.

    Examples:
        >>> data = load_gzs("sample", cache_dir="cache", seed=1)
        >>> {split: len(records) for split, records in data.splits.items()}
        {'train': 628, 'validation': 1154, 'test': 1436}
        >>> data.splits["train"].features["label"].names[:3]
        ['aircraft', 'bird', 'body part']
    """
    options = SourceOptions(data_dir=data_dir, image_dir=image_dir, **choices)
    return GZSBuilder(source, options, cache_dir).load()


def load_gzs_seeds(
    seeds: Iterable[int],
    source: str = "sample",
    data_dir: str | None = None,
    image_dir: str | None = None,
    *,
    cache_dir: str | None = None,
    **choices: Any,
) -> dict[int, GZSData]:
    """Loads the splits of several seeds; files are read and pictures checked once for all.

    Args:
        seeds: Seeds of the protocol.
        source: As for `load_gzs`, and likewise all that follow; `seed` is not among them.
        data_dir: Folder of the files.
        image_dir: Folder of the pictures.
        cache_dir: Where built data are kept.
        **choices: The other fields of `SourceOptions`.

    Returns:
        What `load_gzs` returns, by seed.

    Raises:
        TypeError: If a single seed is given too.
        ValueError: As `load_gzs`; also if a seed is given twice or none is.
        RecordError: As `load_gzs`.
        FileNotFoundError: As `load_gzs`.
    """
    if "seed" in choices:
        raise TypeError(f"seed: not wanted beside seeds, got {choices['seed']!r}")
    wanted = list(seeds)
    if not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(f"seeds: expected distinct whole numbers, at least one, got {wanted}")
    options = SourceOptions(data_dir=data_dir, image_dir=image_dir, **choices)
    reading = Reading(source, options)
    return {
        seed: GZSBuilder(reading, replace(options, seed=seed), cache_dir).load() for seed in wanted
    }
