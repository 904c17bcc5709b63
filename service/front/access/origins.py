"""PURE: what browsers are told of every reply: how to take it, and whose pages may read it (CORS); no page may unless it is named."""

from collections.abc import Iterable

Headers = list[tuple[bytes, bytes]]

# No guessing of types, no address of this server to others, and no use of a reply in another site's page.
SECURITY_HEADERS = [
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
]
EXPOSED = b"ratelimit, ratelimit-policy, retry-after, x-request-id"
PREFLIGHT: Headers = [
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-allow-headers", b"authorization, content-type, x-api-key, x-request-id"),
    (b"access-control-max-age", b"7200"),
]


class Origins:
    """The origins whose pages may read replies.

    Args:
        allowed: as browsers write them, a space between two.
    """

    def __init__(self, allowed: str) -> None:
        self._allowed = frozenset(allowed.encode().split())

    def headers(self, sent: Iterable[tuple[bytes, bytes]]) -> Headers:
        """Return the headers of a reply, given those of the request, with names in lower case."""
        if not self._allowed:
            return []
        origin = _value(sent, b"origin")
        if origin not in self._allowed:
            return [(b"vary", b"origin")]
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", EXPOSED),
            (b"vary", b"origin"),
        ]

    def is_preflight(self, method: str, sent: Iterable[tuple[bytes, bytes]]) -> bool:
        """Return whether a browser asks here if the page of an origin that may do so may ask."""
        return (
            method == "OPTIONS"
            and bool(_value(sent, b"access-control-request-method"))
            and _value(sent, b"origin") in self._allowed
        )


def _value(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bytes:
    return next((value for name, value in headers if name == wanted), b"")
