"""A real nginx with the configuration of the document, before replicas that do as a test says."""

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deploy.played_replicas import Replicas, Reply, listening, running
from tests.service.conftest import free_port

ROOT = Path(__file__).parents[2]
NAMED = ("127.0.0.2:8000", "127.0.0.3:8000")  # replicas of the document

pytestmark = pytest.mark.skipif(
    not shutil.which("nginx"), reason="needs nginx (apt-get install nginx-light)"
)

Ask = Callable[[str, str], Reply]


@contextmanager
def run_proxy(folder: Path, *replicas: str) -> Iterator[Ask]:
    """Run nginx before two replicas, by their addresses; give what sends an image by method and path."""
    text = (ROOT / "docs" / "proxies.md").read_text()
    text = text.partition("```nginx\n")[2].partition("```")[0]
    place = f"{folder}/socket"
    text = text.replace("listen 8080;", f"listen unix:{place};")
    text = text.replace("listen 8081 ", f"listen 127.0.0.1:{free_port()} ")
    text = text.replace("/dev/stdout", str(folder / "access.log"))
    for named, replica in zip(NAMED, replicas, strict=True):
        text = text.replace(named, replica)
    (folder / "nginx.conf").write_text(text)
    further = f"daemon off; pid {folder}/pid; error_log stderr;"
    command = ["nginx", "-c", str(folder / "nginx.conf"), "-g", further]
    with running(command, folder / "log") as proxy:
        yield lambda method, path: proxy.send(f"unix@{place}", method, path, b"image")


@pytest.fixture
def replicas() -> Replicas:
    return Replicas()


@pytest.fixture
def ask(replicas: Replicas, tmp_path: Path) -> Iterator[Ask]:
    with (
        listening(replicas, 2) as (addresses, port),
        run_proxy(tmp_path, *(f"{each}:{port}" for each in addresses)) as send,
    ):
        yield send


@pytest.mark.parametrize(
    "path",
    ["/metrics", "/%6detrics", "/admin/reload", "/docs", "/v2/repository/models/cifar10/load"],
)
def test_what_is_not_for_everybody_is_not_passed_on(
    ask: Ask, replicas: Replicas, path: str
) -> None:
    assert ask("POST", path).status == 404
    assert replicas.reached == []


def test_refusal_is_not_repeated(ask: Ask, replicas: Replicas) -> None:
    replicas.statuses = iter([503])

    assert ask("POST", "/classify?deadline_ms=50").status == 503
    assert len(replicas.reached) == 1


@pytest.mark.parametrize("path", ["/classify", "/classify/stream", "/v2/models/cifar10/infer"])
def test_request_whose_replica_ends_is_asked_of_another(
    ask: Ask, replicas: Replicas, path: str
) -> None:
    replicas.statuses = iter([None])

    assert ask("POST", path).status == 200
    (first, _), (second, _) = replicas.reached
    assert first != second


def test_request_that_changes_something_is_not_repeated(ask: Ask, replicas: Replicas) -> None:
    replicas.statuses = iter([None])

    assert ask("POST", "/feedback").status == 503
    assert len(replicas.reached) == 1


def test_where_no_replica_is_left_a_problem_says_when_to_ask_again(tmp_path: Path) -> None:
    with socket.socket() as deaf:  # holds a port, and listens to nobody
        deaf.bind(("127.0.0.1", 0))
        gone = f"127.0.0.1:{deaf.getsockname()[1]}"
        with run_proxy(tmp_path, gone, gone) as send:
            replies = [send("POST", "/classify") for _ in range(2)]

    for reply in replies:
        assert (reply.status, json.loads(reply.body)["type"]) == (503, "/problems/not-ready")
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert reply.headers["Retry-After"] == "1"
