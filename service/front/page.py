"""What a browser is given: the page at ``/``, its samples and ``/docs``; prepared once, and nothing of it from elsewhere."""

import gzip
import json
import re
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from http import HTTPStatus
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from service.front.routes import front_of
from service.problems import InvalidParameter, NotFound
from service.settings import Settings

HERE = Path(__file__).parent
# A wheel brings the samples along (see pyproject.toml); a clone has them where its documents are.
SAMPLES = (HERE / "samples", HERE.parents[1] / "docs/samples")
MEDIA_TYPES = {".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
SWAGGER_UI = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}

MAX_LOAD_BYTES = 200
MOST_TIMES = 10
SIDE, QUALITY = 32, 90  # of the images: files of 1 to 2 kB
INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)
SETTINGS = re.compile(r'(?<=<script type="application/json" id="settings">).*?(?=</script>)')
POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; connect-src 'self'"


class LoadWanted(BaseModel):
    """How much load the page asks for, in multiples of what the server holds, and of which model; none is the first."""

    model_config = ConfigDict(extra="forbid")

    times: float = Field(ge=0, le=MOST_TIMES, allow_inf_nan=False)
    deadline_ms: float = Field(ge=0.1, le=1000, allow_inf_nan=False)
    model: str | None = None


class Asset:
    """One file: its bytes as they are and compressed, and a tag by which a browser asks whether they are still the same."""

    def __init__(self, body: bytes, media_type: str, headers: Mapping[str, str] | None = None):
        self._plain = body
        self._packed = gzip.compress(body, mtime=0)
        self._tag = f'"{sha256(body).hexdigest()[:32]}"'
        self._media_type = media_type
        self._headers = {
            "Cache-Control": "no-cache",  # keep it, and ask before each use
            "Vary": "Accept-Encoding",
            **(headers or {}),
        }

    def reply(self, request: Request) -> Response:
        """Return the file, or that it has not changed."""
        headers = {**self._headers, "ETag": self._tag}
        if self._tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return self._whole(request, HTTPStatus.OK, headers)

    def refusal(self, request: Request) -> Response:
        """Return the file as what is shown to who bears no key; it is not kept."""
        refused = {"Cache-Control": "no-store", "WWW-Authenticate": "Bearer"}
        return self._whole(request, HTTPStatus.UNAUTHORIZED, {**self._headers, **refused})

    def _whole(self, request: Request, status: HTTPStatus, headers: dict[str, str]) -> Response:
        if len(self._packed) < len(self._plain) and "gzip" in request.headers.get(
            "accept-encoding", ""
        ):
            headers["Content-Encoding"] = "gzip"
            return Response(self._packed, status, headers, self._media_type)
        return Response(self._plain, status, headers, self._media_type)


def add_page(app: FastAPI, settings: Settings) -> None:
    """Add what is for browsers: ``/docs``, and the page with what it needs."""
    router = APIRouter(include_in_schema=False)
    router.add_api_route("/docs", docs, methods=["GET"])
    router.add_api_route("/docs/{name}", docs_asset, methods=["GET"])
    if settings.page:
        _add_index(router, settings)
        if shows_load(settings):
            router.add_api_route("/load", load, methods=["GET"])
            router.add_api_route("/load", send_load, methods=["POST"])
    app.include_router(router)


def shows_load(settings: Settings) -> bool:
    """Whether the page may have the server send load to itself: left to itself, only where no other machine can ask."""
    if settings.tls_certificate is not None:  # which the load's sender does not speak
        return False
    if settings.page_load == "auto":
        return settings.is_private and settings.keys_file is None
    return settings.page_load == "on"


async def load(request: Request) -> dict[str, Any]:
    """Say how the load goes."""
    report: dict[str, Any] = await front_of(request).engine.call("load_report")
    return report


