"""Fetches images from permitted hosts, in bounded size and time.

The address of a host is checked, and the connection is made to the address that was checked: a name
that is resolved a second time may lead elsewhere (DNS rebinding). The standard library is used,
because this file travels with checkpoints, whose users may have no other HTTP client.
"""

import ipaddress
import socket
import time
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
    ProxyHandler,
    Request,
    build_opener,
)

MAX_BYTES = 20_000_000
"""Maximum size of a fetched file in bytes."""

TIMEOUT = 15.0
"""Maximum time to fetch one image in seconds."""

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Where clouds serve credentials to their machines, besides link-local addresses: AWS, Alibaba
# Cloud, Azure and Oracle Cloud.
_METADATA = frozenset(
    ipaddress.ip_address(address)
    for address in ("fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192")
)
# Represents IPv4 addresses in networks that have IPv6 only (RFC 6052).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_url(image: object) -> bool:
    """Whether an image is given as a URL."""
    return isinstance(image, str) and "://" in image


def fetch(
    url: str,
    hosts: Collection[str],
    name: str = "image",
    max_bytes: int = MAX_BYTES,
    timeout: float = TIMEOUT,
    allow_private_addresses: bool = False,
) -> bytes:
    """Fetches a file of bounded size in bounded time from permitted hosts.

    The connection is direct: proxies of the environment are not used, since they resolve names
    themselves.

    Args:
        url: URL, http or https.
        hosts: Permitted hosts, as "example.org" or "example.org:8080", also for redirects.
        name: Name of the argument in errors.
        max_bytes: Maximum size in bytes.
        timeout: Maximum total time in seconds, independent of the server.
        allow_private_addresses: Whether hosts may have a loopback or private address. Set it only
            if every caller may read from the internal network. Link-local and multicast addresses,
            and those of the metadata services of clouds, are refused in any case.

    Returns:
        The content of the file.

    Raises:
        ValueError: If the scheme, the host or its address is not permitted, the file is too large
            or cannot be fetched, or the time is exceeded.
    """
    _check_url(url, hosts, name)
    result: Future[bytes] = Future()
    download = _Download(url, hosts, name, max_bytes, timeout, allow_private_addresses)

    def work() -> None:
        try:
            result.set_result(download.read())
        except Exception as error:  # raised again by result.result()
            result.set_exception(error)

    # A socket timeout applies to a single read, and none applies to name resolution. A thread
    # bounds the total time; it ends when its connection is closed.
    Thread(target=work, name="fetch", daemon=True).start()
    try:
        return result.result(timeout)
    except TimeoutError as error:
        download.cancel()
        raise ValueError(f"{name}: {url[:200]!r} took longer than {timeout:g} s") from error


