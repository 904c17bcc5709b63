"""A token bucket of one number gives as much as it may, and never more."""

from hypothesis import given
from hypothesis import strategies as st

from service.front.access.limits import Bucket


def test_a_burst_is_taken_at_once_and_comes_back_at_the_rate() -> None:
    bucket, full_at, waits_s = Bucket(rate_per_s=10, burst=3), 0.0, []
    for now in (100.0, 100.0, 100.0, 100.0, 100.05, 100.1):
        full_at, wait_s = bucket.take(full_at, now)
        waits_s.append(round(wait_s, 6))

    assert waits_s == [0, 0, 0, 0.1, 0.05, 0]


def test_a_caller_is_told_what_is_left() -> None:
    bucket = Bucket(rate_per_s=2, burst=4)
    full_at, _ = bucket.take(0.0, 100.0)
    full_at, _ = bucket.take(full_at, 100.0)

    quota = bucket.quota(full_at, 100.0)

    assert quota.headers() == {"RateLimit-Policy": '"key";q=4;w=2', "RateLimit": '"key";r=2;t=1'}
    assert bucket.quota(full_at, 200.0).headers()["RateLimit"] == '"key";r=4;t=0'


def test_whoever_is_refused_is_told_when_to_come_and_then_let_in() -> None:
    bucket, full_at = Bucket(rate_per_s=0.5, burst=1), 0.0
    full_at, _ = bucket.take(full_at, 10.0)

    full_at, wait_s = bucket.take(full_at, 10.5)

    assert wait_s == 1.5
    assert bucket.take(full_at, 10.5 + wait_s)[1] == 0


@given(
    rate_per_s=st.floats(0.01, 1e4),
    burst=st.integers(1, 50),
    gaps_s=st.lists(st.floats(0, 10), max_size=200),
)
def test_no_stretch_of_time_has_more_than_burst_and_rate_allow(
    rate_per_s: float, burst: int, gaps_s: list[float]
) -> None:
    bucket, full_at, now, taken_at = Bucket(rate_per_s, burst), 0.0, 1000.0, []
    for gap_s in gaps_s:
        now += gap_s
        full_at, wait_s = bucket.take(full_at, now)
        assert 0 <= bucket.quota(full_at, now).remaining <= burst
        if wait_s == 0:
            taken_at.append(now)

    for n, first in enumerate(taken_at):
        for m, last in enumerate(taken_at[n:], start=1):
            assert m <= burst + (last - first) * rate_per_s + 1e-3
