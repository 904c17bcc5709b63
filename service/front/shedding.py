"""A request that is shed by its head, at as little cost as can be: in a flood there are tens of thousands a second."""

import time
from functools import lru_cache

from service.front.front import Front
from service.front.http.exchange import Headers, rendered, status_line
from service.front.http.request_parser import RequestParser
from service.problems import Problem

CLASSIFYING = {b"/classify", b"/classify/stream"}


class ShedRequest:
    """A request that nobody handles: its body is read, for nothing, and then it is told why.

    Args:
        front: accounts for it.
        problem: why.
        head: its own.
        arrived_at: when it did.
        begun_at: when the work on it began.

    Attributes:
        skipped_bytes: of its body.
    """

    __slots__ = ("_arrived_at", "_begun_at", "_front", "_problem", "_sent_id", "skipped_bytes")

    def __init__(
        self,
        front: Front,
        problem: Problem,
        head: RequestParser,
        arrived_at: float,
        begun_at: float,
    ) -> None:
        self._front = front
        self._problem = problem
        self._sent_id = dict(head.headers).get(b"x-request-id", b"")
        self._arrived_at = arrived_at
        self._begun_at = begun_at
        self.skipped_bytes = 0

    def reply(self, common_headers: Headers) -> bytes:
        """Return the whole reply, on a connection that stays, and account for it."""
        problem = self._problem
        request_id = self._front.request_id(self._sent_id)
        head, body = _parts(problem, tuple(common_headers))
        cost_s = time.monotonic() - self._begun_at
        self._front.count_shed(problem, request_id, self._arrived_at, cost_s=cost_s)
        return b"%b%b\r\n\r\n%b" % (head, request_id.encode(), body)

    def abandon(self) -> None:
        """Account for it, where the client has gone or it never came to its end."""
        self._front.ended("abandoned", self._front.request_id(self._sent_id), self._arrived_at)


def why_shed(
    front: Front, head: RequestParser, arrived_at: float, *, is_lost: bool
) -> Problem | None:
    """Say why a request to classify is shed, if it is."""
    if head.raw_path not in CLASSIFYING or head.method != b"POST":
        return None
    return front.check_head(arrived_at, head.query_string, is_lost=is_lost)


@lru_cache(maxsize=4)  # in a flood all are told the same
def _parts(
    problem: Problem, common_headers: tuple[tuple[bytes, bytes], ...]
) -> tuple[bytes, bytes]:
    headers, body = rendered(problem, "")
    lines = [status_line(problem.status)]
    lines += [b"%b: %b\r\n" % header for header in (*common_headers, *headers)]
    return b"".join(lines) + b"x-request-id: ", body
