"""Connections of a real server: what clients may send, how long they may take, and how a connection ends."""

import json
import re
import resource
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)

from tests.server import ServerProcess, read_reply, started

StartServer = Callable[..., ServerProcess]
GET = b"GET /health/live HTTP/1.1\r\nHost: here\r\n\r\n"


@pytest.fixture(scope="module")
def hasty() -> Iterator[ServerProcess]:
    """A server that waits for nobody."""
    limits = {"read_head_s": 0.3, "read_body_s": 0.4, "keep_alive_s": 0.5, "max_head_bytes": 4096}
    with started({"warm_up_s": 0.5, **limits}) as server:
        server.wait_for("ready")
        yield server


def connect(server: ServerProcess) -> socket.socket:
    return socket.create_connection(server.address, timeout=60)


def read_to_end(connection: socket.socket) -> bytes:
    data = b""
    while part := connection.recv(65536):
        data += part
    return data


def statuses(replies: bytes) -> list[bytes]:
    return re.findall(rb"HTTP/1\.1 (\d{3}) ", replies)


def post(body: bytes, *headers: bytes, target: bytes = b"/classify?deadline_ms=60000") -> bytes:
    lines = [b"POST %b HTTP/1.1" % target, b"Host: here", *headers]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])


def ended(server: ServerProcess, reason: str) -> float:
    """Ask on a connection of its own: one that is kept might be ended, as idle, while the request is on its way."""
    server.close_clients()
    return server.metrics()[f'anytime_connections_ended_total{{reason="{reason}"}}']


@pytest.mark.parametrize("protocol", [b"TLS/1.2", b"h2c", b"H2C", b"websocket", b"a, b"])
@pytest.mark.parametrize("cut", ["whole", "at the body", "in the head", "in the body"])
def test_a_wish_for_another_protocol_is_ignored_and_the_body_stays_a_body(
    server: ServerProcess, protocol: bytes, cut: str
) -> None:
    smuggled = b"GET /problems/not-found HTTP/1.1\r\nHost: here\r\n\r\n"
    request = post(
        smuggled,
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: " + protocol,
        b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
    )
    head = len(request) - len(smuggled)
    at = {"whole": 0, "at the body": head, "in the head": 40, "in the body": head + 5}[cut]

    with connect(server) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(request[:at])
        with connect(server) as other:  # the first part is read before the second is sent
            other.sendall(GET)
            read_reply(other)
        connection.sendall(request[at:] + GET)
        connection.shutdown(socket.SHUT_WR)
        replies = read_to_end(connection)

    assert statuses(replies) == [b"415", b"200"]
    assert b"/problems/not-an-image" in replies
    assert replies.endswith(b'{"status":"live"}')


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5, 6\r\n",
        b"Transfer-Encoding: chunked, gzip\r\n",
        b"Content-Length : 5\r\n",
    ],
)
def test_a_request_of_two_lengths_is_refused_and_ends_its_connection(
    server: ServerProcess, headers: bytes
) -> None:
    with connect(server) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: here\r\n" + headers + b"\r\n" + GET)
        reply = read_to_end(connection)

    assert statuses(reply) == [b"400"]
    assert b"/problems/malformed-request" in reply


def test_what_is_malformed_is_refused_behind_the_replies_before_it(
    server: ServerProcess, jpeg: bytes
) -> None:
    with connect(server) as connection:
        connection.sendall(post(jpeg) + GET + b"what?\r\n\r\n")
        replies = read_to_end(connection)

    assert statuses(replies) == [b"200", b"200", b"400"]


@pytest.mark.parametrize(
    ("sent", "reason", "reply"),
    [
        (b"", "silent", b""),
        (GET[:20], "slow_head", b"HTTP/1.1 408 "),
        (post(bytes(100))[:-50], "slow_body", b"HTTP/1.1 408 "),
        (GET, "idle", b"HTTP/1.1 200 "),
        (GET + GET[:20], "slow_head", b"HTTP/1.1 200 "),
    ],
)
def test_every_wait_for_a_client_ends_and_is_counted(
    hasty: ServerProcess, sent: bytes, reason: str, reply: bytes
) -> None:
    before = ended(hasty, reason)

    with connect(hasty) as connection:
        connection.sendall(sent)
        assert read_to_end(connection).startswith(reply)

    assert ended(hasty, reason) > before


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n" + 200 * (b"X-Fill: " + 50 * b"x" + b"\r\n"),
        b"GET / HTTP/1.1\r\nX-Fill: " + 1_000_000 * b"x",
        b"GET /" + 10_000 * b"x",
        b"GET / HTTP/1.1\r\n" + 1_000_000 * b"x",
        b"GET / HTTP/1.1\r\nX-Fill: " + 10_000 * b"x" + b"\r\n\r\n",
    ],
)
def test_a_head_over_the_limit_is_refused_while_it_comes(hasty: ServerProcess, head: bytes) -> None:
    with connect(hasty) as connection:
        connection.sendall(head)
        reply = read_to_end(connection)

    assert reply.startswith(b"HTTP/1.1 431 ")
    assert b'"limit":4096' in reply


