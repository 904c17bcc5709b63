"""The log: what is written, and what becomes of the server when it cannot be."""

import fcntl
import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx

from service.observability.log import PENDING_BYTES, LineWriter, open_log
from tests.server import ROOT, ServerProcess, started
from tests.service.conftest import free_port

StartServer = Callable[..., ServerProcess]


def read_all(descriptor: int) -> list[str]:
    with open(descriptor) as file:
        return file.read().splitlines()


def test_lines_are_written_whole_and_in_order() -> None:
    reading, writing = os.pipe()
    writer = LineWriter(writing)
    lines = [f"{number} \udcff" for number in range(100)]

    for line in lines:
        writer.write(line)
    writer.close()

    os.close(writing)
    assert read_all(reading) == [line.replace("\udcff", "\\udcff") for line in lines]
    assert writer.dropped == 0


def test_nobody_waits_for_a_reader_who_does_not_read() -> None:
    reading, writing = os.pipe()
    line = "x" * 1023
    fitting = (PENDING_BYTES + fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)) // 1024
    writer = LineWriter(writing)

    for _ in range(2 * fitting):
        writer.write(line)
    dropped = writer.dropped

    thread = threading.Thread(target=writer.close)
    thread.start()  # goes on to write once there is a reader
    os.set_blocking(reading, True)
    received = os.read(reading, 1024)
    assert received == f"{line}\n".encode()
    assert fitting <= dropped <= 2 * fitting
    os.close(reading)
    thread.join()
    os.close(writing)


def test_a_pipe_that_somebody_made_non_blocking_is_waited_for() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    lines = [f"{number:0127}" for number in range(2**11)]  # four times what fits
    writer = LineWriter(writing)
    for line in lines:
        writer.write(line)

    with open(reading) as file:
        read = [file.readline().rstrip() for _ in lines]

    writer.close()
    os.close(writing)
    assert read == lines
    assert writer.dropped == 0


def test_a_disk_that_is_full_costs_the_lines_and_nothing_else() -> None:
    with open("/dev/full", "w") as full:
        writer = LineWriter(full.fileno())
        for _ in range(3):
            writer.write("a line")
        writer.close()

    assert writer.dropped == 3


def test_without_a_place_to_write_to_all_is_dropped() -> None:
    writer = LineWriter(None)
    writer.write("a line")
    writer.close()

    assert writer.dropped == 1


def test_a_line_after_one_that_was_cut_begins_anew(tmp_path: Path) -> None:
    file = tmp_path / "log"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with file.open("w") as full:
        writer = LineWriter(full.fileno())
        resource.setrlimit(resource.RLIMIT_FSIZE, (5, limits[1]))
        try:
            writer.write("0123456789")
            while not writer.dropped:
                pass
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        writer.write("the next line")
        writer.close()

    assert file.read_text() == "01234\nthe next line\n"


LIBRARIES = """
import logging, threading, warnings
from service.observability.log import open_log, take_in_libraries
take_in_libraries(open_log(print))
warnings.warn("Corrupt EXIF data")
log = logging.getLogger("some.package")
log.info("all is well")
log.warning("%d left", 3)
log.error("a bad format: %d", "three")
thread = threading.Thread(target=lambda: 1 / 0, name="counting")
thread.start()
thread.join()
"""


def test_what_libraries_say_are_events_and_nothing_else_is_said() -> None:
    command = [sys.executable, "-c", LIBRARIES]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    warning, left, bad, died = map(json.loads, said.stdout.splitlines())
    assert (warning["level"], warning["logger"]) == ("warning", "py.warnings")
    assert "UserWarning: Corrupt EXIF data" in warning["message"]
    assert (left["event"], left["level"], left["message"]) == ("library", "warning", "3 left")
    assert (bad["level"], bad["message"]) == ("error", "a bad format: %d")
    assert (died["event"], died["thread"]) == ("thread_died", "counting")
    assert "ZeroDivisionError" in died["exception"]
    assert said.stderr == ""


