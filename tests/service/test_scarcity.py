"""What a server goes through with too little of something, or with neighbours that are slow: it answers, and is whole afterwards."""

import ast
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from tests.server import ROOT, ServerProcess, read_reply, reset, started

GET = b"GET /health/live HTTP/1.1\r\nHost: here\r\n\r\n"
JUMPING = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow"}
METRICS = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n"


@pytest.fixture(scope="module")
def single() -> Iterator[ServerProcess]:
    with started({"fronts": 1, "max_batch": 1, "warm_up_s": 0.01}) as server:
        server.wait_for("ready")
        yield server


def test_without_descriptors_those_who_are_there_are_answered_and_the_others_are_not_kept_waiting(
    single: ServerProcess, jpeg: bytes
) -> None:
    (front,) = single.parts("front")
    large = BytesIO()
    Image.new("RGB", (2500, 2500)).save(large, "PNG", compress_level=1)  # for a process of its own
    assert single.classify(jpeg, deadline_ms=60_000).status_code == 200
    held = len(list(Path(f"/proc/{front}/fd").iterdir()))
    before = resource.prlimit(front, resource.RLIMIT_NOFILE)

    resource.prlimit(front, resource.RLIMIT_NOFILE, (held, before[1]))
    with socket.create_connection(single.address, timeout=60) as waiting:
        waiting.sendall(GET)
        there = single.classify(jpeg, deadline_ms=60_000).status_code
        undecodable = single.classify(large.getvalue(), deadline_ms=60_000).status_code
        with suppress(ConnectionResetError):
            assert waiting.recv(100) == b""  # it is told at once
    resource.prlimit(front, resource.RLIMIT_NOFILE, before)
    with socket.create_connection(single.address, timeout=60) as later:
        later.sendall(GET)
        head, _ = read_reply(later)

    assert there == 200
    assert undecodable == 500
    assert head.startswith(b"HTTP/1.1 200")
    assert single.classify(large.getvalue(), deadline_ms=60_000).status_code == 200
    assert single.parts("front") == [front]


def test_a_scraper_that_does_not_read_keeps_nobody_waiting(
    single: ServerProcess, jpeg: bytes
) -> None:
    with socket.socket() as scraper:
        scraper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        scraper.connect(single.address)
        scraper.sendall(METRICS * 200)  # some megabytes of replies

        assert single.classify(jpeg, deadline_ms=60_000).status_code == 200
        assert single.metrics()["anytime_ready"] == 1


def test_nothing_is_decided_by_a_clock_that_may_jump() -> None:
    asks = {
        path.name
        for path in (ROOT / "service").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in JUMPING
    }

    assert asks == {"tracing.py"}  # which says when a span was, and decides nothing


def test_a_front_that_stands_still_is_replaced(single: ServerProcess, jpeg: bytes) -> None:
    (victim,) = single.parts("front")
    single.close_clients()

    os.kill(victim, signal.SIGSTOP)

    assert single.wait_for("process_died")["process"] == "front-0"
    while single.client.get("/health/ready").status_code != 200:
        pass
    assert single.classify(jpeg, deadline_ms=60_000).status_code == 200
    assert single.metrics()["anytime_processes_died_total"] == 1
    assert victim not in single.parts("front")


def test_a_client_that_has_gone_before_it_was_seen_is_no_error(single: ServerProcess) -> None:
    single.close_clients()
    single.signal("front", signal.SIGSTOP)
    gone = socket.create_connection(single.address, timeout=60)
    gone.sendall(GET)
    reset(gone)
    single.signal("front", signal.SIGCONT)
    assert single.client.get("/health/live").status_code == 200

    single.terminate()
    assert single.process.stdout is not None
    assert "connection_made" not in single.process.stdout.read()
    assert single.end()[0] == 0


def test_a_collector_that_takes_traces_and_never_answers_keeps_nobody_waiting(
    start_server: Callable[..., ServerProcess], jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as collector:
        port = collector.getsockname()[1]
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        server = start_server(trace_sample=1, warm_up_s=0.01, max_batch=1, fronts=1)
        server.wait_for("ready")

        statuses = [server.classify(jpeg, deadline_ms=60_000).status_code for _ in range(5)]
        server.terminate()

        assert statuses == [200] * 5
        assert server.end()[0] == 0
