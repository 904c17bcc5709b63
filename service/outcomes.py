"""How requests and connections end: the closed sets that metrics, log and problems share."""

from typing import Final, Literal

Outcome = Literal[
    "in_time", "late", "refused", "expired", "impossible", "abandoned", "invalid", "failed"
]
"""How a request to classify ended."""

NO_MODEL: Final = "none"
"""The model of requests that ended before it was known which they ask."""

Ending = Literal[
    "silent",
    "slow_head",
    "slow_body",
    "idle",
    "unread",
    "malformed",
    "large_head",
    "crowded",
    "address",
]
"""Why the server ended a connection that its client did not end."""

KeyRefusal = Literal["missing", "unknown", "scope", "rate", "concurrency"]
"""Why a request was refused by its key."""

FeedbackOutcome = Literal["scored", "replaced", "unknown", "repeated", "late", "invalid"]
"""What became of a label that was sent."""
