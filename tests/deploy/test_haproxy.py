"""A real HAProxy before replicas that do as a test says: what it passes on, and what it repeats."""

import json
import re
import runpy
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from service.front.open_inference.grpc_messages import SERVICE, message_class
from tests.deploy.played_replicas import BETWEEN_S, Replicas, Reply, listening, running
from tests.server import started
from tests.service.conftest import free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
CONFIG = DEPLOY / "haproxy" / "haproxy.cfg"
NameServer = runpy.run_path(str(DEPLOY / "name_server.py"))["NameServer"]
REPLICAS = 3

pytestmark = pytest.mark.skipif(
    not shutil.which("haproxy"), reason="needs haproxy (apt-get install haproxy)"
)


Ask = Callable[..., Reply]


@pytest.fixture
def replicas() -> Replicas:
    return Replicas()


@pytest.fixture
def ask(replicas: Replicas, tmp_path: Path) -> Iterator[Ask]:
    """Return what sends a request by method and path through the proxy, found by a name, and returns the reply."""
    with (
        listening(replicas, REPLICAS) as (addresses, port),
        NameServer(addresses) as names,
        run_proxy(tmp_path, f"anytime.example:{port}", names.address, IN_PROGRESS="2") as send,
    ):
        while count_checked(send, "replicas") < REPLICAS:
            time.sleep(BETWEEN_S)  # the name is looked up after the start
        yield send


@contextmanager
def run_proxy(folder: Path, replicas: str, name_server: str, **further: str) -> Iterator[Ask]:
    """Run the proxy; give what sends through it, by one of its addresses."""
    variables = {
        "REPLICAS": replicas,
        "NAMESERVER": name_server,
        "BIND": f"unix@{folder / 'public'}",
        "PRIVATE": f"unix@{folder / 'private'}",
        "ADMIN": str(folder / "admin"),
    } | further

    with running(["haproxy", "-f", str(CONFIG)], folder / "log", **variables) as proxy:

        def send(method: str, path: str, body: bytes = b"", by: str = "BIND") -> Reply:
            return proxy.send(variables[by], method, path, body)

        yield send


def count_checked(send: Ask, backend: str) -> int:
    """Return how many replicas of a backend have passed their check."""
    text = send("GET", "/metrics", by="PRIVATE").body.decode()
    return len(
        re.findall(
            rf'^haproxy_server_check_status{{proxy="{backend}",.*state="L7OK"}} 1$',
            text,
            re.MULTILINE,
        )
    )


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/metrics"),
        ("GET", "/%6detrics"),
        ("GET", "/%6D%65trics?x=1"),
        ("POST", "/admin/reload"),
        ("POST", "/%61dmin/reload"),
        ("POST", "/admin%2Freload"),
        ("POST", "/v2/repository/models/cifar10/load"),
        ("GET", "/docs"),
        ("GET", "/docs/swagger-ui.css"),
        ("GET", "/openapi.json"),
    ],
)
def test_what_is_not_for_everybody_is_not_passed_on(
    ask: Ask, replicas: Replicas, method: str, path: str
) -> None:
    reply = ask(method, path)

    assert reply.status == 404
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert json.loads(reply.body)["status"] == 404
    assert replicas.reached == []


def test_private_address_has_the_proxys_metrics_and_the_servers_description(
    ask: Ask, replicas: Replicas
) -> None:
    assert b"haproxy_server_status{" in ask("GET", "/metrics", by="PRIVATE").body
    assert ask("GET", "/docs", by="PRIVATE").status == 200
    assert ask("POST", "/admin/reload", by="PRIVATE").status == 503  # it leads nowhere
    assert [path for _, path in replicas.reached] == ["/docs"]


def test_every_address_of_the_name_is_a_replica(ask: Ask, replicas: Replicas) -> None:
    for _ in range(10 * REPLICAS):
        ask("POST", "/classify", b"image")

    assert len({address for address, _ in replicas.reached}) == REPLICAS


def test_refusal_is_not_repeated(ask: Ask, replicas: Replicas) -> None:
    replicas.statuses = iter([503])

    assert ask("POST", "/classify?deadline_ms=50", b"image").status == 503
    assert len(replicas.reached) == 1


@pytest.mark.parametrize(
    "path", ["/classify", "/classify/stream", "/v2/models/cifar10/versions/1/infer"]
)
def test_request_whose_replica_ends_is_asked_of_another(
    ask: Ask, replicas: Replicas, path: str
) -> None:
    replicas.statuses = iter([None])

    assert ask("POST", path, b"image").status == 200
    (first, _), (second, _) = replicas.reached
    assert first != second


def test_request_that_changes_something_is_not_repeated(ask: Ask, replicas: Replicas) -> None:
    replicas.statuses = iter([None])

    reply = ask("POST", "/feedback", b"{}")

    assert (reply.status, json.loads(reply.body)["title"]) == (502, "Bad Gateway")
    assert len(replicas.reached) == 1


