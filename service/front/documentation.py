"""What ``/docs`` says beyond the models: parameters, bodies and problems, each with an example."""

from collections.abc import Iterable
from typing import Any

from pydantic_core import to_json

from service import problems
from service.front.http.problem_replies import MEDIA_TYPE
from service.problems import CATALOGUE, Problem
from service.schemas import Answer, Feedback, Outcomes, ProblemDocument, Step
from service.settings import LONGEST_MS, SHORTEST_MS

Document = dict[str, Any]

REFERENCE = "#/components/schemas/{model}"  # the parts of an answer are there
DIGEST = "6dbcc6dda4685a4de084e7f30b16ed8bcbee74113daa9ee3607dfc52ec59d9fe"
REQUEST_ID = "74d32302014d25ba8beb663c7a844ece"

# One of each that a client may be told.
EXAMPLES: dict[str, Problem] = {
    each.slug(): each
    for each in (
        problems.MalformedRequest("what was sent is no HTTP/1.1 request"),
        problems.NotFound("nothing is served at /clasify; see /docs", path="/clasify"),
        problems.MethodNotAllowed("/classify does not take GET; it takes POST", method="GET"),
        problems.InvalidParameter(
            "deadline_ms is 'soon'; it must be a number from 0.001 to 86400000",
            parameter="deadline_ms",
            value="soon",
            allowed="a number from 0.001 to 86400000",
        ),
        problems.EmptyBody("the body is empty"),
        problems.BodyTooLarge("the body is 20971520 bytes, the limit is 10485760", limit=10485760),
        problems.BodyTooSlow(
            "4096 bytes of the body have come in 30 s, the longest wait for all", limit=30.0
        ),
        problems.HeadTooSlow("the head of the request did not come within 10 s", limit=10.0),
        problems.HeadTooLarge("the head of the request is over 32768 bytes", limit=32768),
        problems.InvalidUpload("the multipart form holds 0 files; send one"),
        problems.UnsupportedEncoding(
            "the body has the Content-Encoding 'gzip'; send it as it is", encoding="gzip"
        ),
        problems.NotAnImage("the 5752 bytes sent are no JPEG, PNG, WEBP image"),
        problems.DamagedImage("the image cannot be decoded: it is truncated"),
        problems.TooManyPixels(
            "the image has 100000000 pixels, the limit is 25000000",
            pixels=100_000_000,
            limit=25_000_000,
        ),
        problems.DeadlineImpossible(
            "at least 0.6 ms are needed, the deadline is 0.2 ms", needed_ms=0.6, deadline_ms=0.2
        ),
        problems.Overloaded(
            "7.9 ms are needed under this load, the deadline is 5 ms",
            needed_ms=7.9,
            deadline_ms=5.0,
        ),
        problems.Expired("the deadline passed while the request waited"),
        problems.InvalidFeedback(
            "'unicorn' is no label of the bundle", allowed="airplane, …, truck"
        ),
        problems.UnknownRequest(f"no answer {REQUEST_ID!r} is kept here; the latest 50000 are"),
        problems.FeedbackRepeated(f"the answer {REQUEST_ID!r} has its label already"),
        problems.FeedbackLate(f"the answer {REQUEST_ID!r} is older than 86400 s", limit=86400.0),
        problems.NotReady("the server is warming up"),
        problems.Unauthorized("the Authorization header must be 'Bearer' and a key of this server"),
        problems.Forbidden("the key 'web' is not for metrics", scope="metrics"),
        problems.TooManyRequests("'web' may ask 100 times a second", limit=100.0),
        problems.ReloadUnderWay("another reload has not ended yet"),
        problems.BundleUnusable(
            "/bundles/next: no manifest.json", bundle={"name": "cifar10", "digest": DIGEST}
        ),
        problems.InternalError("the server failed to handle the request"),
    )
}

