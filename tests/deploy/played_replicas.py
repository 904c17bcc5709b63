"""Replicas of which a test says what they do with a request, and what a proxy before them passes on."""

import http.client
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BETWEEN_S = (
    0.02  # the head of a request and its body, as on a network; and two looks at what is awaited
)
TIMEOUT_S = 60  # for a reply


@dataclass(slots=True)
class Replicas:
    """What every replica does with a request, and what reached them; a status of None is no reply at all."""

    statuses: Iterator[int | None] = field(default_factory=lambda: iter(()))
    reached: list[tuple[str, str]] = field(default_factory=list)  # address and path
    released: threading.Event = field(default_factory=threading.Event)  # of /held

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
                replicas.reached.append((self.connection.getsockname()[0], self.path))
                if self.path == "/held":
                    replicas.released.wait()
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


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that runs; addresses are ``HOST:PORT`` or ``unix@PATH``."""

    process: subprocess.Popen[bytes]
    log: Path

    def connect(self, address: str) -> socket.socket:
        """Return a connection to an address that is about to be listened on."""
        host, _, port = address.rpartition(":")
        path = address.removeprefix("unix@")
        while True:
            connection = socket.socket(socket.AF_INET if path == address else socket.AF_UNIX)
            try:
                connection.connect((host, int(port)) if path == address else path)
            except OSError:
                connection.close()
                assert self.process.poll() is None, self.log.read_text()
                time.sleep(BETWEEN_S)
            else:
                return connection

    def send(self, address: str, method: str, path: str, body: bytes) -> Reply:
        """Send a request to an address, its body after its head, and return the reply."""
        connection = http.client.HTTPConnection("proxy")
        connection.sock = self.connect(address)
        connection.sock.settimeout(TIMEOUT_S)
        connection.putrequest(method, path)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        time.sleep(BETWEEN_S)
        connection.send(body)
        response = connection.getresponse()
        reply = Reply(response.status, response.headers, response.read())
        connection.close()
        return reply


@contextmanager
def running(command: list[str], log: Path, **environment: str) -> Iterator[Proxy]:
    """Run a proxy until the block ends, with what it says in a file."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=os.environ | environment, stdout=output, stderr=output
        )
        try:
            yield Proxy(process, log)
        finally:
            process.terminate()
            process.wait()


@contextmanager
def listening(replicas: Replicas, count: int) -> Iterator[tuple[list[str], int]]:
    """Run so many replicas; give their addresses, and the port that is the same at each."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), replicas.handler())]
    port = int(servers[0].server_address[1])
    servers += [
        ThreadingHTTPServer((f"127.0.0.{i}", port), replicas.handler()) for i in range(2, count + 1)
    ]
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield [str(each.server_address[0]) for each in servers], port
    for server in servers:
        server.shutdown()
        server.server_close()
