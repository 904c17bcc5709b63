"""A request of the protocol, answered: over HTTP and gRPC alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from service.front.classify import Found, find, find_each
from service.front.front import Front
from service.front.open_inference import documents
from service.front.open_inference.documents import Document
from service.front.open_inference.messages import InferRequest
from service.front.received import Received
from service.front.serving import Served, Serving
from service.problems import NotFound, Problem


@dataclass(frozen=True, slots=True)
class Inferred:
    """The answers to a request.

    Attributes:
        request: what was asked.
        probabilities: (N, classes).
        parameters: of the reply.
    """

    served: Served
    request: InferRequest
    probabilities: NDArray[np.float32]
    parameters: dict[str, Any]


def served_model(serving: Serving, model: str, version: str, request_id: str = "") -> Served:
    """Return the bundle that a request is for.

    Args:
        serving: all that answer.
        model: its name.
        version: its digest, or that of its canary; empty for any.
        request_id: chooses between the two where no version does.

    Raises:
        NotFound: there is none.
    """
    if model not in serving.names:
        there = ", ".join(map(repr, serving.names))
        raise NotFound(f"there is no model {model!r:.80}; there is {there}")
    if not version:
        return serving.of(model, request_id)
    digests = versions(serving, model)
    if version not in digests:
        there = ", ".join(map(repr, digests))
        raise NotFound(f"there is no version {version!r:.80} of {model!r}; there is {there}")
    return digests[version]


def versions(serving: Serving, model: str) -> dict[str, Served]:
    """Return the bundles of a model by their digests: its own, and its canary."""
    bundles = [each for each in serving.bundles if each.bundle_name["name"] == model]
    return {each.bundle_name["digest"]: each for each in bundles}


async def infer(
    front: Front,
    served: Served,
    received: Received,
    request: InferRequest,
    read_at: float,
) -> Inferred | Problem:
    """Return the answers to a request's images, each scheduled for itself; or what became of the first without one.

    Args:
        served: what is to answer; the request has entered it.
        read_at: when the request was read to the end.

    Raises:
        Problem: a parameter has a value that it cannot take, or the only image has no answer.
    """
    query = served.parse_query(b"", request.choices)
    if len(request.images) == 1:
        (image,) = request.images
        return inferred(
            served, request, [await find(front, served, received, query, read_at, image)]
        )
    found = []
    for each in await find_each(front, served, received, query, read_at, request.images):
        if isinstance(each, Problem):
            return each
        found.append(each)
    return inferred(served, request, found)


def inferred(served: Served, request: InferRequest, found: Sequence[Found]) -> Inferred:
    """Return the answers that were found as those to a request."""
    rows = b"".join(each.answered.answer.probabilities for each in found)
    probabilities = np.frombuffer(rows, np.float32).reshape(len(found), -1)
    replies = [each.reply for each in found]
    parameters = {
        "subnetwork": ",".join(dict.fromkeys(each["subnetwork"] for each in replies)),
        "expected_accuracy": round(
            sum(each["expected_accuracy"] for each in replies) / len(replies), 6
        ),
        "deadline_ms": replies[0]["deadline_ms"],
        "latency_ms": max(each["latency_ms"] for each in replies),
        "in_time": all(each["in_time"] for each in replies),
    }
    return Inferred(served, request, probabilities, parameters)


async def model_statistics(front: Front, bundles: Sequence[Served]) -> Document:
    """Return counts and times of the requests for some models since the start, of all processes."""
    metrics = await front.engine.call("metrics", accept="")
    families = list(text_string_to_metric_families(metrics["body"]))
    return {
        "model_stats": [
            documents.model_statistics(
                each.bundle_name["name"], each.bundle_name["digest"], each.name, families
            )
            for each in bundles
        ]
    }
