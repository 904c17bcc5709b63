import tracemalloc
from random import Random

import pytest

from service.observability import feedback
from service.observability.feedback import AnswerMemory, Kept
from tests.server import ServerProcess

LABELS = [f"label {n}" for n in range(10)]


def remembering(*request_ids: str, capacity: int = 10) -> AnswerMemory:
    memory = AnswerMemory(capacity=capacity, window_s=60.0)
    for request_id in request_ids:
        memory.remember(
            request_id, subnetwork="full", label="cat", model="m", bundle="b", now=100.0
        )
    return memory


def test_an_answer_is_found_by_its_id() -> None:
    assert remembering("a", "b").take("a", now=160.0) == Kept("full", "cat", "m", "b")


def test_an_answer_gets_one_label() -> None:
    memory = remembering("a")

    memory.take("a", now=100.0)

    assert memory.take("a", now=100.0) == "repeated"


def test_a_label_can_come_too_late() -> None:
    assert remembering("a").take("a", now=161.0) == "late"


def test_the_oldest_answer_is_forgotten_first() -> None:
    memory = remembering("a", "b", "a", "c", capacity=2)  # the second a renewed the first

    assert memory.take("b", now=100.0) == "unknown"
    assert (
        memory.take("a", now=100.0) == memory.take("c", now=100.0) == Kept("full", "cat", "m", "b")
    )


def test_the_latest_answers_are_kept_however_many_came_before_and_take_no_more_memory() -> None:
    rng = Random(1)
    memory, latest = AnswerMemory(capacity=200, window_s=60.0), dict[str, Kept]()

    def answer(n: int) -> None:
        request_id = f"{rng.randrange(10**9)}"
        memory.remember(
            request_id, subnetwork="full", label=LABELS[n % 10], model="m", bundle="b", now=100.0
        )
        latest[request_id] = Kept("full", LABELS[n % 10], "m", "b")
        if len(latest) > 200:
            gone = next(iter(latest))
            del latest[gone]
            assert memory.take(gone, now=100.0) == "unknown"

    for n in range(1_000):
        answer(n)
    tracemalloc.start()
    for n in range(10_000):
        answer(n)
    snapshot = tracemalloc.take_snapshot()
    tracemalloc.stop()

    of_memory = snapshot.filter_traces([tracemalloc.Filter(True, feedback.__file__)])
    assert sum(each.size for each in of_memory.statistics("filename")) < 1_000
    assert {each: memory.take(each, now=100.0) for each in latest} == latest


def test_of_two_answers_with_one_id_the_later_counts() -> None:
    memory = remembering("a")

    memory.take("a", now=100.0)
    memory.remember("a", subnetwork="column-1", label="dog", model="m", bundle="c", now=110.0)

    assert memory.take("a", now=110.0) == Kept("column-1", "dog", "m", "c")


def test_the_bundle_of_an_answer_is_known_until_its_label_comes() -> None:
    memory = remembering("a")

    assert memory.answered_by("a") == ("m", "b")
    memory.take("a", now=100.0)

    assert memory.answered_by("a") is None


def test_nothing_is_kept_without_room() -> None:
    assert remembering("a", capacity=0).take("a", now=100.0) == "unknown"


def send(server: ServerProcess, request_id: str, label: str) -> tuple[int, dict[str, object]]:
    response = server.client.post("/feedback", json={"request_id": request_id, "label": label})
    return response.status_code, response.json()


def test_a_label_scores_the_subnetwork_that_answered(server: ServerProcess, jpeg: bytes) -> None:
    right = server.classify(jpeg, subnetwork="narrow-column-1").json()
    wrong = server.classify(jpeg, subnetwork="narrow-column-1").json()
    other = right["top"][1]["label"]
    before = server.metrics()

    assert send(server, right["request_id"], right["label"]) == (
        200,
        {
            "request_id": right["request_id"],
            "label": right["label"],
            "answer": right["label"],
            "subnetwork": "narrow-column-1",
            "is_right": True,
        },
    )
    assert send(server, wrong["request_id"], other)[1]["is_right"] is False

    after = server.metrics()
    for verdict in ("right", "wrong"):
        series = f'anytime_labelled_total{{model="cifar10",subnetwork="narrow-column-1",verdict="{verdict}"}}'
        assert after[series] == before[series] + 1


def test_a_second_label_is_refused_and_not_counted(server: ServerProcess, jpeg: bytes) -> None:
    answer = server.classify(jpeg).json()
    send(server, answer["request_id"], answer["label"])
    before = server.metrics()

    status, problem = send(server, answer["request_id"], answer["label"])

    assert (status, problem["type"]) == (409, "/problems/feedback-repeated")
    after = server.metrics()
    counted = {
        outcome: after[name] - before[name]
        for outcome in ("scored", "repeated")
        for name in [f'anytime_feedback_total{{outcome="{outcome}"}}']
    }
    assert counted == {"scored": 0, "repeated": 1}  # others use this server too


def test_a_label_for_an_unknown_answer_is_told_so(server: ServerProcess, jpeg: bytes) -> None:
    label = server.classify(jpeg).json()["label"]

    status, problem = send(server, "never-answered", label)

    assert (status, problem["type"]) == (404, "/problems/unknown-request")
    assert "'never-answered'" in str(problem["detail"])


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"cat", "the body: Invalid JSON"),
        (b'{"request_id": "x"}', "label: Field required"),
        (b'{"request_id": "x", "label": "unicorn"}', "'unicorn' is no label of the bundle"),
        (b'{"request_id": "x", "label": "cat", "sure": true}', "sure: Extra inputs"),
    ],
)
def test_feedback_that_cannot_be_read_is_told_why(
    server: ServerProcess, body: bytes, detail: str
) -> None:
    response = server.client.post("/feedback", content=body)

    assert response.status_code == 422
    problem = response.json()
    assert problem["type"] == "/problems/invalid-feedback"
    assert problem["detail"].startswith(detail)


@pytest.mark.parametrize(("body", "status"), [(b"", 400), (b" " * 5000, 413), (b"cat", 422)])
def test_feedback_that_cannot_be_used_is_counted_whatever_is_wrong_with_it(
    server: ServerProcess, body: bytes, status: int
) -> None:
    name = 'anytime_feedback_total{outcome="invalid"}'
    before = server.metrics()[name]

    assert server.client.post("/feedback", content=body).status_code == status
    assert server.metrics()[name] == before + 1
