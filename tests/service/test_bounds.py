"""Limits of what one client, one image or one front may take, on a real server that grants little; the kernel holds some."""

import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path

import grpc
import pytest
from PIL import Image

from tests.server import ROOT, ServerProcess, read_reply, started
from tests.service.conftest import free_port
from tests.service.front.open_inference.test_grpc import Stub, message, refused

GET = b"GET /health/live HTTP/1.1\r\nHost: here\r\n\r\n"
MIB = 2**20


@pytest.fixture(scope="module")
def narrow() -> Iterator[ServerProcess]:
    settings = {
        "max_connections_per_address": 4,
        "max_files": 2,
        "max_streams": 1,
        "decode_memory_bytes": 16 * MIB,
        "front_memory_bytes": 1024 * MIB,  # the allocator reserves 64 MiB for each thread
        "grpc_port": free_port(),
    }
    with started({"fronts": 1, "max_batch": 1, "warm_up_s": 0.01, **settings}) as server:
        server.wait_for("ready")
        yield server
        server.close_clients()


def test_one_address_has_its_share_of_connections_and_gets_it_back(narrow: ServerProcess) -> None:
    narrow.close_clients()

    def ask(stack: ExitStack) -> bytes:
        connection = stack.enter_context(socket.create_connection(narrow.address, timeout=60))
        connection.sendall(GET)
        return read_reply(connection)[0]

    with ExitStack() as held:
        first = [ask(held) for _ in range(4)]
        beyond = ask(held)
    again = b""
    while not again.startswith(b"HTTP/1.1 200"):  # once the server knows that those have gone
        with ExitStack() as fresh:
            again = ask(fresh)

    assert all(each.startswith(b"HTTP/1.1 200") for each in first)
    assert beyond.startswith(b"HTTP/1.1 429")
    assert b"retry-after: 1" in beyond.lower()
    assert narrow.metrics()['anytime_connections_ended_total{reason="address"}'] >= 1


def test_more_images_than_one_request_may_bring_are_refused(
    narrow: ServerProcess, jpeg: bytes
) -> None:
    def status(count: int) -> int:
        files = [("file", (f"{n}.jpg", jpeg, "image/jpeg")) for n in range(count)]
        return narrow.client.post("/classify?deadline_ms=60000", files=files).status_code

    assert [status(2), status(3)] == [200, 400]


def test_a_stream_beyond_those_that_may_be_is_refused_and_the_place_comes_back(
    narrow: ServerProcess, jpeg: bytes
) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{narrow.settings['grpc_port']}") as channel:
        is_over, stub = [False], Stub(channel)

        def hold() -> Iterator[object]:
            yield message("ModelInferRequest", model_name="none such")
            while not is_over[0]:
                pass

        stream = stub.ModelStreamInfer(hold())
        next(stream)  # it is answered, and stays
        beyond = narrow.client.post("/classify/stream", content=jpeg)
        code, _ = refused(lambda sent: list(stub.ModelStreamInfer(sent)), iter([]))
        is_over[0] = True
        assert not list(stream)

    after = narrow.client.post("/classify/stream?deadline_ms=60000", content=jpeg)

    assert beyond.status_code == 503
    assert beyond.json()["limit"] == 1
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert after.status_code == 200


def test_an_image_that_takes_too_much_memory_costs_its_decoder_alone(
    narrow: ServerProcess, jpeg: bytes
) -> None:
    file = BytesIO()
    Image.new("RGB", (4000, 4000)).save(file, "PNG", compress_level=1)  # 48 MB of pixels
    fronts = narrow.parts("front")

    reply = narrow.client.post("/classify?deadline_ms=60000", content=file.getvalue())

    assert reply.status_code == 422
    assert "16777216 bytes of memory" in reply.json()["detail"]
    assert narrow.classify(jpeg, deadline_ms=60_000).status_code == 200
    assert narrow.parts("front") == fronts


def test_the_kernel_holds_each_front_to_its_memory(narrow: ServerProcess) -> None:
    (front,) = narrow.parts("front")

    most, _ = resource.prlimit(front, resource.RLIMIT_AS)
    held = int(Path(f"/proc/{front}/statm").read_text().split()[0]) * resource.getpagesize()

    assert held <= most < held + 1024 * MIB


def test_a_front_that_runs_out_of_memory_is_whole_again_without_a_word_from_anybody(
    narrow: ServerProcess, jpeg: bytes
) -> None:
    (front,) = narrow.parts("front")
    held = int(Path(f"/proc/{front}/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.prlimit(front, resource.RLIMIT_AS)
    body = bytes(9 * MIB)

    resource.prlimit(front, resource.RLIMIT_AS, (held + 4 * MIB, before[1]))
    try:
        during = narrow.client.post("/classify?deadline_ms=60000", content=body).status_code
    except Exception:
        during = 0  # the connection was broken
    resource.prlimit(front, resource.RLIMIT_AS, before) if front in narrow.parts("front") else None
    narrow.close_clients()

    assert during in (0, 415, 500, 503)
    while narrow.client.get("/health/ready").status_code != 200:
        pass
    assert narrow.classify(jpeg, deadline_ms=60_000).status_code == 200


def test_cpu_time_and_memory_are_held_by_the_kernel() -> None:
    begin = "from service.front.images.kernel_limits import *;"

    def run(program: str) -> int:
        command = [sys.executable, "-c", begin + program]
        return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode

    assert run("hold_cpu_time(1)\nwhile True: pass") == -signal.SIGXCPU
    assert run("hold_memory(2**26); bytes(2**24)") == 0
    assert run("hold_memory(2**26); bytes(2**27)") == 1
