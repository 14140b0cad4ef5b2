"""Opens images from files, bytes, arrays and, on an explicit call, the web.

The size is bounded before anything is decoded; hosts to fetch from are named by the caller.
"""

import io
import socket
from collections.abc import Callable, Collection
from concurrent.futures import Future
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    Request,
    build_opener,
)

import numpy as np
from PIL import Image, UnidentifiedImageError

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are opened, by Pillow's names. Others start a program (EPS) or are never met."""

MAX_PIXELS = 64_000_000
"""Largest image that is decoded, in pixels (8000 x 8000)."""

_LARGE = 16_000_000  # pixels above which an image is reduced while it is decoded
_STRIP = 4_000_000  # pixels that are converted at a time
_ORIENTATION = 0x0112
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(
    image: Any, name: str = "image", max_pixels: int = MAX_PIXELS, side: int | None = None
) -> Image.Image:
    """Opens an image as RGB, upright, as a person sees it.

    Args:
        image: A path, encoded bytes, a PIL image, an array (height, width[, 3 or 4]) of uint8, or
            the ``{"path", "bytes"}`` of an undecoded datasets column. URLs are not fetched.
        name: How errors name the argument.
        max_pixels: Bound on width times height, checked on the header before decoding.
        side: Length in pixels that the shorter side needs to have, such as that of a model's
            input. An image of more than 16 megapixels is then reduced, to no less than twice that
            length, while it is decoded. None keeps the size.

    Returns:
        The image, RGB: turned as its orientation tag says, transparency laid over white, 16 bits
        and floating-point values scaled to 8 bits.

    Raises:
        ValueError: If it is too large, truncated, no image of :data:`IMAGE_FORMATS`, a URL, or of
            another type.
        FileNotFoundError: If there is no such file.
    """
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, np.ndarray):
        fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
        if image.dtype != np.uint8 or not fits or not image.size:
            raise ValueError(
                f"{name}: got an array of {image.dtype} and shape {image.shape}, expected uint8 of "
                "shape (height, width), (height, width, 3) or (height, width, 4)"
            )
        image = Image.fromarray(image)
    if isinstance(image, Image.Image):
        _check_format(image, name)
        _check_size(image, name, max_pixels)
        return _rgb(image, name, side)
    if isinstance(image, str) and "://" in image:
        raise ValueError(f"{name}: got a URL, expected a file; download {image[:200]!r} first")
    if isinstance(image, bytes | bytearray):
        source: Any = io.BytesIO(image)
    elif isinstance(image, str | Path):
        name, source = f"{name} {str(image)[:200]!r}", Path(image)
    else:
        raise ValueError(
            f"{name}: got {type(image).__name__}, expected a path, bytes, a PIL image or an array"
        )
    with _open(source, name, max_pixels) as opened:
        _check_size(opened, name, max_pixels)
        return _rgb(opened, name, side)


def _open(source: Any, name: str, max_pixels: int) -> Image.Image:
    """Reads the header."""
    try:
        if isinstance(source, Path) and not source.is_file():
            raise FileNotFoundError(f"{name}: no such file")
        return Image.open(source, formats=IMAGE_FORMATS)
    except FileNotFoundError:
        raise
    except UnidentifiedImageError as error:
        known = f"{', '.join(IMAGE_FORMATS[:-1])} or {IMAGE_FORMATS[-1]}"
        raise ValueError(f"{name}: not an image, expected {known}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name}: larger than the bound of {max_pixels} pixels") from error
    except Exception as error:  # a header that ends too soon, a name too long; readers raise any
        raise ValueError(f"{name}: cannot be read as an image") from error


def _check_format(image: Image.Image, name: str) -> None:
    """Refuses an image that was opened, but not yet decoded, by a reader that is not allowed."""
    # MPO is what Pillow calls a JPEG that holds several images, as cameras write them.
    if getattr(image, "tile", None) and image.format not in (*IMAGE_FORMATS, "MPO"):
        raise ValueError(
            f"{name}: got an image opened as {image.format}, expected one of "
            f"{', '.join(IMAGE_FORMATS)}; image.copy() decodes it"
        )


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(
            f"{name}: {width} x {height} pixels, expected at most {max_pixels} pixels in all"
        )


