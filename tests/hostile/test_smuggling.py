"""Request smuggling: a request hidden in another reaches nobody, alone, through HAProxy as shipped, and through nginx as documented.

Each request hides one for /admin/reload, which the proxies pass on to nobody: where the two ends of a connection disagree
on where a request ends, the server sees it, refuses it, for it bears no key, and counts that. The requests of others go
through the same proxy meanwhile, and must get their own replies.
"""

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from service.front.access.keys import KeyEntry, write_entry
from tests.deploy.test_haproxy import NameServer, run_proxy
from tests.server import ROOT, ServerProcess, started
from tests.service.conftest import free_port

HIDDEN = b"POST /admin/reload HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\n\r\n"
OTHERS = b"GET /health/live HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
PAUSE_S = 0.1  # after which an attack has had its effect

# What one end may take for chunked and the other not.
ENCODINGS = [
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding:chunked",
    b"Transfer-Encoding:\tchunked",
    b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding: chunked\x00",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: CHUNKED",
    b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: identity, chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding:\r\n chunked",
    b"X: y\r\n Transfer-Encoding: chunked",
    b"X: y\nTransfer-Encoding: chunked",
    b"X: y\rTransfer-Encoding: chunked",
    b"Transfer_Encoding: chunked",
    b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
]
# What one end may take for another length.
LENGTHS = [
    b"Content-Length: 0\r\nContent-Length: %d",
    b"Content-Length: %d\r\nContent-Length: 0",
    b"Content-Length: 0, %d",
    b"Content-Length: +%d",
    b"Content-Length : %d",
    b"Content-Length:\r\n %d",
    b"Content_Length: 0\r\nContent-Length: %d",
    b"Connection: Content-Length\r\nContent-Length: %d",
    b"Expect: 100-continue\r\nContent-Length: %d",
    b"Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: %d",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: %d",
]
# What ends a chunked body for one end and not for the other; the hidden request is within a chunk.
CHUNKS = [
    b"%x\r\n%b\r\n0\r\n\r\n",
    b"%x;x=\n0\r\n\r\n%b\r\n0\r\n\r\n",
    b"%x\n%b\r\n0\r\n\r\n",
    b"0x%x\r\n%b\r\n0\r\n\r\n",
    b"10000000000000%x\r\n%b\r\n0\r\n\r\n",
    b"-%x\r\n%b\r\n0\r\n\r\n",
    b" %x\r\n%b\r\n0\r\n\r\n",
]
HEAD = b"POST /health/live HTTP/1.1\r\nHost: here\r\n%b\r\n\r\n"
ENDED = b"0\r\n\r\n" + HIDDEN


def attacks() -> Iterator[bytes]:
    """Give requests that hold the hidden one whole in their body, for whoever reads them right."""
    for encoding in ENCODINGS:
        length = b"Content-Length: %d" % len(ENDED)
        yield HEAD % (length + b"\r\n" + encoding) + ENDED
        yield HEAD % (encoding + b"\r\n" + length) + ENDED
        yield (HEAD % (length + b"\r\n" + encoding)).replace(b"1.1", b"1.0", 1) + ENDED
    for length in LENGTHS:
        yield HEAD % (length % len(HIDDEN)) + HIDDEN
        yield (HEAD % (length % len(HIDDEN))).replace(b"POST", b"GET", 1) + HIDDEN
    for chunks in CHUNKS:
        yield HEAD % b"Transfer-Encoding: chunked" + chunks % (len(HIDDEN), HIDDEN)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    digest = sha256(b"watcher").hexdigest()
    entry = KeyEntry.model_validate({"sha256": digest, "scopes": ["metrics"]})
    path.write_text(write_entry("watcher", entry))
    with started({"keys_file": path, "fronts": 1, "max_batch": 1, "warm_up_s": 0.01}) as server:
        server.wait_for("ready")
        yield server


