import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as LibraryHistogram

from service.observability.instruments import Counter, Histogram


def test_a_histogram_is_scraped_as_that_of_the_library() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram("run_seconds", "A run.", (0.01, 0.025), ["subnetwork"], registry=ours)
    library = LibraryHistogram(
        "run_seconds", "A run.", ["subnetwork"], buckets=(0.01, 0.025), registry=theirs
    )

    for value in (0.0, 0.01, 0.02, 0.025, 0.03):  # on the bounds, between them and past them
        histogram.observe(value, "full")
        library.labels("full").observe(value)

    created = [line for line in generate_latest(theirs).splitlines() if b"_created" not in line]
    assert generate_latest(ours).splitlines() == created


def test_a_histogram_of_values_under_zero_has_no_sum() -> None:
    registry = CollectorRegistry()

    Histogram("slack_seconds", "Slack.", (-1.0, 0.0), [], registry=registry).observe(-2.0)

    assert registry.get_sample_value("slack_seconds_bucket", {"le": "-1.0"}) == 1
    assert registry.get_sample_value("slack_seconds_sum") is None


@pytest.mark.parametrize("amount", [0, 1, 0.93])
def test_a_counter_sums_by_its_labels(amount: float) -> None:
    registry = CollectorRegistry()
    counter = Counter("answers", "Answers.", ["subnetwork", "outcome"], registry=registry)

    counter.inc("full", "late")
    counter.inc("full", "in_time", amount=amount)
    counter.inc("full", "in_time", amount=amount)

    labels = {"subnetwork": "full", "outcome": "in_time"}
    assert registry.get_sample_value("answers_total", labels) == 2 * amount
