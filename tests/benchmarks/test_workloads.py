import numpy as np
import pytest

from benchmarks.load.workloads import ARRIVALS, arrival_times, deadlines


@pytest.mark.parametrize("kind", ARRIVALS)
def test_arrivals_ascend_and_repeat_with_their_seed(kind: str) -> None:
    times = arrival_times(kind, rate=100, count=500, seed=3)

    assert (np.diff(times) >= 0).all()
    assert (times == arrival_times(kind, rate=100, count=500, seed=3)).all()


@pytest.mark.parametrize(
    ("kind", "variation"),
    [("poisson", 1.0), ("gamma", 4.0)],
)
def test_gaps_have_the_rate_and_variation_asked_for(kind: str, variation: float) -> None:
    gaps = np.diff(arrival_times(kind, rate=100, count=100_000, seed=3))

    # standard errors: of the mean 4 / sqrt(n) = 1.3 %; of the variation about 2 %
    assert gaps.mean() == pytest.approx(0.01, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(variation, rel=0.08)


def test_bursts_have_the_mean_rate_asked_for() -> None:
    times = arrival_times("bursts", rate=100, count=100_000, seed=3)

    assert len(times) / times[-1] == pytest.approx(100, rel=0.1)  # some 2,500 bursts


def test_the_trace_is_scaled_to_the_rate() -> None:
    times = arrival_times("trace", rate=1000, count=5000, seed=3)

    assert times[-1] == pytest.approx(5.0)


def test_deadlines_are_drawn_from_the_mix() -> None:
    assert set(deadlines((0.005, 0.1), count=100, seed=1)) == {0.005, 0.1}


def test_other_arrivals_are_an_error() -> None:
    with pytest.raises(ValueError, match="uniform"):
        arrival_times("uniform", rate=1, count=1, seed=1)
