"""The replies that tell a client of a problem (RFC 9457)."""

from collections.abc import Mapping
from http import HTTPStatus

from pydantic_core import to_json
from starlette.responses import Response

from service.problems import Problem

MEDIA_TYPE = "application/problem+json"


def from_status(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response for an error of the framework that the catalogue does not name."""
    title = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return Response(to_json(body), status, dict(headers or {}), MEDIA_TYPE)


def render(problem: Problem) -> Response:
    """Return the response that tells a client of a problem."""
    return Response(to_json(problem.body()), problem.status, problem.headers, MEDIA_TYPE)
