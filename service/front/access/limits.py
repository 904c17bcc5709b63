"""PURE: how much a key may ask for, as a token bucket that is one number, and how its callers are told.

A bucket that holds ``burst`` tokens and gets ``rate`` of them a second is known by the instant at which it will be full
again: each request moves that instant on by 1 / rate seconds, and it may lie burst / rate seconds ahead. One float a key
is all that several processes have to share.
"""

from dataclasses import dataclass
from math import ceil, floor


@dataclass(frozen=True, slots=True)
class Quota:
    """What is left of a key's requests.

    Attributes:
        limit: most requests at once.
        remaining: of these now.
        full_s: seconds until all are there again.
        window_s: seconds in which an empty bucket fills.
    """

    limit: int
    remaining: int
    full_s: float
    window_s: float

    def headers(self) -> dict[str, str]:
        """Return the fields of draft-ietf-httpapi-ratelimit-headers-10, in whole seconds."""
        window_s = max(1, ceil(self.window_s))
        return {
            "RateLimit-Policy": f'"key";q={self.limit};w={window_s}',
            "RateLimit": f'"key";r={self.remaining};t={ceil(self.full_s)}',
        }


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket.

    Args:
        rate_per_s: tokens that it gets in a second.
        burst: tokens that it holds.
    """

    rate_per_s: float
    burst: int

    def take(self, full_at: float, now: float) -> tuple[float, float]:
        """Take a token for a request.

        Args:
            full_at: when the bucket will be full.
            now: on the same clock.

        Returns:
            When it will be full after that, and seconds until the token is there: 0 if it is, and then it is taken.
        """
        begins_at = max(full_at, now)
        after = begins_at + 1 / self.rate_per_s
        wait_s = after - now - self.burst / self.rate_per_s
        # What a sum of floats is wrong by must not cost the last token.
        return (after, 0.0) if wait_s <= 1e-9 else (begins_at, wait_s)

    def quota(self, full_at: float, now: float) -> Quota:
        """Say what is left."""
        full_s = max(full_at - now, 0.0)
        remaining = floor(self.burst - full_s * self.rate_per_s + 1e-6)
        return Quota(self.burst, max(remaining, 0), full_s, self.burst / self.rate_per_s)
