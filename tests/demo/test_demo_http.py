"""What the page's server lets through, over plain HTTP."""

import asyncio
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
from demo_world import ROOT, served
from tiny_world import tiny_picture

sys.path.insert(0, str(ROOT / "demo"))

from middleware import RequestFilter, _delete_old, _delimiter, _limit


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(tmp_path_factory.mktemp("demo"), "typing") as servers:
        yield servers["typing"]


def own_file(server):
    status, answer = server.upload(picture_bytes())
    assert status == 200, answer
    return json.loads(answer)[0]


def picture_bytes():
    buffer = io.BytesIO()
    tiny_picture("animal").save(buffer, format="PNG")
    return buffer.getvalue()


def test_files_are_served_from_the_folder_of_uploads_alone(server):
    path = own_file(server)
    folder = Path(path).parents[1]
    status, headers, body = server.request("GET", f"/gradio_api/file={path}")
    assert (status, body) == (200, picture_bytes())
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in headers["content-security-policy"]
    (folder / "link.png").symlink_to("/etc/passwd")
    here = Path(server.log).parent
    refused = [
        "/etc/passwd",
        "//etc/passwd",
        f"{folder}/../../../../../../etc/passwd",
        f"{folder}/..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        f"{folder}/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        f"{folder}/link.png",
        f"{folder}",
        "file:///etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "app.py",
        "./README.md",
        f"{here}/space/app.py",
        f"{server.model}/config.json",
        f"{ROOT}/pyproject.toml",
        "%00",
        "a" * 5000,
        "https://example.com/",
        "http:%2f%2f127.0.0.1/",
    ]
    paths = [f"/gradio_api/file={name}" for name in refused]
    paths += ["/file=/etc/passwd", "/gradio_api/file/etc/passwd", "/gradio_api/file/app.py"]
    paths += [f"/{kind}/{'..%2f' * 12}etc/passwd" for kind in ("static", "assets", "svelte")]
    paths += [f"/{kind}/{'../' * 12}etc/passwd" for kind in ("static", "assets")]
    for name in paths:
        for method in ("GET", "HEAD"):
            status, _, body = server.request(method, name)
            assert status in (400, 403, 404), name
            assert b"root:" not in body, name


