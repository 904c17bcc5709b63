"""The load generator's connections: plain sockets, one request on its way on each, and no event loop between.

Nothing here sleeps. The generator spins on a core of its own, which keeps its lag to tens of microseconds where the
timers of event loops count milliseconds.
"""

import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence

from httptools import HttpResponseParser

from benchmarks.load.recording import Planned, Record

HOST = "127.0.0.1"  # nothing else: this is no tool to load other people's machines with
DRAIN_S = 1.0  # for the replies after the last deadline

Clock = Callable[[], float]


class Connection:
    """A keep-alive connection. The parser calls the methods named ``on_``."""

    def __init__(self, port: int, clock: Clock) -> None:
        self.socket = socket.create_connection((HOST, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.record: Record | None = None
        self._clock = clock
        self._parser = HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._stays = True

    def ask(self, request: bytes, record: Record) -> None:
        """Send a request; its record is completed when the reply is."""
        self.record = record
        record.sent_at = self._clock()
        self.socket.sendall(request)

    def receive(self) -> bool:
        """Read what has come; False if the connection can be used no more."""
        try:
            data = self.socket.recv(65536)
            if data:
                self._received_at = self._clock()
                self._parser.feed_data(data)
        except ConnectionError:
            return False
        return bool(data) and self._stays

    def on_body(self, part: bytes) -> None:
        """Keep a part of the body."""
        self._parts.append(part)

    def on_message_complete(self) -> None:
        """Complete the record."""
        status = self._parser.get_status_code()
        if self.record is not None and status >= 200:
            self.record.done_at = self._received_at
            self.record.status = status
            self.record.body = b"".join(self._parts)
            self.record = None
            self._stays = self._parser.should_keep_alive()  # known only now
        self._parts = []


class Pool:
    """Many connections to one server.

    Args:
        port: the server's, on this machine.
        size: how many; one that the server closes is replaced.
        clock: seconds.
    """

    def __init__(self, port: int, size: int, clock: Clock) -> None:
        self._port = port
        self._clock = clock
        self._epoll = select.epoll()
        self._open: dict[int, Connection] = {}
        self.idle: list[Connection] = []
        for _ in range(size):
            self._connect()

    @property
    def is_quiet(self) -> bool:
        """Whether no request is on its way."""
        return len(self.idle) == len(self._open)

    def receive(self) -> None:
        """Read what has come on any connection, without waiting."""
        for number, _ in self._epoll.poll(0):
            connection = self._open[number]
            was_idle = connection.record is None
            if not connection.receive():
                self._close(number)
                if was_idle:
                    self.idle.remove(connection)
                self._connect()
            elif connection.record is None and not was_idle:
                self.idle.append(connection)

    def close(self) -> None:
        """Close all connections."""
        for number in list(self._open):
            self._close(number)
        self._epoll.close()

    def _connect(self) -> None:
        connection = Connection(self._port, self._clock)
        self._open[connection.socket.fileno()] = connection
        self._epoll.register(connection.socket.fileno(), select.EPOLLIN)
        self.idle.append(connection)

    def _close(self, number: int) -> None:
        self._epoll.unregister(number)
        self._open.pop(number).socket.close()


def send_when_due(
    planned: Sequence[Planned], requests: Sequence[bytes], *, port: int, connections: int
) -> list[Record]:
    """Send each request at its instant, whatever becomes of the others: an open loop.

    Args:
        planned: when and for how long, in order of time.
        requests: what to send, one for each.
        port: of the server.
        connections: how many to open. A request that finds them all busy until its deadline is never sent.
    """
    start_at = 0.0
    pool = Pool(port, connections, clock=lambda: time.perf_counter() - start_at)
    start_at = time.perf_counter()
    records: list[Record] = []
    waiting: deque[int] = deque()
    give_up_at = planned[-1].at + max(each.deadline_s for each in planned) + DRAIN_S
    count, now = len(planned), 0.0
    while (len(records) < count or waiting or not pool.is_quiet) and now < give_up_at:
        now = time.perf_counter() - start_at
        while len(records) < count and planned[len(records)].at <= now:
            waiting.append(len(records))
            records.append(Record(planned[len(records)].at, noticed_at=now))
        while waiting and planned[waiting[0]].at + planned[waiting[0]].deadline_s < now:
            waiting.popleft()
        while waiting and pool.idle:
            index = waiting.popleft()
            pool.idle.pop().ask(requests[index], records[index])
        pool.receive()
    pool.close()
    return records


def send_in_turn(requests: Sequence[bytes], *, port: int, connections: int) -> list[Record]:
    """Send requests as fast as replies come: a closed loop, for latency without load and for saturation."""
    start_at = time.perf_counter()
    pool = Pool(port, connections, clock=lambda: time.perf_counter() - start_at)
    records: list[Record] = []
    while len(records) < len(requests) or not pool.is_quiet:
        while len(records) < len(requests) and pool.idle:
            now = time.perf_counter() - start_at
            records.append(Record(now, noticed_at=now))
            pool.idle.pop().ask(requests[len(records) - 1], records[-1])
        pool.receive()
    pool.close()
    return records
