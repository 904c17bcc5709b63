"""Several files in one form: each is answered in its order, for itself."""

import socket
from collections.abc import Sequence

import httpx
import pytest
from PIL import Image

from service.client import Answer, InvalidParameter, NotAnImage, Problem
from service.client.images import to_bytes
from tests.server import ServerProcess
from tests.service.client.test_client import Ask, both, url_of


def post(server: ServerProcess, files: Sequence[bytes], **query: object) -> httpx.Response:
    parts = [("file", (f"{n}.png", content)) for n, content in enumerate(files)]
    return server.client.post("/classify", files=parts, params=query)  # type: ignore[arg-type]


@pytest.fixture
def images() -> list[bytes]:
    return [to_bytes(Image.new("RGB", (32, 32), colour)) for colour in ("navy", "green", "white")]


def test_several_files_are_answered_in_their_order(
    server: ServerProcess, images: list[bytes]
) -> None:
    query: dict[str, object] = {"deadline_ms": 60_000, "subnetwork": "wide-full", "top_k": 2}
    alone = [server.classify(each, **query).json() for each in images]

    reply = post(server, images, **query)

    together = reply.json()
    assert reply.status_code == 200
    assert [each["top"] for each in together] == [each["top"] for each in alone]
    assert all(each.keys() == alone[0].keys() for each in together)


def test_one_that_is_no_image_does_not_spoil_the_others(
    server: ServerProcess, images: list[bytes]
) -> None:
    before = server.requests_by_outcome()

    first, bad, last = post(server, [images[0], b"no image", images[1]], deadline_ms=60_000).json()

    assert first["in_time"]
    assert last["in_time"]
    assert (bad["type"], bad["status"]) == ("/problems/not-an-image", 415)
    after = server.requests_by_outcome()
    gained = {name: after[name] - before.get(name, 0) for name in after}
    assert {name: count for name, count in gained.items() if count} == {"in_time": 2, "invalid": 1}


def test_each_file_has_an_id_of_its_own_for_its_label(
    server: ServerProcess, images: list[bytes]
) -> None:
    parts = [("file", ("a.png", each)) for each in images[:2]]

    reply = server.client.post("/classify", files=parts, headers={"X-Request-ID": "several"})

    assert reply.headers["X-Request-ID"] == "several"
    answers = reply.json()
    assert [each["request_id"] for each in answers] == ["several-1", "several-2"]
    label = {"request_id": "several-2", "label": answers[1]["label"]}
    assert server.client.post("/feedback", json=label).json()["is_right"]


def test_each_file_of_a_client_that_left_has_one_fate(
    server: ServerProcess, images: list[bytes]
) -> None:
    parts = [("file", ("a.png", each)) for each in images * 20]
    form = server.client.build_request("POST", "/classify", files=parts)
    head = "".join(f"{name}: {value}\r\n" for name, value in form.headers.items())
    before = sum(server.requests_by_outcome().values())

    with socket.create_connection(server.address) as connection:
        connection.sendall(f"POST /classify HTTP/1.1\r\n{head}\r\n".encode() + form.read())

    while (ended := sum(server.requests_by_outcome().values()) - before) < len(parts):
        pass
    assert ended == len(parts)


def test_one_file_is_answered_as_ever(server: ServerProcess, images: list[bytes]) -> None:
    assert post(server, images[:1]).json()["label"]
    assert post(server, [b"no image"]).status_code == 415


def test_a_parameter_that_cannot_be_refuses_the_form(
    server: ServerProcess, images: list[bytes]
) -> None:
    reply = post(server, images, top_k=99)

    assert reply.status_code == 422
    assert reply.json()["parameter"] == "top_k"


def test_a_stream_takes_one_file(server: ServerProcess, images: list[bytes]) -> None:
    parts = [("file", ("a.png", each)) for each in images]

    reply = server.client.post("/classify/stream", files=parts)

    assert reply.json()["type"] == "/problems/invalid-upload"


@both
def test_the_client_gives_an_answer_or_a_problem_for_each(
    ask: Ask, server: ServerProcess, images: list[bytes]
) -> None:
    outcomes = ask(url_of(server), "classify", [images[0], b"no image"], deadline_ms=60_000)

    assert [type(each) for each in outcomes] == [Answer, NotAnImage]


@both
@pytest.mark.parametrize("bad", [b"no image", b""])
def test_the_client_tells_of_a_single_image_as_of_several(
    ask: Ask, server: ServerProcess, images: list[bytes], bad: bytes
) -> None:
    def outcomes(several: list[bytes]) -> list[type]:
        told = ask(url_of(server), "classify", several, deadline_ms=60_000)
        return [type(each) for each in told]

    assert outcomes(images[:1]) == [Answer]
    assert outcomes([]) == []
    assert outcomes([bad])[0].__base__ is Problem
    with pytest.raises(InvalidParameter):
        ask(url_of(server), "classify", images[:1], top_k=99)
