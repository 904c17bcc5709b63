"""PURE: how long a request and its reply are on their way, outside the server."""

GAIN = 1 / 8  # of a new value in the running means, as TCP estimates its round trips (RFC 6298)
DEVIATIONS = 2.0  # mean ones over the mean: about 95 of 100 ways are shorter
LARGEST_SHARE = (
    0.5  # of the time left: what was slow once must not keep all requests from being sent
)


class Way:
    """A running estimate, of one server."""

    def __init__(self) -> None:
        self._mean_s = 0.0
        self._deviation_s = 0.0
        self._is_known = False

    @property
    def estimate_s(self) -> float:
        """What the way takes at most, mostly; 0 before any was observed."""
        return self._mean_s + DEVIATIONS * self._deviation_s

    def share_of(self, left_s: float) -> float:
        """Return how much of the time that is left to keep for the way."""
        return min(self.estimate_s, LARGEST_SHARE * left_s)

    def observe(self, way_s: float) -> None:
        """Learn from a reply: the time from the request to it, less the server's latency."""
        way_s = max(way_s, 0.0)
        if not self._is_known:
            self._is_known, self._mean_s, self._deviation_s = True, way_s, way_s / 2
        else:
            self._deviation_s += GAIN * (abs(way_s - self._mean_s) - self._deviation_s)
            self._mean_s += GAIN * (way_s - self._mean_s)
