import pytest

from benchmarks.load.dialects import Said
from benchmarks.load.recording import Planned, Record, outcome, summarise

PLANNED = Planned(at=1.0, deadline_s=0.025, image=0, phase=0)


def record(done_at: float | None = 1.01, status: int = 200, **fields: float) -> Record:
    return Record(1.0, noticed_at=1.0, sent_at=1.0, done_at=done_at, status=status)


@pytest.mark.parametrize(
    ("ended", "word"),
    [
        (Record(1.0, noticed_at=1.0), "unsent"),
        (record(done_at=None), "unanswered"),
        (record(), "in_time"),
        (record(done_at=1.026), "late"),
        (record(status=503), "refused"),
        (record(status=504), "expired"),
        (record(status=500), "failed"),
    ],
)
def test_every_end_has_its_word(ended: Record, word: str) -> None:
    assert outcome(PLANNED, ended) == word


def test_latency_counts_from_the_intended_instant_though_the_request_left_later() -> None:
    left_late = Record(1.0, noticed_at=1.0, sent_at=1.02, done_at=1.03, status=200, body=b"0")

    assert outcome(PLANNED, left_late) == "late"


def test_fractions_are_of_all_requests_offered_and_accuracy_of_those_in_time() -> None:
    right = Record(1.0, 1.0, 1.0, 1.01, 200, b"0")
    wrong = Record(1.0, 1.0, 1.0, 1.01, 200, b"1")
    refused = Record(1.0, 1.0, 1.0, 1.01, 503)
    unsent = Record(1.0, 1.0)

    found = summarise(
        [(PLANNED, each) for each in (right, wrong, refused, unsent)],
        labels=[0],
        read=lambda body: Said(int(body), "full"),
    )

    assert found["outcomes"] == {"in_time": 2, "refused": 1, "unsent": 1}
    assert (found["in_time"], found["correct_in_time"], found["accuracy"]) == (0.5, 0.25, 0.5)
    assert found["subnetworks"] == {"full": 2}


def test_a_run_in_which_the_generator_came_late_is_marked() -> None:
    prompt = [(PLANNED, Record(1.0, noticed_at=1.0))] * 199
    behind = [(PLANNED, Record(1.0, noticed_at=1.002))] * 2

    def is_lagging(rows: list[tuple[Planned, Record]]) -> bool:
        return bool(summarise(rows, labels=[0], read=lambda _: Said(0))["lagging"])

    assert not is_lagging(prompt)
    assert is_lagging(prompt + behind)


def test_a_phase_has_recovered_when_nine_in_ten_are_in_time_again() -> None:
    def ended(second: int) -> tuple[Planned, Record]:
        done_at = second + (0.01 if second > 30 and second != 70 else 0.1)
        planned = Planned(at=second, deadline_s=0.025, image=0, phase=0)
        return planned, Record(second, second, second, done_at, 200, b"0")

    found = summarise([ended(s) for s in range(100)], labels=[0], read=lambda _: Said(0))

    # Of the 20 up to second 48, 18 are in time; misses later on are no matter.
    assert found["recovered_s"] == 48
