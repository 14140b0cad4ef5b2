"""The addresses behind permitted hosts: checked once resolved, at every hop, and then used."""

import shutil
import socket
import ssl
import subprocess
import threading

import pytest
from test_fetching import PNG, serving
from tiny_world import LABELS, tiny_pipeline

from modeling_hmgrl.fetching import fetch, refusal

REFUSED = {
    "loopback": ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"],
    "private": [
        "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "192.0.2.1", "198.18.0.1",
        "fd12::1", "fec0::1", "2001:db8::1", "::ffff:10.0.0.1", "::ffff:a00:1", "64:ff9b::a00:1",
    ],
    "link-local": ["169.254.1.1", "169.254.169.254", "fe80::1", "fe80::1%lo",
                   "::ffff:169.254.169.254"],
    "multicast": ["224.0.0.1", "239.255.255.250", "ff02::1", "::ffff:224.0.0.1"],
    "unspecified": ["0.0.0.0", "::", "::ffff:0.0.0.0"],
    "reserved": ["240.0.0.1", "255.255.255.255", "::127.0.0.1", "4000::1"],
    "that of a cloud's metadata service": ["fd00:ec2::254", "100.100.100.200", "168.63.129.16",
                                           "::ffff:168.63.129.16"],
    "that of a tunnel": ["2002:7f00:1::", "2001:0:7f00:1::"],
    "not an IP address": ["localhost", "", "127.1"],
}  # fmt: skip
PUBLIC = ["8.8.8.8", "93.184.215.14", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize(("kind", "address"), [(k, a) for k, all_ in REFUSED.items() for a in all_])
def test_addresses_that_are_refused(kind, address):
    assert refusal(address).startswith(kind)
    permitted = kind in ("loopback", "private")
    assert (refusal(address, allow_private=True) is None) == permitted


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_that_are_permitted(address):
    assert refusal(address) is None


class Names:
    """A resolver of a few names; each lookup takes the next answer, the last one for good."""

    def __init__(self, monkeypatch, port, **names):
        self.looked_up, self.contacted, self.names = [], [], names
        monkeypatch.setattr(socket, "getaddrinfo", self.resolve)
        names_of = self

        class Socket(socket.socket):
            def connect(self, address):
                names_of.contacted.append(address[0])
                return super().connect(("127.0.0.1", port))

        monkeypatch.setattr("modeling_hmgrl.fetching.socket.socket", Socket)

    def resolve(self, host, port, *_, **__):
        self.looked_up.append(host)
        answers = self.names[host.split(".")[0]]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses
        ]


@pytest.fixture
def server():
    with serving() as server:
        yield server


def test_the_connection_goes_to_the_address_that_was_checked(server, monkeypatch):
    # a second lookup would yield a private address
    names = Names(monkeypatch, server.server_port, a=[["8.8.8.8"], ["127.0.0.1"]])
    assert fetch("http://a.org/a.png", ["a.org"]) == PNG
    assert (names.looked_up, names.contacted) == (["a.org"], ["8.8.8.8"])
    [(_, headers)] = server.asked
    assert headers["Host"] == "a.org"
    with pytest.raises(ValueError, match=r"^x: host 'a\.org' has the address 127\.0\.0\.1, which"):
        fetch("http://a.org/a.png", ["a.org"], "x")
    assert names.contacted == ["8.8.8.8"]


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "224.0.0.1"])
def test_a_name_with_such_an_address_is_refused(server, monkeypatch, address):
    names = Names(monkeypatch, server.server_port, a=[[address]], b=[["8.8.8.8", address]])
    for host in ("a.org", "b.org"):
        with pytest.raises(ValueError, match=r"^image: host .*, expected a public address$"):
            fetch(f"http://{host}/a.png", [host])
    assert names.contacted == server.asked == []


def test_every_redirect_is_checked(server, monkeypatch):
    names = Names(monkeypatch, server.server_port, a=[["8.8.8.8"]], b=[["10.0.0.1"]])
    hosts = ["a.org", "b.org", "169.254.169.254"]
    for target in ("http://b.org/a.png", "http://169.254.169.254/a.png"):
        if "169" in target:
            names.names["169"] = [["169.254.169.254"]]
        with pytest.raises(ValueError, match="expected a public address"):
            fetch(f"http://a.org/to/{target}", hosts)
    assert set(names.contacted) == {"8.8.8.8"}
    assert fetch("http://a.org/to/http://b.org/a.png", hosts, allow_private_addresses=True) == PNG
    assert names.contacted[-1] == "10.0.0.1"


