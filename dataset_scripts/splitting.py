"""Reads a source and divides it: what does not depend on where the rows are stored.

A source is a module with three functions: `text_files(options)` and `image_files(options)` say
what the cache key depends on, `read(options)` returns a `Corpus` that does not depend on the seed.
Splitting, checking pictures and counting are the same for all and live here.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from types import MappingProxyType, ModuleType

import datasets

from . import protocol
from .corpus import Corpus, DataReport
from .files import content_digest, listing_digest
from .images import PictureState, picture_state
from .label_texts import texts_of_labels
from .leakage import group_samples, measure_overlap
from .options import SourceOptions
from .protocol import SPLITS, ClassPartition, Split, split_groups, split_samples
from .sources import bio, mnre, records, sample, wikidiverse

SOURCES: MappingProxyType[str, ModuleType] = MappingProxyType(
    {
        "sample": sample,
        "mnre": mnre,
        "wikidiverse": wikidiverse,
        "bio": bio,
        "records": records,
    }
)

# Part of every cache key: raise it whenever the same files give other rows or another report.
BUILDER_VERSION = "2"


class Reading:
    """A source that is read at most once, however many seeds are asked for.

    Args:
        source: Name of the source, a key of `SOURCES`.
        options: The caller's choices. Their seed is not used here.

    Raises:
        ValueError: If the source is unknown.
    """

    def __init__(self, source: str, options: SourceOptions) -> None:
        if source not in SOURCES:
            raise ValueError(f"source: expected one of {sorted(SOURCES)}, got {source!r}")
        self.source = source
        self.options = options

    @cached_property
    def corpus(self) -> Corpus:
        """The checked records of the source."""
        return SOURCES[self.source].read(self.options)

    @cached_property
    def digests(self) -> dict[str, str]:
        """Fingerprints of the files as they are now."""
        reader = SOURCES[self.source]
        return {
            "texts": content_digest(reader.text_files(self.options)),
            "images": listing_digest(reader.image_files(self.options)),
        }

    @cached_property
    def pictures(self) -> dict[str, tuple[PictureState, str]]:
        """What is known of each picture that the records name, and what is wrong with it."""
        corpus = self.corpus
        names = {record.image: None for record in corpus.records if record.image is not None}
        return {
            name: picture_state(name, corpus.image_root, corpus.pictures)
            for name in datasets.utils.tqdm(names, desc="Checking pictures", unit=" pictures")
        }

    def fingerprint(self, seed: int) -> str:
        """Returns the cache key of the splits of a seed, with the files as they are now."""
        parts = {
            "source": self.source,
            "options": replace(self.options, seed=seed).key(),
            "protocol": protocol.PROTOCOL_VERSION,
            "builder": BUILDER_VERSION,
            **self.digests,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Division:
    """How a corpus is divided.

    Attributes:
        partition: The groups of labels.
        assignment: The split of each record of the corpus, or None.
        label_texts: Text shown to the encoder for each label.
        report: The finished report.
    """

    partition: ClassPartition
    assignment: list[Split | None]
    label_texts: dict[str, str]
    report: DataReport


def divide(reading: Reading, options: SourceOptions) -> Division:
    """Splits a corpus, looks at its pictures and completes its report.

    Args:
        reading: The source.
        options: The caller's choices, with the seed of the protocol; it is not used where the
            records name their split.

    Raises:
        ValueError: If the labels or samples do not suffice for the protocol.
    """
    corpus = reading.corpus
    report = copy.deepcopy(corpus.report)  # the corpus serves other seeds too
    labels = [record.label for record in corpus.records]
    if not labels:
        raise ValueError(
            f"{reading.source}: of {report.records_in} records {report.records_left_out} were left "
            f"out ({', '.join(report.left_out) or 'no reason'}) and none remains"
        )
    partition = corpus.partition or options.partition(frozenset(labels))
    label_texts = texts_of_labels(
        partition.labels, options.label_text, reading.source, options.descriptions
    )
    assignment: list[Split | None] = [record.split for record in corpus.records]
    if None in assignment:
        ids = [record.id for record in corpus.records]
        if options.group_by == "none":
            assignment = split_samples(labels, partition, options.seed, ids)
        else:
            groups = group_samples(corpus.records, options.group_by)
            assignment = split_groups(labels, groups, partition, options.seed, ids)
    elif options.group_by != "none":
        raise ValueError("group_by: not wanted here, the records themselves name their split")

    report.splits = {split: dict.fromkeys(partition.labels, 0) for split in SPLITS}
    report.images = dict.fromkeys(("found", "missing", "unreadable", "none"), 0)
    used: dict[str, PictureState] = {}
    for record, split in zip(corpus.records, assignment, strict=True):
        if split is None:
            reason = "label outside the partition"
            if record.label in partition.labels:
                reason = "shares a sentence or a picture with a split that its label is not in"
            report.leave_out(reason, record.place, record.label)
            continue
        state: PictureState = "none"
        if record.image is not None:
            state, problem = reading.pictures[record.image]
            used[record.image] = state
            if state != "found":
                detail = f"{record.image}: {problem}" if problem else record.image
                report.note(f"picture {state}", record.place, detail)
        report.images[state] += 1
        report.splits[split][record.label] += 1
        report.records_out += 1
    report.images["distinct"] = len(used)
    for state in ("missing", "unreadable"):
        report.images[f"distinct_{state}"] = sum(found == state for found in used.values())
    report.overlap = measure_overlap(corpus.records, assignment, partition)
    report.settings |= {
        "task": corpus.task,
        "seed": options.seed,
        "protocol_version": protocol.PROTOCOL_VERSION,
        "group_by": options.group_by,
        "label_text": options.label_text,
        "on_error": options.on_error,
        # Lists, as JSON knows them: a report read from the cache equals the one written.
        "partition": {name: list(group) for name, group in asdict(partition).items()},
    }
    report.check()
    return Division(partition, assignment, label_texts, report)
