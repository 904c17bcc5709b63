"""The trace that a caller says its request belongs to (W3C trace context), for the log; OpenTelemetry is not needed to read it."""

import re
from collections.abc import Mapping

TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
NO_TRACE = b"0" * 32


def trace_id_of(headers: Mapping[bytes, bytes]) -> str:
    """Return the id of the caller's trace, or nothing if it names none or not as it must."""
    match = TRACEPARENT.fullmatch(headers.get(b"traceparent", b""))
    return match[1].decode() if match and match[1] != NO_TRACE else ""