async def send_load(request: Request) -> dict[str, Any]:
    """Send as much load from now on as the page asks for.

    Raises:
        InvalidParameter: it asks for too much or for no model of the server, or is no page of this server, which could not send
            JSON.
    """
    front = front_of(request)
    media_type = request.headers.get("content-type", "")
    if media_type != "application/json":
        raise InvalidParameter(
            f"the load that is wanted comes as {media_type!r}; it must be sent as application/json",
            parameter="Content-Type",
            value=media_type,
            allowed="application/json",
        )
    body = await front.bodies.read(request, dict(request.scope["headers"]), MAX_LOAD_BYTES)
    try:
        wanted = LoadWanted.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "body"
        value = first["input"] if first["loc"] else body.decode(errors="replace")
        raise InvalidParameter(
            f"{name} is {value!r}: {first['msg']}",
            parameter=name,
            value=value,
            allowed=f"times, a number from 0 to {MOST_TIMES}, deadline_ms, one from 0.1 to 1000, and the model, a name",
        ) from error
    served = front.serving.of(wanted.model)
    predicted_s = await front.engine.call("predicted_run_latency_s", generation=served.generation)
    host, port = request.scope["server"]
    sender = {"host": host, "port": port, "images": _load_images()}
    fastest = min(served.names, key=predicted_s.__getitem__)
    report: dict[str, Any] = await front.engine.call(
        "want_load",
        wanted={**wanted.model_dump(), "model": served.name, "fastest": fastest},
        sender=sender,
    )
    return report


def _add_index(router: APIRouter, settings: Settings) -> None:
    html = (HERE / "page.html").read_text()
    page = _index(html, {"grafana": settings.grafana_url, "load": shows_load(settings)})
    # For who bears no key: nothing of the server's, but a place to enter one.
    locked = _index(html.replace(' src="samples/', ' data-src="samples/'), {"locked": True})
    samples = {
        each.name: Asset(each.read_bytes(), MEDIA_TYPES[each.suffix]) for each in _sample_files()
    }

    async def index(request: Request) -> Response:
        if request.scope["state"].get("is_locked"):
            return locked.refusal(request)
        return page.reply(request)

    async def sample(request: Request, name: str) -> Response:
        if name not in samples:
            raise NotFound(f"there is no sample {name!r}", path=request.url.path)
        return samples[name].reply(request)

    router.add_api_route("/", index, methods=["GET"])
    router.add_api_route("/samples/{name}", sample, methods=["GET"])


def _index(html: str, shown: Mapping[str, Any]) -> Asset:
    """Return the page with what its script is told of the server."""
    text = SETTINGS.sub(lambda _: json.dumps(shown).replace("<", "\\u003c"), html)
    return _document(text, "img-src 'self' blob: data:")


def _sample_files() -> list[Path]:
    folder = next(each for each in SAMPLES if each.is_dir())
    return sorted(each for each in folder.iterdir() if each.suffix in MEDIA_TYPES)


@cache
def _load_images() -> list[str]:
    """Return what the requests of the load show, one of them at a time."""
    return [b64encode(_shrunk(each)).decode() for each in _sample_files()]


def _shrunk(picture: Path) -> bytes:
    """Return the file of a picture at the size of CIFAR-10's."""
    file = BytesIO()
    with Image.open(picture) as image:
        image.convert("RGB").resize((SIDE, SIDE)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def docs(request: Request) -> Response:
    """Show the API, with Swagger UI."""
    return _docs_page(request.app.title).reply(request)


def docs_asset(request: Request, name: str) -> Response:
    """Give a file of Swagger UI. Not async: the first reply compresses a megabyte, which a thread can do."""
    if name not in SWAGGER_UI:
        raise NotFound(f"nothing is served at {request.url.path}", path=request.url.path)
    return _swagger_ui(name).reply(request)


@cache
def _docs_page(title: str) -> Asset:
    html = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=title,
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="data:,",
    )
    # Swagger UI draws its icons from data: addresses, and styles some of its elements itself.
    return _document(bytes(html.body).decode(), "img-src data:; style-src 'self' 'unsafe-inline'")


@cache
def _swagger_ui(name: str) -> Asset:
    return Asset((files("fastapi_offline") / "static" / name).read_bytes(), SWAGGER_UI[name])


def _document(html: str, policy: str) -> Asset:
    """Return an HTML document that runs no script and takes no style but its own."""
    hashes: dict[str, list[str]] = {"script": ["'self'"], "style": []}
    for match in INLINE.finditer(html):
        digest = b64encode(sha256(match[2].encode()).digest()).decode()
        hashes[match[1]].append(f"'sha256-{digest}'")
    sources = [POLICY, policy, f"script-src {' '.join(hashes['script'])}"]
    if hashes["style"]:
        sources.append(f"style-src {' '.join(hashes['style'])}")
    return Asset(html.encode(), "text/html", {"Content-Security-Policy": "; ".join(sources)})