def refused(server: ServerProcess) -> float:
    """Return how many requests without a key have reached the server."""
    headers = {"Authorization": "Bearer watcher"}
    text = server.client.get("/metrics", headers=headers).text
    return float(re.search(r'anytime_keys_refused_total\{reason="missing"\} (\S+)', text)[1])  # type: ignore[index]


def exchange(connection: socket.socket, sent: bytes, patience_s: float = 60) -> bytes:
    """Return what comes back, up to the end or a pause."""
    received = b""
    with connection, suppress(TimeoutError, ConnectionError):
        connection.settimeout(patience_s)
        connection.sendall(sent)
        while part := connection.recv(65536):
            received += part
    return received


def try_all(connect: Callable[[], socket.socket], server: ServerProcess) -> None:
    """Send all attacks, with requests of others between them."""
    before = refused(server)
    for attack in attacks():
        exchange(connect(), attack, PAUSE_S)
        reply = exchange(connect(), OTHERS)

        assert reply.startswith(b"HTTP/1.1 200"), attack
        assert reply.endswith(b'{"status":"live"}'), attack
    assert refused(server) == before


def test_a_hidden_request_reaches_nobody_alone(guarded: ServerProcess) -> None:
    try_all(lambda: socket.create_connection(guarded.address, timeout=60), guarded)


def test_a_request_that_is_not_hidden_would_be_seen(guarded: ServerProcess) -> None:
    before = refused(guarded)

    pipelined = OTHERS.replace(b"close", b"keep-alive") + HIDDEN
    exchange(socket.create_connection(guarded.address), pipelined, PAUSE_S)

    assert refused(guarded) == before + 1


def connect_to(place: Path) -> socket.socket:
    """Return a connection to a local socket."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(place))
    return connection


@pytest.mark.skipif(not shutil.which("haproxy"), reason="needs haproxy (apt-get install haproxy)")
def test_a_hidden_request_reaches_nobody_through_haproxy(
    guarded: ServerProcess, tmp_path: Path
) -> None:
    port = guarded.address[1]
    with (
        NameServer(["127.0.0.1"]) as names,
        run_proxy(tmp_path, f"anytime.example:{port}", names.address) as send,
    ):
        while send("GET", "/health/ready").status != 200:
            time.sleep(0.02)  # the name is looked up after the start

        try_all(lambda: connect_to(tmp_path / "public"), guarded)


@pytest.mark.skipif(not shutil.which("nginx"), reason="needs nginx (apt-get install nginx)")
def test_a_hidden_request_reaches_nobody_through_nginx(
    guarded: ServerProcess, tmp_path: Path
) -> None:
    documented = (ROOT / "docs/proxies.md").read_text().split("```nginx\n")[1].split("```")[0]
    port = free_port()
    own = "".join(f"{each}_temp_path temp;" for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))  # fmt: skip
    config = documented.replace("listen 8080;", f"listen 127.0.0.1:{port};")
    config = config.replace("http {", f"http {{ {own}", 1).replace("/dev/stdout json", "log json")
    config = re.sub(r"server 127\.0\.0\.3:.*;", "", config)
    config = config.replace("127.0.0.2:8000", f"127.0.0.1:{guarded.address[1]}")
    assert config.count(str(guarded.address[1])) == 1
    (tmp_path / "nginx.conf").write_text(f"daemon off; pid nginx.pid; error_log error;\n{config}")
    proxy = subprocess.Popen(["nginx", "-p", tmp_path, "-c", tmp_path / "nginx.conf"])
    try:
        url = f"http://127.0.0.1:{port}/health/ready"
        while True:
            try:
                assert httpx.get(url).status_code == 200
                break
            except httpx.ConnectError:
                assert proxy.poll() is None
                time.sleep(0.02)

        try_all(lambda: socket.create_connection(("127.0.0.1", port), timeout=60), guarded)
    finally:
        proxy.terminate()
        proxy.wait()
