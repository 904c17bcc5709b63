"""The container image, run as it is meant to be: read-only, without capabilities, scraped, stopped.

``deploy/try-image.sh`` builds it and runs these; they need its environment, and are skipped without.
"""

import io
import json
import os
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

IMAGE = os.environ.get("IMAGE_UNDER_TEST", "")
OPEN = ("--env", "ANYTIME_OPEN=true")  # its port is published to this machine alone
ROOT = Path(__file__).parents[2]
LARGEST_BYTES = 450_000_000
RESTRICTED = "--read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges --memory 2g"

pytestmark = [
    pytest.mark.skipif(not IMAGE, reason="needs a built image: deploy/try-image.sh makes one"),
    pytest.mark.timeout(300),
]


def podman(*arguments: str, check: bool = True) -> str:
    """Return what a podman command wrote, on both streams."""
    result = subprocess.run(
        ["podman", *arguments], check=check, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )  # fmt: skip
    return result.stdout


def inside(code: str) -> str:
    """Return what Python code prints in a fresh container."""
    return podman("run", "--rm", *RESTRICTED.split(), IMAGE, "python", "-c", code).splitlines()[-1]


def fetch(url: str, body: bytes | None = None) -> dict[str, Any]:
    """Return a JSON reply."""
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=10) as reply:
        document: dict[str, Any] = json.load(reply)
    return document


def fetch_when_there(url: str) -> dict[str, Any]:
    """Return a JSON reply; ask again until it comes."""
    for _ in range(600):
        try:
            return fetch(url)
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(url)


def png() -> bytes:
    """Return a picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), "teal").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Start a restricted container; return its name."""
    name = f"anytime-try-{os.getpid()}"
    options = ["--name", name, "--publish", "127.0.0.1::8000", *RESTRICTED.split()]
    podman("run", "--detach", *OPEN, *options, IMAGE)
    yield name
    podman("rm", "--force", name)


def address(container: str) -> str:
    """Return the URL of a container's published port."""
    return "http://" + podman("port", container, "8000/tcp").splitlines()[-1].strip()


def test_image_is_small() -> None:
    (image,) = json.loads(podman("image", "inspect", IMAGE))

    assert image["Size"] < LARGEST_BYTES, f"{image['Size'] / 1e6:.0f} MB"


def test_image_is_labelled_for_inventories() -> None:
    (image,) = json.loads(podman("image", "inspect", IMAGE))

    labels = image["Config"]["Labels"]
    for key in ("title", "version", "revision", "licenses", "base.name"):
        assert labels[f"org.opencontainers.image.{key}"]


def test_image_has_no_compiler_no_pip_and_no_torch() -> None:
    code = (
        "import shutil, importlib.util as u;"
        "print([t for t in ('cc', 'gcc', 'g++', 'clang', 'ld', 'make') if shutil.which(t)]"
        " + [m for m in ('torch', 'pip', 'onnx', 'training') if u.find_spec(m)])"
    )

    assert inside(code) == "[]"


def test_base_of_the_image_has_no_pip_either() -> None:
    code = (
        "import pathlib, shutil, subprocess, sys;"
        "base = pathlib.Path(sys.executable).resolve();"
        'find = \'import importlib.util as u; print([m for m in ("pip", "ensurepip") if u.find_spec(m)])\';'
        "print(subprocess.check_output([base, '-I', '-c', find], text=True).strip(), shutil.which('pip'), shutil.which('pip3'))"
    )

    assert inside(code) == "[] None None"


def test_process_is_not_root_and_cannot_write() -> None:
    code = (
        "import os, sys, pathlib\n"
        "denied = []\n"
        "for path in ('/', '/opt/anytime', '/etc', sys.prefix):\n"
        "    try:\n"
        "        pathlib.Path(path, 'x').write_text('')\n"
        "    except OSError:\n"
        "        denied.append(path)\n"
        "print(os.getuid(), len(denied))"
    )

    assert inside(code) == "10001 4"


def test_restricted_container_classifies(server: str) -> None:
    url = address(server)

    assert fetch_when_there(f"{url}/health/ready") == {"status": "ready"}
    answer = fetch(f"{url}/classify?deadline_ms=1000", png())
    assert answer["in_time"]
    assert 0 <= answer["confidence"] <= 1


def test_health_check_of_the_image_passes_once_it_is_ready(server: str) -> None:
    fetch_when_there(f"{address(server)}/health/ready")

    podman("healthcheck", "run", server)  # fails unless the check does not


def test_bad_setting_ends_with_one_line() -> None:
    result = podman("run", "--rm", "--env", "ANYTIME_MAX_BATCH=none", IMAGE, check=False)

    assert "ANYTIME_MAX_BATCH" in result.splitlines()[-1]


def test_without_keys_it_starts_only_where_that_is_said() -> None:
    result = podman("run", "--rm", IMAGE, check=False)

    assert "ANYTIME_OPEN=true" in result.splitlines()[-1]


def test_missing_bundle_ends_with_one_line() -> None:
    result = podman(
        "run", "--rm", "--env", "ANYTIME_BUNDLE_DIR=/nowhere", *OPEN, IMAGE, check=False
    )

    assert "/nowhere" in result.splitlines()[-1]


def test_stop_signal_ends_it_with_exit_code_zero() -> None:
    name = f"anytime-stop-{os.getpid()}"
    podman("run", "--detach", "--name", name, "--publish", "127.0.0.1::8000", *OPEN, IMAGE)
    try:
        fetch_when_there(f"{address(name)}/health/ready")
        podman("stop", "--time", "60", name)

        assert podman("wait", name).splitlines()[-1] == "0"
    finally:
        podman("rm", "--force", name)


def test_prometheus_sees_the_demo_load_on_the_composed_server() -> None:
    project = f"anytime-try-{os.getpid()}"
    environment = os.environ | {
        "SERVER_IMAGE": IMAGE, "SERVER_PORT": "18000", "PROMETHEUS_PORT": "19090",
        "LOAD_PEAK": "20", "LOAD_SECONDS": "60",
    }  # fmt: skip

    def compose(*arguments: str) -> None:
        command = ["podman-compose", "--project-name", project, *arguments]
        subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)

    compose("--profile", "load", "up", "--detach", "--no-build", "server", "prometheus", "load")
    try:
        fetch_when_there("http://127.0.0.1:19090/api/v1/status/buildinfo")
        query = urllib.parse.quote("sum by (job) (anytime_requests_total) > 10")
        for _ in range(300):  # scraped every 5 s
            reply = fetch(f"http://127.0.0.1:19090/api/v1/query?query={query}")
            if reply["data"]["result"]:
                break
            time.sleep(0.1)

        (series,) = reply["data"]["result"]
        assert series["metric"]["job"] == "anytime"
    finally:
        compose("--profile", "load", "down", "--volumes")
