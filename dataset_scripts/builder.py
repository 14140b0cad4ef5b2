"""Builds the splits of all sources as `datasets`, and loads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import datasets

from .corpus import DataReport
from .files import read_json, write_json
from .images import stored_image
from .options import SourceOptions, make_options
from .protocol import SPLITS, ClassPartition, Split
from .schema import Task
from .splitting import Division, SourceReader, divide

OUTCOME_FILE = "gzs.json"


@dataclass(frozen=True)
class GZSData:
    """A data set that is ready for training.

    Attributes:
        task: `"typing"` or `"relation"`.
        splits: `train`, `validation` and `test` with the columns `id`, `text`, `image` (or null),
            `spans`, `label` (one `ClassLabel` over all names), `seen` and `split`.
        partition: The groups of labels.
        label_texts: Text that represents each label.
        report: Report on the source and its splits.
    """

    task: Task
    splits: datasets.DatasetDict
    partition: ClassPartition
    label_texts: dict[str, str]
    report: DataReport

    def outcome(self) -> dict[str, Any]:
        """Returns everything except the rows as JSON values, the content of `gzs.json`."""
        return {
            "task": self.task,
            "partition": asdict(self.partition),
            "label_texts": self.label_texts,
            "report": self.report.to_dict(),
        }

    @classmethod
    def of(cls, splits: datasets.DatasetDict, outcome: Mapping[str, Any]) -> GZSData:
        """Combines rows with the result of `outcome`.

        Raises:
            KeyError: If a field is missing.
            TypeError: If a field has the wrong type.
            ValueError: If the groups of labels are invalid.
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

    The cache key of `datasets` ignores the content of files. This builder includes it: changed
    texts, images, options or versions of the protocol rebuild the data.

    Args:
        source: Name of the source, a key of `SOURCES`, or a reader that several seeds share.
        options: Options of the source; None takes those of the `SourceReader`, or the defaults.
        cache_dir: Folder in which built data are cached; None takes the default of `datasets`.

    Raises:
        ValueError: If the source is unknown or an option does not apply to it.
        FileNotFoundError: If its files do not exist.
    """

    def __init__(
        self,
        source: str | SourceReader,
        options: SourceOptions | None = None,
        cache_dir: str | None = None,
    ) -> None:
        reader = source
        if isinstance(reader, str):
            reader = SourceReader(reader, SourceOptions() if options is None else options)
        self.reader = reader
        self.options = reader.options if options is None else options
        super().__init__(
            cache_dir=cache_dir,
            dataset_name=f"hmgrl_{reader.source}",
            config_name=reader.source,
            config_id=f"seed-{self.options.seed}",
            hash=reader.fingerprint(self.options.seed),
        )

    def _info(self) -> datasets.DatasetInfo:
        # Label names are unknown until the files are read, so the features are set with the splits.
        return datasets.DatasetInfo()

    def _split_generators(self, dl_manager: Any) -> list[Any]:  # noqa: ARG002
        self.info.features = make_features(self._division.partition)
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"split": split}) for split in SPLITS
        ]

    def _generate_examples(self, split: Split) -> Iterator[tuple[int, Any]]:
        reader, division = self.reader, self._division
        corpus = reader.corpus
        seen = frozenset(division.partition.seen)
        for index, record in enumerate(corpus.records):
            if division.assignment[index] != split:
                continue
            image = None
            if record.image is not None and reader.image_states[record.image][0] == "found":
                image = stored_image(record.image, corpus.image_root, corpus.images)
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
        return divide(self.reader, self.options)

    def load(self) -> GZSData:
        """Builds the data or loads them from the cache.

        Raises:
            RecordError: If a record is invalid and `on_error` is `"raise"`.
            ValueError: If there are too few labels or samples for the protocol.
        """
        self.download_and_prepare()
        splits = self.as_dataset()
        outcome = read_json(self.cache_dir, OUTCOME_FILE)
        if outcome is not None:
            return GZSData.of(splits, outcome)
        # The rows were built just now, or by a process that ended before writing the outcome.
        task, division = self.reader.corpus.task, self._division
        data = GZSData(task, splits, division.partition, division.label_texts, division.report)
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
        data_dir: Folder of the files; for `"records"` and `"bio"` also a single file.
        image_dir: Folder of the images. Missing images become null and are counted.
        cache_dir: Folder in which built data are cached; None takes the default of `datasets`.
        **choices: The other fields of `SourceOptions`, in particular:
            `seed` of the protocol; `counts` of seen, validation-unseen and test-unseen labels, or
            the lists `seen`, `validation_unseen`, `test_unseen` themselves, or WikiDiverse's
            `rotation` (by default the groups are as equal as possible: MNRE 8, 7, 7);
            `group_by="both"`, so that no sentence and no image occurs in two splits;
            `label_text="raw"`, `"verbalised"`, `"parts"` or `"described"`, instead of `"auto"`;
            `on_error="skip"`, to skip and count invalid records.

    Returns:
        The splits, the partition, the label texts and the report.

    Raises:
        TypeError: If an argument is unknown or has the wrong type.
        ValueError: If an argument is invalid, or there are too few data for the protocol.
        RecordError: If a record is invalid and `on_error` is `"raise"`.
        FileNotFoundError: If files do not exist.

    Examples:
        >>> data = load_gzs("sample", cache_dir="cache", seed=1)
        >>> {split: len(records) for split, records in data.splits.items()}
        {'train': 628, 'validation': 1154, 'test': 1436}
        >>> data.splits["train"].features["label"].names[:3]
        ['aircraft', 'bird', 'body part']
    """
    options = make_options("load_gzs", data_dir=data_dir, image_dir=image_dir, **choices)
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
    """Loads the splits of several seeds; the files are read and the images checked only once.

    Args:
        seeds: Seeds of the protocol.
        source: See `load_gzs`, also for the following arguments.
        data_dir: Folder of the files.
        image_dir: Folder of the images.
        cache_dir: Folder in which built data are cached.
        **choices: The other fields of `SourceOptions`, except `seed`.

    Returns:
        The result of `load_gzs` by seed.

    Raises:
        TypeError: If `seed` is given as well; see also `load_gzs`.
        ValueError: See `load_gzs`; also if there is no seed, or a seed is repeated.
        RecordError: See `load_gzs`.
        FileNotFoundError: See `load_gzs`.
    """
    if "seed" in choices:
        raise TypeError(f"seed: expected none together with seeds, got {choices['seed']!r}")
    wanted = list(seeds)
    if not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(f"seeds: expected one or more distinct integers, got {wanted}")
    options = make_options("load_gzs_seeds", data_dir=data_dir, image_dir=image_dir, **choices)
    reader = SourceReader(source, options)
    return {
        seed: GZSBuilder(reader, replace(options, seed=seed), cache_dir).load() for seed in wanted
    }
