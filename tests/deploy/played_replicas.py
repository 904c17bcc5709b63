"""Replicas of which a test says what they do with a request, and what a proxy before them passes on."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


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
