"""The check that a container engine runs: a server that is ready, over HTTP or TLS, and one that is not."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.server import ROOT, ServerProcess, started
from tests.service.conftest import free_port
from tests.service.front.access.test_certificates import certify


def check(port: int, **variables: object) -> int:
    """Run what the image runs, in a folder that has a ``service.py`` of its own."""
    said = re.search(r"^HEALTHCHECK .*CMD (.*)$", ROOT.joinpath("Dockerfile").read_text(), re.M)
    assert said is not None
    python, *arguments = json.loads(said[1])
    assert python == "python"
    given = {f"ANYTIME_{name.upper()}": str(value) for name, value in variables.items()}
    with TemporaryDirectory() as folder:
        Path(folder, "service.py").write_text("raise SystemExit(0)")
        command = [sys.executable, *arguments]
        environment = {**os.environ, "ANYTIME_PORT": str(port), **given}
        return subprocess.run(command, cwd=folder, env=environment, timeout=60).returncode


def test_a_server_is_ready_or_not(server: ServerProcess) -> None:
    _, port = server.address

    assert check(port) == 0
    assert check(free_port()) == 1


def test_a_server_with_tls_is_asked_over_tls(tmp_path: Path) -> None:
    certificate, key = certify(tmp_path, "server")
    tls = {"tls_certificate": certificate, "tls_key": key}

    with started({"fronts": 1, "max_batch": 1, **tls}) as server:
        server.wait_for("ready")
        _, port = server.address

        assert check(port, **tls) == 0
        assert check(port, **tls, tls_client_ca="of others") == 0  # as far as it can tell
        assert check(port) == 1


@pytest.mark.parametrize("host", ["::", "[::1]"])
def test_a_server_is_asked_where_it_listens(host: str) -> None:
    with started({"fronts": 1, "max_batch": 1, "host": host, "open": "true"}) as server:
        server.wait_for("ready")
        _, port = server.address

        assert check(port, host=host) == 0
        assert server.client.get("/health/ready").status_code == 200