def test_the_server_goes_on_and_ends_when_nobody_reads_its_log(
    start_server: StartServer, jpeg: bytes
) -> None:
    server = start_server(log_sample=1)
    server.wait_for("ready")
    stdout = server.process.stdout
    assert stdout is not None
    room = fcntl.fcntl(stdout.fileno(), fcntl.F_SETPIPE_SZ, 4096)

    for _ in range(room // 100):  # each line is longer
        assert server.classify(jpeg).status_code == 200

    assert server.client.get("/health/ready").status_code == 200
    server.terminate()
    assert server.process.wait(60) == 0


def test_the_server_goes_on_when_its_log_can_not_be_written(
    start_server: StartServer, jpeg: bytes
) -> None:
    server = start_server(log_sample=1)
    server.wait_for("ready")
    assert server.process.stdout is not None
    server.process.stdout.close()

    for _ in range(3):
        assert server.classify(jpeg, deadline_ms=60_000).status_code == 200

    while server.metrics()["anytime_log_lines_dropped_total"] < 3:
        pass  # they are written a moment later
    assert server.requests_by_outcome()["in_time"] == 3
    server.terminate()
    assert server.process.wait(60) == 0


def test_a_bad_setting_ends_the_start_though_neither_output_is_there() -> None:
    command = f"ANYTIME_PORT=none exec '{sys.executable}' -m service >&- 2>&-"

    assert subprocess.run(["sh", "-c", command], cwd=ROOT).returncode == 2


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/health/ready").status_code == 200
    except httpx.ConnectError:
        return False


def test_no_process_of_a_server_without_outputs_has_something_else_in_their_place(
    jpeg: bytes,
) -> None:
    command = ("sh", "-c", f"exec '{sys.executable}' -m service >&- 2>&-")
    settings = {"port": free_port(), "log_sample": 1, "fronts": 1, "max_batch": 1}
    with (
        started(settings, command) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{settings['port']}", timeout=60) as client,
    ):
        while not is_ready(client):
            assert server.process.poll() is None
        processes = [server.process.pid, *server.parts("engine"), *server.parts("front")]

        assert client.post("/classify?deadline_ms=60000", content=jpeg).status_code == 200
        assert len(processes) == 3
        for pid in processes:
            assert [os.readlink(f"/proc/{pid}/fd/{each}") for each in (1, 2)] == 2 * [os.devnull]


def test_start_drain_and_stop_are_events(start_server: StartServer) -> None:
    server = start_server(admin_key="secret", drain_s=7)
    started = server.wait_for("start")
    server.wait_for("ready")
    server.terminate()

    assert server.wait_for("draining")["within_s"] == 7
    assert server.wait_for("stopped")["after_s"] >= 0
    assert server.end()[0] == 0
    assert started["settings"]["drain_s"] == 7
    assert "engine_dir" not in started["settings"]  # it is the default
    assert "secret" not in str(started)


def test_no_key_label_or_value_that_was_sent_is_in_the_log(
    start_server: StartServer, jpeg: bytes
) -> None:
    server = start_server(log_sample=1, admin_key="wanted-key", warm_up_s=0.01, max_batch=1)
    server.wait_for("ready")
    client = server.client
    answer = server.classify(jpeg, deadline_ms=60_000).json()
    client.post("/feedback", json={"request_id": answer["request_id"], "label": answer["label"]})
    client.post("/classify?subnetwork=sent-value", content=jpeg)
    client.post("/classify?sent-value=1", content=jpeg)
    client.post("/classify", content=b"sent-value" * 10)
    for key in ("wanted-key", "wrong-key"):
        client.post("/admin/reload?key=query-key", headers={"Authorization": f"Bearer {key}"})

    server.terminate()
    assert server.process.stdout is not None
    log = server.process.stdout.read()

    assert server.end()[0] == 0
    assert log.count('"event":"request"') + log.count('"event": "request"') == 4
    assert "key_refused" in log
    for word in ("wanted-key", "wrong-key", "query-key", "sent-value", f'"{answer["label"]}"'):
        assert word not in log


def test_log_level_leaves_out_what_is_below() -> None:
    lines: list[str] = []
    log = open_log(lines.append, "error")

    log.warning("reload")
    log.error("run_failed")

    assert [json.loads(line)["event"] for line in lines] == ["run_failed"]