def _rgb(image: Image.Image, name: str, side: int | None) -> Image.Image:
    try:
        factor = _reduction(image, side)
        if factor > 1 and image.format in ("JPEG", "MPO"):
            image.draft("RGB", (image.width // factor, image.height // factor))
            factor = _reduction(image, side)
        image.load()
        # what is RGB already is passed on, not copied: an image may come through here twice
        plain = image.mode == "RGB" and "transparency" not in image.info and factor == 1
        converted = image if plain else _convert(image, factor)
        turn = _TRANSPOSITIONS.get(_orientation(image))
        return converted if turn is None else converted.transpose(turn)
    except Exception as error:  # Pillow's decoders raise any
        raise ValueError(f"{name}: truncated or damaged") from error


def _reduction(image: Image.Image, side: int | None) -> int:
    """Factor by which an image may be reduced and stay large enough."""
    if side is None or image.width * image.height <= _LARGE:
        return 1
    return max(1, min(image.size) // (2 * side))


def _orientation(image: Image.Image) -> int:
    """The orientation tag; 1 (upright) where there is none, or damaged metadata."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # its parser raises any, and odd metadata is no reason to lose an image
        return 1


def _convert(image: Image.Image, factor: int) -> Image.Image:
    """Converts a decoded image to RGB and reduces it, strip by strip to bound the memory."""
    width, height = image.size
    size = (-(-width // factor), -(-height // factor))
    to_rgb = _converter(image)
    rows = max(1, _STRIP // (width * factor)) * factor
    if rows >= height:
        whole = to_rgb(image)
        return whole if factor == 1 else whole.reduce(factor)
    result = Image.new("RGB", size)
    for top in range(0, height, rows):
        strip = to_rgb(image.crop((0, top, width, min(top + rows, height))))
        result.paste(strip if factor == 1 else strip.reduce(factor), (0, top // factor))
    return result


def _converter(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """How the strips of an image become RGB."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _over_white
    if image.mode.startswith("I;16"):  # converting as it is would cut at 255
        return lambda strip: _gray(np.asarray(strip) >> 8)
    if image.mode == "I":
        scale = 256 if image.getextrema()[1] > 255 else 1  # type: ignore[operator]
        return lambda strip: _gray(np.asarray(strip).clip(0) // scale)
    if image.mode == "F":
        return _float_converter(image)
    if image.mode == "LAB":
        return _lab_converter()
    return lambda strip: strip if strip.mode == "RGB" else strip.convert("RGB")


def _float_converter(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Scales floating-point values: 0 to 1, 0 to 255, or 0 to their maximum, to 8 bits."""
    values = np.asarray(image)
    largest = float(values.max(initial=0, where=np.isfinite(values)))
    bound = 1.0 if largest <= 1 else 255.0 if largest <= 255 else largest

    def convert(strip: Image.Image) -> Image.Image:
        finite = np.nan_to_num(np.asarray(strip), nan=0.0, posinf=bound, neginf=0.0)
        return _gray(np.rint(finite.clip(0, bound) * (255 / bound)))

    return convert


def _lab_converter() -> Callable[[Image.Image], Image.Image]:
    from PIL import ImageCms  # noqa: PLC0415 - rarely needed

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(lab, srgb, "LAB", "RGB")
    return lambda strip: ImageCms.applyTransform(strip, transform)  # type: ignore[return-value]


def _gray(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    layered = image.convert("RGBA")
    white = Image.new("RGBA", layered.size, "white")
    return Image.alpha_composite(white, layered).convert("RGB")


MAX_BYTES = 20_000_000
"""Largest file that is fetched."""

TIMEOUT = 15.0
"""Most seconds that one picture may take."""


def is_url(image: object) -> bool:
    """Whether a picture is given as an address."""
    return isinstance(image, str) and "://" in image


def fetch(
    url: str,
    hosts: Collection[str],
    name: str = "image",
    max_bytes: int = MAX_BYTES,
    timeout: float = TIMEOUT,
) -> bytes:
    """Fetches a file of bounded size in bounded time, from hosts that were named.

    Args:
        url: Address, http or https.
        hosts: Hosts from which files are taken, as "example.org" or "example.org:8080"; redirects
            must stay among them. Only name hosts that may be asked: one inside your network answers
            for it.
        name: How errors name the argument.
        max_bytes: Bound on the size.
        timeout: Most seconds it may take in all, whatever the server does.

    Returns:
        The bytes.

    Raises:
        ValueError: If the address is of another kind or host, the file too large, the server too
            slow, or there is none.
    """
    _check(url, hosts, name)
    found: Future[bytes] = Future()
    download = _Download(url, hosts, name, max_bytes, timeout)

    def work() -> None:
        try:
            found.set_result(download.read())
        except Exception as error:  # raised again where the result is asked for
            found.set_exception(error)

    # A timeout of a socket holds for one read, and none holds for finding a host's address: a
    # thread that is left behind holds for all. It ends once its connection is cut.
    Thread(target=work, name="fetch", daemon=True).start()
    try:
        return found.result(timeout)
    except TimeoutError as error:
        download.cut()
        raise ValueError(f"{name}: {url[:200]!r} took longer than {timeout:g} s") from error


class _Download:
    """One download, which another thread may cut off."""

    def __init__(
        self, url: str, hosts: Collection[str], name: str, max_bytes: int, timeout: float
    ) -> None:
        self.url, self.hosts, self.name = url, hosts, name
        self.max_bytes, self.timeout = max_bytes, timeout
        self.is_cut = False
        self.sockets: list[socket.socket] = []

    def cut(self) -> None:
        """Ends what is being read."""
        self.is_cut = True
        for connected in self.sockets:
            with suppress(OSError):  # the server may have closed it
                connected.shutdown(socket.SHUT_RDWR)

    def read(self) -> bytes:
        """Reads the file.

        Raises:
            ValueError: If it cannot be read, or is too large.
        """
        shown = repr(self.url[:200])
        request = Request(self.url, headers={"User-Agent": "hmgrl", "Accept": "image/*"})
        try:
            # Later than cut off by the other thread; a connection that never comes ends by it.
            with self._opener().open(request, timeout=self.timeout + 1) as answer:
                parts, size = [], 0
                while part := answer.read1(1 << 16):
                    parts.append(part)
                    size += len(part)
                    if size > self.max_bytes:
                        raise ValueError(
                            f"{self.name}: {shown} is larger than {self.max_bytes} bytes"
                        )
                return b"".join(parts)
        except (URLError, HTTPException, OSError) as error:
            if isinstance(error, HTTPError):  # which is an answer too
                error.close()
            raise ValueError(
                f"{self.name}: {shown} could not be fetched ({str(error)[:200]})"
            ) from error

    def _opener(self) -> Any:
        download = self

        class Redirects(HTTPRedirectHandler):
            """Follows redirects to the hosts named, and no others."""

            def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
                fp.close()  # or else it would be read to its end, however far that is
                _check(newurl, download.hosts, download.name)
                return super().redirect_request(req, fp, code, msg, headers, newurl)

        class Watched(HTTPConnection):
            """A connection that can be cut."""

            def connect(self) -> None:
                super().connect()
                download.sockets.append(self.sock)
                if download.is_cut:  # while it was connecting
                    download.cut()

        class Encrypted(Watched, HTTPSConnection):
            """The same for https."""

        class Connections(HTTPHandler, HTTPSHandler):
            """Opens them; of https the server is checked as by default."""

            def http_open(self, req):  # type: ignore[no-untyped-def]
                return self.do_open(Watched, req)

            def https_open(self, req):  # type: ignore[no-untyped-def]
                return self.do_open(Encrypted, req)

        return build_opener(Redirects, Connections)


def _check(url: str, hosts: Collection[str], name: str) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{name}: {url[:200]!r} is no address ({error})") from error
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{name}: got {url[:200]!r}, expected http or https")
    host = parts.hostname or ""
    if (host if port is None else f"{host}:{port}") not in {named.lower() for named in hosts}:
        raise ValueError(
            f"{name}: {url[:200]!r} is not of the hosts {sorted(hosts)}; pictures are fetched from "
            "hosts named in image_hosts alone"
        )
