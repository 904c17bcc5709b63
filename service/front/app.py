"""The application of a front: FastAPI, and the short way to what classifies."""

from http import HTTPStatus

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service import __version__
from service.front.access.origins import PREFLIGHT
from service.front.front import Front
from service.front.http.problem_replies import from_status, render
from service.front.open_inference.messages import is_infer
from service.front.open_inference.routes import infer
from service.front.open_inference.routes import router as open_inference
from service.front.page import add_page
from service.front.routes import classify, classify_stream, front_of, router
from service.problems import InternalError, MethodNotAllowed, NotFound, Problem
from service.settings import Settings


class App:
    """The application of a front. What is not to be classified goes to FastAPI.

    FastAPI's layers cost as much as a run of a shallow subnetwork: what classifies passes them by.

    Attributes:
        front: what the endpoints share.
    """

    def __init__(self, front: Front) -> None:
        self.front = front
        self._api = create_api(front.settings)
        self._direct = {"/classify": classify, "/classify/stream": classify_stream}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        scope["front"] = self.front
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # the connection leaves the body away
        if self.front.access.origins.is_preflight(scope["method"], scope["headers"]):
            reply = Response(status_code=HTTPStatus.NO_CONTENT)
            reply.raw_headers += PREFLIGHT
            await reply(scope, receive, send)
            return
        path = scope["path"]
        endpoint = self._direct.get(path) or (infer if is_infer(path) else None)
        if endpoint is None or scope["method"] != "POST":
            await self._api(scope, receive, send)
            return
        response = await endpoint(Request(scope, receive))
        await response(scope, receive, send)


def create_api(settings: Settings) -> FastAPI:
    """Return what is served, with its documentation."""
    api = FastAPI(
        title="Anytime inference",
        summary="The most accurate answer that fits in the caller's deadline.",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        servers=[{"url": settings.root_path}] if settings.root_path else None,
        redirect_slashes=False,  # a redirect would lead to whatever host the client names
    )
    api.include_router(router)
    api.include_router(open_inference)
    add_page(api, settings)
    api.add_exception_handler(Problem, _render_problem)
    api.add_exception_handler(HTTPException, _render_http_error)
    api.add_exception_handler(Exception, _render_bug)
    return api


async def _render_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return _render(error, request)


def _render(problem: Problem, request: Request) -> Response:
    return render(problem, request.url.path, front_of(request).settings.root_path)


async def _render_http_error(request: Request, error: Exception) -> Response:
    """Say it as a problem when the framework refuses: unknown routes, wrong methods, and the rest."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            return _render(NotFound(f"nothing is served at {path}; see /docs", path=path), request)
        case HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = (error.headers or {}).get("Allow", "")
            detail = f"{path} does not take {request.method}; it takes {allowed}"
            problem = MethodNotAllowed(detail, headers=error.headers, method=request.method)
            return _render(problem, request)
        case status:
            return from_status(status, error.detail, path, error.headers)


async def _render_bug(request: Request, error: Exception) -> Response:
    """Tell the client nothing of an unforeseen exception; the framework logs its trace."""
    return _render(InternalError("the server failed to handle the request"), request)
