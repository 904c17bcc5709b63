"""The API as clients see it: the real server process, over real sockets."""

import gzip
import socket
from io import BytesIO

import httpx
import pytest
from PIL import Image

from model.bundle import Bundle
from service.problems import CATALOGUE
from service.schemas import Answer, SubnetworkList
from tests.server import ServerProcess


def test_an_answer_has_every_documented_field(server: ServerProcess, jpeg: bytes) -> None:
    response = server.classify(jpeg, deadline_ms=10_000, top_k=3)

    assert response.status_code == 200
    answer = Answer.model_validate_json(response.content, strict=True)
    assert response.headers["X-Request-ID"] == answer.request_id
    assert answer.in_time
    assert 0 < answer.run_ms < answer.latency_ms < answer.deadline_ms == 10_000
    assert answer.queue_ms + answer.run_ms <= answer.latency_ms + 0.002  # each rounded to 1 µs
    assert len(answer.top) == 3
    assert answer.top[0].model_dump() == answer.model_dump(
        include={"label", "class_id", "confidence"}
    )
    assert answer.top == sorted(answer.top, key=lambda each: -each.confidence)


def test_a_long_deadline_gets_the_most_accurate_subnetwork(
    server: ServerProcess, bundle: Bundle, jpeg: bytes
) -> None:
    answer = server.classify(jpeg, deadline_ms=60_000).json()

    listed = SubnetworkList.model_validate_json(server.client.get("/subnetworks").content)
    best = max(listed.subnetworks, key=lambda each: each.expected_accuracy)
    assert answer["subnetwork"] == best.name
    assert answer["expected_accuracy"] == best.expected_accuracy
    assert answer["bundle"] == {"name": bundle.manifest.name, "digest": bundle.digest}


def test_a_photo_whose_deadline_no_machine_meets_is_answered_late_too(
    server: ServerProcess, picture: Image.Image
) -> None:
    file = BytesIO()
    picture.resize((400, 400)).save(file, "JPEG")

    answer = server.classify(file.getvalue(), deadline_ms=0.001).json()

    assert answer["in_time"] is False


def test_a_deadline_that_nothing_meets_is_answered_late_by_the_fastest(
    server: ServerProcess, bundle: Bundle, jpeg: bytes
) -> None:
    answer = server.classify(jpeg, deadline_ms=0.001).json()

    assert answer["subnetwork"] == min(bundle.manifest.subnetworks, key=lambda each: each.macs).name
    assert answer["in_time"] is False
    assert answer["latency_ms"] > answer["deadline_ms"]


def test_what_is_refused_anyhow_is_not_decoded(server: ServerProcess) -> None:
    response = server.classify(b"no image", deadline_ms=0.001, on_miss="refuse")

    assert response.json()["type"] == "/problems/deadline-impossible"


def test_or_it_is_refused_if_the_client_prefers(server: ServerProcess, jpeg: bytes) -> None:
    response = server.classify(jpeg, deadline_ms=0.001, on_miss="refuse")

    assert response.status_code == 422
    problem = response.json()
    assert problem["type"] == "/problems/deadline-impossible"
    assert problem["needed_ms"] > problem["deadline_ms"] == 0.001


def test_every_subnetwork_can_be_forced(server: ServerProcess, bundle: Bundle, jpeg: bytes) -> None:
    for subnetwork in bundle.manifest.subnetworks:
        answer = server.classify(jpeg, subnetwork=subnetwork.name, deadline_ms=60_000).json()
        assert answer["subnetwork"] == subnetwork.name


def test_lossless_formats_get_the_same_answer(server: ServerProcess, picture: Image.Image) -> None:
    def ask(format: str, **options: object) -> object:
        file = BytesIO()
        picture.save(file, format, **options)
        return server.classify(file.getvalue(), subnetwork="wide-full").json()["top"]

    assert ask("PNG") == ask("WEBP", lossless=True)


