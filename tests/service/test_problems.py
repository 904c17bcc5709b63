"""What a client is told of a request that was refused."""

import pytest

from service.problems import problem_of
from service.scheduling.requests import Shed


@pytest.mark.parametrize(
    ("needed_s", "deadline_s", "told"),
    [
        (0.00123, 0.0005, "it would take 1.23 ms, the deadline is 0.5 ms"),
        (1.5, 0.9996, "it would take 1500 ms, the deadline is 1000 ms"),
        (61.2345, 60, "it would take 61234 ms, the deadline is 60000 ms"),
    ],
)
def test_times_are_told_as_people_write_them(needed_s: float, deadline_s: float, told: str) -> None:
    problem = problem_of(Shed("overloaded", needed_s, deadline_s, 0.0))

    assert told in problem.detail
