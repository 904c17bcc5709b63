"""What can go wrong with a call: a class for each problem of the server, and those of the way to it.

A problem of a newer server, which is not known here, is a plain ``Problem``.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any


class AnytimeError(Exception):
    """Base of what a call raises."""


class DeadlineExceeded(AnytimeError, TimeoutError):
    """No answer came within the deadline."""


class Unreachable(AnytimeError, ConnectionError):
    """There was no connection to the server, or it broke before the answer was whole."""


class UnexpectedReply(AnytimeError):
    """What came is no reply of this API; a proxy may have given it, or another server."""


class Problem(AnytimeError):
    """The server said why there is no answer.

    Attributes:
        status: of the HTTP reply.
        slug: names the problem, as in docs/api.md.
        detail: what happened in this case, with the value and the limit.
        members: further fields, such as ``limit``.
        retry_after_s: when to come back, if the server said so.
    """

    status = 0

    def __init__(
        self,
        detail: str,
        *,
        status: int,
        slug: str,
        members: Mapping[str, Any],
        retry_after_s: float | None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.slug = slug
        self.members = dict(members)
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        """Return the problem's name and what happened."""
        return f"{self.slug}: {self.detail}"


class MalformedRequest(Problem):
    """What was sent cannot be read as HTTP/1.1."""

    status = 400


class NotFound(Problem):
    """Nothing is served at this path."""

    status = 404


class MethodNotAllowed(Problem):
    """The path is served, but not with this method."""

    status = 405


class InvalidParameter(Problem):
    """A parameter is unknown, repeated, or has a value that it cannot take."""

    status = 422


class EmptyBody(Problem):
    """There was nothing in the image."""

    status = 400


class BodyTooLarge(Problem):
    """The image is over the server's limit in bytes."""

    status = 413


class BodyTooSlow(Problem):
    """The image did not come within the time that the server waits for one."""

    status = 408


class HeadTooSlow(Problem):
    """The head of the request did not come within the time that the server waits for one."""

    status = 408


class HeadTooLarge(Problem):
    """The head of the request is over the server's limit in bytes."""

    status = 431


class InvalidUpload(Problem):
    """The form cannot be read."""

    status = 400


class UnsupportedEncoding(Problem):
    """The body is packed, by its ``Content-Encoding``; send the image as it is, which is packed already."""

    status = 415


class NotAnImage(Problem):
    """The bytes are of no image format that the server reads: JPEG, PNG or WebP."""

    status = 415


class DamagedImage(Problem):
    """The bytes begin like an image, but are truncated or damaged."""

    status = 422


class TooManyPixels(Problem):
    """The image is over the server's limit in pixels."""

    status = 422


class DeadlineImpossible(Problem):
    """No subnetwork can meet the deadline even on an idle machine, and no late answer was asked for."""

    status = 422


class Overloaded(Problem):
    """The load is too high to take the request; try again after ``retry_after_s``."""

    status = 503


class Expired(Problem):
    """The deadline passed while the request waited, and no late answer was asked for."""

    status = 504


class InvalidFeedback(Problem):
    """The label is none of the bundle's."""

    status = 422


class UnknownRequest(Problem):
    """The server keeps no answer of that id."""

    status = 404


class FeedbackRepeated(Problem):
    """The answer has had its label already; the first one counts."""

    status = 409


class FeedbackLate(Problem):
    """The label came after the time in which it is taken."""

    status = 410


class NotReady(Problem):
    """The server is starting or stopping; try again, or another replica."""

    status = 503


class Unauthorized(Problem):
    """The request must bear a key of the server."""

    status = 401


class Forbidden(Problem):
    """The key that the request bears is not for this."""

    status = 403


class TooManyRequests(Problem):
    """The key has asked more often, or for more at a time, than it may; try again after ``retry_after_s``."""

    status = 429


class ReloadUnderWay(Problem):
    """The server loads a bundle already."""

    status = 409


class BundleUnusable(Problem):
    """The bundle in the server's folder cannot be used."""

    status = 422


class InternalError(Problem):
    """The server failed; the cause is in its log."""

    status = 500


def slug_of(kind: type[Problem]) -> str:
    """Return the name of a problem: ``BodyTooLarge`` is ``body-too-large``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower()


CATALOGUE = {slug_of(kind): kind for kind in Problem.__subclasses__()}


def read_problem(document: Mapping[str, Any], headers: Mapping[str, str]) -> Problem:
    """Return the problem that a document describes (RFC 9457).

    Args:
        document: of the media type ``application/problem+json``.
        headers: of its response.
    """
    members = dict(document)
    slug = str(members.pop("type", "")).rpartition("/")[2]
    title, status = members.pop("title", ""), members.pop("status", 0)
    retry_after_s = None
    with suppress(KeyError, ValueError):  # a date is not waited for
        retry_after_s = float(headers["retry-after"])
    return CATALOGUE.get(slug, Problem)(
        str(members.pop("detail", title)),
        status=status if isinstance(status, int) else 0,
        slug=slug,
        members=members,
        retry_after_s=retry_after_s,
    )
