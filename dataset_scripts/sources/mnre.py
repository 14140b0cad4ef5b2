"""Reader of MNRE, relations in tweets with images, in both published versions.

Each line of the files is a Python dict literal: `token` (list of strings), `h` and `t` (`name`, and
`pos` as a token span with exclusive end), `img_id` and `relation`. Lines are parsed by
`ast.literal_eval`, which does not execute code. The three published files are merged and split
again by the protocol; records with the relation "None", which means no relation, are left out.

Version 2 has 23 relations and identifies images by file name; version 1 has 31, and some of its
image ids are integers: the file name without its suffix. There is no other difference, so the
version need not be specified.

Source: Zheng et al., "Multimodal Relation Extraction with Efficient Graph Alignment", 2021, for the
data; HMGRL, data protocol, for their use.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..corpus import Corpus, DataReport
from ..files import find_parts, list_files, read_lines
from ..images import Stems, image_path
from ..options import SourceOptions
from ..schema import (
    Place,
    Record,
    RecordError,
    Span,
    check_image_name,
    check_record,
    check_string,
    name_difference,
    require,
    show,
)

NO_RELATION = "None"

# The longest published line has 414 characters; the limit protects the parser of literals.
MAX_LINE_BYTES = 65_536


def text_files(options: SourceOptions) -> list[Path]:
    """Returns the three files, e.g. `mnre_train.txt`, `mnre_val.txt`, `mnre_test.txt`.

    Raises:
        ValueError: If no folder is given.
        FileNotFoundError: If one of the files does not exist.
    """
    return list(find_parts(options.data_dir, ".txt", "MNRE").values())


def image_files(options: SourceOptions) -> Iterable[Path]:
    """Returns all files of the image folder, for the cache key."""
    return list_files(options.image_root)


def read(options: SourceOptions) -> Corpus:
    """Reads the three files.

    Args:
        options: Folder, image folder, handling of invalid lines.

    Returns:
        Records with ids such as `"train-000123"` (file and line), in the order of the files.

    Raises:
        ValueError: If an option does not apply.
        RecordError: If a line is invalid and `options.on_error` is `"raise"`.
    """
    if options.task not in (None, "relation"):
        raise ValueError(f"task: expected 'relation' for MNRE, got {options.task!r}")
    root = options.image_root
    report = DataReport("mnre")
    records: list[Record] = []
    stems = Stems(root)
    for part, path in find_parts(options.data_dir, ".txt", "MNRE").items():
        for place, line in read_lines(path, MAX_LINE_BYTES):
            report.records_in += 1
            try:
                if isinstance(line, RecordError):
                    raise line
                record = _record(_parse(line, place), place, part, root, stems, report)
            except RecordError as error:
                options.handle(error, report)
                continue
            if record is not None:
                records.append(record)
    return Corpus("relation", records, report, image_root=root)


def _parse(line: str, place: Place) -> dict[str, Any]:
    """Parses the dict literal of a line."""
    expected = "a Python dict literal"
    try:
        with warnings.catch_warnings():
            # The compiler warns of invalid escapes such as "\d" in the data.
            warnings.simplefilter("ignore")
            values = ast.literal_eval(line)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        found = f"{type(error).__name__} in {show(line)}"
        raise RecordError(place, "(line)", expected, found, "not a literal") from None
    if not isinstance(values, dict):
        raise RecordError(place, "(line)", expected, show(values), "not a dict")
    return values


def _record(
    values: dict[str, Any],
    place: Place,
    part: str,
    root: Path | None,
    stems: Stems,
    report: DataReport,
) -> Record | None:
    """Returns the record of a line, or None for the relation "None", which is counted."""
    relation = check_string(require(values, "relation", place, "a relation"), "relation", place)
    tokens = require(values, "token", place, "the tokens")
    if not isinstance(tokens, list) or not tokens:
        raise RecordError(place, "token", "a list of strings", show(tokens), "wrong type")
    for token in tokens:
        check_string(token, "token", place)
    text = " ".join(tokens)
    spans: list[Span] = []
    notes: list[tuple[str, str]] = []
    for side in ("h", "t"):
        span, name = _mention(require(values, side, place, "a mention"), side, tokens, place)
        spans.append(span)
        found = text[slice(*span)]
        if found != name:
            kind = f"mention differs from span ({name_difference(found, name)})"
            notes.append((kind, f"{side}: name {name!r}, span {found!r}"))
    image = require(values, "img_id", place, "a file name or a number")
    if isinstance(image, int) and not isinstance(image, bool):
        image = str(image)
    image = check_image_name(image, place, "img_id")
    if image is not None and root is not None:
        image = stems.name_of(image, place, "img_id")
        image_path(image, root, place, "img_id")
    record = check_record(
        {
            "id": f"{part}-{place.line:06d}",
            "text": text,
            "spans": spans,
            "label": relation,
            "image": image,
        },
        place,
        task="relation",
    )
    if record.overlap:
        notes.append(("head and tail overlap", record.overlap))
    if relation == NO_RELATION:
        report.leave_out(f"relation {NO_RELATION!r}", place, "means no relation")
        return None
    for kind, detail in notes:
        report.note(kind, place, detail)
    return record


def _mention(value: object, side: str, tokens: list[str], place: Place) -> tuple[Span, str]:
    """Returns the character span and the given name of head or tail."""
    if not isinstance(value, dict):
        raise RecordError(place, side, "a dict of name and pos", show(value), "wrong type")
    name = check_string(require(value, "name", place, "the mention"), f"{side}.name", place)
    pos = require(value, "pos", place, "a token span")
    field = f"{side}.pos"
    if (
        not isinstance(pos, (list, tuple))
        or len(pos) != 2
        or not all(isinstance(offset, int) and not isinstance(offset, bool) for offset in pos)
    ):
        raise RecordError(place, field, "[start, end] in tokens", show(pos), "wrong type")
    first, end = pos
    if not 0 <= first < end <= len(tokens):
        expected = f"0 ≤ start < end ≤ {len(tokens)} tokens"
        raise RecordError(place, field, expected, show(pos), "out of range")
    # Tokens are joined by a space, which precedes every token except the first.
    start = sum(len(token) + 1 for token in tokens[:first])
    return (start, start + len(" ".join(tokens[first:end]))), name
