"""Reader of WikiDiverse, entity mentions in captions of news images.

Three JSON files (train, valid, test), each a list of samples:

    [sentence, image URL, topic, [[mention, type, start, end, entity URL], …]]

Each mention becomes a record. The three files are merged and split again by the protocol; the type
"Other" is left out. Images are not fetched: they are read from a folder, under names derived from
their URLs as in the authors' distribution.

Source: Wang et al., "WikiDiverse: A Multimodal Entity Linking Dataset with Diversified Contextual
Topics and Entity Types", ACL 2022, for the data and the names of images; HMGRL, data protocol,
for their use.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..corpus import Corpus, DataReport
from ..files import find_parts, list_files
from ..images import image_path
from ..options import SourceOptions
from ..protocol import WIKIDIVERSE_PARTITIONS
from ..schema import Place, Record, RecordError, check_record, check_string, name_difference, show

OTHER = "Other"
TYPES = WIKIDIVERSE_PARTITIONS[1].labels

# The published files have a size of about 3 MB each.
MAX_FILE_BYTES = 32 * 1024 * 1024

# The last part of a URL, from the last of these suffixes on, is the suffix of the file name.
_ENDING = re.compile(r".*(\.(?:jpe?g|png|svg|JPE?G|PNG|SVG).*)", re.DOTALL)


def text_files(options: SourceOptions) -> list[Path]:
    """Returns the three files.

    Raises:
        ValueError: If no folder is given.
        FileNotFoundError: If one of the files does not exist.
    """
    return list(find_parts(options.data_dir, ".json", "WikiDiverse").values())


def image_files(options: SourceOptions) -> Iterable[Path]:
    """Returns all files of the image folder, for the cache key."""
    return list_files(options.image_root)


def image_file_name(url: str) -> str:
    """Returns the file name under which the image of a URL is distributed.

    Args:
        url: E.g. `"https://upload.wikimedia.org/wikipedia/commons/0/06/Running.svg"`.

    Returns:
        The hexadecimal MD5 of the URL's last part, followed by the suffix of that part, with ".svg"
        replaced by ".png"; without a known suffix (jpg, jpeg, png, svg), by the whole part.
    """
    last = url.rsplit("/", maxsplit=1)[-1]
    match = _ENDING.fullmatch(last)
    name = hashlib.md5(last.encode(), usedforsecurity=False).hexdigest()
    name += match[1] if match else last
    return name.replace(".svg", ".png").replace(".SVG", ".png")


def read(options: SourceOptions) -> Corpus:
    """Reads the three files.

    Args:
        options: Folder, image folder, handling of invalid records.

    Returns:
        Records with ids such as `"train-000123-2"` (file, sample, mention), in the files' order.

    Raises:
        ValueError: If an option does not apply.
        RecordError: If a record is invalid and `options.on_error` is `"raise"`; always if a file is
            not a JSON list, since the following samples cannot be separated.
    """
    if options.task not in (None, "typing"):
        raise ValueError(f"task: expected 'typing' for WikiDiverse, got {options.task!r}")
    root = options.image_root
    report = DataReport("wikidiverse")
    records: list[Record] = []
    for part, path in find_parts(options.data_dir, ".json", "WikiDiverse").items():
        for number, (place, sample) in enumerate(_samples(path), 1):
            try:
                text, image, mentions = _parts(sample, place, root)
            except RecordError as error:
                report.records_in += 1
                options.handle(error, report)
                continue
            for index, mention in enumerate(mentions, 1):
                report.records_in += 1
                try:
                    name = f"{part}-{number:06d}-{index}"
                    record = _record(mention, name, text, image, place, report)
                except RecordError as error:
                    options.handle(error, report)
                    continue
                if record.label == OTHER:
                    report.leave_out(f"type {OTHER!r}", place, "not one of the twelve types")
                else:
                    records.append(record)
    return Corpus("typing", records, report, image_root=root)


def _samples(path: Path) -> Iterator[tuple[Place, Any]]:
    """Yields the elements of a JSON list with the line on which each begins."""
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        place = Place(path.name, None)
        expected = f"a file of at most {MAX_FILE_BYTES} bytes"
        raise RecordError(place, "(file)", expected, f"{size} bytes", "too long")
    # A byte that is not UTF-8 becomes a lone surrogate, which the check of its string reports.
    text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    decoder = json.JSONDecoder()
    line, counted = 1, 0

    def location(offset: int) -> Place:
        nonlocal line, counted
        line += text.count("\n", counted, offset)
        counted = offset
        return Place(path.name, line)

    def expect_character(offset: int, allowed: str, expected: str) -> int:
        offset = _skip_space(text, offset)
        if text[offset : offset + 1] not in tuple(allowed):
            found = show(text[offset : offset + 40]) if text[offset:] else "the end of the file"
            raise RecordError(location(offset), "(file)", expected, found, "not JSON")
        return offset

    at = _skip_space(text, expect_character(0, "[", "a JSON list of samples") + 1)
    if text[at : at + 1] != "]":
        while True:
            place = location(at)
            try:
                sample, at = decoder.raw_decode(text, at)
            except (ValueError, RecursionError) as error:
                found = str(error) if text[at:].strip() else "the end of the file"
                raise RecordError(place, "(file)", "a sample in JSON", found, "not JSON") from None
            yield place, sample
            at = expect_character(at, ",]", "',' or ']' after a sample")
            if text[at] == "]":
                break
            at = _skip_space(text, at + 1)
    rest = _skip_space(text, at + 1)
    if rest < len(text):
        found = show(text[rest : rest + 40])
        raise RecordError(location(rest), "(file)", "nothing after the list", found, "not JSON")


def _skip_space(text: str, offset: int) -> int:
    """Returns the offset of the first character from `offset` on that is not JSON white space."""
    while offset < len(text) and text[offset] in " \t\r\n":
        offset += 1
    return offset


def _parts(sample: object, place: Place, root: Path | None) -> tuple[str, str | None, list[Any]]:
    """Returns the sentence, the name of the image and the mentions of a sample."""
    expected = "[sentence, image URL, topic, mentions]"
    if not isinstance(sample, list) or len(sample) != 4:
        raise RecordError(place, "(sample)", expected, show(sample), "not a sample")
    text, url, _, mentions = sample
    check_string(text, "sentence", place)
    image = None
    if url is not None:
        image = image_file_name(check_string(url, "image URL", place))
        if root is not None:
            image_path(image, root, place, "image URL")
    if not isinstance(mentions, list):
        raise RecordError(place, "mentions", "a list", show(mentions), "wrong type")
    return text, image, mentions


def _record(
    mention: object, name: str, text: str, image: str | None, place: Place, report: DataReport
) -> Record:
    """Returns the record of a mention, and checks its offsets against its text."""
    expected = "[mention, type, start, end, entity URL]"
    if not isinstance(mention, list) or len(mention) != 5:
        raise RecordError(place, "mentions", expected, show(mention), "not a mention")
    surface, label, start, end, _ = mention
    check_string(surface, "mention", place)
    record = check_record(
        {"id": name, "text": text, "image": image, "spans": [[start, end]], "label": label},
        place,
        task="typing",
        labels=(*TYPES, OTHER),
    )
    found = text[start:end]
    if found != surface:
        why = name_difference(found, surface)
        if why == "other text":
            expected = f"the offsets of the mention {show(surface)}"
            raise RecordError(place, "spans", expected, f"those of {show(found)}", "another text")
        report.note(f"mention differs from span ({why})", place, f"{surface!r}, span {found!r}")
    return record
