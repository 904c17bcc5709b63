"""The metrics of the whole server; the engine keeps them."""

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    Info,
)
from prometheus_client.exposition import choose_encoder

from service.observability.instruments import Counter, CounterReader, Histogram, Processes
from service.outcomes import Ending, FeedbackOutcome, KeyRefusal, Outcome

ReloadOutcome = Literal["replaced", "unchanged", "failed"]
ANSWERED: tuple[Outcome, ...] = ("in_time", "late", "impossible")
UNANSWERED = tuple(each for each in get_args(Outcome) if each not in ("in_time", "late"))

AGREEMENT = {True: "agrees", False: "differs"}  # values of the label ``verdict``
LABELLED = {True: "right", False: "wrong"}
REFINEMENT = {
    True: "used",
    False: "unused",
}  # values of the label ``outcome``: unused came too late

NO_SUBNETWORK = "none"  # the label of requests that were not run
NO_MODEL = "none"  # of those that ended before it was known which they ask

# In seconds. Every deadline in common use (2, 5, 10, 25, 50, 100, 250 ms, …) is an edge, so that the share of answers
# within it is exact, with edges between for the quantiles; up to a minute, as late answers come deadlines later.
LATENCY_BUCKETS = (
    0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25,
    0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
RUN_BUCKETS = (0.0001, 0.0002, *LATENCY_BUCKETS)
COST_BUCKETS = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1)
SLACK_BUCKETS = (
    -0.1, -0.05, -0.025, -0.01, -0.005, -0.002, -0.001, 0.0, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025,
    0.03, 0.04, 0.05, 0.06, 0.075, 0.085, 0.095, 0.1, 0.125, 0.15, 0.2, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip
DEADLINE_BUCKETS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.5, 2.0, 5.0, 10.0)
PREDICTION_BUCKETS = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)
CONFIDENCE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Every metric of the service, on a registry of its own; to be used on one thread."""

    def __init__(self, registry: CollectorRegistry, *, version: str) -> None:
        self.registry = registry
        self._processes = Processes(registry)
        self.requests = Counter(
            "anytime_requests",
            "Requests to classify, by the subnetwork that answered and how they ended.",
            ["model", "subnetwork", "outcome"],
            registry=registry,
        )
        self.latency = Histogram(
            "anytime_request_latency_seconds",
            "Arrival to answer.",
            LATENCY_BUCKETS,
            ["model", "subnetwork"],
            registry=registry,
        )
        self.deadline_used = Histogram(
            "anytime_deadline_used_ratio",
            "Arrival to answer over the deadline.",
            DEADLINE_BUCKETS,
            ["model"],
            registry=registry,
        )
        self.queue_time = Histogram(
            "anytime_queue_time_seconds",
            "Arrival to the start of the run, decoding included.",
            LATENCY_BUCKETS,
            ["model"],
            registry=registry,
        )
        self.decode = Histogram(
            "anytime_decode_seconds",
            "From the bytes of a request to the pixels, waiting for a thread included.",
            COST_BUCKETS,
            ["model"],
            registry=registry,
        )
        self.reply = Histogram(
            "anytime_reply_seconds",
            "From the end of a run to the reply.",
            COST_BUCKETS,
            ["model"],
            registry=registry,
        )
        self.slack = Histogram(
            "anytime_slack_seconds",
            "What a request's deadline left beyond the predicted run latency when its run started.",
            SLACK_BUCKETS,
            ["model", "subnetwork"],
            registry=registry,
        )
        self.run_latency = Histogram(
            "anytime_run_latency_seconds",
            "One run of a batch.",
            RUN_BUCKETS,
            ["model", "subnetwork"],
            registry=registry,
        )
        self.prediction = Histogram(
            "anytime_run_over_prediction_ratio",
            "Observed over predicted latency of a run.",
            PREDICTION_BUCKETS,
            ["model", "subnetwork"],
            registry=registry,
        )
        self.batch_size = Histogram(
            "anytime_batch_size",
            "Requests that ran together.",
            BATCH_BUCKETS,
            ["model"],
            registry=registry,
        )
        self.first_answer = Histogram(
            "anytime_first_answer_seconds",
            "Arrival to the first answer of a stream.",
            LATENCY_BUCKETS,
            ["model"],
            registry=registry,
        )
        self.refinements = Counter(
            "anytime_refinements",
            "Runs of a request that had an answer already, by what became of the better one.",
            ["model", "subnetwork", "outcome"],
            registry=registry,
        )
        self.expected_correct = Counter(
            "anytime_expected_correct",
            "Sum over answers of their subnetwork's validation accuracy: how many should be right.",
            ["model", "subnetwork"],
            registry=registry,
        )
        self.confidence = Histogram(
            "anytime_confidence_ratio",
            "Calibrated probability of the label answered.",
            CONFIDENCE_BUCKETS,
            ["model", "subnetwork"],
            registry=registry,
        )
        self.predictions = Counter(
            "anytime_predictions", "Answers by their label.", ["model", "label"], registry=registry
        )
        self.agreement = Counter(
            "anytime_agreement",
            "Answers compared with the best subnetwork's.",
            ["model", "subnetwork", "verdict"],
            registry=registry,
        )
        self.labelled = Counter(
            "anytime_labelled",
            "Answers compared with the label that came as feedback.",
            ["model", "subnetwork", "verdict"],
            registry=registry,
        )
        self.feedback = Counter(
            "anytime_feedback",
            "Labels sent, by what became of them.",
            ["outcome"],
            registry=registry,
        )
        self.reloads = Counter(
            "anytime_reloads",
            "Reloads of a bundle by their end.",
            ["model", "outcome"],
            registry=registry,
        )
        self.log_lines_dropped = CounterReader(
            "anytime_log_lines_dropped",
            "Lines of the log that nobody read in time, or that could not be written.",
            registry=registry,
        )
        self.processes_died = CounterReader(
            "anytime_processes_died",
            "Processes of the server that died since its start, and were started again.",
            registry=registry,
        )
        self.connections = Gauge("anytime_connections", "Connections open.", registry=registry)
        self.connections_ended = Counter(
            "anytime_connections_ended",
            "Connections that the server ended, by what their clients did or left undone.",
            ["reason"],
            registry=registry,
        )
        self.keys_refused = Counter(
            "anytime_keys_refused", "Requests refused by their key.", ["reason"], registry=registry
        )
        self.queue_depth = Gauge(
            "anytime_queue_depth", "Requests that wait for a run.", ["model"], registry=registry
        )
        self.slowdown = Gauge(
            "anytime_slowdown_ratio",
            "Run latency now over that at warm-up.",
            ["device"],
            registry=registry,
        )
        self.devices = Gauge(
            "anytime_devices",
            "Devices that run requests; one whose runs failed or hung counts no longer.",
            registry=registry,
        )
        self.gpu_memory = Gauge(
            "anytime_gpu_memory_bytes",
            "Memory of the GPUs that run, by all processes on them.",
            ["state"],
            registry=registry,
        )
        self.accuracy = Gauge(
            "anytime_subnetwork_accuracy_ratio",
            "Share of correct answers on validation images.",
            ["model", "subnetwork"],
            registry=registry,
        )
        self.predicted_run_latency = Gauge(
            "anytime_predicted_run_latency_seconds",
            "Predicted latency of a run of one image, now.",
            ["model", "subnetwork"],
            registry=registry,
        )
        self.ready = Gauge(
            "anytime_ready", "1 while requests are taken, else 0.", registry=registry
        )
        self.canary_share = Gauge(
            "anytime_canary_share_ratio",
            "Share of a model's requests that its canary answers.",
            ["model"],
            registry=registry,
        )
        self.bundle = Info(
            "anytime_bundle", "The bundle that answers.", ["model"], registry=registry
        )
        build = Info("anytime_build", "What the server is.", registry=registry)
        build.info({"version": version, "python": platform.python_version()})
        for outcome in UNANSWERED:
            self.requests.inc(NO_MODEL, NO_SUBNETWORK, outcome, amount=0)
        for reason in get_args(Ending):
            self.connections_ended.inc(reason, amount=0)
        for refusal in get_args(KeyRefusal):
            self.keys_refused.inc(refusal, amount=0)
        for fate in get_args(FeedbackOutcome):
            self.feedback.inc(fate, amount=0)

    def show(
        self,
        model: str,
        *,
        bundle: Mapping[str, str],
        accuracy: Mapping[str, float],
        labels: Iterable[str],
        predict_s: Callable[[str], float],
        slowdowns: Mapping[str, Callable[[], float]],
        queue_depth: Callable[[], float],
    ) -> None:
        """Say what answers for a model from now on; its series begin at 0, so that the first event is seen as a rise.

        Args:
            model: its name.
            bundle: name and digest.
            accuracy: validation accuracy by subnetwork.
            labels: what may be answered.
            predict_s: the predicted run latency of a subnetwork for one image.
            slowdowns: of each device.
            queue_depth: how many requests wait.
        """
        self.hide(model)  # an earlier bundle
        self.bundle.labels(model).info(dict(bundle))
        self.queue_depth.labels(model).set_function(queue_depth)
        for device, slowdown in slowdowns.items():
            self.slowdown.labels(device).set_function(slowdown)
        for reloaded in get_args(ReloadOutcome):
            self.reloads.inc(model, reloaded, amount=0)
        for outcome in UNANSWERED:
            self.requests.inc(model, NO_SUBNETWORK, outcome, amount=0)
        for each in (self.deadline_used, self.queue_time, self.decode, self.reply):
            each.show(model)
        for each in (self.batch_size, self.first_answer):
            each.show(model)
        for name, value in accuracy.items():
            self.accuracy.labels(model, name).set(value)
            self.predicted_run_latency.labels(model, name).set_function(partial(predict_s, name))
            for outcome in ANSWERED:
                self.requests.inc(model, name, outcome, amount=0)
            self.expected_correct.inc(model, name, amount=0)
            for is_used in (True, False):
                self.refinements.inc(model, name, REFINEMENT[is_used], amount=0)
            for is_agreed in (True, False):
                self.agreement.inc(model, name, AGREEMENT[is_agreed], amount=0)
                self.labelled.inc(model, name, LABELLED[is_agreed], amount=0)
            for histogram in (
                self.latency,
                self.slack,
                self.run_latency,
                self.prediction,
                self.confidence,
            ):
                histogram.show(model, name)
        for label in labels:
            self.predictions.inc(model, label, amount=0)

    def hide(self, model: str) -> None:
        """Say that nothing answers for a model any more; what was counted stays."""
        for gauge in (self.bundle, self.queue_depth, self.accuracy, self.predicted_run_latency):
            gauge.remove_by_labels({"model": model})

    def watch_processes(self, pids: Sequence[int], died: int) -> None:
        """Say which processes the server consists of, and how many of them have died so far."""
        self._processes.pids = tuple(pids)
        self.processes_died.set_function(lambda: died)

    def request_ended(
        self,
        outcome: Outcome,
        model: str = NO_MODEL,
        subnetwork: str = NO_SUBNETWORK,
        count: int = 1,
    ) -> None:
        """Count how requests ended."""
        self.requests.inc(model, subnetwork, outcome, amount=count)

    def answered(
        self,
        model: str,
        *,
        subnetwork: str,
        label: str,
        confidence: float,
        accuracy: float,
        outcome: Outcome,
        latency_s: float,
        deadline_s: float,
        queue_s: float,
        decode_s: float,
        reply_s: float,
        slack_s: float,
        trace_id: str = "",
    ) -> None:
        """Record an answer."""
        self.request_ended(outcome, model, subnetwork)
        self.latency.observe(latency_s, model, subnetwork, trace_id=trace_id)
        self.deadline_used.observe(latency_s / deadline_s, model)
        self.queue_time.observe(queue_s, model)
        self.decode.observe(decode_s, model)
        self.reply.observe(reply_s, model)
        self.slack.observe(slack_s, model, subnetwork)
        self.expected_correct.inc(model, subnetwork, amount=accuracy)
        self.confidence.observe(confidence, model, subnetwork)
        self.predictions.inc(model, label)

    def run_ended(
        self,
        model: str,
        *,
        subnetwork: str,
        batch_size: int,
        run_latency_s: float,
        predicted_s: float,
    ) -> None:
        """Record a run."""
        self.run_latency.observe(run_latency_s, model, subnetwork)
        self.prediction.observe(run_latency_s / predicted_s, model, subnetwork)
        self.batch_size.observe(batch_size, model)

    def refined(self, model: str, subnetwork: str, *, is_used: bool) -> None:
        """Record a run of a request that had an answer."""
        self.refinements.inc(model, subnetwork, REFINEMENT[is_used])

    def compared(self, model: str, subnetwork: str, agrees: bool) -> None:
        """Record a comparison of an answer with that of the best subnetwork."""
        self.agreement.inc(model, subnetwork, AGREEMENT[agrees])

    def label_came(self, model: str, subnetwork: str, is_right: bool) -> None:
        """Record whether an answer was right."""
        self.feedback.inc("scored")
        self.labelled.inc(model, subnetwork, LABELLED[is_right])

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """Return all metrics in the format that a scraper's Accept asks for, Prometheus' own or OpenMetrics', and its name."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type