@pytest.fixture
def outside():
    """A server that notes what is asked of it."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    listener = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    listener.asked, listener.url = asked, f"http://127.0.0.1:{listener.server_address[1]}/a.png"
    yield listener
    listener.shutdown()
    listener.server_close()


def test_no_address_is_fetched(server, outside):
    meta = {"meta": {"_type": "gradio.FileData"}}
    asked = ["anna sees the fox", [[14, 17]], None, ["animal", "plant"], True, "attention"]
    files = [
        {"path": outside.url, **meta},
        {"path": outside.url, "url": outside.url, **meta},
        {"path": "/etc/passwd", **meta},
        {"path": None, "url": outside.url, **meta},
        {"path": f"{server.model}/config.json", **meta},
        {"path": own_file(server), "url": "data:image/png;base64,AAAA", **meta},
    ]
    for file in files:
        for field in range(len(asked)):  # Gradio fetches files of any field, whatever it shows
            data = [*asked]
            data[field] = file
            assert server.call(*data) == 400
        assert server.call(*asked[:2], {"deep": [[file]]}, *asked[3:]) == 400
    for path in ("/gradio_api/proxy=", "/proxy=", "/gradio_api/file=", "/gradio_api/file/"):
        for address in (outside.url, quote(outside.url, safe="")):
            assert server.request("GET", path + address)[0] == 404
    # the path counts, not the address that the browser was given for it
    answer = server.call(
        *asked[:2], {"path": own_file(server), "url": outside.url, **meta}, *asked[3:]
    )
    assert answer["explanation"]["image"] is not None
    missing = server.call(*asked[:2], {"url": outside.url, **meta}, *asked[3:])
    assert missing["error"] == "Picture: expected an uploaded file"
    assert outside.asked == []


def test_what_is_sent_is_bounded(server):
    status, answer = server.upload(bytes(20_500_000))
    assert status == 413
    assert b"Too large: expected at most 20,010,000 bytes" in answer
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    parts = [head, *[bytes(1_000_000)] * 25, b"\r\n--x--\r\n"]
    with suppress(OSError):  # the server may hang up while the rest is on its way
        assert server.request("POST", "/gradio_api/upload", iter(parts), form)[0] >= 400
    stored = sum(path.stat().st_size for path in server.uploads.rglob("*") if path.is_file())
    assert stored < 21_000_000
    kind = {"Content-Type": "application/json"}
    body = json.dumps({"data": ["x" * 4_000_001]})
    assert server.request("POST", "/gradio_api/call/predict", body, kind)[0] == 413
    for body, expected in ([b"{}"], 422), ([b" " * 3_000_000] * 2, 413):  # without a length
        status, *_ = server.request("POST", "/gradio_api/call/predict", iter(body), kind)
        assert status == expected
    for body in ("[" * 200_000, "{", b"\xff"):
        assert server.request("POST", "/gradio_api/call/predict", body, kind)[0] in (400, 422)
    asked = [None, ["animal"], True, "attention"]
    assert "expected at most 10,000" in server.call("x" * 1_000_000, [[0, 1]], *asked)["error"]
    many = [f"label {i}" for i in range(20_000)]
    found = server.call("the fox", [[4, 7]], None, many, True, "attention")
    assert "20,000 are chosen, expected at most 1,000" in found["error"]
    odd = server.call({"a": 1}, "x", None, {"b": []}, [], None)
    assert odd["error"] == "Sentence: got dict, expected a text"
    assert "occurs at [0, 4]" in server.call("fox fox", ["fox"], *asked)["error"]
    assert "label" in server.call("a \x00\x1b\u202e fox", ["fox"], *asked)


def test_uploads_are_refused_where_too_many_are_kept(tmp_path):
    sent = []

    async def send(message):
        sent.append(message)

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    (tmp_path / "kept.png").write_bytes(bytes(600))
    (tmp_path / "cut-off").write_bytes(bytes(200_000))
    os.utime(tmp_path / "cut-off", (0, time.time() - 3_700))
    for room in (1_000, 100_000):
        gate = RequestFilter(app, tmp_path, max_upload_bytes=500, max_stored_bytes=room)
        scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": []}
        asyncio.run(gate(scope, None, send))
    gate = RequestFilter(app, tmp_path, max_stored_files=1)
    asyncio.run(gate(scope, None, send))
    assert [m["status"] for m in sent if "status" in m] == [429, 200, 429]
    assert [path.name for path in tmp_path.iterdir()] == ["kept.png"]


def test_folders_of_deleted_uploads_are_deleted(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "kept").mkdir()
    for path in (tmp_path / "a", tmp_path / "a" / "b"):
        os.utime(path, (0, time.time() - 3_700))
    for _ in range(2):  # a folder is deleted after those in it
        os.utime(tmp_path / "a", (0, time.time() - 3_700))
        assert _delete_old(tmp_path)[1] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_request_holds_one_file(size):
    part = b'--xx\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\na\r\n'

    async def read(body):
        pieces = [body[at : at + size] for at in range(0, len(body), size)]

        async def receive():
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

        limited = _limit(receive, 10_000, _delimiter('multipart/form-data; boundary="xx"'))
        return b"".join([(await limited())["body"] for _ in list(pieces)])

    assert asyncio.run(read(part + b"--xx--\r\n")) == part + b"--xx--\r\n"
    with pytest.raises(Exception, match="Too many files: expected one"):
        asyncio.run(read(2 * part + b"--xx--\r\n"))


@pytest.mark.parametrize(
    "parameters",
    ["boundary=x", 'boundary="x"', "xboundary=z; boundary=x", 'a="boundary=z"; boundary=x'],
)
def test_the_parts_of_a_form_are_counted_as_gradio_separates_them(parameters):
    assert _delimiter(f"multipart/form-data; {parameters}") == b"--x"


def test_a_form_without_a_boundary_is_refused(server):
    form = {"Content-Type": "multipart/form-data"}
    assert 400 <= server.request("POST", "/gradio_api/upload", b"--x--", form)[0] < 500


def test_unknown_functions_and_many_files_are_answered_with_4xx(server):
    kind = {"Content-Type": "application/json"}
    for index in (999, -1, "1", None, 1.5, True, [1], 10**30):
        body = json.dumps({"data": [], "fn_index": index, "session_hash": "abc"})
        status, _, answer = server.request("POST", "/gradio_api/queue/join", body, kind)
        assert (status, b"no such function" in answer) == (404, True), index
    for body in ("[]", "5", '{"fn_index": {}}'):
        assert server.request("POST", "/gradio_api/queue/join", body, kind)[0] == 404
    before = len(list(server.uploads.rglob("*")))
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="%d.png"\r\n\r\na\r\n'
    body = b"".join(part % index for index in range(500)) + b"--x--\r\n"
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    status, _, answer = server.request("POST", "/gradio_api/upload", body, form)
    assert (status, b"Too many files" in answer) == (413, True)
    assert len(list(server.uploads.rglob("*"))) <= before + 5


def test_nothing_else_is_served(server):
    for method, path in [
        ("GET", "/monitoring"),
        ("GET", "/monitoring/summary"),
        ("GET", "/gradio_api/deep_link?session_hash=a"),
        ("GET", "/gradio_api/runs"),
        ("GET", "/gradio_api/vibe-code/"),
        ("POST", "/gradio_api/vibe-edit/"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/gradio_api/api/predict"),
        ("POST", "/gradio_api/call/load"),
        ("POST", "/gradio_api/run-history/connect"),
        ("POST", "/login"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/gradio_api/openapi.json"),
        ("GET", "/gradio_api/mcp/"),
        ("PUT", "/"),
        ("DELETE", "/"),
        ("OPTIONS", "/"),
    ]:
        body = "{}" if method == "POST" else None
        assert server.request(method, path, body)[0] == 404, path
    info = json.loads(server.request("GET", "/gradio_api/info")[2])
    assert list(info["named_endpoints"]) == ["/predict"]
    assert info["unnamed_endpoints"] == {}
    config = json.loads(server.request("GET", "/config")[2])
    assert config["analytics_enabled"] is False
    assert str(server.model) not in json.dumps(config)


def test_the_call_of_the_readme_works(server, tmp_path):
    text = (ROOT / "demo" / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    tiny_picture("animal").save(tmp_path / "heron.jpg")
    done = subprocess.run(
        [sys.executable, "-c", code.replace("http://127.0.0.1:7860", server.url)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"^(bird|fish) \[\{'label': '(bird|fish)'", done.stdout, re.MULTILINE)


def test_it_listens_here_only_and_deletes_what_was_uploaded(server):
    own_file(server)
    assert list(server.uploads.rglob("a.png"))
    assert server.url in server.log.read_text()
    server.stop()
    assert not list(server.uploads.rglob("a.png"))
