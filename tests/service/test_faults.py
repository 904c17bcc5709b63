"""Processes of the server that die: what its clients see of it, and what it counts afterwards.

One server of two fronts and two devices serves all tests, in their order: after each it is whole again, after the last it is gone.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select

import httpx
import pytest

from tests.server import ServerProcess, started

CLIENTS = 4
BROKEN = 0  # the connection was

# What its processes leave behind becomes a child of the server, as in a container without an init.
AS_PROCESS_1 = """
import ctypes, os, sys
PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1) == 0
os.execv(sys.executable, [sys.executable, "-m", "service"])
"""


@pytest.fixture(scope="module")
def pair() -> Iterator[ServerProcess]:
    """A server of two fronts and two devices."""
    settings = {"fronts": 2, "devices": 2, "max_batch": 2}
    with started(settings, (sys.executable, "-c", AS_PROCESS_1)) as server:
        server.wait_for("ready")
        yield server


def fresh(server: ServerProcess) -> httpx.Client:
    """Return a client with a connection of its own, at whichever front takes it."""
    return httpx.Client(base_url=server.client.base_url, timeout=60)


@contextmanager
def load(server: ServerProcess, jpeg: bytes) -> Iterator[Counter[int]]:
    """Ask without a pause, from several clients, and keep a ledger of how each request ended."""
    ledger: Counter[int] = Counter()
    over, begun, lock = threading.Event(), threading.Event(), threading.Lock()

    def ask() -> None:
        client = fresh(server)
        while not over.is_set():
            try:
                fate = client.post("/classify?deadline_ms=60000", content=jpeg).status_code
            except httpx.TransportError:
                fate = BROKEN
                client.close()
                client = fresh(server)
            with lock:
                ledger[fate] += 1
                if ledger[200] > 4 * CLIENTS:
                    begun.set()
        client.close()

    clients = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for each in clients:
        each.start()
    try:
        assert begun.wait(60)
        yield ledger
    finally:
        over.set()
        for each in clients:
            each.join()


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until_ready(server: ServerProcess) -> None:
    """Return once new connections are told that the server is ready."""
    ready = False
    while not ready:
        with fresh(server) as client:
            try:
                ready = client.get("/health/ready").status_code == 200
            except httpx.TransportError:
                continue


def test_a_label_is_taken_by_whichever_front_it_comes_to(pair: ServerProcess, jpeg: bytes) -> None:
    for n in range(8):
        with fresh(pair) as one, fresh(pair) as other:
            answer = one.post("/classify?deadline_ms=60000", content=jpeg).json()
            label = {"request_id": answer["request_id"], "label": answer["label"]}
            assert other.post("/feedback", json=label).json()["is_right"], n


def test_work_goes_to_both_devices(pair: ServerProcess, jpeg: bytes) -> None:
    slowdowns = {1.0}

    with load(pair, jpeg):
        while 1.0 in slowdowns:  # what a device starts with, and learns from its own runs
            metrics = pair.metrics()
            slowdowns = {metrics[f'anytime_slowdown_ratio{{device="cpu:{i}"}}'] for i in range(2)}

    assert metrics["anytime_devices"] == 2


def test_a_front_that_is_killed_breaks_its_own_connections_alone_and_is_started_again(
    pair: ServerProcess, jpeg: bytes
) -> None:
    before = pair.requests_by_outcome()
    pair.close_clients()  # of which the victim may have one
    victim, other = pair.parts("front")

    with load(pair, jpeg) as ledger:
        os.kill(victim, signal.SIGKILL)
        assert pair.wait_for("process_died")["exit_code"] == -signal.SIGKILL
        while len(pair.parts("front")) < 2:
            pass

    assert other in pair.parts("front")
    assert set(ledger) <= {200, BROKEN}
    assert ledger[BROKEN] <= CLIENTS
    wait_until_ready(pair)
    after = pair.requests_by_outcome()
    counted = sum(after.values()) - sum(before.values())
    assert ledger[200] - 20 <= counted <= ledger.total()  # a front tells at least every 20 ms


def test_an_engine_that_is_killed_is_started_again_and_every_request_has_one_fate(
    pair: ServerProcess, jpeg: bytes
) -> None:
    wait_until_ready(pair)
    (victim,) = pair.parts("engine")
    fronts = pair.parts("front")
    descriptors = Path(f"/proc/{pair.process.pid}/fd")
    held = len(list(descriptors.iterdir()))

    with load(pair, jpeg) as ledger:
        os.kill(victim, signal.SIGKILL)
        assert pair.wait_for("process_died")["process"] == "engine"
        for path in ("/health/ready", "/metrics", "/subnetworks"):
            reply = pair.client.get(path)
            assert reply.status_code == 503
            assert reply.json()["type"] == "/problems/not-ready"
        assert pair.client.get("/health/live").status_code == 200
        pair.wait_for("ready")

    assert pair.parts("front") == fronts
    assert set(ledger) == {200, 503}
    counts = pair.requests_by_outcome()
    assert counts["refused"] == ledger[503]
    assert (
        0 < counts["in_time"] < ledger[200]
    )  # those that the engine before has answered went with it
    assert pair.client.get("/health/ready").status_code == 200
    assert len(list(descriptors.iterdir())) == held


def test_what_a_process_that_died_leaves_behind_does_not_stay_a_zombie(
    pair: ServerProcess,
) -> None:
    wait_until_ready(pair)
    (victim,) = pair.parts("engine")
    (left,) = children(victim)  # it compares answers

    os.kill(victim, signal.SIGKILL)
    pair.wait_for("ready")

    while left in children(pair.process.pid):
        pass


def test_an_engine_that_hangs_is_told_of_at_once_and_started_again(
    pair: ServerProcess, jpeg: bytes
) -> None:
    wait_until_ready(pair)
    (victim,) = pair.parts("engine")

    with load(pair, jpeg) as ledger:
        os.kill(victim, signal.SIGSTOP)
        assert {pair.wait_for("engine_stalled")["front"] for _ in range(2)} == {0, 1}
        for path in ("/health/ready", "/metrics", "/subnetworks"):
            reply = pair.client.get(path)
            assert reply.status_code == 503
            assert reply.headers["Retry-After"] == "1"
        assert pair.wait_for("process_died")["exit_code"] == -signal.SIGKILL
        pair.wait_for("ready")

    assert set(ledger) == {200, 503}
    assert pair.requests_by_outcome()["refused"] == ledger[503]


def test_an_engine_that_goes_on_after_each_of_several_pauses_answers_again(
    pair: ServerProcess, jpeg: bytes
) -> None:
    wait_until_ready(pair)
    (paused,) = pair.parts("engine")
    before = pair.requests_by_outcome()

    with load(pair, jpeg) as ledger:
        for _ in range(3):
            os.kill(paused, signal.SIGSTOP)
            for _ in range(2):
                pair.wait_for("engine_stalled")
            os.kill(paused, signal.SIGCONT)
            wait_until_ready(pair)

    assert pair.parts("engine") == [paused]
    assert set(ledger) == {200, 503}
    after = pair.requests_by_outcome()
    assert after["refused"] - before["refused"] == ledger[503]
    assert sum(after.values()) - sum(before.values()) == ledger.total()


@pytest.mark.parametrize("part", ["engine", "front"])
def test_a_process_that_gets_a_small_share_of_a_core_goes_on_and_answers(
    pair: ServerProcess, jpeg: bytes, part: str
) -> None:
    """At the lowest priority, on one core with processes that never rest: it gets some hundredth of it."""
    wait_until_ready(pair)
    pair.close_clients()
    processes, cores = pair.parts(part), os.sched_getaffinity(0)
    threads = [int(each) for pid in processes for each in os.listdir(f"/proc/{pid}/task")]
    before, core = pair.requests_by_outcome(), min(cores)
    taking = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]

    try:
        for process in taking:
            os.sched_setaffinity(process.pid, {core})
        for each in threads:
            os.setpriority(os.PRIO_PROCESS, each, 19)
            os.sched_setaffinity(each, {core})
        with load(pair, jpeg) as ledger:
            pass
    finally:
        for process in taking:
            process.kill()
            process.wait()
        for each in threads:
            os.sched_setaffinity(each, cores)

    assert pair.parts(part) == processes
    assert set(ledger) == {200}
    after = pair.requests_by_outcome()
    answered = sum(after[each] - before.get(each, 0) for each in ("in_time", "late"))
    assert ledger[200] - 20 <= answered <= ledger[200]  # a front tells at least every 20 ms


def test_the_processes_end_by_themselves_when_the_supervisor_is_killed(pair: ServerProcess) -> None:
    address = pair.address
    parts = [os.pidfd_open(pid) for pid in (*pair.parts("engine"), *pair.parts("front"))]

    pair.process.kill()

    for each in parts:
        assert select([each], [], [], 60)[0]  # it has ended
        os.close(each)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=60)
