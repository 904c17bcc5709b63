"""The real server, as a process of its own."""

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from threading import get_ident
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]
MODULE = (sys.executable, "-m", "service")


class ServerProcess:
    """The server in a process of its own, on a free port; its stdout is read line by line."""

    def __init__(
        self, *, command: Sequence[str | Path] = MODULE, folder: Path = ROOT, **settings: object
    ) -> None:
        self.settings = settings
        variables = {f"ANYTIME_{name.upper()}": str(value) for name, value in settings.items()}
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "ANYTIME_PORT": "0", "ANYTIME_WARM_UP_S": "0.1", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._url = ""
        self._clients: dict[int, httpx.Client] = {}

    def wait_for(self, event: str) -> dict[str, Any]:
        """Read the log up to an event and return it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            fields: dict[str, Any] = json.loads(line)
            if fields["event"] == "listening":
                self._url = fields["url"]
            if fields["event"] == event:
                return fields
        raise AssertionError(f"ended before {event!r}: {self.process.communicate()[1]}")

    @property
    def client(self) -> httpx.Client:
        """The calling thread's own: a shared pool closes connections that another thread was just given."""
        if get_ident() not in self._clients:
            self._clients[get_ident()] = httpx.Client(base_url=self._url, timeout=60)
        return self._clients[get_ident()]

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, for sockets."""
        url = self.client.base_url
        assert url.port is not None
        return url.host, url.port

    def classify(self, content: bytes, **query: object) -> httpx.Response:
        """Post an image."""
        return self.client.post("/classify", content=content, params=query)  # type: ignore[arg-type]

    def metrics(self) -> dict[str, float]:
        """Return every sample by its name and labels, as in ``anytime_ready`` or ``x_total{a="b"}``.

        A front that has not heard yet that the engine is ready is asked again.
        """
        while (reply := self.client.get("/metrics")).status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            pass
        lines = reply.raise_for_status().text.splitlines()
        samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def requests_by_outcome(self) -> dict[str, float]:
        """Return the count of requests by how they ended, over all subnetworks."""
        counts: dict[str, float] = {}
        for name, value in self.metrics().items():
            if name.startswith("anytime_requests_total{"):
                outcome = name.partition('outcome="')[2].partition('"')[0]
                counts[outcome] = counts.get(outcome, 0) + value
        return counts

    def parts(self, name: str) -> list[int]:
        """Return the processes of the server that are an ``engine`` or a ``front``."""
        supervisor = self.process.pid
        children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
        return [
            int(child)
            for child in children
            if f"service/{name}/__main__.py" in Path(f"/proc/{child}/cmdline").read_text()
        ]

    def signal(self, name: str, number: int) -> None:
        """Send a signal to every front, or to the engine."""
        for pid in self.parts(name):
            os.kill(pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def end(self) -> tuple[int, str]:
        """Return the exit code and what was written to stderr, once the process has ended."""
        _, stderr = self.process.communicate(timeout=60)
        return self.process.returncode, stderr

    def close_clients(self) -> None:
        """Have the next requests make connections of their own."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def close(self) -> None:
        """Make sure that nothing is left."""
        self.close_clients()
        parts: list[int] = []
        with suppress(OSError):  # it has ended
            parts = [*self.parts("engine"), *self.parts("front")]
        self.process.kill()
        for pid in parts:  # they would end by themselves, a second later
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()


@contextmanager
def started(
    settings: Mapping[str, Any], command: Sequence[str | Path] = MODULE
) -> Iterator[ServerProcess]:
    server = ServerProcess(command=command, **settings)
    try:
        yield server
    finally:
        server.close()


def reset(connection: socket.socket) -> None:
    """Close a connection so that the server knows that nobody reads the reply: a mere close looks like the end of sending."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def read_reply(connection: socket.socket) -> tuple[bytes, bytes]:
    """Return head and body of one reply."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
    while len(body) < length:
        body += connection.recv(65536)
    return head, body
