"""What is recorded of a request where traces are on; each function returns the id of the trace for the log, or nothing."""

from http import HTTPStatus
from typing import TYPE_CHECKING

from service.observability.trace_context import trace_id_of
from service.outcomes import Outcome
from service.problems import Problem
from service.schemas import ClassifyQuery

if TYPE_CHECKING:
    from service.front.engine_client import Answered
    from service.front.front import Front
    from service.front.received import Decoded, Received
    from service.front.served import Served
    from service.observability.tracing import Described, Stretch


def trace_problem(front: "Front", received: "Received", problem: Problem) -> str:
    """Record a request that got no answer."""
    caller_s = trace_id_of(received.headers)
    if front.tracer is None:
        return caller_s
    recorded = front.tracer.record(
        (f"POST {received.path}", received.arrived_at, front.clock()),
        [],
        headers=received.headers,
        attributes={
            "http.response.status_code": problem.status,
            "anytime.request_id": received.request_id,
            "anytime.outcome": problem.outcome,
        },
        problem=problem.detail,
    )
    return recorded or caller_s


def trace_answer(
    front: "Front",
    served: "Served",
    received: "Received",
    query: ClassifyQuery,
    decoded: "Decoded",
    answered: "Answered",
    outcome: Outcome,
) -> str:
    """Record an answer and where its time went."""
    caller_s = trace_id_of(received.headers)
    if front.tracer is None:
        return caller_s
    answer, now = answered.answer, front.clock()
    decoded_at = decoded.decoding_at + decoded.decode_s
    parts: list[tuple[Stretch, Described]] = [
        (("decode", decoded.decoding_at, decoded_at), {}),
        (("queue", decoded_at, answered.runs[0].started_at), {}),
    ]
    for run in answered.runs:
        described: Described = {
            "anytime.subnetwork": served.subnetworks[run.subnetwork]["name"],
            "anytime.batch_size": run.batch_size,
            "anytime.predicted_ms": 1e3 * run.predicted_s,
            "anytime.outcome": outcome if run is answered.runs[-1] else "refined",
        }
        parts.append((("run", run.started_at, run.finished_at), described))
    parts.append((("reply", answered.given_at, now), {}))
    recorded = front.tracer.record(
        (f"POST {received.path}", received.arrived_at, now),
        parts,
        headers=received.headers,
        attributes={
            "http.response.status_code": HTTPStatus.OK,
            "anytime.request_id": received.request_id,
            "anytime.outcome": outcome,
            "anytime.subnetwork": served.subnetworks[answer.subnetwork]["name"],
            "anytime.deadline_ms": query.deadline_ms,
            "anytime.batch_size": answer.batch_size,
            "anytime.predicted_ms": 1e3 * answer.predicted_s,
        },
    )
    return recorded or caller_s