def test_nothing_waits_in_the_proxy_for_longer_than_a_deadline(
    ask: Ask, replicas: Replicas
) -> None:
    with ThreadPoolExecutor() as others:
        held = [others.submit(ask, "POST", "/held") for _ in range(2 * REPLICAS)]
        while len(replicas.reached) < len(held):
            time.sleep(BETWEEN_S)

        reply = ask("POST", "/classify", b"image")

        replicas.released.set()
    assert [each.result().status for each in held] == [200] * len(held)
    assert reply.status == 503
    assert json.loads(reply.body)["type"] == "/problems/not-ready"
    assert "/classify" not in {path for _, path in replicas.reached}


def test_where_no_replica_is_left_a_problem_says_when_to_ask_again(tmp_path: Path) -> None:
    with (
        NameServer([]) as names,
        run_proxy(tmp_path, "anytime.example:80", names.address) as send,
    ):
        reply = send("POST", "/classify", b"image")
        while not (
            logged := re.findall(r"^{.*/classify.*}$", (tmp_path / "log").read_text(), re.M)
        ):
            time.sleep(BETWEEN_S)

    assert json.loads(logged[0])["status"] == 503
    assert reply.status == 503
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert reply.headers["Retry-After"] == "1"
    assert json.loads(reply.body)["type"] == "/problems/not-ready"


def test_client_that_asks_too_much_is_told_to_wait(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    with (
        NameServer([]) as names,
        run_proxy(tmp_path, "anytime.example:80", names.address, BIND=address, RATE="3") as send,
    ):
        statuses = list(iter(lambda: send("POST", "/classify", b"image").status, 429))
        reply = send("POST", "/classify", b"image")

    assert statuses[:3] == [503, 503, 503]
    assert reply.headers["Retry-After"] == "10"
    assert json.loads(reply.body)["title"] == "Too Many Requests"


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_with_a_certificate_only_tls_is_served(tmp_path: Path) -> None:
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    certificate = tmp_path / "certificate"
    subprocess.run(
        ["openssl", *request.split(), "-keyout", f"{certificate}.key", "-out", certificate],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    with (
        NameServer([]) as names,
        run_proxy(
            tmp_path,
            "anytime.example:80",
            names.address,
            CERTIFICATES=str(certificate),
            BIND_TLS=f"unix@{tmp_path / 'tls'}",
        ) as send,
    ):
        plain = send("POST", "/classify")
        context = ssl.create_default_context(cafile=certificate)
        with (
            socket.socket(socket.AF_UNIX) as unsecured,
            context.wrap_socket(unsecured, server_hostname="localhost") as secured,
        ):
            secured.connect(str(tmp_path / "tls"))
            secured.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            reply = secured.recv(4096)

    assert (plain.status, plain.headers["Location"]) == (308, "https://proxy/classify")
    assert reply.startswith(b"HTTP/1.1 503 ")


@pytest.mark.timeout(300)  # a start of a server
def test_grpc_is_passed_on_call_by_call_but_for_the_repository(tmp_path: Path) -> None:
    request, reply = message_class("ModelInferRequest"), message_class("ModelInferResponse")
    infer = request(model_name="cifar10", raw_input_contents=[bytes(32 * 32 * 3)])
    infer.inputs.add(name="images", datatype="UINT8", shape=[1, 32, 32, 3])
    infer.parameters["deadline_ms"].double_param = 5000
    address = f"127.0.0.1:{free_port()}"

    def call(channel: grpc.Channel, name: str) -> Any:
        return channel.unary_unary(
            f"/{SERVICE}/{name}", request.SerializeToString, reply.FromString
        )

    with (
        NameServer(["127.0.0.1"]) as names,
        started({"grpc_port": free_port()}) as server,
        grpc.insecure_channel(address) as channel,
    ):
        server.wait_for("ready")
        _, port = server.address
        grpc_replicas = f"anytime.example:{server.settings['grpc_port']}"
        variables = {"GRPC_REPLICAS": grpc_replicas, "BIND_GRPC": address, "READY_PORT": str(port)}
        with run_proxy(tmp_path, f"anytime.example:{port}", names.address, **variables) as send:
            while not count_checked(send, "grpc_replicas"):
                time.sleep(BETWEEN_S)
            answered = call(channel, "ModelInfer")(infer, wait_for_ready=True, timeout=60)
            stream = channel.stream_stream(
                f"/{SERVICE}/ModelStreamInfer",
                request.SerializeToString,
                message_class("ModelStreamInferResponse").FromString,
            )
            streamed = list(stream(iter([infer])))
            with pytest.raises(grpc.RpcError) as private:
                call(channel, "RepositoryModelLoad")(request())
            server.terminate()
            server.end()
            with pytest.raises(grpc.RpcError) as gone:
                call(channel, "ModelInfer")(infer, timeout=60)

    assert answered.parameters["subnetwork"].string_param
    assert streamed[-1].infer_response.parameters["triton_final_response"].bool_param
    assert private.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert gone.value.code() == grpc.StatusCode.UNAVAILABLE
