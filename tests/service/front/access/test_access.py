"""Who may ask for what: a stranger gets nothing but /health, and a key what it is for, as often as it may."""

import re
import signal
import socket
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import structlog
import structlog.testing
from starlette.routing import Route
from typer.testing import CliRunner

from service.board import Board
from service.cli.app import app
from service.front.access.access import OPEN, Access
from service.front.access.keys import KeyEntry, write_entry
from service.front.handling import let_in
from service.front.http.exchange import Exchange, Wire
from service.front.open_inference.routes import router as open_inference
from service.front.routes import router
from service.problems import Problem, TooManyRequests
from service.settings import read_settings
from tests.server import MODULE, ROOT, ServerProcess, read_reply
from tests.service.conftest import free_port
from tests.service.front.test_connection import read_to_end

KEYS: dict[str, dict[str, object]] = {
    "web": {"scopes": ["classify"]},
    "counted": {"scopes": ["classify"], "requests_per_s": 0.5, "burst": 2},
    "narrow": {"scopes": ["classify"], "concurrency": 2},
    "teacher": {"scopes": ["feedback"]},
    "watcher": {"scopes": ["metrics"]},
    "boss": {"scopes": ["admin"]},
}


def bearing(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer key-of-{name}"}


def asked(path: str, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    """Describe a request, which came from a proxy."""
    peers = {"client": ("10.0.0.1", 0), "server": ("10.0.0.2", 8000)}
    return {"method": "POST", "path": path, "headers": headers, "state": {}, **peers}


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    tables = []
    for name, fields in KEYS.items():
        digest = sha256(f"key-of-{name}".encode()).hexdigest()
        tables.append(write_entry(name, KeyEntry.model_validate({"sha256": digest} | fields)))
    path.write_text("\n".join(tables))
    return path


@pytest.fixture
def fronts(keys_file: Path) -> list[Callable[[str], tuple[Problem | None, Exchange]]]:
    """Two fronts of one server, at one instant; each is asked with a key's name."""
    board = Board.create(2)
    settings = read_settings({"keys_file": str(keys_file)})

    def front(index: int) -> Callable[[str], tuple[Problem | None, Exchange]]:
        access = Access(
            settings,
            board,
            index,
            clock=lambda: 100.0,
            log=structlog.get_logger(),
            count=lambda reason: None,
        )

        def ask(name: str) -> tuple[Problem | None, Exchange]:
            headers = [(b"authorization", f"bearer key-of-{name}".encode())]
            scope = asked("/classify", headers)
            exchange = Exchange(cast(Wire, None), scope, keep_alive=True, awaits_continue=False)
            return let_in(access, exchange), exchange

        return ask

    return [front(0), front(1)]


def test_the_rate_of_a_key_holds_for_all_fronts_together(fronts: list[Any]) -> None:
    first, second, third = (front("counted") for front in (*fronts, fronts[0]))

    assert first[0] is second[0] is None
    assert (b"ratelimit", b'"key";r=0;t=4') in second[1].headers
    assert isinstance(third[0], TooManyRequests)
    assert third[0].headers["Retry-After"] == "2"
    assert third[0].headers["RateLimit-Policy"] == '"key";q=2;w=4'


def test_the_concurrency_of_a_key_holds_for_all_fronts_together(fronts: list[Any]) -> None:
    (_, exchange), other = fronts[0]("narrow"), fronts[1]("narrow")

    assert other[0] is None
    assert isinstance(fronts[0]("narrow")[0], TooManyRequests)
    exchange.leave()
    assert fronts[1]("narrow")[0] is None
    assert isinstance(fronts[1]("narrow")[0], TooManyRequests)


@pytest.fixture(scope="module")
def guarded(keys_file: Path) -> Any:
    grpc_port = free_port()
    server = ServerProcess(keys_file=keys_file, grpc_port=grpc_port, max_batch=2, fronts=1)
    try:
        server.wait_for("ready")
        yield server
    finally:
        server.close()


@pytest.mark.parametrize(("key", "told"), [("key-of-web", "column-1"), ("wrong", "")])
def test_commands_bear_the_key_of_their_environment(
    guarded: ServerProcess, key: str, told: str
) -> None:
    url = str(guarded.client.base_url)

    asked = CliRunner().invoke(app, ["info", url], env={"ANYTIME_KEY": key})

    assert told in asked.output
    assert (asked.exit_code == 0) == (key != "wrong")


PATHS = ["/", "/classify", "/classify/stream", "/feedback", "/metrics", "/subnetworks", "/admin/reload"]  # fmt: skip
MORE = [
    "/docs",
    "/openapi.json",
    "/problems/expired",
    "/samples/cat.jpg",
    "/load",
    "/nothing",
    "//metrics",
    "/METRICS",
]


@pytest.mark.parametrize("path", [*PATHS, *MORE])
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS"])
def test_a_stranger_gets_nothing(guarded: ServerProcess, method: str, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic key-of-boss"}):
        response = guarded.client.request(method, path, headers=headers, content=b"image")

        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert "cifar10" not in response.text


def test_a_stranger_gets_nothing_of_anything_that_is_served(guarded: ServerProcess) -> None:
    routes = [*router.routes, *open_inference.routes]
    served = {re.sub(r"\{\w+\}", "cifar10", cast(Route, each).path) for each in routes}
    paths = served - OPEN
    assert len(paths) > 15

    for path in sorted(paths | {"/nothing", "/v2/../metrics", "/health", "/health/live/", "*"}):
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE"):
            request = f"{method} {path} HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\n\r\n"
            with socket.create_connection(guarded.address, timeout=60) as connection:
                connection.sendall(request.encode())
                connection.shutdown(socket.SHUT_WR)
                reply = read_to_end(connection)
            assert reply.startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 400 ")), (method, path)
            assert reply.startswith(b"HTTP/1.1 401 ") or path == "*", (method, path)


def test_a_stranger_in_a_flood_is_told_nothing_of_it_and_counts_as_no_request(
    guarded: ServerProcess, jpeg: bytes
) -> None:
    alike = "/classify?deadline_ms=20&on_miss=refuse"
    head = f"POST {alike} HTTP/1.1\r\nHost: here\r\nContent-Length: {len(jpeg)}\r\n\r\n"
    assert guarded.client.post(alike, content=jpeg, headers=bearing("web")).status_code != 401
    before = guarded.client.get("/metrics", headers=bearing("watcher")).text
    strangers = [socket.create_connection(guarded.address, timeout=60) for _ in range(200)]

    guarded.signal("front", signal.SIGSTOP)
    for stranger in strangers:
        stranger.sendall(head.encode() + jpeg)
    guarded.signal("front", signal.SIGCONT)
    statuses = []
    for stranger in strangers:
        with stranger:
            statuses.append(read_reply(stranger)[0][9:12])
    after = guarded.client.get("/metrics", headers=bearing("watcher")).text

    assert set(statuses) == {b"401"}
    counts = re.compile(r"anytime_requests_total.*")
    assert counts.findall(after) == counts.findall(before)


def test_a_key_may_come_in_a_header_of_its_own(guarded: ServerProcess) -> None:
    def status(key: str) -> int:
        return guarded.client.get("/subnetworks", headers={"X-API-Key": key}).status_code

    assert status("key-of-web") == 200
    assert status("key-of-nobody") == 401


def test_a_stranger_gets_health(guarded: ServerProcess) -> None:
    assert guarded.client.get("/health/ready").status_code == 200
    assert guarded.client.get("/health/live").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/classify", {"web", "narrow"}),
        ("POST", "/feedback", {"teacher"}),
        ("GET", "/metrics", {"watcher"}),
        ("POST", "/admin/reload", {"boss"}),
        ("GET", "/subnetworks", {"web", "narrow", "teacher", "watcher", "boss"}),
    ],
)
def test_a_key_is_for_what_its_scopes_say(
    guarded: ServerProcess, method: str, path: str, allowed: set[str], jpeg: bytes
) -> None:
    names = KEYS.keys() - {"counted"}
    replies: dict[str, httpx.Response] = {
        name: guarded.client.request(method, path, headers=bearing(name), content=jpeg)
        for name in names
    }

    assert {name for name in names if replies[name].status_code != 403} == allowed
    assert all(replies[name].status_code in (200, 422) for name in allowed)


def test_refusals_are_counted_and_logged_without_the_key(guarded: ServerProcess) -> None:
    for headers in ({}, {"Authorization": "Bearer key-of-nobody"}, bearing("web")):
        guarded.client.get("/metrics", headers=headers)

    refused = guarded.wait_for("key_refused")
    metrics = guarded.client.get("/metrics", headers=bearing("watcher")).text

    assert "key-of" not in str(refused)
    for reason in ("missing", "unknown", "scope"):
        assert f'anytime_keys_refused_total{{reason="{reason}"}} 0' not in metrics


def test_where_other_machines_ask_keys_are_demanded_or_waived_by_name() -> None:
    server = ServerProcess(command=MODULE, folder=ROOT, host="0.0.0.0")

    code, stderr = server.end()

    assert code == 2
    assert "ANYTIME_KEYS_FILE" in stderr
    assert "ANYTIME_OPEN=true" in stderr


def test_a_changed_file_is_read_again_and_a_bad_one_changes_nothing(
    tmp_path: Path, keys_file: Path
) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(keys_file.read_text())
    access = Access(
        read_settings({"keys_file": str(path)}),
        Board.create(1),
        0,
        clock=lambda: 0.0,
        log=structlog.get_logger(),
        count=lambda reason: None,
    )

    def is_known(name: str) -> bool:
        scope = asked("/subnetworks", [(b"authorization", f"Bearer key-of-{name}".encode())])
        exchange = Exchange(cast(Wire, None), scope, keep_alive=True, awaits_continue=False)
        return let_in(access, exchange) is None

    path.write_text("[")
    access.refresh()
    assert is_known("web")

    digest = sha256(b"key-of-new").hexdigest()
    path.write_text(write_entry("new", KeyEntry.model_validate({"sha256": digest, "scopes": ["classify"]})))  # fmt: skip
    access.refresh()
    assert is_known("new")
    assert not is_known("web")


def test_who_was_refused_is_logged_as_a_trusted_proxy_says(keys_file: Path) -> None:
    settings = read_settings({"keys_file": str(keys_file), "trusted_proxies": "10.0.0.0/8"})
    headers = [(b"x-forwarded-for", b"1.1.1.1, 198.51.100.7"), (b"authorization", b"Bearer secret")]
    with structlog.testing.capture_logs() as lines:
        access = Access(
            settings,
            Board.create(1),
            0,
            clock=lambda: 100.0,
            log=structlog.get_logger(),
            count=lambda reason: None,
        )

        exchange = Exchange(
            cast(Wire, None), asked("/metrics", headers), keep_alive=True, awaits_continue=False
        )
        let_in(access, exchange)

    assert [each["client"] for each in lines] == ["198.51.100.7"]
    assert "secret" not in str(lines)
