"""Fetches pictures from the web, for callers who ask for it and name the hosts."""

import time
from collections.abc import Collection
from http.client import HTTPException
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

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
        timeout: Most seconds it may take in all.

    Returns:
        The bytes.

    Raises:
        ValueError: If the address is of another kind or host, the file too large, the server too
            slow, or there is none.
    """
    deadline = time.monotonic() + timeout
    _check(url, hosts, name)

    class Redirects(HTTPRedirectHandler):
        """Follows redirects to the hosts named, and no others."""

        def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
            _check(newurl, hosts, name)
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    shown = url[:200]
    request = Request(url, headers={"User-Agent": "hmgrl", "Accept": "image/*"})
    try:
        with build_opener(Redirects).open(request, timeout=timeout) as answer:
            parts, size = [], 0
            while part := answer.read1(1 << 16):
                parts.append(part)
                size += len(part)
                if size > max_bytes:
                    raise ValueError(f"{name}: {shown!r} is larger than {max_bytes} bytes")
                if time.monotonic() > deadline:
                    raise ValueError(f"{name}: {shown!r} took longer than {timeout:g} s")
            return b"".join(parts)
    except (URLError, HTTPException, OSError) as error:
        raise ValueError(f"{name}: {shown!r} could not be fetched ({error})") from error


def _check(url: str, hosts: Collection[str], name: str) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{name}: {url[:200]!r} is no address ({error})") from error
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{name}: got {url[:200]!r}, expected http or https")
    host = parts.hostname or ""
    if (host if port is None else f"{host}:{port}") not in hosts:
        raise ValueError(
            f"{name}: {url[:200]!r} is not of the hosts {sorted(hosts)}; pictures are fetched from "
            "hosts named in image_hosts alone"
        )


__all__ = ["fetch", "is_url"]
