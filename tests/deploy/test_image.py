"""The container image, run as it is meant to be: read-only, without capabilities, scraped, stopped.

``deploy/try-image.sh`` builds it and runs these; they need its environment, and are skipped without.
"""

import io
import json
import os
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        pytest.param((*OPEN, "--env", "ANYTIME_MAX_BATCH=none"), "ANYTIME_MAX_BATCH", id="setting"),
        pytest.param((), "ANYTIME_OPEN=true", id="keys"),
        pytest.param((*OPEN, "--env", "ANYTIME_BUNDLE_DIR=/nowhere"), "/nowhere", id="bundle"),
    ],
)
def test_what_cannot_be_served_ends_it_with_one_line(
    environment: tuple[str, ...], named: str
) -> None:
    result = podman("run", "--rm", *environment, IMAGE, check=False)

    # The log is on the other stream, before that line or after it.
    lines = [each for each in result.splitlines() if not each.startswith("{")]
    assert sum(named in each for each in lines) == 1
    assert "Traceback" not in result


def test_stop_signal_ends_it_with_exit_code_zero() -> None:
    name = f"anytime-stop-{os.getpid()}"
    podman("run", "--detach", "--name", name, "--publish", "127.0.0.1::8000", *OPEN, IMAGE)
    try:
        fetch_when_there(f"{address(name)}/health/ready")
        podman("stop", "--time", "60", name)

        assert podman("wait", name).splitlines()[-1] == "0"
    finally:
        podman("rm", "--force", name)


@contextmanager
def composed(profile: str, services: Sequence[str], **variables: str) -> Iterator[None]:
    """Run services of the compose file until the block ends."""
    project = f"anytime-try-{os.getpid()}"
    environment = os.environ | variables | {"SERVER_IMAGE": IMAGE, "SERVER_PORT": "18000"}

    def compose(*arguments: str) -> None:
        command = ["podman-compose", "--project-name", project, "--profile", profile, *arguments]
        subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)

    compose("up", "--detach", "--no-build", *services)
    try:
        yield
    finally:
        compose("down", "--volumes")


def test_prometheus_sees_the_demo_load_on_the_composed_server() -> None:
    services = ("server", "prometheus", "load")
    with composed("load", services, PROMETHEUS_PORT="19090", LOAD_PEAK="20", LOAD_SECONDS="60"):
        fetch_when_there("http://127.0.0.1:19090/api/v1/status/buildinfo")
        query = urllib.parse.quote("sum by (job) (anytime_requests_total) > 10")
        for _ in range(300):  # scraped every 5 s
            reply = fetch(f"http://127.0.0.1:19090/api/v1/query?query={query}")
            if reply["data"]["result"]:
                break
            time.sleep(0.1)

        (series,) = reply["data"]["result"]
        assert series["metric"]["job"] == "anytime"


def test_each_of_three_composed_replicas_answers_behind_the_proxy() -> None:
    services = ("server", "replica", "proxy")
    with composed("replicas", services, PROXY_PORT="18080", PROXY_PRIVATE_PORT="18404"):
        fetch_when_there("http://127.0.0.1:18080/health/ready")
        answered = re.compile(
            r'haproxy_server_http_responses_total\{proxy="replicas",server="(.*)",code="2xx"\} [1-9]'
        )
        for _ in range(300):  # each is found by its name, and then checked
            assert fetch("http://127.0.0.1:18080/classify?deadline_ms=1000", png())["label"]
            with urllib.request.urlopen("http://127.0.0.1:18404/metrics", timeout=10) as reply:
                names = answered.findall(reply.read().decode())
            if len(names) == 3:
                break
            time.sleep(0.1)

        assert len(names) == 3
