"""A front frees what a request took when it ends: nothing waits for Python's collector, which comes after thousands of them."""

import os
import socket
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.server import reset, started

ROUNDS = 25
COUNT = """
import atexit, gc, os, sys
if "front" in sys.argv[0] or any("front/__main__" in each for each in sys.orig_argv):
    found = []
    gc.callbacks.append(lambda phase, info: phase == "stop" and gc.get_freeze_count() and found.append(info["collected"]))
    atexit.register(lambda: open(os.environ["FOUND"], "a").write("%d\\n" % sum(found)))
"""


def test_what_requests_leave_behind_need_not_be_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jpeg: bytes
) -> None:
    (tmp_path / "sitecustomize.py").write_text(COUNT)
    found = tmp_path / "found"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))  # fmt: skip
    monkeypatch.setenv("FOUND", str(found))
    file = BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    Image.fromarray(noise).save(file, "JPEG")
    broken = file.getvalue()[:2000] + bytes(5000) + file.getvalue()[9000:]  # a thread decodes it

    def request(body: bytes, query: str = "deadline_ms=60000", path: str = "/classify") -> bytes:
        head = f"POST {path}?{query} HTTP/1.1\r\nHost: here\r\nConnection: close"
        return f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    whole = [
        request(jpeg),
        request(jpeg, path="/classify/stream"),
        request(jpeg, "deadline_ms=0.001&on_miss=refuse"),  # impossible
        request(b"no image"),
        request(broken),
        request(jpeg, "top_k=-1"),
        b"no HTTP\r\n\r\n",
    ]
    with started({"fronts": 1}) as server:
        server.wait_for("ready")
        for _ in range(ROUNDS):
            for each in whole:
                with socket.create_connection(server.address, timeout=60) as connection:
                    connection.sendall(each)
                    while connection.recv(65536):
                        pass
            leaving = socket.create_connection(server.address, timeout=60)
            leaving.sendall(request(jpeg)[:-1])
            reset(leaving)
        outcomes = server.requests_by_outcome()
        server.close_clients()
        server.terminate()
        server.end()

    assert outcomes["invalid"] == 3 * ROUNDS
    # A connection in a cycle would be 20 objects, and there were hundreds.
    assert int(found.read_text()) < ROUNDS
