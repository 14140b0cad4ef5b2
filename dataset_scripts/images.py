"""Pictures that data name: their place is checked, and their content decoded once."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from PIL import Image, UnidentifiedImageError

from .schema import Place, RecordError, check_image_name, show

# Bound and formats are those of modeling_hmgrl.images, as a test holds: what data may contain is
# what a model can be given.
MAX_PIXELS = 64_000_000

# Listed because Pillow also opens formats whose decoding starts a program (EPS).
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

PICTURE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff"))


PictureState = Literal["found", "missing", "unreadable", "none"]


class Stems:
    """Finds pictures that a data set names without the ending of the file.

    Args:
        folder: The picture folder, or None.
    """

    def __init__(self, folder: Path | None) -> None:
        self._names: dict[str, list[str]] = {}
        for path in () if folder is None else sorted(folder.iterdir()):
            if path.suffix.lower() in PICTURE_SUFFIXES:
                self._names.setdefault(path.stem, []).append(path.name)

    def name_of(self, stem: str, place: Place, field: str) -> str:
        """Returns the name of the file with this stem, or the stem itself if there is none.

        Raises:
            RecordError: If several files have it: which one is meant cannot be known.
        """
        if Path(stem).suffix.lower() in PICTURE_SUFFIXES:
            return stem
        names = self._names.get(stem, [stem])
        if len(names) > 1:
            expected = f"one picture named {stem!r}"
            raise RecordError(place, field, expected, show(names), "several pictures")
        return names[0]


def picture_path(name: str, root: Path, place: Place, field: str = "image") -> Path:
    """Returns the path of a picture that lies in `root`, whether it exists or not.

    Raises:
        RecordError: If the name is absolute, climbs out of `root`, or leads out of it by a link.
    """
    check_image_name(name, place, field)
    path = root / name
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a loop of links
        inside = False
    if not inside:
        expected = "a picture inside the picture folder"
        raise RecordError(place, field, expected, f"a link out of it: {show(name)}", "link")
    return path


def picture_problem(source: Path | bytes) -> str | None:
    """Decodes a picture once and says what is wrong with it.

    Args:
        source: A file, or the content of one.

    Returns:
        None if the picture can be used, else the reason. Nothing is raised.
    """
    try:
        with warnings.catch_warnings():
            # Odd metadata is no reason to lose a picture; a size that Pillow warns of is.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with open_picture(source) as picture:
                width, height = picture.size
                if width * height > MAX_PIXELS:
                    return f"{width}×{height} pixels, more than {MAX_PIXELS}"
                picture.verify()
            # verify() finds broken checksums but not a JPEG that was cut off; decoding does. A
            # JPEG is decoded at an eighth of its size: every byte is still read.
            with open_picture(source) as picture:
                picture.draft(None, (max(1, width // 8), max(1, height // 8)))
                picture.load()
    except UnidentifiedImageError:  # its own text names a file object by its address
        return f"UnidentifiedImageError: expected one of {', '.join(PICTURE_FORMATS)}"
    except Exception as error:  # a damaged file makes Pillow's decoders raise anything at all
        return f"{type(error).__name__}: {error}"[:200]
    return None


def open_picture(source: Path | bytes) -> Image.Image:
    """Opens a picture of one of `PICTURE_FORMATS`; nothing is decoded yet."""
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    return Image.open(stream, formats=PICTURE_FORMATS)


def picture_state(
    name: str, root: Path | None, pictures: Mapping[str, bytes]
) -> tuple[PictureState, str]:
    """Looks a picture up in memory, then in a folder, and decodes it once.

    Args:
        name: Name of the picture.
        root: The picture folder, or None.
        pictures: Pictures that are not files of the folder, by name.

    Returns:
        `"found"`, `"missing"` (also if it has no bytes in memory) or `"unreadable"`, and the reason
        of the last.
    """
    if name in pictures or root is None:
        content = pictures.get(name)
        return _judged(content) if content else ("missing", "")
    path = root / name
    try:
        if not path.exists():
            return "missing", ""
        if not path.is_file():  # opening a pipe would wait for ever
            return "unreadable", "not a regular file"
    except OSError as error:  # a name longer than the file system allows
        return "unreadable", f"{type(error).__name__}: {error.strerror}"
    return _judged(path)


def _judged(source: Path | bytes) -> tuple[PictureState, str]:
    problem = picture_problem(source)
    return ("unreadable", problem) if problem else ("found", "")


def stored_picture(name: str, root: Path | None, pictures: Mapping[str, bytes]) -> dict[str, Any]:
    """Returns a picture that was found, as `datasets.Image` takes it: its bytes or its path."""
    if name in pictures:
        return {"bytes": pictures[name], "path": name}
    assert root is not None  # where it was found
    return {"bytes": None, "path": str(root / name)}