ANSWER: Document = {
    "request_id": REQUEST_ID,
    "label": "cat",
    "class_id": 3,
    "confidence": 0.983246,
    "top": [
        {"label": "cat", "class_id": 3, "confidence": 0.983246},
        {"label": "dog", "class_id": 5, "confidence": 0.007749},
    ],
    "subnetwork": "columns-1-2-3",
    "expected_accuracy": 0.874985,
    "deadline_ms": 5.0,
    "latency_ms": 3.382,
    "queue_ms": 1.156,
    "run_ms": 1.976,
    "in_time": True,
    "bundle": {"name": "cifar10", "digest": DIGEST},
}


# What any endpoint but those for health may tell, where keys are demanded.
KEYED = (problems.Unauthorized, problems.Forbidden, problems.TooManyRequests)


def told(*kinds: type[Problem]) -> dict[int | str, Document]:
    """Return the responses of an endpoint that may tell of these problems: one a status, with an example of each."""
    responses: dict[int | str, Document] = {}
    for status in sorted({kind.status for kind in kinds}):
        alike = [kind for kind in kinds if kind.status == status]
        responses[status] = {
            "description": "; ".join(f"{kind.title}: {_first_line(kind)}" for kind in alike),
            "content": {MEDIA_TYPE: {"schema": _schema(alike), "examples": _examples(alike)}},
        }
    return responses


def _schema(kinds: Iterable[type[Problem]]) -> Document:
    schema = ProblemDocument.model_json_schema()
    slugs = "|".join(kind.slug() for kind in kinds)
    schema["properties"]["type"]["pattern"] = f"/problems/({slugs})$"  # below the path of a proxy
    for name, values in {
        "title": [kind.title for kind in kinds],
        "status": sorted({kind.status for kind in kinds}),
    }.items():
        schema["properties"][name]["enum"] = values
    return schema


def _examples(kinds: Iterable[type[Problem]]) -> Document:
    return {
        kind.slug(): {"summary": kind.title, "value": EXAMPLES[kind.slug()].body()}
        for kind in kinds
    }


def _first_line(kind: type[Problem]) -> str:
    return (kind.__doc__ or "").strip().partition("\n")[0]


def _query(name: str, description: str, example: Any, **schema: Any) -> Document:
    return {
        "name": name,
        "in": "query",
        "description": description,
        "schema": schema,
        "example": example,
    }


_BINARY: Document = {"type": "string", "format": "binary"}


def _body(files: str, file: Document) -> Document:
    """Describe the body of a request to classify, whose form has ``files``."""
    form = {"type": "object", "properties": {"file": file}, "required": ["file"]}
    return {
        "required": True,
        "description": f"The bytes of a JPEG, PNG or WebP image, or a multipart form with {files}; "
        "its other fields are parameters.",
        "content": {
            **{name: {"schema": _BINARY} for name in ("image/jpeg", "image/png", "image/webp")},
            "multipart/form-data": {"schema": form},
        },
    }


CLASSIFY: Document = {
    "parameters": [
        _query(
            "deadline_ms",
            "Milliseconds from the arrival of the request to its answer.",
            5,
            type="number",
            minimum=SHORTEST_MS,
            maximum=LONGEST_MS,
        ),
        _query(
            "on_miss",
            "When no answer fits: `answer` late from the fastest subnetwork, or `refuse`.",
            "answer",
            type="string",
            enum=["answer", "refuse"],
        ),
        _query(
            "model",
            "The model that is asked, where the server has several; by default the first.",
            "cifar10",
            type="string",
        ),
        _query(
            "subnetwork",
            "The only subnetwork that may answer; by default the deadline and the load choose.",
            "full",
            type="string",
        ),
        _query("top_k", "How many labels to list.", 2, type="integer", minimum=1),
        _query(
            "stop_at_confidence",
            "A first answer from the fastest subnetwork that is at least this confident is the last; "
            "others are refined until the deadline.",
            0.9,
            type="number",
            exclusiveMinimum=0,
            maximum=1,
        ),
        {
            "name": "X-Request-ID",
            "in": "header",
            "description": "Becomes the id of the request, in the reply and in the log; one is made otherwise.",
            "schema": {"type": "string"},
            "example": REQUEST_ID,
        },
    ],
    "requestBody": _body("one file or several", {"type": "array", "items": _BINARY}),
}
STREAM: Document = {**CLASSIFY, "requestBody": _body("one file", _BINARY)}

