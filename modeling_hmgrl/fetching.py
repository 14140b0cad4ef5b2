"""Fetches pictures from the web, for callers who ask for it and name the hosts."""

import socket
from collections.abc import Collection
from concurrent.futures import Future
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
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


__all__ = ["fetch", "is_url"]
