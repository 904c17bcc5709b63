"""Streams and early stops as clients see them: the real server process, over real sockets."""

import json
import socket
from contextlib import suppress
from typing import Any

import pytest

from model.bundle import Bundle
from service.schemas import Step
from tests.server import ServerProcess


def stream(
    server: ServerProcess, content: bytes, accept: str = "text/event-stream", **query: object
) -> list[dict[str, Any]]:
    """Return the events, as a client of server-sent events reads them."""
    with server.client.stream(
        "POST",
        "/classify/stream",
        content=content,
        params=query,  # type: ignore[arg-type]
        headers={"Accept": accept},
    ) as response:
        assert response.status_code == 200
        assert response.headers["Content-Type"] == accept
        assert response.headers["X-Request-ID"]
        lines = [line for line in response.iter_lines() if line]
    if accept == "text/event-stream":
        assert all(line.startswith("data: ") for line in lines)
        lines = [line.removeprefix("data: ") for line in lines]
    for line in lines:
        Step.model_validate_json(line, strict=True)
    return [json.loads(line) for line in lines]


def raw_request(server: ServerProcess, content: bytes, query: str) -> bytes:
    host, port = server.address
    head = (
        f"POST /classify/stream?{query} HTTP/1.1\r\nHost: {host}:{port}\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + content


def test_answers_get_better_until_the_full_network_ends_them(
    server: ServerProcess, bundle: Bundle, jpeg: bytes
) -> None:
    events = stream(server, jpeg, deadline_ms=60_000, top_k=2)

    accuracies = [event["expected_accuracy"] for event in events]
    assert len(events) > 2
    assert accuracies == sorted(set(accuracies))
    macs = {each.name: each.macs for each in bundle.manifest.subnetworks}
    costs = [macs[event["subnetwork"]] for event in events]
    assert costs == sorted(costs)  # the first is the fastest as warm-up measured it
    listed = server.client.get("/subnetworks").json()["subnetworks"]
    assert accuracies[-1] == max(each["expected_accuracy"] for each in listed)
    assert [event["final"] for event in events] == [False] * (len(events) - 1) + [True]
    latencies = [event["latency_ms"] for event in events]
    assert latencies == sorted(latencies)
    assert len({event["request_id"] for event in events}) == 1
    assert all(len(event["top"]) == 2 for event in events)


def test_each_answer_is_that_of_its_subnetwork(server: ServerProcess, jpeg: bytes) -> None:
    for event in stream(server, jpeg, deadline_ms=60_000):
        alone = server.classify(jpeg, subnetwork=event["subnetwork"], deadline_ms=60_000).json()
        assert event["top"] == alone["top"]


def test_lines_of_json_for_those_who_accept_them(server: ServerProcess, jpeg: bytes) -> None:
    events = stream(server, jpeg, accept="application/x-ndjson", deadline_ms=60_000)

    assert events[-1]["final"]


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "text/event-stream"),
        ("Application/X-NDJSON", "application/x-ndjson"),
        ("application/x-ndjson;q=0", "text/event-stream"),
        ("text/event-stream, application/x-ndjson;q=0.1", "text/event-stream"),
        ("text/event-stream;q=0.5, application/x-ndjson;q=0.9", "application/x-ndjson"),
    ],
)
def test_the_form_is_the_one_that_the_client_prefers(
    server: ServerProcess, jpeg: bytes, accept: str, content_type: str
) -> None:
    response = server.client.post(
        "/classify/stream", content=jpeg, headers={"Accept": accept}, params={"deadline_ms": 60_000}
    )

    assert response.headers["content-type"] == content_type


def test_the_time_before_the_first_run_is_the_queue_time_of_every_answer(
    server: ServerProcess, jpeg: bytes
) -> None:
    events = stream(server, jpeg, deadline_ms=60_000)

    assert len(events) > 1
    assert len({event["queue_ms"] for event in events}) == 1


def test_a_deadline_that_no_machine_meets_still_gets_one_answer(
    server: ServerProcess, jpeg: bytes
) -> None:
    events = stream(server, jpeg, deadline_ms=0.001)

    assert events[-1]["final"]
    assert events[0]["subnetwork"] == events[-1]["subnetwork"] == "narrow-column-1"


def test_what_cannot_be_met_is_refused_before_anything_is_sent(
    server: ServerProcess, jpeg: bytes
) -> None:
    response = server.client.post(
        "/classify/stream", content=jpeg, params={"deadline_ms": 0.001, "on_miss": "refuse"}
    )

    assert response.status_code == 422
    assert response.json()["type"] == "/problems/deadline-impossible"


