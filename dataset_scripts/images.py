"""Images that data name: their place is checked, and their content decoded once."""

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
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

MAX_FILE_BYTES = 256_000_000
_MAX_SCANS = 100
_MAX_GIF_COMMENTS = 100_000

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff"))


ImageState = Literal["found", "missing", "unreadable", "none"]


class Stems:
    """Finds images that a data set names without the ending of the file.

    Args:
        folder: The image folder, or None.
    """

    def __init__(self, folder: Path | None) -> None:
        self._names: dict[str, list[str]] = {}
        for path in () if folder is None else sorted(folder.iterdir()):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                self._names.setdefault(path.stem, []).append(path.name)

    def name_of(self, stem: str, place: Place, field: str) -> str:
        """Returns the name of the file with this stem, or the stem itself if there is none.

        Raises:
            RecordError: If several files have it: which one is meant cannot be known.
        """
        if Path(stem).suffix.lower() in IMAGE_SUFFIXES:
            return stem
        names = self._names.get(stem, [stem])
        if len(names) > 1:
            expected = f"one image named {stem!r}"
            raise RecordError(place, field, expected, show(names), "several images")
        return names[0]


def image_path(name: str, root: Path, place: Place, field: str = "image") -> Path:
    """Returns the path of an image that lies in `root`, whether it exists or not.

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
        expected = "an image inside the image folder"
        raise RecordError(place, field, expected, f"a link out of it: {show(name)}", "link")
    return path


def image_problem(source: Path | bytes) -> str | None:
    """Decodes an image once and says what is wrong with it.

    Args:
        source: A file, or the content of one.

    Returns:
        None if the image can be used, else the reason. Nothing is raised.
    """
    try:
        with warnings.catch_warnings():
            # Odd metadata is no reason to lose an image; a size that Pillow warns of is.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            content = source if isinstance(source, bytes) else _read(source)
            with open_image(content) as image:
                width, height = image.size
                image.verify()
            # verify() finds broken checksums but not a JPEG that was cut off; decoding does. A
            # JPEG is decoded at an eighth of its size: every byte is still read.
            with open_image(content) as image:
                image.draft(None, (max(1, width // 8), max(1, height // 8)))
                image.load()
    except RefusedImageError as error:
        return str(error)
    except UnidentifiedImageError:  # its own text names a file object by its address
        return f"not an image, expected one of {', '.join(IMAGE_FORMATS)}"
    except Exception as error:  # a damaged file makes Pillow's decoders raise anything at all
        return f"{type(error).__name__}: {error}"[:200]
    return None


class RefusedImageError(ValueError):
    """An image whose decoding would take time or memory out of proportion."""


def _read(path: Path) -> bytes:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise RefusedImageError(f"more than {MAX_FILE_BYTES} bytes")
    return path.read_bytes()


def _check_bytes(content: bytes) -> None:
    """Refuses files whose decoding takes time out of proportion to their size."""
    if len(content) > MAX_FILE_BYTES:
        raise RefusedImageError(f"{len(content)} bytes, expected at most {MAX_FILE_BYTES}")
    if content[:2] == b"\xff\xd8" and content.count(b"\xff\xda") > _MAX_SCANS:
        raise RefusedImageError(f"a JPEG of more than {_MAX_SCANS} scans, expected fewer")
    if content[:3] == b"GIF" and _gif_comments(content) > _MAX_GIF_COMMENTS:
        raise RefusedImageError(
            f"a GIF with more than {_MAX_GIF_COMMENTS} bytes before its image, expected fewer"
        )


def _gif_comments(content: bytes) -> int:
    """Number of bytes in the extension blocks before the first frame of a GIF."""
    flags = content[10] if len(content) > 10 else 0
    at = 13 + (3 * 2 ** (flags % 8 + 1) if flags & 0x80 else 0)
    start = at
    while at + 2 < len(content) and content[at] == 0x21 and at - start <= _MAX_GIF_COMMENTS:
        at += 2
        while at < len(content) and content[at] and at - start <= _MAX_GIF_COMMENTS:
            at += 1 + content[at]
        at += 1
    return at - start


def _check_layout(image: Image.Image) -> None:
    """Refuses images whose decoding takes much memory for their content or their size."""
    if image.width * image.height > MAX_PIXELS:
        raise RefusedImageError(f"{image.width}×{image.height} pixels, more than {MAX_PIXELS}")
    # Pillow decodes run lengths of a BMP in Python and believes their offsets.
    if image.format == "BMP" and image.info.get("compression") in (1, 2):
        raise RefusedImageError("a BMP with run-length encoding, expected one without")
    if image.format == "TIFF":
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        width, height = (tags.get(tag, 1) for tag in (322, 323))
        if not all(isinstance(one, int) for one in (width, height)) or width * height > MAX_PIXELS:
            raise RefusedImageError(
                f"a TIFF with tiles of {width} x {height} pixels, expected at most "
                f"{MAX_PIXELS} pixels"
            )


def open_image(source: Path | bytes) -> Image.Image:
    """Opens an image of one of `IMAGE_FORMATS`; nothing is decoded yet.

    Raises:
        RefusedImageError: If its decoding would take time or memory out of proportion.
        Exception: What Pillow raises for other files.
    """
    content = source if isinstance(source, bytes) else _read(source)
    _check_bytes(content)
    image = Image.open(io.BytesIO(content), formats=IMAGE_FORMATS)
    _check_layout(image)
    return image


def image_state(
    name: str, root: Path | None, images: Mapping[str, bytes]
) -> tuple[ImageState, str]:
    """Looks an image up in memory, then in a folder, and decodes it once.

    Args:
        name: Name of the image.
        root: The image folder, or None.
        images: Images that are not files of the folder, by name.

    Returns:
        `"found"`, `"missing"` (also if it has no bytes in memory) or `"unreadable"`, and the reason
        of the last.
    """
    if name in images or root is None:
        content = images.get(name)
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


def _judged(source: Path | bytes) -> tuple[ImageState, str]:
    problem = image_problem(source)
    return ("unreadable", problem) if problem else ("found", "")


def stored_image(name: str, root: Path | None, images: Mapping[str, bytes]) -> dict[str, Any]:
    """Returns an image that was found, as `datasets.Image` takes it: its bytes or its path."""
    if name in images:
        return {"bytes": images[name], "path": name}
    assert root is not None  # where it was found
    return {"bytes": None, "path": str(root / name)}
