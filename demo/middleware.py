"""Middleware that restricts Gradio's server to the requests that the page requires.

Gradio's server has about seventy routes. Some of them fetch URLs on behalf of the client
(``/gradio_api/file=https://...``), and a file sent as ``{"path": "https://..."}`` is fetched before
any function of the page is called. The middleware allows only the routes of the page and of one
documented endpoint, limits the size of requests, and rejects all others.
"""

import json
import re
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_JSON_BYTES = 4_000_000
"""Maximum size of a call: 1,000 labels of 200 characters and a text of 10,000, all escaped."""

MAX_UPLOAD_BYTES = 20_000_000
"""Maximum size of an image file."""

MAX_STORED_BYTES = 1_000_000_000
"""Maximum total size of uploads."""

MAX_STORED_FILES = 2_000
"""Maximum number of uploads."""

MAX_UPLOAD_AGE = 3_600
"""Time in seconds after which uploads are deleted."""

_FORM_BYTES = 10_000  # overhead of the form around the file

_FILE = "/gradio_api/file="
_UPLOAD = "/gradio_api/upload"
_JOIN = "/gradio_api/queue/join"

_READ = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/(assets|static)(/[\w-][\w.-]*)+"
    r"|/gradio_api/(info|theme\.css|startup-events|upload_progress|queue/data|heartbeat/\w+"
    r"|call/predict/\w+)"
)
_WRITE = re.compile(r"/gradio_api/(queue/join|call/predict|upload)/?")

# The page's scripts are inline, and Gradio evaluates strings. No other host may be contacted.
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