def test_a_rebinding_redirect_to_the_same_host_is_checked(server, monkeypatch):
    names = Names(monkeypatch, server.server_port, a=[["8.8.8.8"], ["127.0.0.1"]])
    with pytest.raises(ValueError, match=r"has the address 127\.0\.0\.1"):
        fetch("http://a.org/to//a.png", ["a.org"])
    assert names.contacted == ["8.8.8.8"]


def test_an_address_that_cannot_be_reached_is_followed_by_the_next(server, monkeypatch):
    names = Names(monkeypatch, server.server_port, a=[["8.8.8.8", "8.8.4.4"]])

    def refuse(self, address):
        names.contacted.append(address[0])
        if address[0] == "8.8.8.8":
            raise ConnectionRefusedError("no")
        return super(type(self), self).connect(("127.0.0.1", server.server_port))

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert fetch("http://a.org/a.png", ["a.org"]) == PNG
    assert names.contacted == ["8.8.8.8", "8.8.4.4"]


def test_proxies_of_the_environment_are_not_used(server, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    names = Names(monkeypatch, server.server_port, a=[["8.8.8.8"]])
    assert fetch("http://a.org/a.png", ["a.org"]) == PNG
    assert names.looked_up == ["a.org"]


def test_the_pipeline_refuses_private_addresses_by_default(server):
    pipe = tiny_pipeline(seen_labels=LABELS)
    host = f"127.0.0.1:{server.server_port}"
    record = {"text": "the fox", "mention": "fox", "image": f"http://{host}/a.png"}
    with pytest.raises(ValueError, match=r"^input\.image: host .*allow_private_addresses"):
        pipe(record, image_hosts=[host])
    assert server.asked == []
    assert pipe(record, image_hosts=[host], allow_private_addresses=True)["label"] in LABELS
    with pytest.raises(ValueError, match=r"^allow_private_addresses: got 1, expected True or"):
        pipe(record, image_hosts=[host], allow_private_addresses=1)


# TLS


@pytest.fixture
def certificate(tmp_path, monkeypatch):
    """A certificate for a.org, which the tests trust."""
    if shutil.which("openssl") is None:
        pytest.skip("requires openssl")
    path = tmp_path / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=a.org", "-addext", "subjectAltName=DNS:a.org",
         "-keyout", tmp_path / "key.pem", "-out", tmp_path / "certificate.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    both = (tmp_path / "key.pem").read_text() + (tmp_path / "certificate.pem").read_text()
    path.write_text(both)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    return path


@pytest.fixture
def tls_server(server, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    server.handle_error = lambda *_: None
    return server


def test_tls_verifies_the_name_of_the_host(tls_server, monkeypatch):
    port = tls_server.server_port
    names = Names(monkeypatch, port, a=[["8.8.8.8"]], b=[["8.8.4.4"]])
    assert fetch("https://a.org/a.png", ["a.org"]) == PNG
    with pytest.raises(ValueError, match=r"could not be fetched .*CERTIFICATE_VERIFY_FAILED"):
        fetch("https://b.org/a.png", ["b.org"])
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(ValueError, match=r"could not be fetched .*CERTIFICATE_VERIFY_FAILED"):
        fetch("https://a.org/a.png", ["a.org"])
    assert names.contacted == ["8.8.8.8", "8.8.4.4", "8.8.8.8"]


def test_tls_refuses_private_addresses_too(tls_server, monkeypatch):
    names = Names(monkeypatch, tls_server.server_port, a=[["127.0.0.1"]])
    with pytest.raises(ValueError, match="loopback"):
        fetch("https://a.org/a.png", ["a.org"])
    assert names.contacted == []


def test_no_thread_remains():
    for thread in threading.enumerate():
        if thread.name == "fetch":
            thread.join(10)
            assert not thread.is_alive()
