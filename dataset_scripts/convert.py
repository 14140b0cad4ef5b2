"""Converts any source to JSON Lines, the format of a user's own records."""

from __future__ import annotations

import json
from pathlib import Path

import datasets

from .corpus import Corpus, DataReport
from .files import atomic_path, write_atomically
from .images import MAX_FILE_BYTES
from .options import SourceOptions
from .splitting import SourceReader


def convert(source: str, options: SourceOptions, path: str | Path) -> DataReport:
    """Reads a source and writes its records, without splits, as JSON Lines.

    Images that the source itself contains (the sample, Parquet) are written to a folder beside the
    file, `<name>_images`, which is the image folder of the new file; each replaces a file of its
    name with other content, such as a truncated one. If the source names image files, the image
    folder is that of the new file itself: the names are rewritten, and image files outside it are
    copied to `<name>_images`.

    Args:
        source: Name of the source, a key of `SOURCES`.
        options: Options of the source.
        path: The file to write; it is created only once it is complete.

    Returns:
        The report on the records read, written and left out.

    Raises:
        FileExistsError: If the file exists.
        RecordError: If a record is invalid and `options.on_error` is `"raise"`.
    """
    target = Path(path).expanduser()
    if target.exists():
        raise FileExistsError(f"{target}: exists already; expected a new file")
    corpus = SourceReader(source, options).corpus
    target.parent.mkdir(parents=True, exist_ok=True)
    images = _Images(corpus, target)
    with atomic_path(target) as part, part.open("w", encoding="utf-8") as file:
        for record in datasets.utils.tqdm(corpus.records, desc="Writing", unit=" records"):
            values = {
                "id": record.id,
                "text": record.text,
                "image": images.name_of(record.image),
                "spans": record.spans,
                "label": record.label,
            }
            if record.split is not None:
                values["split"] = record.split
            file.write(json.dumps(values, ensure_ascii=False) + "\n")
    report = corpus.report
    report.records_out = len(corpus.records)
    report.check()
    return report


class _Images:
    """Names of images in a new file; writes those that are not inside its folder."""

    def __init__(self, corpus: Corpus, target: Path) -> None:
        self._corpus, self._parent = corpus, target.parent.resolve()
        self._folder = self._parent / f"{target.stem}_images"
        names = {record.image for record in corpus.records} - {None}
        self._root = self._folder if names <= corpus.images.keys() else self._parent
        self._names: dict[str, str] = {}

    def name_of(self, name: str | None) -> str | None:
        """Returns the name of an image in the new file, and writes it if necessary."""
        if name is not None and name not in self._names:
            self._names[name] = self._place(name)
        return None if name is None else self._names[name]

    def _place(self, name: str) -> str:
        root, images = self._corpus.image_root, self._corpus.images
        copy = self._folder / name
        if name in images:
            _write_image(copy, images[name])
        elif root is None:
            return name
        else:
            path = root.resolve() / name
            if path.is_relative_to(self._parent):
                return path.relative_to(self._parent).as_posix()
            try:
                is_image = path.is_file() and path.stat().st_size <= MAX_FILE_BYTES
            except OSError:  # a name longer than the file system allows: no such image
                return name
            if is_image:
                _write_image(copy, path.read_bytes())
        return copy.relative_to(self._root).as_posix()


def _write_image(path: Path, content: bytes) -> None:
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
