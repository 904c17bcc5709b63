"""More requests than can be answered, and clients that leave them behind: none is lost, and none is waited for."""

import json
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import ceil

from tests.server import ServerProcess, read_reply, reset

StartServer = Callable[..., ServerProcess]


def test_clients_that_leave_are_taken_out_of_the_queue(
    start_server: StartServer, jpeg: bytes
) -> None:
    server = start_server(max_batch=1)
    server.wait_for("ready")
    request = (
        b"POST /classify?subnetwork=wide-full&deadline_ms=60000 HTTP/1.1\r\nHost: here\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(jpeg), jpeg)
    )

    connections = [socket.create_connection(server.address, timeout=60) for _ in range(200)]
    for connection in connections:
        connection.sendall(request)
    for connection in connections:
        reset(connection)

    counts = server.requests_by_outcome()
    while sum(counts.values()) < 200:
        counts = server.requests_by_outcome()
    assert {outcome for outcome, count in counts.items() if count} <= {"abandoned", "in_time"}
    assert counts["abandoned"] > 0
    metrics = server.metrics()
    assert (
        metrics['anytime_run_latency_seconds_count{model="cifar10",subnetwork="wide-full"}'] < 200
    )
    assert metrics['anytime_queue_depth{model="cifar10"}'] == 0
    assert server.classify(jpeg, deadline_ms=60_000).json()["in_time"]


def test_a_flood_is_answered_or_refused_to_the_last(start_server: StartServer, jpeg: bytes) -> None:
    server = start_server(max_queue=4)
    server.wait_for("ready")

    def ask(_: int) -> int:
        return server.classify(jpeg, deadline_ms=60_000).status_code

    with ThreadPoolExecutor(32) as clients:
        statuses = list(clients.map(ask, range(200)))

    assert set(statuses) == {200, 503}
    counts = server.requests_by_outcome()
    assert counts["refused"] == statuses.count(503)
    assert counts["in_time"] + counts.get("late", 0) == statuses.count(200)


def test_no_answer_is_later_than_any_may_be_though_the_front_stands_still(
    server: ServerProcess, jpeg: bytes
) -> None:
    def ask() -> list[float]:
        replies = [server.classify(jpeg, deadline_ms=10) for _ in range(20)]
        return [each.json()["latency_ms"] for each in replies if each.status_code == 200]

    with ThreadPoolExecutor(8) as clients:
        asking = [clients.submit(ask) for _ in range(8)]
        while not all(each.done() for each in asking):
            server.signal("front", signal.SIGSTOP)
            go_on_at = time.monotonic() + 0.05
            while time.monotonic() < go_on_at:
                pass  # what the engine answers now is late when the front writes it
            server.signal("front", signal.SIGCONT)
            server.classify(jpeg, deadline_ms=60_000)

    latencies_ms = [latency_ms for each in asking for latency_ms in each.result()]
    # the bound is four deadlines; once or twice the front may stop just after it has looked
    assert sum(latency_ms > 40 for latency_ms in latencies_ms) <= 2


def test_a_server_that_was_slow_and_refuses_everything_comes_to_doubt_that_it_is(
    server: ServerProcess, jpeg: bytes
) -> None:
    impossible = server.classify(jpeg, deadline_ms=0.001, on_miss="refuse").json()
    tight_ms = max(2, 2 * ceil(impossible["needed_ms"]))

    def ask() -> None:
        for _ in range(20):
            server.classify(jpeg, deadline_ms=60_000)

    with ThreadPoolExecutor(8) as clients:
        asking = [clients.submit(ask) for _ in range(8)]
        while not all(each.done() for each in asking):
            server.signal("front", signal.SIGSTOP)  # its replies are slow: the engine learns it
            go_on_at = time.monotonic() + 0.05
            while time.monotonic() < go_on_at:
                pass
            server.signal("front", signal.SIGCONT)
            server.classify(jpeg, deadline_ms=60_000)

    give_up_at = time.monotonic() + 30
    while server.classify(jpeg, deadline_ms=tight_ms, on_miss="refuse").status_code != 200:
        assert time.monotonic() < give_up_at


def test_a_flood_that_came_while_the_server_stood_still_is_refused_at_once_but_for_who_can_wait(
    start_server: StartServer, jpeg: bytes
) -> None:
    server = start_server(log_sample=1)
    server.wait_for("ready")
    request = b"POST /classify?deadline_ms=%d&on_miss=refuse HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n%b"
    connections = [socket.create_connection(server.address, timeout=60) for _ in range(60)]
    patient = [socket.create_connection(server.address, timeout=60) for _ in range(20)]
    impossible = server.classify(jpeg, deadline_ms=0.001, on_miss="refuse").json()
    tight_ms = max(2, 2 * ceil(impossible["needed_ms"]))  # one alone could be met
    assert server.classify(jpeg, deadline_ms=60_000).status_code == 200

    server.signal("front", signal.SIGSTOP)
    for n, connection in enumerate(connections):
        connection.sendall(request % (tight_ms, len(jpeg), jpeg))
        if n % 6 == 5:
            for each in patient[n // 3 - 1 : n // 3 + 1]:
                each.sendall(request % (60_000, len(jpeg), jpeg))
    server.signal("front", signal.SIGCONT)

    counts: dict[int, int] = {}
    for connection in connections:
        head, body = read_reply(connection)
        status = int(head.split()[1])
        counts[status] = counts.get(status, 0) + 1
        if status == 503:
            assert b"application/problem+json" in head
            assert b"retry-after: " in head.lower()
            assert json.loads(body)["status"] == 503
        connection.sendall(request % (60_000, len(jpeg), jpeg))  # the connection is still of use
        assert read_reply(connection)[0].startswith(b"HTTP/1.1 200 ")
        connection.close()

    assert counts[503] > 30
    for connection in patient:
        assert read_reply(connection)[0].startswith(b"HTTP/1.1 200 ")
        connection.close()
    outcomes = server.requests_by_outcome()
    assert outcomes["refused"] == counts[503]
    assert outcomes["expired"] == counts.get(504, 0)
    lines = [server.wait_for("request") for _ in range(142)]
    assert sum(line["outcome"] == "refused" for line in lines) == counts[503]
    assert sum(outcomes.values()) == 142


def test_requests_whose_turn_never_came_are_abandoned_and_forgotten(
    start_server: StartServer, jpeg: bytes
) -> None:
    server = start_server(max_queue=8, log_sample=1)
    server.wait_for("ready")
    request = (
        b"POST /classify?deadline_ms=60000 HTTP/1.1\r\nHost: here\r\nX-Request-ID: mine\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(jpeg), jpeg)
    )

    with socket.create_connection(server.address, timeout=60) as connection:
        server.signal("front", signal.SIGSTOP)
        connection.sendall(20 * request)
        reset(connection)
    server.signal("front", signal.SIGCONT)

    counts = server.requests_by_outcome()
    while sum(counts.values()) < 20:
        counts = server.requests_by_outcome()
    assert {outcome for outcome, count in counts.items() if count} <= {"abandoned", "in_time"}
    assert counts["abandoned"] > 8
    assert server.wait_for("request")["request_id"] == "mine"
    answer = server.classify(jpeg, deadline_ms=60_000, on_miss="refuse")
    assert answer.status_code == 200