CLASSIFY_RESPONSES: dict[int | str, Document] = {
    200: {
        "description": "The answer; of a form with several files, an answer or a problem for each, in their order.",
        "model": Answer | Outcomes,
        "content": {
            "application/json": {
                "examples": {
                    "one": {"summary": "One image", "value": ANSWER},
                    "several": {
                        "summary": "Several files in a form",
                        "value": [ANSWER, EXAMPLES[problems.NotAnImage.slug()].body()],
                    },
                }
            }
        },
    },
    **told(
        *KEYED,
        problems.EmptyBody,
        problems.InvalidUpload,
        problems.MalformedRequest,
        problems.BodyTooSlow,
        problems.HeadTooSlow,
        problems.HeadTooLarge,
        problems.BodyTooLarge,
        problems.UnsupportedEncoding,
        problems.NotAnImage,
        problems.InvalidParameter,
        problems.DamagedImage,
        problems.TooManyPixels,
        problems.DeadlineImpossible,
        problems.InternalError,
        problems.Overloaded,
        problems.NotReady,
        problems.Expired,
    ),
}

_STEP = Step.model_json_schema(ref_template=REFERENCE)
_LAST = to_json({**ANSWER, "final": True}).decode()

STREAM_RESPONSES: dict[int | str, Document] = {
    **CLASSIFY_RESPONSES,
    200: {
        "description": "Answers from ever more accurate subnetworks, each as soon as it is found; the last is `final`.",
        "content": {
            "text/event-stream": {  # described as its events are
                "schema": {
                    "type": "object",
                    "properties": {
                        "data": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "contentSchema": _STEP,
                        }
                    },
                    "required": ["data"],
                },
                "example": f"data: {_LAST}\n\n",
            },
            "application/x-ndjson": {"schema": _STEP, "example": f"{_LAST}\n"},
        },
    },
}

FEEDBACK: Document = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": Feedback.model_json_schema(),
                "example": {"request_id": REQUEST_ID, "label": "cat"},
            }
        },
    },
}

FEEDBACK_RESPONSES = told(
    *KEYED,
    problems.EmptyBody,
    problems.MalformedRequest,
    problems.UnknownRequest,
    problems.BodyTooSlow,
    problems.HeadTooSlow,
    problems.HeadTooLarge,
    problems.FeedbackRepeated,
    problems.FeedbackLate,
    problems.BodyTooLarge,
    problems.InvalidFeedback,
    problems.InternalError,
    problems.Overloaded,
    problems.NotReady,
)

RELOAD_RESPONSES = told(
    *KEYED,
    problems.NotFound,
    problems.InvalidParameter,
    problems.ReloadUnderWay,
    problems.BundleUnusable,
    problems.InternalError,
    problems.NotReady,
)

CANARY_RESPONSES = told(
    *KEYED, problems.NotFound, problems.InvalidParameter, problems.InternalError, problems.NotReady
)
READY_RESPONSES = told(problems.NotReady)
LIST_RESPONSES = told(*KEYED, problems.InvalidParameter, problems.NotReady)
METRICS_RESPONSES: dict[int | str, Document] = {
    200: {"content": {"text/plain": {}, "application/openmetrics-text": {}}},
    **told(*KEYED),
}

PROBLEM_PAGE: Document = {
    "parameters": [
        {
            "name": "slug",
            "in": "path",
            "required": True,
            "description": "The last part of a problem's `type`.",
            "schema": {"type": "string", "enum": list(CATALOGUE)},
            "example": problems.Overloaded.slug(),
        }
    ]
}
PROBLEM_PAGE_RESPONSES = told(problems.NotFound)