def test_a_form_with_one_file_gets_the_same_answer(server: ServerProcess, jpeg: bytes) -> None:
    response = server.client.post(
        "/classify", files={"file": ("cat.jpg", jpeg)}, params={"subnetwork": "wide-full"}
    )

    assert response.json()["top"] == server.classify(jpeg, subnetwork="wide-full").json()["top"]


@pytest.mark.parametrize(
    ("sent", "returned"), [("my-request.1", True), ("has spaces", False), ("x" * 200, False)]
)
def test_a_sane_request_id_comes_back(
    server: ServerProcess, jpeg: bytes, sent: str, returned: bool
) -> None:
    response = server.client.post("/classify", content=jpeg, headers={"X-Request-ID": sent})

    assert (response.headers["X-Request-ID"] == sent) is returned


@pytest.mark.parametrize(
    ("query", "content", "status", "slug", "detail"),
    [
        ("", b"", 400, "empty-body", "empty"),
        ("", b"not an image", 415, "not-an-image", "12 bytes"),
        ("", bytes(200_001), 413, "body-too-large", "200001 bytes, the limit is 200000"),
        ("deadline_ms=0", b"x", 422, "invalid-parameter", "deadline_ms is '0'"),
        ("deadline_ms=-5", b"x", 422, "invalid-parameter", "deadline_ms is '-5'"),
        ("deadline_ms=nan", b"x", 422, "invalid-parameter", "deadline_ms is 'nan'"),
        ("deadline_ms=1e-323", b"x", 422, "invalid-parameter", "from 0.001 to 86400000"),
        ("deadline_ms=1e12", b"x", 422, "invalid-parameter", "from 0.001 to 86400000"),
        ("deadline_ms=soon", b"x", 422, "invalid-parameter", "deadline_ms is 'soon'"),
        ("top_k=11", b"x", 422, "invalid-parameter", "from 1 to 10"),
        ("subnetwork=none", b"x", 422, "invalid-parameter", "subnetwork is 'none'"),
        ("deadine_ms=5", b"x", 422, "invalid-parameter", "no parameter 'deadine_ms'"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(
    server: ServerProcess, query: str, content: bytes, status: int, slug: str, detail: str
) -> None:
    response = server.client.post(f"/classify?{query}", content=content)

    assert_problem(response, status, slug)
    assert detail in response.json()["detail"]
    assert response.headers["X-Request-ID"]


def test_a_truncated_image_is_a_problem(server: ServerProcess, jpeg: bytes) -> None:
    assert_problem(server.classify(jpeg[: len(jpeg) // 2]), 422, "damaged-image")


def test_an_image_over_the_pixel_limit_is_refused(server: ServerProcess) -> None:
    file = BytesIO()
    Image.new("1", (1001, 1000)).save(file, "PNG")

    response = server.classify(file.getvalue())

    assert_problem(response, 422, "too-many-pixels")
    assert response.json()["limit"] == 1_000_000


def test_a_body_over_the_limit_is_refused_before_it_is_sent(server: ServerProcess) -> None:
    with socket.create_connection(server.address, timeout=30) as connection:
        connection.sendall(
            b"POST /classify HTTP/1.1\r\nHost: here\r\nContent-Length: 99999999999\r\n\r\n"
        )

        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_body_of_unknown_length_is_refused_at_the_limit(server: ServerProcess) -> None:
    chunk = b"4000\r\n" + bytes(0x4000) + b"\r\n"
    with socket.create_connection(server.address, timeout=30) as connection:
        connection.sendall(
            b"POST /classify HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        connection.sendall(13 * chunk)  # 212,992 bytes, and no end

        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_an_unknown_route_is_a_problem(server: ServerProcess) -> None:
    assert_problem(server.client.get("/clasify"), 404, "not-found")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_wrong_method_is_told_the_right_one(server: ServerProcess, method: str) -> None:
    response = server.client.request(method, "/classify")

    assert_problem(response, 405, "method-not-allowed")
    assert response.headers["Allow"] == "POST"


@pytest.mark.parametrize("slug", CATALOGUE)
def test_the_type_of_a_problem_leads_to_its_page(server: ServerProcess, slug: str) -> None:
    page = server.client.get(f"/problems/{slug}")

    assert page.status_code == 200
    assert CATALOGUE[slug].title in page.text


def test_the_subnetworks_are_listed_with_their_cost(server: ServerProcess, bundle: Bundle) -> None:
    listed = SubnetworkList.model_validate_json(server.client.get("/subnetworks").content)

    assert {each.name for each in listed.subnetworks} == {
        each.name for each in bundle.manifest.subnetworks
    }
    assert [each.macs for each in listed.subnetworks] == sorted(
        each.macs for each in listed.subnetworks
    )
    assert all(each.predicted_run_latency_ms > 0 for each in listed.subnetworks)


def test_a_subnetwork_has_the_accuracy_of_the_precision_that_it_is_served_in(
    server: ServerProcess, bundle: Bundle
) -> None:
    listed = SubnetworkList.model_validate_json(server.client.get("/subnetworks").content)

    for entry, subnetwork in zip(listed.subnetworks, bundle.manifest.subnetworks, strict=True):
        assert subnetwork.int8
        served = subnetwork.int8 if entry.precision == "int8" else subnetwork
        expected = served.accuracy.estimate
        assert entry.expected_accuracy == round(expected.value, 6)
        assert entry.expected_accuracy_interval == (
            round(expected.low, 6),
            round(expected.high, 6),
        )
        assert entry.test_accuracy == served.accuracy.test_value


def test_every_request_is_counted_once(server: ServerProcess, jpeg: bytes) -> None:
    before = server.requests_by_outcome()

    server.classify(jpeg, deadline_ms=60_000)
    server.classify(jpeg, deadline_ms=0.001)
    server.classify(jpeg, deadline_ms=0.001, on_miss="refuse")
    server.classify(b"not an image")

    after = server.requests_by_outcome()
    counted = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    # What no machine could have done is counted apart from what this one missed, answered or not.
    assert counted == {"in_time": 1, "impossible": 2, "invalid": 1}


def test_health_is_good(server: ServerProcess) -> None:
    assert server.client.get("/health/live").json() == {"status": "live"}
    assert server.client.get("/health/ready").json() == {"status": "ready"}


def assert_problem(response: httpx.Response, status: int, slug: str) -> None:
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == f"/problems/{slug}"
    assert problem["status"] == status
    assert problem["title"] == CATALOGUE[slug].title


def test_form_fields_are_parameters_of_the_request(server: ServerProcess, jpeg: bytes) -> None:
    files = [
        ("file", ("cat.jpg", jpeg, "image/jpeg")),
        ("meta", ("blob", b"{}", "application/json")),
    ]

    answer = server.client.post(
        "/classify", files=files, data={"deadline_ms": "777", "top_k": "2"}
    ).json()

    assert answer["deadline_ms"] == 777
    assert len(answer["top"]) == 2


@pytest.mark.parametrize(("query", "field"), [("", "deadline"), ("?deadline_ms=5", "deadline_ms")])
def test_a_form_field_that_is_no_parameter_or_repeats_one_is_refused_by_name(
    server: ServerProcess, jpeg: bytes, query: str, field: str
) -> None:
    response = server.client.post(f"/classify{query}", files={"file": jpeg}, data={field: "5"})

    assert_problem(response, 422, "invalid-parameter")
    assert response.json()["parameter"] == field


def test_a_body_that_is_packed_is_refused(server: ServerProcess, jpeg: bytes) -> None:
    response = server.client.post(
        "/classify", content=gzip.compress(jpeg), headers={"Content-Encoding": "gzip"}
    )

    assert_problem(response, 415, "unsupported-encoding")
    assert response.headers["accept-encoding"] == "identity"
