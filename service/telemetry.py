"""Metrics and the request log."""

import sys
from collections.abc import Callable
from typing import Any, Literal

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    Summary,
    disable_created_metrics,
    generate_latest,
)

Outcome = Literal["in_time", "late", "refused", "expired", "abandoned", "invalid", "failed"]

NO_SUBNETWORK = "none"  # the label of requests that were not run

# Around the deadlines in use, in seconds: 5, 10, 25, 50 and 100 ms are edges.
LATENCY_BUCKETS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip
RUN_BUCKETS = (
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.5,
)  # fmt: skip
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Every metric of the service, on a registry of its own.

    Children are resolved once: ``labels()`` costs more than the increment.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        disable_created_metrics()  # type: ignore[no-untyped-call]  # series that nothing reads
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "anytime_requests",
            "Requests to classify, by the subnetwork that answered and how they ended.",
            ["subnetwork", "outcome"],
            registry=registry,
        )
        self.latency = Histogram(
            "anytime_request_latency_seconds",
            "Arrival to answer.",
            ["subnetwork"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.queue_time = Histogram(
            "anytime_queue_time_seconds",
            "Arrival to the start of the run, decoding included.",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.run_latency = Histogram(
            "anytime_run_latency_seconds",
            "One run of a batch.",
            ["subnetwork"],
            buckets=RUN_BUCKETS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "anytime_batch_size",
            "Requests that ran together.",
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self.expected_accuracy = Summary(
            "anytime_expected_accuracy_ratio",
            "Validation accuracy of the subnetwork behind each answer.",
            registry=registry,
        )
        self.queue_depth = Gauge(
            "anytime_queue_depth", "Requests that wait for a run.", registry=registry
        )
        self.ready = Gauge(
            "anytime_ready", "1 while requests are taken, else 0.", registry=registry
        )
        self.bundle = Info("anytime_bundle", "The bundle that answers.", registry=registry)
        self._requests: dict[tuple[str, Outcome], Any] = {}
        self._latency: dict[str, Any] = {}
        self._run_latency: dict[str, Any] = {}

    def request_ended(self, outcome: Outcome, subnetwork: str = NO_SUBNETWORK) -> None:
        """Count a request's end."""
        key = (subnetwork, outcome)
        child = self._requests.get(key)
        if child is None:
            child = self._requests[key] = self.requests.labels(subnetwork, outcome)
        child.inc()

    def answered(
        self, *, subnetwork: str, in_time: bool, latency_s: float, queue_s: float, accuracy: float
    ) -> None:
        """Record an answer."""
        self.request_ended("in_time" if in_time else "late", subnetwork)
        child = self._latency.get(subnetwork)
        if child is None:
            child = self._latency[subnetwork] = self.latency.labels(subnetwork)
        child.observe(latency_s)
        self.queue_time.observe(queue_s)
        self.expected_accuracy.observe(accuracy)

    def run_ended(self, *, subnetwork: str, batch_size: int, run_latency_s: float) -> None:
        """Record a run."""
        child = self._run_latency.get(subnetwork)
        if child is None:
            child = self._run_latency[subnetwork] = self.run_latency.labels(subnetwork)
        child.observe(run_latency_s)
        self.batch_size.observe(batch_size)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class RequestLog:
    """Writes one line for each request in a sample, and for every one that the server failed.

    Args:
        log: where to.
        share: of the requests in the sample; they are taken evenly.
    """

    def __init__(self, log: structlog.typing.FilteringBoundLogger, share: float) -> None:
        self._log = log
        self._share = share
        self._credit = 0.0

    def __call__(self, outcome: Outcome, fields: Callable[[], dict[str, Any]]) -> None:
        """Note the end of a request; ``fields`` is called if it gets a line."""
        self._credit += self._share
        if self._credit >= 1.0:
            self._credit -= 1.0
            self._log.info("request", outcome=outcome, **fields())
        elif outcome == "failed":
            self._log.error("request", outcome=outcome, **fields())


def open_log() -> structlog.typing.FilteringBoundLogger:
    """Return a logger that writes events as JSON lines on stdout."""
    logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        structlog.WriteLogger(sys.stdout),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
    )
    return logger
