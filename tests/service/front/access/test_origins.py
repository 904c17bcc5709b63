"""What browsers and proxies make of the server: other origins' pages, headers of every reply, a path prefix, a port of its own."""

from collections.abc import Iterator
from hashlib import sha256

import httpx
import pytest

from service.front.access.keys import KeyEntry, write_entry
from tests.server import ServerProcess, started
from tests.service.conftest import free_port

ORIGIN = "https://shown.example"
KEY = {"Authorization": "Bearer mine"}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server behind a proxy, for the pages of one origin, with a private port."""
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    scopes = ["classify", "feedback", "metrics", "admin"]
    entry = KeyEntry.model_validate({"sha256": sha256(b"mine").hexdigest(), "scopes": scopes})
    path.write_text(write_entry("mine", entry))
    settings = {
        "keys_file": path,
        "cors_origins": f"{ORIGIN} http://other.example:8080",
        "root_path": "/shown/here",
        "private_port": free_port(),
        "trusted_proxies": "127.0.0.0/8",
    }
    with started({"fronts": 1, "max_batch": 1, **settings}) as server:
        server.wait_for("ready")
        yield server


def test_an_origin_that_is_named_may_ask_and_read_refusals_too(
    shown: ServerProcess, jpeg: bytes
) -> None:
    asks = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    preflight = shown.client.options("/classify", headers=asks)
    answer = shown.client.post("/classify", content=jpeg, headers=KEY | {"Origin": ORIGIN})
    refusal = shown.client.post("/classify", content=jpeg, headers={"Origin": ORIGIN})

    assert preflight.status_code == 204
    assert preflight.content == b""
    assert "authorization" in preflight.headers["Access-Control-Allow-Headers"]
    assert [answer.status_code, refusal.status_code] == [200, 401]
    for reply in (preflight, answer, refusal):
        assert reply.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert "Access-Control-Allow-Credentials" not in reply.headers
        assert "origin" in reply.headers["Vary"]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", f"{ORIGIN}.evil.example"])
def test_any_other_origin_may_not(shown: ServerProcess, origin: str) -> None:
    asks = {"Origin": origin, "Access-Control-Request-Method": "POST"}

    preflight = shown.client.options("/classify", headers=asks)
    reply = shown.client.get("/subnetworks", headers=KEY | {"Origin": origin})

    assert preflight.status_code == 401
    for each in (preflight, reply):
        assert not [name for name in each.headers if name.startswith("access-control")]


def test_left_to_itself_no_origin_may(server: ServerProcess) -> None:
    asks = {"Origin": str(server.client.base_url), "Access-Control-Request-Method": "POST"}

    preflight = server.client.options("/classify", headers=asks)

    assert preflight.status_code == 405
    assert not [name for name in preflight.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/", "/docs", "/health/live", "/nothing", "/subnetworks"])
def test_every_reply_says_how_to_take_it(server: ServerProcess, path: str) -> None:
    headers = server.client.get(path).headers

    assert headers.get_list("X-Content-Type-Options") == ["nosniff"]
    assert headers.get_list("Referrer-Policy") == ["no-referrer"]
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_below_the_path_of_a_proxy_all_is_as_without_it(shown: ServerProcess, jpeg: bytes) -> None:
    client, below = shown.client, "/shown/here"

    assert client.get(f"{below}/health/ready").status_code == 200
    assert client.post(f"{below}/classify", content=jpeg, headers=KEY).status_code == 200
    refusal = client.post(f"{below}/classify", content=jpeg)
    assert refusal.status_code == 401
    assert refusal.json()["type"] == f"{below}/problems/unauthorized"
    assert client.get(f"{below}here/health/ready").status_code == 401
    assert client.get(below, headers=KEY).status_code == 404
    assert client.get(f"{below}/docs", headers=KEY).status_code == 200
    document = client.get(f"{below}/openapi.json", headers=KEY).json()
    assert document["servers"] == [{"url": below}]


@pytest.mark.parametrize(
    ("method", "path", "slug"),
    [
        ("POST", "/classify?top_k=x", "invalid-parameter"),
        ("POST", "/classify/stream?deadline_ms=1e-3&on_miss=refuse", "deadline-impossible"),
        ("GET", "/nothing", "not-found"),
        ("PUT", "/subnetworks", "method-not-allowed"),
    ],
)
def test_the_type_of_a_problem_leads_to_its_page_below_the_path_of_a_proxy(
    shown: ServerProcess, jpeg: bytes, method: str, path: str, slug: str
) -> None:
    reply = shown.client.request(method, f"/shown/here{path}", content=jpeg, headers=KEY)

    assert reply.json()["type"] == f"/shown/here/problems/{slug}"
    assert shown.client.get(reply.json()["type"], headers=KEY).status_code == 200


def test_each_of_several_images_is_told_so_below_the_path_of_a_proxy(shown: ServerProcess) -> None:
    files = [("file", b"no image"), ("file", b"none either")]

    replies = shown.client.post("/shown/here/classify", files=files, headers=KEY).json()

    assert {each["type"] for each in replies} == {"/shown/here/problems/not-an-image"}


def test_metrics_and_admin_are_on_their_own_port_alone(shown: ServerProcess) -> None:
    private = f"http://127.0.0.1:{shown.settings['private_port']}"

    def statuses(path: str, method: str = "GET") -> list[int]:
        urls = (path, f"{private}{path}")
        return [shown.client.request(method, url, headers=KEY).status_code for url in urls]

    assert statuses("/metrics") == [404, 200]
    assert statuses("/admin/reload", "POST") == [404, 200]
    assert statuses("/subnetworks") == [200, 404]
    assert statuses("/health/ready") == [200, 200]
    assert httpx.get(f"{private}/metrics").status_code == 401
