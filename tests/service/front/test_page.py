"""What browsers are given, without a browser: bytes, headers, settings, and the load that the page asks for."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model.bundle import Bundle
from service.front.page import LoadWanted, shows_load
from service.settings import Settings
from tests.server import ROOT, ServerProcess

SAMPLES = sorted(each for each in (ROOT / "docs/samples").iterdir() if each.suffix != ".md")
LARGEST_BYTES = 60_000
StartServer = Callable[..., ServerProcess]


def test_the_page_runs_only_its_own_script_and_asks_only_its_own_server(
    server: ServerProcess,
) -> None:
    reply = server.client.get("/")

    policy = dict(
        each.strip().partition(" ")[::2]
        for each in reply.headers["Content-Security-Policy"].split(";")
    )
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert "unsafe" not in reply.headers["Content-Security-Policy"]
    assert "sha256-" in policy["script-src"]
    assert "sha256-" in policy["style-src"]
    assert not re.search(r"(?:src|href)=\"?(?:https?:)?//", reply.text)


@pytest.mark.parametrize("path", ["/", "/docs", "/docs/swagger-ui.css", "/samples/cat.jpg"])
def test_a_browser_that_has_it_gets_no_bytes(server: ServerProcess, path: str) -> None:
    first = server.client.get(path)
    again = server.client.get(path, headers={"If-None-Match": first.headers["ETag"]})

    assert first.status_code == 200
    assert (again.status_code, again.content) == (304, b"")


def test_the_page_comes_compressed_where_that_is_wanted(server: ServerProcess) -> None:
    packed = server.client.get("/")
    plain = server.client.get("/", headers={"Accept-Encoding": "identity"})

    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert packed.text == plain.text
    assert int(packed.headers["Content-Length"]) < int(plain.headers["Content-Length"]) / 2


def test_head_of_the_page_is_that_of_get_without_its_body(server: ServerProcess) -> None:
    head = server.client.head("/")

    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["Content-Length"] == server.client.get("/").headers["Content-Length"]


def test_the_documentation_needs_no_other_host(server: ServerProcess) -> None:
    html = server.client.get("/docs").text

    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", html)
    for address in re.findall(r"(?:src|href)=\"([^\"]+)\"", html):
        if not address.startswith("data:"):
            assert server.client.get(f"/{address}").status_code == 200
    assert server.client.get("/docs/redoc.js").status_code == 404


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name)
def test_each_sample_is_small_shown_and_licensed(server: ServerProcess, sample: Path) -> None:
    assert sample.stat().st_size <= LARGEST_BYTES
    assert f'data-file="{sample.name}"' in server.client.get("/").text
    assert f"`{sample.name}`" in (ROOT / "docs/samples/LICENSES.md").read_text()
    assert server.client.get(f"/samples/{sample.name}").content == sample.read_bytes()
    assert server.classify(sample.read_bytes(), deadline_ms=60_000).status_code == 200


def test_samples_are_of_many_kinds() -> None:
    images = []
    for each in SAMPLES:
        with Image.open(each) as image:
            image.load()
            images.append(image)

    assert 6 <= len(images) <= 10
    assert {image.format for image in images} == {"JPEG", "PNG", "WEBP"}
    assert len({image.size for image in images}) == len(images)
    assert any(image.getexif().get(0x0112, 1) != 1 for image in images)


def test_there_is_no_other_sample(server: ServerProcess) -> None:
    reply = server.client.get("/samples/LICENSES.md")

    assert (reply.status_code, reply.json()["title"]) == (404, "Not found")


def test_the_page_can_be_turned_off(start_server: StartServer) -> None:
    server = start_server(page="false")
    server.wait_for("listening")

    for path in ("/", "/samples/cat.jpg", "/load"):
        assert server.client.get(path).json()["title"] == "Not found"
    assert server.client.get("/docs").status_code == 200


def test_the_page_is_told_of_grafana_and_whether_it_may_load(start_server: StartServer) -> None:
    server = start_server(grafana_url="http://grafana.example/d/1?a=</script>", page_load="off")
    server.wait_for("listening")

    assert '{"grafana": "http://grafana.example/d/1?a=\\u003c/script>", "load": false}' in (
        server.client.get("/").text
    )
    assert server.client.get("/load").status_code == 404


@pytest.mark.parametrize(
    ("host", "page_load", "shown"),
    [
        ("127.0.0.1", "auto", True),
        ("::1", "auto", True),
        ("localhost", "auto", True),
        ("0.0.0.0", "auto", False),
        ("::", "auto", False),
        ("example.org", "auto", False),
        ("0.0.0.0", "on", True),
        ("127.0.0.1", "off", False),
    ],
)
def test_the_server_loads_itself_only_where_no_other_machine_can_ask(
    host: str, page_load: str, shown: bool
) -> None:
    settings = Settings.model_validate({"host": host, "page_load": page_load})

    assert shows_load(settings) is shown


@pytest.mark.parametrize(
    "wanted",
    [
        '{"times": 11, "deadline_ms": 5}',
        '{"times": -1, "deadline_ms": 5}',
        '{"times": 1}',
        '{"times": 1, "deadline_ms": 5, "model": "unknown"}',
        "1",
        "{",
    ],
)
def test_a_load_out_of_bounds_is_refused(server: ServerProcess, wanted: str) -> None:
    headers = {"Content-Type": "application/json"}
    reply = server.client.post("/load", content=wanted, headers=headers)

    assert (reply.status_code, reply.json()["title"]) == (422, "Invalid parameter")
    assert {"parameter", "value", "allowed"} <= reply.json().keys()
    assert server.client.get("/load").json()["times"] == 0


def test_another_site_cannot_have_the_server_loaded(server: ServerProcess) -> None:
    """A page of another site may post text without being asked for leave, and JSON not."""
    reply = server.client.post("/load", content='{"times": 1, "deadline_ms": 5}')

    assert reply.status_code == 422
    assert server.client.get("/load").json()["times"] == 0


def test_load_is_sent_to_the_model_that_is_asked_reported_and_ended(
    start_server: StartServer, bundle: Bundle
) -> None:
    server = start_server(bundles=f"one={bundle.folder},two={bundle.folder}", log_sample=0)
    server.wait_for("ready")

    def want(times: float, model: str | None) -> None:
        wanted = LoadWanted(times=times, deadline_ms=500, model=model)
        assert server.client.post("/load", json=wanted.model_dump()).status_code == 200

    want(0.2, "two")
    report = wait_until(server, lambda report: report["in_time_per_s"] > 0)
    counted = server.metrics()
    want(0.2, None)  # none is the first
    wait_until(server, lambda report: report["model"] == "one" and report["in_time_per_s"] > 0)
    want(0, None)
    after = wait_until(server, lambda report: report["sent_per_s"] == 0)

    assert report["model"] == "two"
    assert received(counted, "two") > 0 == received(counted, "one")
    assert received(server.metrics(), "one") > 0
    assert report["holds_per_s"] > report["sent_per_s"] > 0
    assert sum(report["subnetworks"].values()) == pytest.approx(1, abs=0.01)
    assert 0.5 < report["expected_accuracy"] < 1
    assert {"latency_ms", "deadline_ms", "subnetwork", "in_time"} == set(report["answers"][0])
    assert after["times"] == 0
    assert server.requests_by_outcome()["in_time"] > 0


def received(metrics: dict[str, float], model: str) -> float:
    """Return how many answers of a model were in time."""
    ended = f'anytime_requests_total{{model="{model}",'
    return sum(value for name, value in metrics.items() if name.startswith(ended))


def wait_until(server: ServerProcess, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Ask how the load goes until it goes so."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        report: dict[str, Any] = server.client.get("/load").json()
        if holds(report):
            return report
    raise AssertionError(report)