def test_an_endless_body_ends_its_connection(server: ServerProcess) -> None:
    with connect(server) as connection:
        connection.sendall(
            b"POST /classify HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"10000\r\n%b\r\n" % bytes(65536)
        with pytest.raises(ConnectionError):
            connection.sendall(4096 * chunk)  # 256 MiB


def test_who_is_refused_while_sending_can_read_why(server: ServerProcess) -> None:
    with connect(server) as connection:
        connection.sendall(post(bytes(30 << 20)))  # sends all of it before it reads
        reply = read_to_end(connection)

    assert reply.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in reply


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/docs"])
def test_head_says_what_get_says_without_the_body(server: ServerProcess, path: str) -> None:
    get, head = server.client.get(path), server.client.head(path)

    assert head.status_code == get.status_code == 200
    assert head.headers["content-type"] == get.headers["content-type"]
    assert int(head.headers["content-length"]) > 0
    assert head.content == b""


def test_metrics_are_packed_for_who_takes_that(server: ServerProcess) -> None:
    packed = server.client.get("/metrics", headers={"Accept-Encoding": "gzip"})
    plain = server.client.get("/metrics", headers={"Accept-Encoding": "identity"})

    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert "anytime_ready 1.0" in packed.text.splitlines()
    assert 4 * int(packed.headers["content-length"]) < int(plain.headers["content-length"])


def test_openmetrics_names_the_trace_of_a_request_for_who_takes_that(
    server: ServerProcess, jpeg: bytes
) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
    server.client.post("/classify", content=jpeg, headers=headers).raise_for_status()

    scraped = server.client.get(
        "/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"}
    )
    plain = server.client.get("/metrics")

    assert scraped.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert trace_id not in plain.text
    (latency,) = [
        sample
        for family in openmetrics_families(scraped.text)  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.exemplar and sample.exemplar.labels["trace_id"] == trace_id
    ]
    assert latency.name == "anytime_request_latency_seconds_bucket"
    assert latency.exemplar.value <= float(latency.labels["le"])


@pytest.mark.parametrize("path", ["/classify/", "/classify/stream/", "/feedback/", "/metrics/"])
def test_a_slash_too_many_is_a_problem_and_no_redirect(server: ServerProcess, path: str) -> None:
    response = server.client.post(path, content=b"x", headers={"Host": "evil.example"})

    assert response.status_code == 404
    assert response.json()["type"] == "/problems/not-found"
    assert "location" not in response.headers


def test_a_client_that_ends_its_sending_is_answered(server: ServerProcess, jpeg: bytes) -> None:
    with connect(server) as connection:
        # Held back until the end of sending, with which it goes: the server knows of the end before it replies.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        connection.sendall(post(jpeg) + GET)
        connection.shutdown(socket.SHUT_WR)
        replies = read_to_end(connection)

    assert replies.count(b"HTTP/1.1 200 ") == 2
    assert b"connection: close" in replies


def test_http_1_0_gets_a_stream_that_ends_with_its_connection(
    server: ServerProcess, jpeg: bytes
) -> None:
    with connect(server) as connection:
        request = post(jpeg, target=b"/classify/stream?deadline_ms=60000")
        connection.sendall(request.replace(b"HTTP/1.1", b"HTTP/1.0"))
        head, _, body = read_to_end(connection).partition(b"\r\n\r\n")

    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    events = [event for event in body.split(b"\n\n") if event]
    assert json.loads(events[-1].removeprefix(b"data: "))["final"]


def test_a_client_that_does_not_read_is_not_read_from(server: ServerProcess) -> None:
    with connect(server) as connection:
        connection.settimeout(1)  # of sending that makes no progress
        with pytest.raises(TimeoutError):
            connection.sendall((16 << 20) // len(GET) * GET)


def test_silent_connections_keep_nobody_out(start_server: StartServer) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))  # the server's, which inherits it
    try:
        server = start_server()
        server.wait_for("ready")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    silent = []
    for _ in range(200):
        silent.append(connect(server))
        silent[-1].sendall(b"GET /")

    assert server.client.get("/health/live").status_code == 200
    assert ended(server, "crowded") > 0
    for each in silent:
        each.close()


def test_clients_that_keep_connections_are_told_before_these_are_closed(
    start_server: StartServer,
) -> None:
    server = start_server()
    server.wait_for("ready")
    connections = [connect(server) for _ in range(24)]
    told: list[bool] = []

    def ask_until_told(connection: socket.socket) -> None:
        with connection:
            head = b""
            while b"connection: close" not in head:
                connection.sendall(GET)
                head, body = read_reply(connection)
                assert body == b'{"status":"live"}'
            told.append(connection.recv(1) == b"")

    threads = [threading.Thread(target=ask_until_told, args=(each,)) for each in connections]
    for thread in threads:
        thread.start()
    server.terminate()
    for thread in threads:
        thread.join()

    assert told == 24 * [True]
    assert server.end()[0] == 0
