"""The server as a process: how it starts, refuses to start, and ends."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort
import pytest

from model.bundle import MANIFEST_FILE, Bundle
from service.server import default_fronts
from tests.server import ROOT, ServerProcess, read_reply
from tests.service.bundles import amend_manifest, break_graph

StartServer = Callable[..., ServerProcess]


@pytest.fixture
def copied_bundle(bundle_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(bundle_dir, tmp_path / "bundle")


@pytest.mark.parametrize(("cores", "fronts"), [(1, 1), (2, 1), (3, 1), (4, 2), (8, 4), (192, 4)])
def test_a_large_machine_gets_no_more_fronts_than_an_engine_can_use(
    cores: int, fronts: int
) -> None:
    assert default_fronts(cores) == fronts


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"port": 70000}, "ANYTIME_PORT: .* 65535, got '70000'"),
        ({"default_deadline_ms": "soon"}, "ANYTIME_DEFAULT_DEADLINE_MS: .* number, .*'soon'"),
        ({"threads": 100_000}, "ANYTIME_THREADS: .* 256, got '100000'"),
        ({"device": "tpu"}, "ANYTIME_DEVICE: .*'auto', 'cpu', 'cuda' or 'tensorrt', got 'tpu'"),
    ],
)
def test_a_bad_setting_is_named_in_one_line(
    start_server: StartServer, settings: dict[str, object], message: str
) -> None:
    code, stderr = start_server(**settings).end()

    assert code == 2
    assert re.fullmatch(f"anytime: {message}.*\n", stderr)


def test_a_misspelt_setting_is_reported_and_the_key_of_commands_is_not(
    start_server: StartServer,
) -> None:
    server = start_server(portt=1, key="that of anytime bench")

    event = server.wait_for("unknown_setting")

    assert event["variable"] == "ANYTIME_PORTT"  # names are sorted: ANYTIME_KEY would come first


def test_a_policy_that_does_not_exist_stops_start_up(start_server: StartServer) -> None:
    code, stderr = start_server(policy="fastest").end()

    assert code == 2
    assert re.fullmatch("anytime: ANYTIME_POLICY: .*, got 'fastest'\n", stderr)


def test_a_policy_for_a_subnetwork_that_does_not_exist_stops_start_up(
    start_server: StartServer,
) -> None:
    code, stderr = start_server(policy="static:fastest").end()

    assert code == 1
    assert re.fullmatch(
        "anytime: policy 'static:fastest': no such subnetwork; there are .*\n", stderr
    )


@pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers(), reason="ONNX Runtime has CUDA here"
)
@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_gpu_that_cannot_be_used_stops_start_up(start_server: StartServer, device: str) -> None:
    code, stderr = start_server(device=device).end()

    assert code == 1
    assert re.fullmatch(f"anytime: ANYTIME_DEVICE is {device}, but .*\n", stderr)


def test_a_taken_port_stops_start_up(start_server: StartServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, stderr = start_server(port=port).end()

    assert code == 1
    assert stderr == f"anytime: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [remove, truncate, alter])
@pytest.mark.parametrize("kind", ["graph", "weights"])
def test_a_damaged_bundle_stops_start_up_with_one_line(
    start_server: StartServer,
    copied_bundle: Path,
    bundle: Bundle,
    kind: str,
    damage: Callable[[Path], None],
) -> None:
    manifest = bundle.manifest
    record = manifest.weights if kind == "weights" else manifest.subnetworks[0].graph
    damage(copied_bundle / record.name)

    code, stderr = start_server(bundle_dir=copied_bundle).end()

    assert code == 1
    assert re.fullmatch(rf"anytime: {copied_bundle / record.name}: [^\n]+\n", stderr)


def test_a_graph_that_is_no_onnx_stops_start_up_with_one_line(
    start_server: StartServer, copied_bundle: Path, bundle: Bundle
) -> None:
    path = break_graph(copied_bundle)

    code, stderr = start_server(bundle_dir=copied_bundle).end()

    assert code == 1
    assert re.fullmatch(rf"anytime: {path}: [^\n]+\n", stderr)


def test_a_bundle_of_a_newer_format_stops_start_up(
    start_server: StartServer, copied_bundle: Path
) -> None:
    path = amend_manifest(copied_bundle, format_version=999)

    code, stderr = start_server(bundle_dir=copied_bundle).end()

    assert code == 1
    assert re.fullmatch(rf"anytime: {path}: format_version is 999, [^\n]+\n", stderr)


def test_no_bundle_stops_start_up(start_server: StartServer, tmp_path: Path) -> None:
    code, stderr = start_server(bundle_dir=tmp_path).end()

    assert code == 1
    assert stderr == f"anytime: {tmp_path / MANIFEST_FILE}: No such file or directory\n"


def test_a_starting_server_is_live_but_not_ready(start_server: StartServer, jpeg: bytes) -> None:
    server = start_server(warm_up_s=1000)
    server.wait_for("listening")

    assert server.client.get("/health/live").status_code == 200
    for response in (server.client.get("/health/ready"), server.classify(jpeg)):
        assert response.status_code == 503
        assert response.json()["type"] == "/problems/not-ready"
        assert response.headers["Retry-After"] == "1"
    server.wait_for("ready")
    assert server.client.get("/health/ready").status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_anything_is_loaded_ends_the_process_without_a_word(
    number: signal.Signals,
) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "service"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "asyncio" not in process.stderr.readline():
            pass  # a line for each import that is done: this is the first of the process itself
        process.send_signal(signal.SIGHUP)
        process.send_signal(number)
        said = [line for line in process.stderr if not line.startswith("import time:")]

    assert (process.returncode, said) == (0, [])


def test_sigterm_ends_a_start_up(start_server: StartServer) -> None:
    server = start_server(warm_up_s=1000, max_batch=1024)  # minutes of warm-up
    server.wait_for("listening")

    server.terminate()

    assert server.end() == (0, "")


def test_sigterm_answers_what_was_accepted(start_server: StartServer, jpeg: bytes) -> None:
    server = start_server()
    server.wait_for("ready")
    head = (
        b"POST /classify?deadline_ms=60000 HTTP/1.1\r\nHost: here\r\n"
        b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
    )
    connections = [socket.create_connection(server.address, timeout=60) for _ in range(8)]
    for connection in connections:
        connection.sendall(head)
        assert connection.recv(4096).startswith(b"HTTP/1.1 100 ")  # the server awaits the body

    server.terminate()
    for connection in connections:
        connection.sendall(jpeg)

    for connection in connections:
        with connection:
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert server.end() == (0, "")


def test_what_a_drain_has_no_time_for_is_refused_and_not_taken_for_abandoned(
    start_server: StartServer, jpeg: bytes
) -> None:
    server = start_server(drain_s=0.1, log_sample=1)
    server.wait_for("ready")
    with socket.create_connection(server.address, timeout=60) as connection:
        connection.sendall(
            b"POST /classify HTTP/1.1\r\nHost: here\r\nX-Request-ID: mine\r\n"
            b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 100 ")  # the body never comes

        server.terminate()

        head, body = read_reply(connection)
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"x-request-id: mine" in head.lower()
    assert json.loads(body)["type"] == "/problems/not-ready"
    assert server.wait_for("request")["outcome"] == "refused"
    assert server.end()[0] == 0


def test_sigterm_closes_idle_connections_and_stops_listening(start_server: StartServer) -> None:
    server = start_server()
    server.wait_for("ready")
    with socket.create_connection(server.address, timeout=60) as idle:
        idle.sendall(b"GET /health/live HTTP/1.1\r\nHost: here\r\n\r\n")
        reply = b""
        while not reply.endswith(b'{"status":"live"}'):
            reply += idle.recv(4096)

        server.terminate()

        assert idle.recv(4096) == b""
    assert server.end() == (0, "")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(server.address, timeout=60)


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /classify HTTP/1.1\r\nHost: here\r\nContent-Length: 18446744073709551616\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nHost: here\r\nContent-Length: abc\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"hello\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03" + bytes(180),  # of TLS
        b"GET /health/live HTTP/1.1\r\nHost: here\r\nHost: there\r\n\r\n",
        b"GET /health/live HTTP/1.1\nHost: here\n\n",
        b"GET /health\0/live HTTP/1.1\r\nHost: here\r\n\r\n",
    ],
)
def test_what_is_no_http_is_told_so_as_a_problem(server: ServerProcess, request_: bytes) -> None:
    with socket.create_connection(server.address, timeout=60) as connection:
        connection.sendall(request_)
        head, body = read_reply(connection)

    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["type"] in ("/problems/malformed-request", "/problems/empty-body")


def test_a_limit_smaller_than_the_networks_images_is_no_reason_not_to_start(
    start_server: StartServer, jpeg: bytes
) -> None:
    server = start_server(max_pixels=100)
    server.wait_for("ready")

    assert server.classify(jpeg).json()["type"] == "/problems/too-many-pixels"


def test_a_client_that_asks_for_http_2_is_answered_without_it(
    server: ServerProcess, jpeg: bytes
) -> None:
    upgrade = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMA"}

    response = server.client.post("/classify", content=jpeg, headers=upgrade)

    assert response.status_code == 200


def test_one_log_line_a_request_if_all_are_sampled(start_server: StartServer, jpeg: bytes) -> None:
    server = start_server(log_sample=1)
    server.wait_for("ready")

    answer = server.classify(jpeg, deadline_ms=60_000).json()

    line = server.wait_for("request")
    assert line["outcome"] == "in_time"
    for field in ("request_id", "subnetwork", "deadline_ms", "latency_ms", "queue_ms", "run_ms"):
        assert line[field] == answer[field]


def test_a_front_that_died_is_counted_and_started_again(start_server: StartServer) -> None:
    server = start_server(fronts=2)
    server.wait_for("ready")
    supervisor = server.process.pid
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    *_, front = [each for each in children if "front" in Path(f"/proc/{each}/cmdline").read_text()]

    os.kill(int(front), signal.SIGKILL)

    assert server.wait_for("process_died")["exit_code"] == -signal.SIGKILL
    while server.metrics()["anytime_processes_died_total"] < 1:
        pass
    assert server.client.get("/health/ready").status_code == 200
