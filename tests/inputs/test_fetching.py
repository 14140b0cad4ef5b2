"""Images from the web: named hosts alone, bounded size and time whatever the server does."""

import io
import socket
import threading
import time
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tiny_world import LABELS, tiny_picture, tiny_pipeline

from modeling_hmgrl import fetching
from modeling_hmgrl.fetching import is_url


def png():
    buffer = io.BytesIO()
    tiny_picture("animal").save(buffer, "PNG")
    return buffer.getvalue()


PNG = png()


def fetch(*arguments, **options):
    """Fetches from the servers of these tests, which listen on the loopback address."""
    return fetching.fetch(*arguments, allow_private_addresses=True, **options)


class Pages(BaseHTTPRequestHandler):
    """Answers by path, and notes what it was asked for."""

    def do_GET(self):
        self.server.asked.append((self.path, dict(self.headers)))
        path, _, rest = self.path[1:].partition("/")
        if path == "to":
            return self.answer(302, b"moved", Location=rest)
        if path == "endless-to":
            self.send_response(302)
            self.send_header("Location", "/a.png")
            self.end_headers()
            return self.pour()
        if path == "loop":
            return self.answer(302, b"", Location="/loop")
        if path == "pour":
            self.send_response(200)
            self.end_headers()
            return self.pour()
        if path == "large":
            return self.answer(200, b"x" * 1000)
        return self.answer(200, PNG) if path == "a.png" else self.answer(404, b"none")

    def answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def pour(self):
        try:
            for _ in range(100_000):
                self.wfile.write(b"x" * (1 << 16))
                self.server.poured += 1 << 16
        except OSError:
            pass  # the other side has had enough

    def log_message(self, *_):
        pass


@contextmanager
def serving(server_class=ThreadingHTTPServer, handler=Pages):
    with server_class(("127.0.0.1", 0), handler) as server:
        server.asked, server.poured = [], 0
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server():
    with serving() as server:
        server.host = f"127.0.0.1:{server.server_port}"
        server.url = f"http://{server.host}"
        yield server


def test_what_is_an_address():
    assert is_url("http://a.org/b.png")
    assert is_url("ftp://a.org")
    assert is_url("data://x")
    for other in ("a/b.png", "C:\\b.png", b"http://a.org", None, 3):
        assert not is_url(other)


def test_an_image_is_fetched_from_a_named_host(server):
    assert fetch(f"{server.url}/a.png", [server.host]) == PNG
    # names of hosts have no case
    url = f"http://LOCALHOST:{server.server_port}/a.png"
    assert fetch(url, [f"LocalHost:{server.server_port}"]) == PNG
    (path, headers), _ = server.asked
    assert path == "/a.png"
    assert not {"Cookie", "Authorization", "Referer"} & set(headers)


def test_a_pipeline_fetches_from_hosts_that_a_call_names(server):
    pipe = partial(tiny_pipeline(seen_labels=LABELS), allow_private_addresses=True)
    record = {"text": "the fox", "mention": "fox", "image": f"{server.url}/a.png"}
    with pytest.raises(ValueError, match=r"^input\.image: .*is not on a permitted host, .*\[\]"):
        pipe(record)
    with pytest.raises(ValueError, match="is not on a permitted host"):
        pipe(record, image_hosts=["127.0.0.1"])  # another port is another host
    assert server.asked == []
    found = pipe(record, image_hosts=[server.host])
    assert found == pipe("the fox", mention="fox", image=tiny_picture("animal"))
    failed = pipe([record | {"image": f"{server.url}/b.png"}], image_hosts=[server.host],
                  on_error="skip")  # fmt: skip
    assert failed[0]["error"].startswith("inputs[0].image: ")
    assert "404" in failed[0]["error"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "http://b.org/a.png",
            r"is not on a permitted host, expected one of image_hosts \['a\.org', 'c\.org:8080'\]",
        ),
        ("http://a.org:81/a.png", "is not on a permitted host"),
        ("http://c.org/a.png", "is not on a permitted host"),
        ("http://a.org.b.org/a.png", "is not on a permitted host"),
        ("http://x.a.org/a.png", "is not on a permitted host"),
        ("http://a.org@b.org/a.png", "is not on a permitted host"),
        ("http://b.org#@a.org/a.png", "is not on a permitted host"),
        ("http://b.org\\@a.org/a.png", "could not be fetched"),
        ("http://", "is not on a permitted host"),
        ("http://127.0.0.1/a.png", "is not on a permitted host"),
        ("http://[::1/a.png", "is not a URL"),
        ("http://a.org:99999999/a.png", "is not a URL"),
        ("ftp://a.org/a.png", "expected http or https"),
        ("file://a.org/etc/passwd", "expected http or https"),
        ("data://a.org/png", "expected http or https"),
        ("://a.org", "expected http or https"),
        ("http://a.org/a b\n", "could not be fetched"),
    ],
)
def test_other_addresses_are_refused_without_asking(url, message, monkeypatch):
    def connect(*_, **__):
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect_to_nothing)
    with pytest.raises(ValueError, match=r"^x\.image: ") as caught:
        fetch(url, ["a.org", "c.org:8080"], "x.image")
    assert caught.match(message)