class _Download:
    """A download that another thread can cancel."""

    def __init__(
        self,
        url: str,
        hosts: Collection[str],
        name: str,
        max_bytes: int,
        timeout: float,
        allow_private_addresses: bool,
    ) -> None:
        self.url, self.hosts, self.name = url, hosts, name
        self.max_bytes, self.timeout = max_bytes, timeout
        self.allow_private_addresses = allow_private_addresses
        self.is_cancelled = False
        self.sockets: list[socket.socket] = []

    def cancel(self) -> None:
        """Closes the connections."""
        self.is_cancelled = True
        for connected in self.sockets:
            with suppress(OSError):  # the server may have closed the connection
                connected.shutdown(socket.SHUT_RDWR)

    def read(self) -> bytes:
        """Reads the file.

        Raises:
            ValueError: If the file cannot be read or is too large, or an address is not permitted.
        """
        url = repr(self.url[:200])
        request = Request(self.url, headers={"User-Agent": "hmgrl", "Accept": "image/*"})
        try:
            # Longer than the other thread waits; it ends connection attempts without a reply.
            with self._opener().open(request, timeout=self.timeout + 1) as response:
                parts, size = [], 0
                while part := response.read1(1 << 16):
                    parts.append(part)
                    size += len(part)
                    if size > self.max_bytes:
                        raise ValueError(
                            f"{self.name}: {url} is larger than {self.max_bytes} bytes"
                        )
                return b"".join(parts)
        except (URLError, HTTPException, OSError, UnicodeError) as error:
            if isinstance(error, HTTPError):  # which holds an open response
                error.close()
            raise ValueError(
                f"{self.name}: {url} could not be fetched ({str(error)[:200]})"
            ) from error

    def connect(self, host: str, port: int, timeout: float) -> socket.socket:
        """Resolves a host once, checks its addresses and connects to one of them.

        Raises:
            ValueError: If an address is not permitted.
            OSError: If the host is unknown or cannot be reached.
        """
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # Not only the first one: a name with a public and a private address is an attack.
        for *_, address in found:
            if reason := refusal(str(address[0]), self.allow_private_addresses):
                raise ValueError(
                    f"{self.name}: host {host[:200]!r} has the address {address[0]}, which is "
                    f"{reason}, expected a public address"
                )
        failure: OSError = OSError(f"{host[:200]!r} has no address")
        deadline = time.monotonic() + timeout
        for family, kind, protocol, _, address in found:
            connected = socket.socket(family, kind, protocol)
            try:
                connected.settimeout(max(0.01, deadline - time.monotonic()))
                connected.connect(address)
                connected.settimeout(timeout)
                return connected
            except OSError as error:
                connected.close()
                failure = error
        raise failure

    def _opener(self) -> Any:
        download = self

        class PermittedRedirects(HTTPRedirectHandler):
            """Follows redirects to permitted hosts only."""

            def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
                fp.close()  # otherwise the base class reads the whole response
                _check_url(newurl, download.hosts, download.name)
                return super().redirect_request(req, fp, code, msg, headers, newurl)

        class CheckedConnection(HTTPConnection):
            """A connection to an address that was checked."""

            def connect(self) -> None:
                self.sock = download.connect(self.host, self.port, download.timeout + 1)
                download.register(self.sock)

        class CheckedHTTPSConnection(HTTPSConnection, CheckedConnection):
            """The same for HTTPS; the certificate is verified for the name of the host."""

            def connect(self) -> None:
                super().connect()  # of HTTPSConnection, which calls that of CheckedConnection
                download.register(self.sock)

        class CheckedHandler(HTTPHandler, HTTPSHandler):
            """Opens checked connections; certificates are verified as by default."""

            def http_open(self, req):  # type: ignore[no-untyped-def]
                return self.do_open(CheckedConnection, req)

            def https_open(self, req):  # type: ignore[no-untyped-def]
                return self.do_open(CheckedHTTPSConnection, req)

        return build_opener(PermittedRedirects, CheckedHandler, ProxyHandler({}))

    def register(self, connected: socket.socket) -> None:
        """Makes a connection one that `cancel` closes."""
        self.sockets.append(connected)
        if self.is_cancelled:  # while it was connecting
            self.cancel()


def _check_url(url: str, hosts: Collection[str], name: str) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{name}: {url[:200]!r} is not a URL ({error})") from error
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{name}: got {url[:200]!r}, expected http or https")
    host = parts.hostname or ""
    if (host if port is None else f"{host}:{port}") not in {named.lower() for named in hosts}:
        raise ValueError(
            f"{name}: {url[:200]!r} is not on a permitted host, expected one of "
            f"image_hosts {sorted(hosts)}"
        )


def refusal(address: str, allow_private: bool = False) -> str | None:
    """Returns why an address must not be contacted, or None if it may be.

    Args:
        address: IPv4 or IPv6 address. The IPv4 address inside an IPv6 address, such as
            "::ffff:127.0.0.1", is checked in its place.
        allow_private: Whether loopback and private addresses are permitted.
    """
    try:
        parsed = _unwrapped(ipaddress.ip_address(address))
    except ValueError:
        return "not an IP address"
    six = parsed if isinstance(parsed, ipaddress.IPv6Address) else None
    kinds = {
        "that of a cloud's metadata service": parsed in _METADATA,
        "link-local": parsed.is_link_local,
        "multicast": parsed.is_multicast,
        "unspecified": parsed.is_unspecified,
        "reserved": parsed.is_reserved and not parsed.is_loopback,  # "::1" is in a reserved range
        "that of a tunnel": six is not None and bool(six.sixtofour or six.teredo),
    }
    is_private = not parsed.is_global or (six is not None and six.is_site_local)
    if is_private and not allow_private:
        kind = "loopback" if parsed.is_loopback else "private"
        kinds[f"{kind} (permitted with allow_private_addresses)"] = True
    return next((kind for kind, applies in kinds.items() if applies), None)


def _unwrapped(address: _Address) -> _Address:
    """Returns the IPv4 address that an IPv6 address stands for, or the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


__all__ = ["fetch", "is_url"]