@pytest.mark.parametrize(
    ("content", "query", "status"),
    [(b"no image", {}, 415), (b"", {}, 400), (None, {"stop_at_confidence": "2"}, 422)],
)
def test_bad_input_is_a_problem_as_elsewhere(
    server: ServerProcess, jpeg: bytes, content: bytes | None, query: dict[str, str], status: int
) -> None:
    body = jpeg if content is None else content
    streamed = server.client.post("/classify/stream", content=body, params=query)
    once = server.client.post("/classify", content=body, params=query)

    assert streamed.status_code == once.status_code == status
    assert streamed.json()["type"] == once.json()["type"]


def test_a_stream_is_one_request_to_the_metrics(server: ServerProcess, jpeg: bytes) -> None:
    before = server.requests_by_outcome()
    events = stream(server, jpeg, deadline_ms=60_000)
    after = server.requests_by_outcome()

    assert sum(after.values()) == sum(before.values()) + 1
    assert after["in_time"] == before.get("in_time", 0) + 1
    refined = [name for name in server.metrics() if name.startswith("anytime_refinements_total")]
    assert any(events[-1]["subnetwork"] in name for name in refined)


def test_an_answer_that_is_sure_enough_is_the_only_one(server: ServerProcess, jpeg: bytes) -> None:
    events = stream(server, jpeg, deadline_ms=60_000, stop_at_confidence=0.01)
    answer = server.classify(jpeg, deadline_ms=60_000, stop_at_confidence=0.01).json()

    assert [(event["subnetwork"], event["final"]) for event in events] == [
        ("narrow-column-1", True)
    ]
    assert answer["subnetwork"] == "narrow-column-1"


def test_an_answer_that_is_never_sure_enough_ends_with_the_best_subnetwork(
    server: ServerProcess, jpeg: bytes
) -> None:
    answer = server.classify(jpeg, deadline_ms=60_000, stop_at_confidence=1).json()

    assert answer["subnetwork"] == "wide-full-mirrored"
    assert answer["in_time"]


def test_a_named_subnetwork_is_the_only_one(server: ServerProcess, jpeg: bytes) -> None:
    events = stream(server, jpeg, deadline_ms=60_000, subnetwork="narrow-column-2")

    assert [(event["subnetwork"], event["final"]) for event in events] == [
        ("narrow-column-2", True)
    ]


def test_feedback_scores_the_last_answer(
    server: ServerProcess, bundle: Bundle, jpeg: bytes
) -> None:
    last = stream(server, jpeg, deadline_ms=60_000)[-1]
    sent = {"request_id": last["request_id"], "label": bundle.manifest.labels[0]}

    score = server.client.post("/feedback", json=sent).json()

    assert (score["subnetwork"], score["answer"]) == (last["subnetwork"], last["label"])


def test_a_client_that_reads_late_finds_that_nobody_waited_for_it(
    server: ServerProcess, jpeg: bytes
) -> None:
    before = server.requests_by_outcome()["in_time"]
    with socket.create_connection(server.address) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        client.sendall(raw_request(server, jpeg, "deadline_ms=2000"))
        while server.requests_by_outcome()["in_time"] == before:
            pass  # the server counts the last answer while not a byte was read
        reply = b"".join(iter(lambda: client.recv(512), b""))

    events = [json.loads(line[6:]) for line in reply.split(b"\n") if line.startswith(b"data: ")]
    assert events[-1]["final"]
    assert events[-1]["in_time"]


def test_a_client_that_leaves_in_the_middle_is_one_request_and_no_more(
    server: ServerProcess, jpeg: bytes
) -> None:
    before = sum(server.requests_by_outcome().values())
    for _ in range(20):
        with socket.create_connection(server.address) as client:
            client.sendall(raw_request(server, jpeg, "deadline_ms=60000"))
            client.recv(64)  # the first answer is there

    while sum(server.requests_by_outcome().values()) < before + 20:
        pass
    assert stream(server, jpeg, deadline_ms=60_000)[-1]["final"]
    assert sum(server.requests_by_outcome().values()) == before + 21


def test_a_client_that_takes_nothing_keeps_no_stream_open_for_ever(
    server: ServerProcess, jpeg: bytes
) -> None:
    before = sum(server.requests_by_outcome().values())
    request = raw_request(server, jpeg, "deadline_ms=1000").replace(b"Connection: close\r\n", b"")
    streams = 200
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        client.connect(server.address)
        client.settimeout(0.2)
        with suppress(TimeoutError):  # the server reads no more while its replies wait
            for _ in range(streams):
                client.sendall(request)
        counts = server.requests_by_outcome()
        while not counts.get("abandoned"):
            counts = server.requests_by_outcome()

    assert sum(counts.values()) <= before + streams
