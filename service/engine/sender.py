"""The load that the page shows, sent to this machine's own server by a process of its own; ``load.py`` runs this file.

It reads what is wanted from stdin, a line of JSON each, and writes what became of it to stdout, a line for each second.
It ends with its stdin, and where nothing is wanted any more. Requests leave at random instants that do not wait for
answers; latency counts from then.
"""

import json
import os
import selectors
import socket
import sys
import time
from base64 import b64decode
from collections import Counter, deque
from random import Random
from typing import Any
from urllib.parse import quote

from httptools import HttpResponseParser

CONNECTIONS = 256  # a request that finds none free until its deadline has passed counts as refused
TRIAL_CONNECTIONS, TRIAL_S = (
    16,
    0.6,
)  # to find what the server holds: as many at a time as a batch takes
WINDOW_S = 1.0
BEHIND_S = 0.05  # what is due for longer than this is not sent: this process cannot send so much
LOOK_S = 0.001
NICE = 10  # a load from elsewhere would not take the cores of those who answer
SHOWN = 24  # answers of a window that are reported one by one
KEPT = ("subnetwork", "deadline_ms")


class Connection:
    """A connection with one request on its way at most. The parser calls the methods named ``on_``."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent_at = 0.0
        self.status = 0  # of the reply, once it is here
        self.body = b""
        self._parser = HttpResponseParser(self)

    def ask(self, request: bytes, now: float) -> None:
        """Send a request."""
        self.sent_at, self.status, self.body = now, 0, b""
        self.socket.sendall(request)

    def receive(self) -> None:
        """Read what has come.

        Raises:
            ConnectionError: the server has closed it.
        """
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionResetError
        self._parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        """Keep a part of the body."""
        self.body += part

    def on_message_complete(self) -> None:
        """Note the end of the reply."""
        self.status = self._parser.get_status_code()


class Window:
    """What became of the requests of a second."""

    def __init__(self, now: float) -> None:
        self.begun_at = now
        self.outcomes: Counter[str] = Counter()
        self.subnetworks: Counter[str] = Counter()
        self.accuracy = 0.0  # the sum of what was expected
        self.answers: deque[dict[str, Any]] = deque(maxlen=SHOWN)

    def ended(self, connection: Connection, deadline_s: float, now: float) -> None:
        """Count a reply."""
        if connection.status != 200:
            self.outcomes["refused"] += 1
            return
        answer = json.loads(connection.body)
        latency_s = now - connection.sent_at
        in_time = latency_s <= deadline_s
        self.outcomes["in_time" if in_time else "late"] += 1
        self.subnetworks[answer["subnetwork"]] += 1
        self.accuracy += answer["expected_accuracy"]
        kept = {key: answer[key] for key in KEPT}
        self.answers.append(kept | {"latency_ms": round(1e3 * latency_s, 3), "in_time": in_time})

    def report(self, now: float) -> dict[str, Any]:
        """Return it in numbers a second."""
        span_s = now - self.begun_at
        answered = self.subnetworks.total()
        return {
            **{
                f"{name}_per_s": round(self.outcomes[name] / span_s)
                for name in ("in_time", "late", "refused")
            },
            "sent_per_s": round(self.outcomes.total() / span_s),
            "expected_accuracy": round(self.accuracy / answered, 4) if answered else None,
            "subnetworks": {name: round(n / answered, 4) for name, n in self.subnetworks.items()},
            "answers": list(self.answers),
        }


class Sender:
    """Sends the load, and tells of it."""

    def __init__(self, address: tuple[str, int], images: list[bytes]) -> None:
        self._address = address
        self._images = images
        self._random = Random()
        self._selector = selectors.DefaultSelector()
        self._selector.register(sys.stdin, selectors.EVENT_READ)
        self._idle: list[Connection] = []
        self._wanted: dict[str, Any] = {}
        self._model = ""  # whose requests the server is known to hold so many of
        self._holds = 0.0
        for _ in range(CONNECTIONS):
            self._connect()

    def run(self) -> None:
        """Send what is wanted until nothing is."""
        self._hear()
        now = due_at = time.perf_counter()
        window = Window(now)
        waiting: deque[float] = deque()
        while self._wanted["times"]:
            if self._wanted["model"] != self._model:
                self._find_what_it_holds()
                waiting.clear()
                window = Window(time.perf_counter())
            rate, deadline_s = (
                self._wanted["times"] * self._holds,
                self._wanted["deadline_ms"] / 1e3,
            )
            now = time.perf_counter()
            due_at = max(due_at, now - BEHIND_S)
            while due_at <= now:
                waiting.append(due_at)
                due_at += self._random.expovariate(rate)
            while waiting and waiting[0] + deadline_s < now:
                waiting.popleft()
                window.outcomes["refused"] += 1
            query = f"on_miss=refuse&deadline_ms={self._wanted['deadline_ms']:g}"
            while waiting and self._idle:
                self._idle.pop().ask(self._request(query), now)
                waiting.popleft()
            for connection in self._look(LOOK_S):
                window.ended(connection, deadline_s, time.perf_counter())
            if now - window.begun_at >= WINDOW_S:
                _tell({"holds_per_s": round(self._holds), **window.report(now)})
                window = Window(now)

    def _find_what_it_holds(self) -> None:
        """Note how many requests a second the model's fastest subnetwork answers where they are never lacking."""
        self._model = self._wanted["model"]
        query = f"deadline_ms=1000&on_miss=answer&subnetwork={self._wanted['fastest']}"
        self._await_replies()
        begun_at = now = time.perf_counter()
        answered = 0
        while now - begun_at < TRIAL_S:
            while CONNECTIONS - len(self._idle) < TRIAL_CONNECTIONS:
                self._idle.pop().ask(self._request(query), now)
            answered += len(self._look(LOOK_S))
            now = time.perf_counter()
        self._await_replies()
        self._holds = answered / (now - begun_at)

    def _await_replies(self) -> None:
        """Wait until every connection is idle."""
        while len(self._idle) < CONNECTIONS:
            self._look(LOOK_S)

    def _request(self, query: str) -> bytes:
        image = self._random.choice(self._images)
        target = f"/classify?top_k=1&model={quote(self._model)}&{query}"
        head = f"POST {target} HTTP/1.1\r\nhost: load\r\ncontent-length: {len(image)}\r\n\r\n"
        return head.encode() + image

    def _look(self, timeout_s: float) -> list[Connection]:
        """Return the connections whose replies have come, which are idle again."""
        done = []
        for key, _ in self._selector.select(timeout_s):
            if key.data is None:
                self._hear()
                continue
            connection: Connection = key.data
            try:
                connection.receive()
            except ConnectionError:
                self._selector.unregister(connection.socket)
                connection.socket.close()
                if connection in self._idle:
                    self._idle.remove(connection)
                self._connect()
                continue
            if connection.status:
                done.append(connection)
                self._idle.append(connection)
        return done

    def _connect(self) -> None:
        connection = Connection(self._address)
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        self._idle.append(connection)

    def _hear(self) -> None:
        """Read what is wanted now; nothing, if stdin has ended."""
        line = sys.stdin.readline()
        self._wanted = json.loads(line) if line else {"times": 0.0}


def _tell(report: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(report) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Send what is asked for; end quietly with the server."""
    os.nice(NICE)
    begin = json.loads(sys.stdin.readline())
    images = [b64decode(each) for each in begin["images"]]
    try:
        Sender((begin["host"], begin["port"]), images).run()
    except (ConnectionError, BrokenPipeError):
        return 0  # the server has ended
    return 0


if __name__ == "__main__":
    sys.exit(main())
