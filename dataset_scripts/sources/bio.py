"""Reader of files tagged by token (BIO), the format of multimodal named entity corpora.

    IMGID:00123
    Ada B-PER
    Lovelace I-PER
    wrote O

Each line consists of a token and, in the last column, its tag; a blank line ends a document; a line
`IMGID:` before it names its image, with or without a suffix. Each mention becomes a typing record
whose text is the whole document. Besides B and I, the BIOES tags E (like I) and S (like B) are
supported. An I or E that continues no mention is noted and read as O. Tokens are joined by a space,
or without one if the text is tagged by character.

Source of the format: Ramshaw and Marcus, "Text Chunking using Transformation-Based Learning", 1995;
of the `IMGID:` line: Zhang et al., "Adaptive Co-attention Network for Named Entity Recognition in
Tweets", AAAI 2018.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..corpus import Corpus, DataReport
from ..files import find_files, list_files, read_lines
from ..images import Stems, image_path
from ..options import SourceOptions
from ..schema import Place, Record, RecordError, check_image_name, check_record, show

SUFFIXES = (".bio", ".bioes", ".conll", ".iob", ".txt")
IMAGE_MARK = "IMGID:"
MAX_LINE_BYTES = 65_536

# Each mention becomes a record with the text of its document, so that the size of the data grows
# with the square of a document's length.
MAX_TOKENS = 10_000

# From this proportion of one-character tokens on, a text counts as tagged by character.
_BY_CHARACTER = 0.9


def text_files(options: SourceOptions) -> list[Path]:
    """Returns the file, or all tagged files of the folder.

    Raises:
        ValueError: If nothing is given, or two files differ only in their suffix, so that their
            records would have the same ids.
        FileNotFoundError: If there is no such file.
    """
    found = find_files(options.data_dir, SUFFIXES)
    if len({file.stem for file in found}) < len(found):
        names = [file.name for file in found]
        raise ValueError(
            f"{options.data_dir}: expected files whose names differ without their suffix, found "
            f"{names}"
        )
    return found


def image_files(options: SourceOptions) -> Iterable[Path]:
    """Returns all files of the image folder, for the cache key."""
    return list_files(options.image_root)


@dataclass
class _Mention:
    place: Place
    label: str
    first: int
    end: int


@dataclass
class _Document:
    """The tokens between two blank lines, and the errors in these lines."""

    image: str | None = None
    tokens: list[str] = field(default_factory=list)
    mentions: list[_Mention] = field(default_factory=list)
    strays: list[tuple[Place, str]] = field(default_factory=list)
    errors: list[RecordError] = field(default_factory=list)
    open: bool = False
    too_long: bool = False

    def add(self, token: str, tag: str, place: Place) -> None:
        """Adds a token with its tag.

        Raises:
            RecordError: If the tag is invalid, or the document is too long.
        """
        if len(self.tokens) == MAX_TOKENS:
            self.too_long = True
            expected = f"a blank line after at most {MAX_TOKENS} tokens"
            raise RecordError(place, "(document)", expected, show(token), "too long")
        kind, dash, label = tag.partition("-")
        if tag != "O" and not (kind in "BIES" and len(kind) == 1 and dash and label.strip()):
            expected = "O, or B-, I-, E-, S- and a label"
            raise RecordError(place, "tag", expected, show(tag), "unknown")
        self.tokens.append(token)
        end = len(self.tokens)
        if kind in ("B", "S"):
            self.mentions.append(_Mention(place, label, end - 1, end))
        elif kind in ("I", "E"):
            if not self.open or self.mentions[-1].label != label:
                self.strays.append((place, f"{token} {tag}"))
                self.open = False
                return
            self.mentions[-1].end = end
        self.open = kind in ("B", "I")


def read(options: SourceOptions) -> Corpus:
    """Reads the files.

    Args:
        options: File or folder, image folder, joiner, handling of invalid documents.

    Returns:
        A record for each mention, in the order of the files, with ids such as `"train-000123"`
        (file and line of the mention's first token).

    Raises:
        ValueError: If an option does not apply or no mention is found.
        RecordError: If a line is invalid and `options.on_error` is `"raise"`. Otherwise its
            document is left out, and each of its mentions is counted.
    """
    if options.task not in (None, "typing"):
        raise ValueError(f"task: expected 'typing' for tagged files, got {options.task!r}")
    root = options.image_root
    stems = Stems(root)
    paths = text_files(options)
    report = DataReport("bio")
    documents: list[tuple[str, _Document]] = []
    for path in paths:
        for document in _documents(path, root, stems):
            if not document.errors:
                documents.append((path.stem, document))
                continue
            for error in document.errors:
                report.records_in += 1
                options.handle(error, report)
            for mention in document.mentions:
                report.records_in += 1
                reason = "in a document with an invalid line"
                report.leave_out(reason, mention.place, mention.label)
    joiner = _joiner(options, documents)
    report.settings |= {"joiner": "space" if joiner else "none", "documents": len(documents)}
    records: list[Record] = []
    for stem, document in documents:
        text = joiner.join(document.tokens)
        starts = [0]
        for token in document.tokens:
            starts.append(starts[-1] + len(token) + len(joiner))
        for place, detail in document.strays:
            report.note("I or E tag that continues no mention, read as O", place, detail)
        for mention in document.mentions:
            report.records_in += 1
            values = {
                "id": f"{stem}-{mention.place.line:06d}",
                "text": text,
                "image": document.image,
                "spans": [[starts[mention.first], starts[mention.end] - len(joiner)]],
                "label": mention.label,
            }
            try:
                records.append(check_record(values, mention.place, task="typing"))
            except RecordError as error:  # a blank mention
                options.handle(error, report)
    if not records:
        raise ValueError(f"{options.data_dir}: no valid mention in {[p.name for p in paths]}")
    return Corpus("typing", records, report, image_root=root)


def _documents(path: Path, root: Path | None, stems: Stems) -> Iterator[_Document]:
    """Yields the documents of a file."""
    document = _Document()
    line_before = 0
    for place, line in read_lines(path, MAX_LINE_BYTES):
        assert place.line is not None
        mark = isinstance(line, str) and line.startswith((IMAGE_MARK, "-DOCSTART-"))
        # read_lines skips blank lines, which leave gaps in the line numbers.
        if mark or place.line > line_before + 1:
            if document.tokens or document.errors:
                yield document
                document = _Document()
            elif mark:
                document = _Document()
        line_before = place.line
        try:
            if isinstance(line, RecordError):
                raise line
            if line.startswith(IMAGE_MARK):
                document.image = _image(line.removeprefix(IMAGE_MARK).strip(), place, root, stems)
            elif not mark and not document.too_long:
                # Unlike split(), this keeps an ideographic space as a token.
                columns = line.split("\t" if "\t" in line else " ")
                if len(columns) > 2 and not columns[-1].strip():
                    expected = "a token and a tag, without a blank after the tag"
                    raise RecordError(place, "(line)", expected, show(line), "blank after the tag")
                if len(columns) < 2 or not columns[0] or not columns[-1].strip():
                    expected = "a token and a tag, separated by a space or a tab"
                    raise RecordError(place, "(line)", expected, show(line), "not a token")
                document.add(columns[0], columns[-1].strip(), place)
        except RecordError as error:
            document.errors.append(error)
    if document.tokens or document.errors:
        yield document


def _image(name: str, place: Place, root: Path | None, stems: Stems) -> str | None:
    """Returns the name of a document's image."""
    if not name:
        return None
    image = check_image_name(name, place, "IMGID")
    assert image is not None
    image = stems.name_of(image, place, "IMGID")
    if root is not None:
        image_path(image, root, place, "IMGID")
    return image


def _joiner(options: SourceOptions, documents: list[tuple[str, _Document]]) -> str:
    """Returns the separator between two tokens."""
    if options.joiner != "auto":
        return " " if options.joiner == "space" else ""
    tokens = sum(len(document.tokens) for _, document in documents)
    single = sum(len(token) == 1 for _, document in documents for token in document.tokens)
    return "" if tokens and single >= _BY_CHARACTER * tokens else " "
