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
    """The server at an instant: memory in MiB, descriptors, threads."""

    at: float
    memory_mib: float
    descriptors: int
    threads: int


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
    return Look(time.monotonic(), server.memory_mib(), server.entries("fd"), server.entries("task"))


def slope(looks: Sequence[Look]) -> tuple[float, float] | None:
    """Return the growth of the memory in percent an hour, over the last two thirds, and its standard error."""
    late = looks[len(looks) // 3 :]
    if len(late) < FEWEST:
        return None
    at = np.array([each.at for each in late])
    mib = np.array([each.memory_mib for each in late])
    (per_s, _), covariance = np.polyfit(at - at[0], mib, 1, cov=True)
    scale = 100 * 3600 / mib.mean()
    return float(per_s * scale), float(np.sqrt(covariance[0, 0]) * scale)


def agrees(seen: Mapping[str, int], told: Mapping[str, int], unseen: int) -> bool:
    """Whether the server counted what the clients saw, and beside that no more than those did not see the end of."""
    more = [told[each] - seen[each] for each in ANSWERED]
    return min(more) >= 0 and sum(more) + told["abandoned"] <= unseen
