"""A gate before the page's server: lets through what the page needs, and nothing else.

Gradio's server answers some seventy routes. Among them are some that fetch an address for the
caller (``/gradio_api/file=https://...``), and a file sent as ``{"path": "https://..."}`` is fetched
before any function of the page sees it. The gate knows the routes that the page and one documented
endpoint use, bounds what is sent to them, and refuses the rest.
"""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_JSON_BYTES = 4_000_000
"""Largest call: 1,000 labels of 200 characters and a text of 10,000, however they are escaped."""

MAX_UPLOAD_BYTES = 20_000_000
"""Largest picture file."""

MAX_STORED_BYTES = 1_000_000_000
"""Uploads kept at a time."""

KEPT_SECONDS = 3_600
"""How long they are kept."""

_FORM_BYTES = 10_000  # what a form adds around the file

_FILE = "/gradio_api/file="
_UPLOAD = "/gradio_api/upload"

_READ = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/(assets|static)(/[\w-][\w.-]*)+"
    r"|/gradio_api/(info|theme\.css|startup-events|upload_progress|queue/data|heartbeat/\w+"
    r"|call/predict/\w+)"
)
_WRITE = re.compile(r"/gradio_api/(queue/join|call/predict|upload)/?")

# The page's own scripts are inline, and Gradio makes functions of strings. No other host is asked.
_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    )
)
HEADERS = {
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class _Refused(Exception):  # noqa: N818
    """A request that is not let through."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Gate:
    """ASGI middleware that refuses what the page does not need.

    Args:
        app: The server behind it.
        folder: Folder of uploads and examples, the only one that files are served from.
        max_upload_bytes: Largest picture file.
        max_stored_bytes: From how many bytes in the folder on uploads are refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        folder: Path,
        max_upload_bytes: int = MAX_UPLOAD_BYTES,
        max_stored_bytes: int = MAX_STORED_BYTES,
    ) -> None:
        self.app, self.folder = app, folder.resolve()
        self.max_upload_bytes, self.max_stored_bytes = max_upload_bytes, max_stored_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or hands it on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page opens no websocket
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            receive = await self._check(scope, receive)
        except _Refused as refused:
            answer = JSONResponse({"detail": refused.message}, status_code=refused.status)
            await answer(scope, receive, send_with_headers)
        else:
            await self.app(scope, receive, send_with_headers)

    async def _check(self, scope: Scope, receive: Receive) -> Receive:
        """Returns from where the body can be read, if the request is let through."""
        method, path = scope["method"], scope["path"]
        if method in ("GET", "HEAD"):
            own = path.startswith(_FILE) and self._is_inside(path.removeprefix(_FILE))
            if own or _READ.fullmatch(path):
                return receive
            raise _Refused(404, "Not found")
        if method != "POST" or not _WRITE.fullmatch(path):
            raise _Refused(404, "Not found")
        is_upload = path.startswith(_UPLOAD)
        limit = self.max_upload_bytes + _FORM_BYTES if is_upload else MAX_JSON_BYTES
        stated = dict(scope["headers"]).get(b"content-length", b"0").decode("latin-1")
        if not stated.isdecimal() or int(stated) > limit:
            raise _Refused(413, f"Too large: expected at most {limit:,} bytes")
        if is_upload:
            if _tidied(self.folder) + limit > self.max_stored_bytes:
                raise _Refused(503, "No room for more uploads, try again later")
            return _bounded(receive, limit)
        body = await _body(receive, limit)
        if not self._names_own_files_only(body):
            message = "Expected pictures that were uploaded here, not addresses or other files"
            raise _Refused(400, message)
        return _replay(body, receive)

    def _is_inside(self, path: str) -> bool:
        """Whether a path, with all ``..`` and links followed, lies in the folder."""
        try:
            resolved = Path(path).resolve()
        except (OSError, ValueError, RuntimeError):  # a zero byte, a name too long, a loop of links
            return False
        return self.folder in resolved.parents

    def _names_own_files_only(self, body: bytes) -> bool:
        try:
            found = list(_files(json.loads(body)))
        except (ValueError, RecursionError):
            return False
        return all(
            isinstance(file["path"], str)
            and self._is_inside(file["path"])
            # a data address carries its file along, without a bound on its pixels
            and not str(file.get("url") or "").startswith("data:")
            for file in found
        )


def _files(value: Any) -> Iterator[dict[str, Any]]:
    """Everything in a call that Gradio may take for a file."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if "path" in part:
                yield part
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)


def _tidied(folder: Path) -> int:
    """Deletes what is older than ``KEPT_SECONDS``, and returns how many bytes are left.

    Gradio deletes uploads by itself, but for those that were cut off.
    """
    total, oldest = 0, time.time() - KEPT_SECONDS
    for path in folder.rglob("*"):
        try:
            state = path.stat()
            if path.is_file() and state.st_mtime < oldest:
                path.unlink()
            else:
                total += state.st_size
        except FileNotFoundError:  # deleted meanwhile
            continue
    return total


async def _body(receive: Receive, limit: int) -> bytes:
    """The whole body."""
    parts, size = [], 0
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise _Refused(413, f"Too large: expected at most {limit:,} bytes")
        if not message.get("more_body"):
            return b"".join(parts)


def _bounded(receive: Receive, limit: int) -> Receive:
    """Ends a body that does not say its length where it becomes too large."""
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        return message if size <= limit else {"type": "http.disconnect"}

    return bounded


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read once more, then what follows it."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again
