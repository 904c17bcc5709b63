"""A real HAProxy before replicas that do as a test says: what it passes on, and what it repeats."""

import http.client
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[2] / "deploy" / "haproxy" / "haproxy.cfg"
REPLICAS = 3
BETWEEN_S = 0.02  # the head of a request and its body, as on a network

pytestmark = pytest.mark.skipif(
    not shutil.which("haproxy"), reason="needs haproxy (apt-get install haproxy)"
)


@dataclass(slots=True)
class Replicas:
    """What every replica does with a request, and what reached them; a status of None is no reply at all."""

    statuses: Iterator[int | None] = field(default_factory=lambda: iter(()))
    reached: list[tuple[int, str]] = field(default_factory=list)  # port and path

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """Return what a server of the standard library handles requests by."""
        replicas = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path == "/health/ready":
                    self._reply(200)
                else:
                    self.do_POST()

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                replicas.reached.append((self.connection.getsockname()[1], self.path))
                status = next(replicas.statuses, 200)
                if status is None:
                    self.close_connection = True
                else:
                    self._reply(status)

            def _reply(self, status: int) -> None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


Ask = Callable[..., int]


@pytest.fixture
def replicas() -> Replicas:
    return Replicas()


@pytest.fixture
def ask(replicas: Replicas, tmp_path: Path) -> Iterator[Ask]:
    """Return what sends a request by method and path through the proxy, and returns the status of the reply."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), replicas.handler()) for _ in range(REPLICAS)]
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = tmp_path / "proxy"
    variables = {"BIND": f"unix@{address}", "ADMIN": str(tmp_path / "admin")}
    variables |= {
        f"REPLICA_{i + 1}": f"127.0.0.1:{each.server_address[1]}" for i, each in enumerate(servers)
    }

    def send(method: str, path: str, body: bytes = b"") -> int:
        connection = http.client.HTTPConnection("proxy", timeout=10)
        connection.sock = _connect(address)
        connection.putrequest(method, path)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        time.sleep(BETWEEN_S)
        connection.send(body)
        status = connection.getresponse().status
        connection.close()
        return status

    proxy = subprocess.Popen(["haproxy", "-f", CONFIG], env=os.environ | variables)
    try:
        yield send
    finally:
        proxy.terminate()
        proxy.wait()
        for server in servers:
            server.shutdown()
            server.server_close()


def _connect(address: Path) -> socket.socket:
    """Return a connection to a socket that is about to be there."""
    for _ in range(500):
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(address))
        except OSError:
            connection.close()
            time.sleep(0.01)
        else:
            return connection
    raise TimeoutError(address)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/metrics"),
        ("GET", "/%6detrics"),
        ("GET", "/%6D%65trics?x=1"),
        ("POST", "/admin/reload"),
        ("POST", "/%61dmin/reload"),
        ("POST", "/admin%2Freload"),
    ],
)
def test_what_is_one_replicas_own_is_not_passed_on(
    ask: Ask, replicas: Replicas, method: str, path: str
) -> None:
    assert ask(method, path) == 404
    assert replicas.reached == []


def test_refusal_is_not_repeated(ask: Ask, replicas: Replicas) -> None:
    replicas.statuses = iter([503])

    assert ask("POST", "/classify?deadline_ms=50", b"image") == 503
    assert len(replicas.reached) == 1


@pytest.mark.parametrize("path", ["/classify", "/classify/stream"])
def test_request_whose_replica_ends_is_asked_of_another(
    ask: Ask, replicas: Replicas, path: str
) -> None:
    replicas.statuses = iter([None])

    assert ask("POST", path, b"image") == 200
    (first, _), (second, _) = replicas.reached
    assert first != second


def test_request_that_changes_something_is_not_repeated(ask: Ask, replicas: Replicas) -> None:
    replicas.statuses = iter([None])

    assert ask("POST", "/feedback", b"{}") == 502
    assert len(replicas.reached) == 1