class _RejectedError(Exception):
    """A request that is not allowed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class RequestFilter:
    """ASGI middleware that rejects requests that the page does not require.

    Args:
        app: The application.
        folder: Folder of uploads and examples, the only one from which files are served.
        max_upload_bytes: Maximum size of an image file.
        max_stored_bytes: Maximum total size of the folder; beyond it, uploads are rejected.
        max_stored_files: Maximum number of files in the folder, likewise.
        functions: Indices of the functions that may be called; all if None.
    """

    def __init__(
        self,
        app: ASGIApp,
        folder: Path,
        max_upload_bytes: int = MAX_UPLOAD_BYTES,
        max_stored_bytes: int = MAX_STORED_BYTES,
        max_stored_files: int = MAX_STORED_FILES,
        functions: Collection[int] | None = None,
    ) -> None:
        self.app, self.folder = app, folder.resolve()
        self.max_upload_bytes, self.max_stored_bytes = max_upload_bytes, max_stored_bytes
        self.max_stored_files, self.functions = max_stored_files, functions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Rejects a request, or passes it on to the application."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page opens no websocket
            return

        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            checked = await self._check(scope, receive)
            await self.app(scope, checked, send_with_headers)  # may read too large a body
        except _RejectedError as error:
            if not started:
                response = JSONResponse({"detail": error.message}, status_code=error.status)
                await response(scope, receive, send_with_headers)

    async def _check(self, scope: Scope, receive: Receive) -> Receive:
        """Checks a request and returns the callable from which to read its body."""
        method, path = scope["method"], scope["path"]
        if method in ("GET", "HEAD"):
            own = path.startswith(_FILE) and self._is_inside(path.removeprefix(_FILE))
            if own or _READ.fullmatch(path):
                return receive
            raise _RejectedError(404, "Not found")
        if method != "POST" or not _WRITE.fullmatch(path):
            raise _RejectedError(404, "Not found")
        is_upload = path.startswith(_UPLOAD)
        limit = self.max_upload_bytes + _FORM_BYTES if is_upload else MAX_JSON_BYTES
        headers = Headers(scope=scope)
        stated = headers.get("content-length", "0")
        if not stated.isdecimal() or int(stated) > limit:
            raise _RejectedError(413, f"Too large: expected at most {limit:,} bytes")
        if is_upload:
            size, count = _delete_old(self.folder)
            if size + limit > self.max_stored_bytes or count >= self.max_stored_files:
                raise _RejectedError(429, "Too many uploads are stored, try again later")
            return _limit(receive, limit, _delimiter(headers.get("content-type", "")))
        body = await _read_body(receive, limit)
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            raise _RejectedError(400, "Expected JSON") from None
        if not self._contains_uploads_only(content):
            message = "Expected pictures that were uploaded here, not URLs or other files"
            raise _RejectedError(400, message)
        if path.startswith(_JOIN) and not self._calls_a_function(content):
            raise _RejectedError(404, "Not found: the page has no such function")
        return _replay(body, receive)

    def _is_inside(self, path: str) -> bool:
        """Whether a path, with ``..`` and links resolved, is inside the folder."""
        try:
            resolved = Path(path).resolve()
        except (OSError, ValueError, RuntimeError):  # NUL byte, name too long, loop of links
            return False
        return self.folder in resolved.parents

    def _calls_a_function(self, content: Any) -> bool:
        index = content.get("fn_index") if isinstance(content, dict) else None
        return self.functions is None or (type(index) is int and index in self.functions)

    def _contains_uploads_only(self, content: Any) -> bool:
        return all(
            isinstance(file["path"], str)
            and self._is_inside(file["path"])
            # a data URL contains its own image, whose number of pixels is not limited
            and not str(file.get("url") or "").startswith("data:")
            for file in _files(content)
        )


def _files(value: Any) -> Iterator[dict[str, Any]]:
    """Yields everything in a call that Gradio may interpret as a file."""
    stack = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            if "path" in part:
                yield part
            stack.extend(part.values())
        elif isinstance(part, list):
            stack.extend(part)


def _delete_old(folder: Path) -> tuple[int, int]:
    """Deletes files older than ``MAX_UPLOAD_AGE``, and returns size and number of the others.

    Gradio deletes uploads itself, except for incomplete ones and for folders.
    """
    size, count, oldest = 0, 0, time.time() - MAX_UPLOAD_AGE
    for path in folder.rglob("*"):
        try:
            state = path.stat()
            is_old = state.st_mtime < oldest
            if is_old and path.is_dir():
                with suppress(OSError):  # not empty
                    path.rmdir()
            elif is_old:
                path.unlink()
            else:
                size += state.st_size
                count += path.is_file()
        except FileNotFoundError:  # deleted in the meantime
            continue
    return size, count


async def _read_body(receive: Receive, limit: int) -> bytes:
    """Reads the whole body."""
    parts, size = [], 0
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise _RejectedError(413, f"Too large: expected at most {limit:,} bytes")
        if not message.get("more_body"):
            return b"".join(parts)


def _delimiter(content_type: str) -> bytes:
    """What separates the parts of a form; empty if there is nothing, and Gradio refuses the form.

    The header is read by the parser that Gradio uses, so that both separate the same parts.
    """
    _, parameters = parse_options_header(content_type)
    boundary = parameters.get(b"boundary")
    return b"--" + boundary if boundary else b""


def _limit(receive: Receive, limit: int, delimiter: bytes) -> Receive:
    """Rejects a body, whose length may not be declared, that is too large or has several parts."""
    size, delimiters, rest = 0, 0, b""

    async def limited() -> Message:
        nonlocal size, delimiters, rest
        message = await receive()
        body = message.get("body", b"")
        size += len(body)
        if size > limit:
            raise _RejectedError(413, f"Too large: expected at most {limit:,} bytes")
        if delimiter:  # one precedes the part and one follows it
            joined = rest + body
            delimiters += joined.count(delimiter)
            rest = joined[max(len(joined) - len(delimiter) + 1, 0) :]
            if delimiters > 2:
                raise _RejectedError(413, "Too many files: expected one")
        return message

    return limited


def _replay(body: bytes, receive: Receive) -> Receive:
    """Delivers a body that was already read, then the following messages."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed
