"""The client: any kind of image in, typed answers and problems out, never later than the deadline."""

import io
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from PIL import Image

from service import client, problems, schemas
from service.client import AsyncClient, Client
from service.client.images import to_bytes
from tests.server import ROOT, ServerProcess

HELLO = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]"


def ask(url: str, method: str, *arguments: Any, **options: Any) -> Any:
    """Call a method of the client; a stream as a list."""
    with Client(url) as caller:
        result = getattr(caller, method)(*arguments, **options)
        return list(result) if method == "stream" else result


def ask_async(url: str, method: str, *arguments: Any, **options: Any) -> Any:
    """Call it of the asynchronous one."""

    async def run() -> Any:
        async with AsyncClient(url) as caller:
            result = getattr(caller, method)(*arguments, **options)
            return [each async for each in result] if method == "stream" else await result

    return anyio.run(run)


both = pytest.mark.parametrize("ask", [ask, ask_async])
Ask = Callable[..., Any]


def url_of(server: ServerProcess) -> str:
    return str(server.client.base_url)


@contextmanager
def listening(serve: Callable[[socket.socket], object]) -> Iterator[str]:
    """Give each connection to a function, in a thread; give the URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_importing_the_client_takes_httpx_and_nothing_of_the_server() -> None:
    program = "import sys, service.client; print(*{m.split('.')[0] for m in sys.modules})"

    loaded = subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True).split()

    assert "httpx" in loaded
    unwanted = {"numpy", "onnxruntime", "PIL", "fastapi", "starlette", "pydantic", "typer", "model"}
    assert not unwanted & set(loaded)


def test_every_problem_of_the_server_has_its_class_in_the_client() -> None:
    assert {slug: kind.status for slug, kind in client.problems.CATALOGUE.items()} == {
        slug: kind.status for slug, kind in problems.CATALOGUE.items()
    }
    for kind in client.problems.CATALOGUE.values():
        assert getattr(client, kind.__name__) is kind


@pytest.mark.parametrize(
    ("document", "own"),
    [
        (schemas.Step, {"waited_ms"}),
        (schemas.Candidate, set()),
        (schemas.BundleName, set()),
        (schemas.Score, set()),
        (schemas.SubnetworkEntry, set()),
        (schemas.SubnetworkList, set()),
    ],
)
def test_documents_have_the_fields_that_the_server_sends(document: Any, own: set[str]) -> None:
    name = {"Step": "Answer", "SubnetworkEntry": "Subnetwork"}.get(
        document.__name__, document.__name__
    )

    known = {each.name for each in fields(getattr(client, name))}

    assert known == {*document.model_fields} | own


@both
def test_an_image_is_answered_whatever_it_is_given_as(
    ask: Ask, server: ServerProcess, picture: Image.Image, tmp_path: Path
) -> None:
    path = tmp_path / "image.png"
    picture.save(path)
    content, pixels = path.read_bytes(), np.asarray(picture)
    images: list[Any] = [content, bytearray(content), path, str(path), io.BytesIO(content)]
    images += [
        picture,
        pixels,
        pixels[:, ::-1][:, ::-1],
        np.dstack([pixels, 0 * pixels[..., 0] + 255]),
    ]

    answers = [
        ask(url_of(server), "classify", image, deadline_ms=60_000, subnetwork="wide-full")
        for image in images
    ]

    assert {(each.label, each.confidence) for each in answers} == {
        (answers[0].label, answers[0].confidence)
    }
    assert all(each.in_time and each.waited_ms >= each.latency_ms for each in answers)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (3, "int is no image"),
        (io.StringIO("x"), "opened as text"),
        (np.zeros((4, 4)), "items are 'd'; pixels are uint8"),
        (np.zeros((4, 4, 7), np.uint8), r"array is \(4, 4, 7\); an image is"),
        (np.zeros((0, 4), np.uint8), r"array is \(0, 4\); an image is"),
    ],
)
def test_what_is_no_image_is_told_before_anything_is_sent(image: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        to_bytes(image)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_a_pillow_image_of_any_mode_is_sent_upright(mode: str) -> None:
    image = Image.new(mode, (6, 4))
    image.getexif()[0x0112] = 6

    sent = Image.open(io.BytesIO(to_bytes(image)))

    assert sent.size == (6, 4)
    assert sent.getexif()[0x0112] == 6


@both
def test_a_stream_ends_with_its_final_answer(ask: Ask, server: ServerProcess, jpeg: bytes) -> None:
    answers = ask(url_of(server), "stream", jpeg, deadline_ms=60_000)

    assert len(answers) > 1
    assert [each.final for each in answers] == [False] * (len(answers) - 1) + [True]
    assert answers[-1].subnetwork == "wide-full-mirrored"


def test_a_stream_may_be_left(server: ServerProcess, jpeg: bytes) -> None:
    with Client(url_of(server)) as caller:
        for answer in caller.stream(jpeg, deadline_ms=60_000):
            assert not answer.final
            break

        assert caller.classify(jpeg).label


@both
def test_a_label_is_scored(ask: Ask, server: ServerProcess, jpeg: bytes) -> None:
    answer = ask(url_of(server), "classify", jpeg)

    score = ask(url_of(server), "feedback", answer, answer.label)

    assert score.is_right
    with pytest.raises(client.FeedbackRepeated):
        ask(url_of(server), "feedback", answer.request_id, answer.label)


@both
def test_subnetworks_come_in_order_of_cost(ask: Ask, server: ServerProcess) -> None:
    listed = ask(url_of(server), "subnetworks")

    assert listed.bundle.name == "cifar10"
    assert [each.macs for each in listed.subnetworks] == sorted(
        each.macs for each in listed.subnetworks
    )


@both
@pytest.mark.parametrize("method", ["classify", "stream"])
def test_a_problem_is_raised_as_its_class(ask: Ask, method: str, server: ServerProcess) -> None:
    with pytest.raises(client.NotAnImage, match="not-an-image: the 3 bytes") as raised:
        ask(url_of(server), method, b"GIF")
    with pytest.raises(client.InvalidParameter) as invalid:
        ask(url_of(server), method, b"GIF", top_k=99)

    assert raised.value.status == 415
    assert invalid.value.members["parameter"] == "top_k"


@both
def test_a_server_that_says_nothing_costs_no_more_than_the_deadline(ask: Ask) -> None:
    over = threading.Event()

    with listening(lambda _: over.wait()) as url:
        try:
            with pytest.raises(client.DeadlineExceeded, match="no answer came within 50 ms"):
                ask(url, "classify", b"image", deadline_ms=50)
        finally:
            over.set()


@both
def test_what_got_no_byte_of_a_reply_is_sent_again(ask: Ask) -> None:
    seen: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        seen.append(connection.recv(65536))
        if len(seen) > 1:
            connection.sendall(HELLO)

    with listening(serve) as url, pytest.raises(client.UnexpectedReply):
        ask(url, "subnetworks")  # an answer it is, though not to this

    assert len(seen) == 2


@both
def test_what_was_answered_in_part_is_not_sent_again(ask: Ask) -> None:
    seen: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        seen.append(connection.recv(65536))
        connection.sendall(HELLO[:-1])

    with listening(serve) as url, pytest.raises(client.Unreachable, match="the connection ended"):
        ask(url, "subnetworks")

    assert len(seen) == 1


@both
def test_no_server_is_told_as_such(ask: Ask) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"

        with pytest.raises(client.Unreachable, match="no connection to the server"):
            ask(url, "classify", b"image", deadline_ms=10_000)


@pytest.mark.parametrize("url", ["", "nix", "ftp://host", "http://", "http://[::1"])
def test_what_is_no_url_is_told_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="is no URL"):
        Client(url)
