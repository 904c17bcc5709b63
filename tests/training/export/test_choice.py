"""On few images a deeper subnetwork is not given up by chance; on many, the images decide."""

import numpy as np
import pytest
from scipy.stats import binomtest

from model.intervals import wilson
from training.export.choice import Right, expected_accuracies, is_worse


def right_on(n_right: int, n: int, *, first: int = 0) -> Right:
    """Right on so many of ``n`` images, in order, from one on."""
    own = np.zeros(n, bool)
    own[np.arange(first, first + n_right) % n] = True
    return own


@pytest.mark.parametrize(
    "n_right",
    [
        pytest.param((20, 24, 24), id="a tie"),
        pytest.param((20, 24, 23), id="one image fewer"),
    ],
)
def test_on_few_images_the_deeper_is_not_given_up(n_right: tuple[int, ...]) -> None:
    shallow, middle, deep = expected_accuracies([right_on(n, 24) for n in n_right])

    assert shallow.value < middle.value < deep.value <= 1
    assert deep.low < sum(n_right[1:]) / 48 <= deep.high + 1e-9  # rounding


def test_a_deeper_subnetwork_that_is_worse_for_certain_is_not_expected_to_be_better() -> None:
    shallow, deep = expected_accuracies([right_on(900, 1000), right_on(850, 1000)])

    assert deep.value < shallow.value
    assert deep.value == pytest.approx(0.85, abs=1e-3)


def test_on_many_images_the_accuracies_are_those_measured() -> None:
    n_right = (4000, 4250, 4300)

    estimates = expected_accuracies([right_on(n, 5000) for n in n_right])

    for estimate, n in zip(estimates, n_right, strict=True):
        assert estimate.value == pytest.approx(n / 5000, abs=1 / 5000)
        assert (estimate.low, estimate.high) == wilson(n / 5000, 5000)


def test_images_are_compared_one_by_one() -> None:
    """Ten fewer of a thousand are chance where the two differ on many images, not where they differ on those ten."""
    other = right_on(900, 1000)

    assert is_worse(right_on(890, 1000), other)
    assert not is_worse(right_on(890, 1000, first=100), other)


@pytest.mark.parametrize(("n_right", "n"), [(0, 1), (1, 1), (18, 24), (24, 24), (4410, 5000)])
def test_the_interval_is_that_of_the_literature(n_right: int, n: int) -> None:
    expected = binomtest(n_right, n).proportion_ci(method="wilson")

    assert wilson(n_right / n, n) == pytest.approx((expected.low, expected.high), abs=1e-6)