def connect_to_nothing(host, *_, **__):
    raise socket.gaierror(f"{host} is not asked for")


def test_redirects_stay_among_the_named_hosts(server):
    with serving() as other:
        hosts = [server.host]
        elsewhere = f"http://127.0.0.1:{other.server_port}/a.png"
        assert fetch(f"{server.url}/to//a.png", hosts) == PNG
        with pytest.raises(ValueError, match="is not on a permitted host"):
            fetch(f"{server.url}/to/{elsewhere}", hosts)
        for target in ("file:///etc/passwd", "ftp://127.0.0.1/a", "data:,x"):
            with pytest.raises(ValueError, match=r"^image: "):
                fetch(f"{server.url}/to/{target}", hosts)
        assert other.asked == []
        both = [*hosts, f"127.0.0.1:{other.server_port}"]
        assert fetch(f"{server.url}/to/{elsewhere}", both) == PNG
        assert len(other.asked) == 1
    with pytest.raises(ValueError, match=r"^image: .*could not be fetched"):
        fetch(f"{server.url}/loop", hosts)
    assert sum(path == "/loop" for path, _ in server.asked) < 20


def test_size_is_bounded(server):
    hosts = [server.host]
    assert len(fetch(f"{server.url}/large", hosts, max_bytes=1000)) == 1000
    with pytest.raises(ValueError, match=r"^image: .*/large' is larger than 999 bytes"):
        fetch(f"{server.url}/large", hosts, max_bytes=999)
    with pytest.raises(ValueError, match="is larger than 1000000 bytes"):
        fetch(f"{server.url}/pour", hosts, max_bytes=1_000_000)
    # neither is the body of a redirect read, which may have no end
    assert fetch(f"{server.url}/endless-to", hosts, max_bytes=10_000) == PNG
    assert server.poured < 50_000_000


def test_absent_images_and_servers_are_reported(server):
    with pytest.raises(ValueError, match=r"^image: 'http.*/b\.png' could not be fetched.*404"):
        fetch(f"{server.url}/b.png", [server.host])
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ValueError, match=r"^image: .*could not be fetched"):
            fetch(f"http://{host}/a.png", [host])


# Servers that take their time

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"


def behave(connection, way, stop):
    """What a slow server does with a connection, until it is told to stop."""
    if way == "says nothing":
        stop.wait()
    elif way == "stalls in the headers":
        connection.sendall(HEAD[:20])
        stop.wait()
    elif way == "drips headers":
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        for k in range(10_000):
            connection.sendall(b"X-%d: y\r\n" % k if k % 2 else b"Z: ")
            if stop.wait(0.05):
                return
    elif way == "stalls in the body":
        connection.sendall(HEAD + PNG[:50])
        stop.wait()
    elif way == "drips the body":
        connection.sendall(HEAD)
        while not stop.wait(0.05):
            connection.sendall(b"x")
    elif way == "redirects slowly":
        time.sleep(0.1)
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /next\r\nContent-Length: 0\r\n\r\n")
        stop.wait()


WAYS = (
    "says nothing", "stalls in the headers", "drips headers", "stalls in the body",
    "drips the body", "redirects slowly",
)  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_time_is_bounded_whatever_the_server_does(way):
    stop, busy = threading.Event(), []
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(5)

    def attend(connection):
        with connection:
            try:
                connection.recv(10_000)
                behave(connection, way, stop)
            except OSError:
                pass  # it was cut

    def accept():
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            busy.append(threading.Thread(target=attend, args=(connection,)))
            busy[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    host = f"127.0.0.1:{listener.getsockname()[1]}"
    begin = time.monotonic()
    try:
        with pytest.raises(ValueError, match=r"^x: 'http.*a\.png' took longer than 0\.5 s"):
            fetch(f"http://{host}/a.png", [host], "x", timeout=0.5)
        assert time.monotonic() - begin < 3
        # nor does what was reading go on
        for _ in range(100):
            if not any(thread.name == "fetch" for thread in threading.enumerate()):
                break
            time.sleep(0.05)
        else:
            pytest.fail("the thread that fetches goes on")
    finally:
        stop.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for thread in busy:
            thread.join()


def test_a_host_whose_address_is_not_found_in_time(monkeypatch):
    asked = threading.Event()

    def slow(*_, **__):
        asked.wait(20)
        raise socket.gaierror("too late")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    begin = time.monotonic()
    with pytest.raises(ValueError, match=r"took longer than 0\.2 s"):
        fetch("http://a.org/a.png", ["a.org"], timeout=0.2)
    assert time.monotonic() - begin < 3
    asked.set()


def test_connections_made_too_late_are_cut(server, monkeypatch):
    go, connect = threading.Event(), fetching._Download.connect

    def slow(*arguments):
        go.wait(20)
        return connect(*arguments)

    monkeypatch.setattr(fetching._Download, "connect", slow)
    with pytest.raises(ValueError, match=r"took longer than 0\.2 s"):
        fetch(f"{server.url}/pour", [server.host], timeout=0.2)
    go.set()
    for thread in threading.enumerate():
        if thread.name == "fetch":
            thread.join(10)
            assert not thread.is_alive()
    assert server.poured < 50_000_000
