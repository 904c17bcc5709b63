from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

from benchmarks.load.recording import Planned
from benchmarks.load.wire import send_in_turn, send_when_due


@contextmanager
def echo(
    before_reply: Callable[[], object] = lambda: None,
    *,
    keep: bool = True,
    connected: Callable[[], object] = lambda: None,
) -> Iterator[int]:
    """Run a server that replies with what it is sent; give its port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            connected()
            super().setup()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            before_reply()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            if not keep:
                self.send_header("Connection", "close")
            self.end_headers()
            with suppress(BrokenPipeError):  # the client has given up
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def request(body: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def test_every_request_gets_its_own_reply() -> None:
    bodies = [b"%d" % number for number in range(60)]
    planned = [Planned(0.001 * number, 10.0, 0, 0) for number in range(60)]

    with echo() as port:
        records = send_when_due(planned, [request(b) for b in bodies], port=port, connections=4)

    assert [each.body for each in records] == bodies
    assert all(each.due_at <= (each.sent_at or 0) <= (each.done_at or 0) for each in records)


def test_connections_are_used_again() -> None:
    connections: list[None] = []

    with echo(connected=lambda: connections.append(None)) as port:
        send_in_turn([request(b"x")] * 20, port=port, connections=3)

    assert len(connections) == 3


def test_connections_that_the_server_closes_are_replaced() -> None:
    bodies = [b"%d" % number for number in range(9)]

    with echo(keep=False) as port:
        records = send_in_turn([request(b) for b in bodies], port=port, connections=2)

    assert [each.body for each in records] == bodies


def test_a_closed_loop_sends_the_next_request_only_after_a_reply() -> None:
    with echo() as port:
        records = send_in_turn([request(b"x")] * 5, port=port, connections=1)

    ends = [each.done_at or 0 for each in records]
    assert all(end <= after.due_at for end, after in zip(ends, records[1:], strict=False))


def test_a_request_that_finds_no_free_connection_until_its_deadline_is_never_sent() -> None:
    release = Event()
    planned = [Planned(0.0, 0.01, 0, 0), Planned(0.001, 0.01, 0, 0)]

    with echo(release.wait) as port:
        held, unsent = send_when_due(planned, [request(b"x")] * 2, port=port, connections=1)
        release.set()

    assert held.sent_at is not None
    assert held.done_at is None
    assert unsent.sent_at is None
