"""The catalogue of everything that a client may be told went wrong (RFC 9457 problem details).

One subclass of ``Problem`` a problem; its docstring is the page that ``type`` leads to.
"""

import re
from collections.abc import Mapping
from functools import cache
from math import ceil
from typing import Any, ClassVar, TypedDict

from service.outcomes import Outcome
from service.scheduling.requests import Shed


class Problem(Exception):
    """Base of the catalogue.

    Args:
        detail: what happened in this case, with the value and the limit.
        headers: further response headers.
        members: further fields of the body.
    """

    status: ClassVar[int]
    title: ClassVar[str]
    outcome: ClassVar[Outcome] = "invalid"

    def __init__(
        self, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = members

    @classmethod
    @cache  # each of a flood of refusals says it
    def slug(cls) -> str:
        """Return the last part of the problem's address: ``BodyTooLarge`` is ``body-too-large``."""
        return re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()

    def body(self, root_path: str = "") -> dict[str, Any]:
        """Return the fields of the problem document, of a server that a proxy shows below a path."""
        return {
            "type": f"{root_path}/problems/{self.slug()}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **self.members,
        }

    def packed(self) -> "PackedProblem":
        """Return what another process needs to tell it, see ``unpacked``."""
        return {
            "slug": self.slug(),
            "detail": self.detail,
            "headers": self.headers,
            "members": self.members,
        }


class PackedProblem(TypedDict):
    """A problem between two processes."""

    slug: str
    detail: str
    headers: dict[str, str]
    members: dict[str, Any]


class MalformedRequest(Problem):
    """What was sent cannot be read as HTTP/1.1: a wrong length, chunk or header, or another protocol."""

    status, title = 400, "Malformed request"


class NotFound(Problem):
    """Nothing is served at this path."""

    status, title = 404, "Not found"


class MethodNotAllowed(Problem):
    """The path is served, but not with this method; ``Allow`` lists those that are."""

    status, title = 405, "Method not allowed"


class InvalidParameter(Problem):
    """A parameter, in the query or a form, is unknown, repeated, or has a value that it cannot take."""

    status, title = 422, "Invalid parameter"


class EmptyBody(Problem):
    """The request has no body; send the bytes of an image, or the feedback."""

    status, title = 400, "Empty body"


class BodyTooLarge(Problem):
    """The body is over the server's limit in bytes; what comes of it after that is dropped."""

    status, title = 413, "Body too large"


class BodyTooSlow(Problem):
    """The body did not come within the time that the server waits for one; the connection ends."""

    status, title = 408, "Body too slow"


class HeadTooSlow(Problem):
    """The head of a request, its first line and headers, did not come within the server's limit; the connection ends."""

    status, title = 408, "Head too slow"


class HeadTooLarge(Problem):
    """The head of a request, its first line and headers, is over the server's limit in bytes; the connection ends."""

    status, title = 431, "Head too large"


class InvalidUpload(Problem):
    """The multipart form cannot be read, holds no file, or for a stream more than one."""

    status, title = 400, "Invalid upload"


class UnsupportedEncoding(Problem):
    """The body is packed, by its ``Content-Encoding``; send the image as it is, which is packed already."""

    status, title = 415, "Unsupported encoding"


class NotAnImage(Problem):
    """The bytes are of no image format that the server reads: JPEG, PNG or WebP, of 8 bits a sample if JPEG."""

    status, title = 415, "Not an image"


class DamagedImage(Problem):
    """The bytes begin like an image, but are truncated or damaged, in their pixels or in what describes them."""

    status, title = 422, "Damaged image"


class TooManyPixels(Problem):
    """The image is over the server's limit in pixels, or in pixels times scans, and was not decoded."""

    status, title = 422, "Too many pixels"


class DeadlineImpossible(Problem):
    """No subnetwork can meet the deadline even on an idle machine, and the request asked for no late answer."""

    status, title = 422, "Deadline impossible"
    outcome = "impossible"


class Overloaded(Problem):
    """The load is too high to take the request; try again after ``Retry-After`` seconds."""

    status, title = 503, "Overloaded"
    outcome = "refused"


class Expired(Problem):
    """The deadline passed while the request waited, and with it the time in which a late answer was wanted."""

    status, title = 504, "Expired"
    outcome = "expired"


class InvalidFeedback(Problem):
    """The feedback is no JSON object of a ``request_id`` and one of the bundle's labels as ``label``."""

    status, title = 422, "Invalid feedback"


class UnknownRequest(Problem):
    """No answer of that id is kept: it is older than the latest, or was given by another server, or never."""

    status, title = 404, "Unknown request"


class FeedbackRepeated(Problem):
    """The answer has had its label already; the first one counts."""

    status, title = 409, "Feedback repeated"


class FeedbackLate(Problem):
    """The label came after the time in which it is taken."""

    status, title = 410, "Feedback late"


class NotReady(Problem):
    """The server is starting or stopping; try again, or another replica."""

    status, title = 503, "Not ready"
    outcome = "refused"


class Unauthorized(Problem):
    """The request must bear a key of this server: ``Authorization: Bearer KEY``."""

    status, title = 401, "Unauthorized"


class Forbidden(Problem):
    """The key that the request bears is not for this."""

    status, title = 403, "Forbidden"


class TooManyRequests(Problem):
    """The key has asked more often, or for more at a time, than it may, or the address has more connections; ``Retry-After`` says when to ask again."""

    status, title = 429, "Too many requests"


class ReloadUnderWay(Problem):
    """The server loads a bundle already; try again when that has ended."""

    status, title = 409, "Reload under way"


class BundleUnusable(Problem):
    """The bundle in the server's folder cannot be used; the one before goes on answering."""

    status, title = 422, "Bundle unusable"


class InternalError(Problem):
    """The server failed; the cause is in its log."""

    status, title = 500, "Internal error"
    outcome = "failed"


CATALOGUE: dict[str, type[Problem]] = {cls.slug(): cls for cls in Problem.__subclasses__()}


def unpacked(document: PackedProblem) -> Problem:
    """Return the problem that another process has packed."""
    kind = CATALOGUE[document["slug"]]
    return kind(document["detail"], headers=document["headers"], **document["members"])


def problem_of(shed: Shed) -> Problem:
    """Return what the client of a refused request is told."""
    needed_ms, limit_ms = 1e3 * shed.needed_s, 1e3 * shed.limit
    retry = {"Retry-After": str(max(ceil(shed.retry_after_s), 1))}
    if shed.reason == "impossible":
        return DeadlineImpossible(
            f"an idle machine needs {_rounded(needed_ms)} ms from the first byte to the answer, the deadline is {_rounded(limit_ms)} ms",
            needed_ms=round(needed_ms, 3),
            deadline_ms=round(limit_ms, 3),
        )
    if shed.reason == "queue_full":
        return Overloaded(
            f"{shed.limit:g} requests wait already, the most that may",
            headers=retry,
            limit=shed.limit,
        )
    return Overloaded(
        f"with the work ahead it would take {_rounded(needed_ms)} ms, the deadline is {_rounded(limit_ms)} ms",
        headers=retry,
        needed_ms=round(needed_ms, 3),
        deadline_ms=round(limit_ms, 3),
    )


def _rounded(number: float) -> str:
    """Return a number to three digits, or to a whole one where it has more; without an exponent."""
    return f"{number:.3g}" if number < 999.5 else f"{number:.0f}"
