"""What the clients of a soak saw, held against what the server counted; and what its memory did meanwhile."""

import re
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.servers import Server

FEWEST = 4  # of them, to tell a slope and its error
ANSWERED = ("in_time", "late", "refused", "expired", "impossible", "invalid", "failed")


@dataclass(frozen=True, slots=True)
class Look:
    """The server at an instant: memory in MiB by process, and what of it is no file's; descriptors, threads."""

    at: float
    memory_by_name: Mapping[str, float]
    anonymous_by_name: Mapping[str, float]
    descriptors: int
    threads: int

    @property
    def memory_mib(self) -> float:
        """The memory of all processes together."""
        return sum(self.memory_by_name.values())

    @property
    def anonymous_mib(self) -> float:
        """What of it is no file's: files are shared with other programs, which come and go."""
        return sum(self.anonymous_by_name.values())


def fetched(port: int, path: str) -> str:
    """Return what the server says at a path."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as reply:
        text: str = reply.read().decode()
    return text


def counted(port: int) -> Counter[str]:
    """Return the server's own count of requests by their end."""
    text = fetched(port, "/metrics")
    counts: Counter[str] = Counter()
    for outcome, value in re.findall(
        r'anytime_requests_total\{.*?outcome="(\w+)".*?\} (\S+)', text
    ):
        counts[outcome] += int(float(value))
    return counts


def look_at(server: Server) -> Look:
    """Look at the server."""
    return Look(
        time.monotonic(),
        server.memory_by_name(),
        server.memory_by_name("Pss_Anon"),
        server.entries("fd"),
        server.entries("task"),
    )


def slope(at: Sequence[float], mib: Sequence[float]) -> tuple[float, float] | None:
    """Return the growth of memory in percent an hour, over the last two thirds, and its standard error.

    Args:
        at: instants in seconds.
        mib: the memory then.
    """
    begin = len(at) // 3
    late_at, late_mib = np.array(at[begin:]), np.array(mib[begin:])
    if len(late_at) < FEWEST:
        return None
    (per_s, _), covariance = np.polyfit(late_at - late_at[0], late_mib, 1, cov=True)
    scale = 100 * 3600 / late_mib.mean()
    return round(float(per_s * scale), 2), round(float(np.sqrt(covariance[0, 0]) * scale), 2)


def agrees(seen: Mapping[str, int], told: Mapping[str, int], unseen: int) -> bool:
    """Whether the server counted what the clients saw, and beside that no more than those did not see the end of."""
    more = [told[each] - seen[each] for each in ANSWERED]
    return min(more) >= 0 and sum(more) + told["abandoned"] <= unseen
