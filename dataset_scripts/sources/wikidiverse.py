"""Reader of WikiDiverse, entity mentions in captions of news pictures.

Three JSON files (train, valid, test), each a list of samples:

    [sentence, image URL, topic, [[mention, type, start, end, entity URL], …]]

Each mention makes a record. The three files are merged and split again by the protocol; the type
"Other" is left out. Pictures are not fetched: they lie in a folder under names made from their URL,
as the data set's authors distribute them.

Source: Wang et al., "WikiDiverse: A Multimodal Entity Linking Dataset with Diversified Contextual
Topics and Entity Types", ACL 2022, for the data and the names of pictures; HMGRL, data protocol,
for what is done with it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..corpus import Corpus, DataReport
from ..files import files_of, find_parts
from ..images import picture_path
from ..options import SourceOptions
from ..protocol import WIKIDIVERSE_PARTITIONS
from ..schema import Place, Record, RecordError, check_record, check_string, difference, show

OTHER = "Other"
TYPES = WIKIDIVERSE_PARTITIONS[1].labels

# The published files have about 3 MB each.
MAX_FILE_BYTES = 256 * 1024 * 1024

# From the last of these endings on, a URL's last part is kept as the end of the file's name.
_ENDING = re.compile(r".*(\.(?:jpe?g|png|svg|JPE?G|PNG|SVG).*)", re.DOTALL)


def text_files(options: SourceOptions) -> list[Path]:
    """Returns the three files.

    Raises:
        ValueError: If no folder is given.
        FileNotFoundError: If one of the files is absent.
    """
    return list(find_parts(options.data_dir, ".json", "WikiDiverse").values())


def image_files(options: SourceOptions) -> Iterable[Path]:
    """Returns all files of the picture folder, for the cache key."""
    return files_of(options.image_root)


def picture_name(url: str) -> str:
    """Returns the name under which the picture of a URL is distributed.

    Args:
        url: E.g. `"https://upload.wikimedia.org/wikipedia/commons/0/06/Running.svg"`.

    Returns:
        The MD5 of the URL's last part in hexadecimal, then that part's ending, ".svg" as ".png".
        A part without one of the known endings (jpg, jpeg, png, svg) is kept whole.
    """
    last = url.rsplit("/", maxsplit=1)[-1]
    match = _ENDING.fullmatch(last)
    name = hashlib.md5(last.encode(), usedforsecurity=False).hexdigest()
    name += match[1] if match else last
    return name.replace(".svg", ".png").replace(".SVG", ".png")


def read(options: SourceOptions) -> Corpus:
    """Reads the three files.

    Args:
        options: Folder, picture folder, what to do with a faulty record.

    Returns:
        Records with ids such as `"train-000123-2"` (file, sample, mention), in the files' order.

    Raises:
        ValueError: If an option does not fit.
        RecordError: If a record is faulty and `options.on_error` is `"raise"`; in any case if a
            file is no JSON list, since what follows the fault cannot be told apart.
    """
    if options.task not in (None, "typing"):
        raise ValueError(f"task: WikiDiverse is for typing, got {options.task!r}")
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
    # A byte that is no UTF-8 becomes half a surrogate pair, which the check of its string reports.
    text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    decoder = json.JSONDecoder()
    line, counted = 1, 0

    def place_at(offset: int) -> Place:
        nonlocal line, counted
        line += text.count("\n", counted, offset)
        counted = offset
        return Place(path.name, line)

    def sign_at(offset: int, wanted: str, expected: str) -> int:
        offset = _end_of_space(text, offset)
        if text[offset : offset + 1] not in tuple(wanted):
            found = show(text[offset : offset + 40]) if text[offset:] else "the end of the file"
            raise RecordError(place_at(offset), "(file)", expected, found, "not JSON")
        return offset

    at = _end_of_space(text, sign_at(0, "[", "a JSON list of samples") + 1)
    if text[at : at + 1] != "]":
        while True:
            place = place_at(at)
            try:
                sample, at = decoder.raw_decode(text, at)
            except (ValueError, RecursionError) as error:
                found = str(error) if text[at:].strip() else "the end of the file"
                raise RecordError(place, "(file)", "a sample in JSON", found, "not JSON") from None
            yield place, sample
            at = sign_at(at, ",]", "',' or ']' after a sample")
            if text[at] == "]":
                break
            at = _end_of_space(text, at + 1)
    rest = _end_of_space(text, at + 1)
    if rest < len(text):
        found = show(text[rest : rest + 40])
        raise RecordError(place_at(rest), "(file)", "nothing after the list", found, "not JSON")


def _end_of_space(text: str, offset: int) -> int:
    """Returns the offset of the first character from `offset` on that is no white space of JSON."""
    while offset < len(text) and text[offset] in " \t\r\n":
        offset += 1
    return offset


def _parts(sample: object, place: Place, root: Path | None) -> tuple[str, str | None, list[Any]]:
    """Returns sentence, name of the picture and mentions of a sample."""
    expected = "[sentence, image URL, topic, mentions]"
    if not isinstance(sample, list) or len(sample) != 4:
        raise RecordError(place, "(sample)", expected, show(sample), "not a sample")
    text, url, _, mentions = sample
    check_string(text, "sentence", place)
    image = None
    if url is not None:
        image = picture_name(check_string(url, "image URL", place))
        if root is not None:
            picture_path(image, root, place, "image URL")
    if not isinstance(mentions, list):
        raise RecordError(place, "mentions", "a list", show(mentions), "wrong type")
    return text, image, mentions


def _record(
    mention: object, name: str, text: str, image: str | None, place: Place, report: DataReport
) -> Record:
    """Returns the record of a mention, its offsets checked against its text."""
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
        why = difference(found, surface)
        if why == "other text":
            expected = f"the offsets of the mention {show(surface)}"
            raise RecordError(place, "spans", expected, f"those of {show(found)}", "another text")
        report.note(f"mention differs from span ({why})", place, f"{surface!r}, span {found!r}")
    return record
