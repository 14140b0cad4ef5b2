"""Reads a source and splits it, independently of how the rows are stored.

A source is a module with three functions: `text_files(options)` and `image_files(options)` return
the files that the cache key depends on, and `read(options)` returns a `Corpus` that does not depend
on the seed. Splitting, checking images and counting are common to all sources.
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
from .images import ImageState, image_state
from .label_texts import make_label_texts
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

# Part of every cache key: increase it whenever the same files give other rows or another report.
BUILDER_VERSION = "3"


class SourceReader:
    """Reads a source at most once, regardless of the number of seeds.

    Args:
        source: Name of the source, a key of `SOURCES`.
        options: Options of the source; the seed is ignored.

    Raises:
        ValueError: If the source is unknown, or an option does not apply to it.
    """

    def __init__(self, source: str, options: SourceOptions) -> None:
        if source not in SOURCES:
            raise ValueError(f"source: expected one of {sorted(SOURCES)}, got {source!r}")
        if options.joiner != "auto" and source != "bio":
            raise ValueError(
                f"joiner: expected 'auto' for the source {source!r}, whose texts are not tagged by "
                f"token, got {options.joiner!r}"
            )
        self.source = source
        self.options = options

    @cached_property
    def corpus(self) -> Corpus:
        """The validated records of the source."""
        return SOURCES[self.source].read(self.options)

    @cached_property
    def digests(self) -> dict[str, str]:
        """Fingerprints of the current files."""
        reader = SOURCES[self.source]
        return {
            "texts": content_digest(reader.text_files(self.options)),
            "images": listing_digest(reader.image_files(self.options)),
        }

    @cached_property
    def image_states(self) -> dict[str, tuple[ImageState, str]]:
        """State of each image that the records name, and a description of its problem."""
        corpus = self.corpus
        names = {record.image: None for record in corpus.records if record.image is not None}
        return {
            name: image_state(name, corpus.image_root, corpus.images)
            for name in datasets.utils.tqdm(names, desc="Checking images", unit=" images")
        }

    def fingerprint(self, seed: int) -> str:
        """Returns the cache key of the splits of a seed, given the current files."""
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
    """The splits of a corpus.

    Attributes:
        partition: The groups of labels.
        assignment: The split of each record of the corpus, or None.
        label_texts: Text that represents each label.
        report: The complete report.
    """

    partition: ClassPartition
    assignment: list[Split | None]
    label_texts: dict[str, str]
    report: DataReport


def divide(reader: SourceReader, options: SourceOptions) -> Division:
    """Splits a corpus, checks its images and completes its report.

    Args:
        reader: Reader of the source.
        options: Options of the source, with the seed of the protocol; the seed is ignored if the
            records specify their splits.

    Raises:
        ValueError: If there are too few labels or samples for the protocol.
    """
    corpus = reader.corpus
    report = copy.deepcopy(corpus.report)  # the corpus is shared by all seeds
    labels = [record.label for record in corpus.records]
    if not labels:
        raise ValueError(
            f"{reader.source}: no record remains, {report.records_left_out} of "
            f"{report.records_in} were left out ({', '.join(report.left_out) or 'no reason'})"
        )
    partition = corpus.partition or options.partition(frozenset(labels))
    label_texts = make_label_texts(
        partition.labels, options.label_text, reader.source, options.descriptions
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
        raise ValueError("group_by: expected 'none', since the records specify their splits")

    known = dict.fromkeys(partition.labels, 0)
    report.splits = {split: dict(known) for split in SPLITS}
    report.images = dict.fromkeys(("found", "missing", "unreadable", "none"), 0)
    used: dict[str, ImageState] = {}
    for record, split in zip(corpus.records, assignment, strict=True):
        if split is None:
            reason = "label outside the partition"
            if record.label in known:
                reason = "shares a sentence or an image with a split that its label is not in"
            report.leave_out(reason, record.place, record.label)
            continue
        state: ImageState = "none"
        if record.image is not None:
            state, problem = reader.image_states[record.image]
            used[record.image] = state
            if state != "found":
                detail = f"{record.image}: {problem}" if problem else record.image
                report.note(f"image {state}", record.place, detail)
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
        # Lists, as in JSON, so that a report read from the cache equals the one written.
        "partition": {name: list(group) for name, group in asdict(partition).items()},
    }
    report.check()
    return Division(partition, assignment, label_texts, report)
