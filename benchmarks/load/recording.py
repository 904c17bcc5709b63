"""What happened to every request of a load, and the figures that follow from it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.load.dialects import Said

REFUSALS = (422, 429, 503)
RECOVERY_WINDOW = 20  # requests, of which nine in ten are in time: the phase has recovered
LAG_LIMIT_S = 0.001
LAGGING_SHARE = (
    0.005  # more of the requests over the limit, and the run says nothing about the server
)


@dataclass(frozen=True, slots=True)
class Planned:
    """A request of the load.

    Args:
        at: when it is to be sent, in seconds from the start.
        deadline_s: how long its answer may take, counted from then.
        image: index of its image.
        phase: index of the phase that it belongs to.
    """

    at: float
    deadline_s: float
    image: int
    phase: int


@dataclass(slots=True)
class Record:
    """What happened to a request; instants in seconds from the start, None for what did not happen.

    Attributes:
        due_at: when it should have been sent.
        noticed_at: when the generator came to it.
        sent_at: when it was sent; later than noticed if all connections were busy.
        done_at: when its reply was complete.
        status: of the reply.
        body: of the reply.
    """

    due_at: float
    noticed_at: float
    sent_at: float | None = None
    done_at: float | None = None
    status: int = 0
    body: bytes = field(default=b"", repr=False)


def outcome(planned: Planned, record: Record) -> str:
    """Say how a request ended, in one word."""
    if record.sent_at is None:
        return "unsent"
    if record.done_at is None:
        return "unanswered"
    if record.status == 200:
        return "in_time" if record.done_at - record.due_at <= planned.deadline_s else "late"
    if record.status in REFUSALS:
        return "refused"
    return "expired" if record.status == 504 else "failed"


def summarise(
    rows: Sequence[tuple[Planned, Record]],
    *,
    labels: Sequence[int],
    read: Callable[[bytes], Said],
) -> dict[str, Any]:
    """Return the figures of one phase, fit for JSON.

    Args:
        rows: its requests, at least one, and what happened to each.
        labels: the class of each image.
        read: reads an answer.
    """
    outcomes: Counter[str] = Counter()
    subnetworks: Counter[str] = Counter()
    correct = 0
    answered_s: list[float] = []
    recovered_s: float | None = None
    window: list[bool] = []
    for plan, record in rows:
        ended = outcome(plan, record)
        outcomes[ended] += 1
        if record.status == 200 and record.done_at is not None:
            answered_s.append(record.done_at - record.due_at)
        if ended == "in_time":
            said = read(record.body)
            correct += said.class_id == labels[plan.image]
            subnetworks[said.subnetwork] += 1
        window = [*window[-RECOVERY_WINDOW + 1 :], ended == "in_time"]
        is_well = len(window) == RECOVERY_WINDOW and sum(window) >= 0.9 * len(window)
        if is_well and recovered_s is None:
            recovered_s = plan.at - rows[0][0].at
    offered, in_time = len(rows), outcomes["in_time"]
    lags = np.array([record.noticed_at - record.due_at for _, record in rows])
    ends = [record.done_at for _, record in rows if record.done_at is not None]
    first_at = rows[0][1].due_at
    return {
        "offered": offered,
        "outcomes": dict(outcomes),
        "in_time": in_time / offered,
        "correct_in_time": correct / offered,
        "accuracy": correct / in_time if in_time else None,
        "subnetworks": dict(subnetworks),
        "answered_ms": _quantiles_ms(answered_s),
        "answers_per_s": len(ends) / (max(ends) - first_at) if ends else 0.0,
        "recovered_s": recovered_s,
        "lag_ms": _quantiles_ms(lags),
        "lagging": float(np.mean(lags > LAG_LIMIT_S)) > LAGGING_SHARE,
    }


def _quantiles_ms(values_s: Sequence[float] | np.ndarray[Any, Any]) -> dict[str, float] | None:
    """Return mean, median, 99th percentile and maximum."""
    if len(values_s) == 0:
        return None
    p50, p99, most = np.quantile(np.asarray(values_s), (0.5, 0.99, 1.0))
    return {
        "mean": round(1e3 * float(np.mean(values_s)), 4),
        "p50": round(1e3 * p50, 4),
        "p99": round(1e3 * p99, 4),
        "max": round(1e3 * most, 4),
    }
