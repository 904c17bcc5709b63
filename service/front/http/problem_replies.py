"""The replies that tell a client of a problem: as RFC 9457 says, and below /v2 as the Open Inference Protocol does."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response

from service.problems import Problem

MEDIA_TYPE = "application/problem+json"


OPEN_INFERENCE = "/v2"


def from_status(
    status: int, detail: str, path: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a response for an error of the framework that the catalogue does not name."""
    title = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return _response(status, body, path, headers)


def render(problem: Problem, path: str, root_path: str) -> Response:
    """Return the response that tells a client of a problem with what it asked of a path; see ``Problem.body``."""
    return _response(problem.status, problem.body(root_path), path, problem.headers)


def _response(
    status: int, body: dict[str, Any], path: str, headers: Mapping[str, str] | None
) -> Response:
    if path == OPEN_INFERENCE or path.startswith(f"{OPEN_INFERENCE}/"):
        error = to_json({"error": body["detail"]})
        return Response(error, status, dict(headers or {}), "application/json")
    return Response(to_json(body), status, dict(headers or {}), MEDIA_TYPE)
