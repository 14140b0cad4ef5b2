"""Reader of MNRE v2, the relation data of tweets with a picture.

The files hold one Python dict literal a line: `token` (list of strings), `h` and `t` (`name`, and
`pos` as a token span with exclusive end), `img_id` and `relation`. Lines are parsed by
`ast.literal_eval`, which builds values and never runs code. The three published files are merged
and split again by the protocol; their relation "None" stands for no relation and is left out.

Source: Zheng et al., "Multimodal Relation Extraction with Efficient Graph Alignment", 2021, for the
data; HMGRL, data protocol, for what is done with it.
"""

from __future__ import annotations

import ast
import unicodedata
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .files import picture_path, read_lines
from .options import SourceOptions
from .schema import (
    Corpus,
    DataReport,
    Place,
    Record,
    RecordError,
    Span,
    check_image_name,
    check_record,
    check_string,
    require,
    show,
)

FILES = ("mnre_train.txt", "mnre_val.txt", "mnre_test.txt")
NO_RELATION = "None"

# The longest published line has 414 characters; a literal's parser is given no chance to choke.
MAX_LINE_BYTES = 65_536

READINGS: MappingProxyType[str, str] = MappingProxyType(
    {
        "/loc/loc/contain": "location contains location",
        "/misc/loc/held_on": "event is held at location",
        "/misc/misc/part_of": "thing is part of thing",
        "/org/loc/locate_at": "organization is located at location",
        "/org/org/alternate_names": "organization is another name of organization",
        "/org/org/subsidiary": "organization is a subsidiary of organization",
        "/per/loc/place_of_birth": "person was born in location",
        "/per/loc/place_of_residence": "person lives in location",
        "/per/misc/awarded": "person was awarded prize",
        "/per/misc/nationality": "person has nationality",
        "/per/misc/present_in": "person is present in event",
        "/per/misc/race": "person is of race",
        "/per/misc/religion": "person follows religion",
        "/per/org/member_of": "person is a member of organization",
        "/per/per/alternate_names": "person is another name of person",
        "/per/per/alumi": "person went to the same school as person",
        "/per/per/charges": "person makes charges against person",
        "/per/per/couple": "person is in a couple with person",
        "/per/per/neighbor": "person is a neighbor of person",
        "/per/per/parent": "person is a parent of person",
        "/per/per/peer": "person is a peer of person",
        "/per/per/siblings": "person is a sibling of person",
    }
)

_TYPE_WORDS = {"per": "person", "org": "organization", "loc": "location", "misc": "thing"}


def verbalise(relation: str) -> str:
    """Returns a relation string as an English clause, head first.

    Args:
        relation: E.g. `"/per/org/member_of"`.

    Returns:
        The reading from the table, e.g. "person is a member of organization". A relation outside
        it is put together from its parts, "/per/org/led_by" → "person led by organization"; a
        string of another shape loses its slashes and underscores only.
    """
    if relation in READINGS:
        return READINGS[relation]
    parts = [part.replace("_", " ").strip() for part in relation.split("/") if part.strip("_ ")]
    if len(parts) == 3:
        head, name, tail = parts[0], parts[2], parts[1]
        return f"{_TYPE_WORDS.get(head, head)} {name} {_TYPE_WORDS.get(tail, tail)}"
    return " ".join(parts) or relation


def text_files(options: SourceOptions) -> list[Path]:
    """Returns the three files.

    Raises:
        ValueError: If no folder is given.
        FileNotFoundError: If one of the files is absent.
    """
    if options.data_dir is None:
        raise ValueError(f"data_dir: expected the folder that holds {', '.join(FILES)}, got None")
    paths = [Path(options.data_dir) / name for name in FILES]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; MNRE needs {', '.join(FILES)}")
    return paths


def image_files(options: SourceOptions) -> Iterable[Path]:
    """Returns all files of the picture folder, for the cache key."""
    return [] if options.image_dir is None else sorted(Path(options.image_dir).iterdir())


def read(options: SourceOptions) -> Corpus:
    """Reads the three files.

    Args:
        options: Folder, picture folder, seed, counts or label lists, label text.

    Returns:
        Records with ids such as `"train-000123"` (file and line), in the order of the files.

    Raises:
        ValueError: If an option does not fit.
        RecordError: If a line is faulty and `options.on_error` is `"raise"`.
    """
    if options.task not in (None, "relation"):
        raise ValueError(f"task: MNRE holds relations, got {options.task!r}")
    root = None if options.image_dir is None else Path(options.image_dir)
    report = DataReport("mnre")
    records: list[Record] = []
    for path in text_files(options):
        part = path.stem.removeprefix("mnre_")
        for place, line in read_lines(path, MAX_LINE_BYTES):
            report.records_in += 1
            try:
                if isinstance(line, RecordError):
                    raise line
                record = _record(_parse(line, place), place, part, root, report)
            except RecordError as error:
                options.handle(error, report)
                continue
            if record is not None:
                records.append(record)
    partition = options.partition({record.label for record in records})
    in_words = options.label_text == "verbalised"
    texts = {label: verbalise(label) if in_words else label for label in partition.labels}
    return Corpus("relation", records, partition, texts, report, image_root=root)


def _parse(line: str, place: Place) -> dict[str, Any]:
    """Returns the dict that a line writes out."""
    expected = "a Python dict literal"
    try:
        with warnings.catch_warnings():
            # The compiler warns of "\d" and the like in other people's strings.
            warnings.simplefilter("ignore")
            values = ast.literal_eval(line)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        found = f"{type(error).__name__} in {show(line)}"
        raise RecordError(place, "(line)", expected, found, "not a literal") from None
    if not isinstance(values, dict):
        raise RecordError(place, "(line)", expected, show(values), "not a dict")
    return values


def _record(
    values: dict[str, Any], place: Place, part: str, root: Path | None, report: DataReport
) -> Record | None:
    """Returns the record of one line, or None for "None", which it counts."""
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
            kind = f"mention differs from span ({_difference(found, name)})"
            notes.append((kind, f"{side}: name {name!r}, span {found!r}"))
    image = check_image_name(require(values, "img_id", place, "a file name"), place, "img_id")
    if image is not None and root is not None:
        picture_path(image, root, place, "img_id")
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
    if relation == NO_RELATION:
        report.leave_out(f"relation {NO_RELATION!r}", place, "stands for no relation")
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
    # One space stands between two tokens, and so before every token but the first.
    start = sum(len(token) + 1 for token in tokens[:first])
    return (start, start + len(" ".join(tokens[first:end]))), name


def _difference(found: str, name: str) -> str:
    """Returns in a word why a mention's name is not the text of its span."""
    if "".join(found.split()) == "".join(name.split()):
        return "white space"
    if unicodedata.normalize("NFKC", found) == unicodedata.normalize("NFKC", name):
        return "Unicode form"
    if found.casefold() == name.casefold():
        return "case"
    return "other text"
