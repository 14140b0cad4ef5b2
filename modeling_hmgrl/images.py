"""Opens images from files, bytes, arrays and, on an explicit call, the web.

The size is bounded before anything is decoded; hosts to fetch from are named by the caller.
"""

import io
import socket
from collections.abc import Collection
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

MAX_PIXELS = 64_000_000
"""Largest picture that is decoded, in pixels (8000 x 8000)."""


def open_image(image: Any, name: str = "image", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens a picture as RGB.

    Args:
        image: A path, encoded bytes, a PIL picture, an array (height, width[, 3 or 4]) of uint8, or
            the ``{"path", "bytes"}`` of an undecoded datasets column. URLs are not fetched.
        name: How errors name the argument.
        max_pixels: Bound on width times height, checked on the header before decoding.

    Returns:
        The picture, RGB; transparency is laid over white, more than 8 bits are scaled to 8.

    Raises:
        ValueError: If it is too large, cut off, no picture, a URL, or of another kind.
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
        _check_size(image, name, max_pixels)
        return _rgb(image, name)
    if isinstance(image, str) and "://" in image:
        raise ValueError(f"{name}: got a URL, expected a file; download {image[:200]!r} first")
    if isinstance(image, bytes | bytearray):
        source: Any = io.BytesIO(image)
    elif isinstance(image, str | Path):
        name, source = f"{name} {str(image)[:200]!r}", Path(image)
    else:
        raise ValueError(
            f"{name}: got {type(image).__name__}, expected a path, bytes, a PIL picture or an array"
        )
    with _open(source, name, max_pixels) as opened:
        _check_size(opened, name, max_pixels)
        return _rgb(opened, name)


def _open(source: Any, name: str, max_pixels: int) -> Image.Image:
    """Reads the header."""
    try:
        if isinstance(source, Path) and not source.is_file():
            raise FileNotFoundError(f"{name}: no such file")
        return Image.open(source)
    except FileNotFoundError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError(f"{name}: not a picture that Pillow can read") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name}: larger than the bound of {max_pixels} pixels") from error
    except Exception as error:  # a header that ends too soon, a name too long; readers raise any
        raise ValueError(f"{name}: cannot be read ({str(error)[:200]})") from error


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(
            f"{name}: {width} x {height} pixels, expected at most {max_pixels} pixels in all"
        )


def _rgb(image: Image.Image, name: str) -> Image.Image:
    try:
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            layered = image.convert("RGBA")
            white = Image.new("RGBA", layered.size, "white")
            return Image.alpha_composite(white, layered).convert("RGB")
        if image.mode.startswith("I;16"):  # converting as it is would cut at 255
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
        image.load()
        # what is RGB already is passed on, not copied: a picture may come through here twice
        return image if image.mode == "RGB" else image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise any
        raise ValueError(f"{name}: cut off or damaged ({str(error)[:200]})") from error


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
