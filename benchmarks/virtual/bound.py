"""An upper bound on the expected number of correct answers in time that any scheduler can reach.

The proof is in docs/scheduling.md. In short: a request that gets x seconds of machine time inside its window is
correct with probability at most A(x), the concave hull of (best time per request, accuracy) over the subnetworks and
nothing. A(x) = ∫ min(x, c(μ)) dμ, c(μ) the part of the hull steeper than μ; and the sum of min(x, c(μ)) over all
requests is at most the work that a preemptive machine can do if each request brings c(μ) of it, which earliest
deadline first attains.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from heapq import heappop, heappush

from service.scheduling.policies import Candidate


def upper_bound(
    windows: Sequence[tuple[float, float]],
    subnetworks: Sequence[Candidate],
    latency_s: Callable[[str, int], float],
    *,
    max_batch: int,
    devices: int = 1,
    overhead_s: float = 0.0,
    work_at: Callable[[float], float] = lambda at: at,
) -> float:
    """Return the bound.

    Args:
        windows: (arrival, deadline) of each request in seconds, in order of arrival.
        subnetworks: all that may answer.
        latency_s: mean run latency of a subnetwork at a batch size; a larger batch takes no less.
        max_batch: the largest batch.
        devices: how many work side by side.
        overhead_s: what a request costs outside its run on the same machine.
        work_at: the work, in seconds at full speed, that a device can have done by an instant.
    """
    windows = [(work_at(arrival), work_at(deadline)) for arrival, deadline in windows]
    hulls: dict[int, list[tuple[float, float]]] = {}
    company = _company(windows, max_batch)
    for size in set(company):
        sizes = range(1, size + 1)
        points = [
            (overhead_s + min(latency_s(each.name, b) / b for b in sizes), each.accuracy)
            for each in subnetworks
        ]
        hulls[size] = _concave_hull(points)
    slopes = sorted({slope for hull in hulls.values() for slope, _ in hull})
    bound, below = 0.0, 0.0
    for slope in slopes:
        reach = {size: _reach_s(hull, slope) for size, hull in hulls.items()}
        work_s = [
            min(reach[size], deadline - arrival)
            for size, (arrival, deadline) in zip(company, windows, strict=True)
        ]
        bound += (slope - below) * _most_work(windows, work_s, devices)
        below = slope
    return bound


def _company(windows: Sequence[tuple[float, float]], max_batch: int) -> list[int]:
    """Return for each request how many of a batch with it can share its time, rounded up to a power of two.

    They came, and were not yet late, when the run began: their windows meet. A batch of these and late ones may be
    larger, but the late take no share of its time.
    """
    arrivals = sorted(arrival for arrival, _ in windows)
    deadlines = sorted(deadline for _, deadline in windows)
    company = []
    for arrival, deadline in windows:
        came = bisect_right(arrivals, deadline)
        left = bisect_left(deadlines, arrival)
        company.append(min(1 << (came - left - 1).bit_length(), max_batch))
    return company


def _concave_hull(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the upper hull of (time, accuracy) from (0, 0) up, as (slope, time at the segment's end)."""
    segments: list[tuple[float, float]] = []
    x, y = 0.0, 0.0
    while steeper := [
        ((accuracy - y) / (time - x), time, accuracy)
        for time, accuracy in points
        if time > x and accuracy > y
    ]:
        slope, x, y = max(steeper)
        segments.append((slope, x))
    return segments


def _reach_s(hull: Sequence[tuple[float, float]], slope: float) -> float:
    """Return up to what time a hull is at least so steep."""
    return max((end for steepness, end in hull if steepness >= slope), default=0.0)


def _most_work(
    windows: Sequence[tuple[float, float]], work_s: Sequence[float], devices: int
) -> float:
    """Return the most work that one preemptive machine of the devices' joint speed can do inside the windows.

    Earliest deadline first, each dropped at its deadline (Glover 1967: a convex bipartite matching of time to work).
    """
    waiting: list[tuple[float, float]] = []  # (deadline, work left)
    done_s, now = 0.0, 0.0
    upcoming = [arrival for arrival, _ in windows[1:]] + [float("inf")]
    for (arrival, deadline), work, next_at in zip(windows, work_s, upcoming, strict=True):
        now = max(now, arrival)
        heappush(waiting, (deadline, work))
        while waiting and now < next_at:
            due_at, left_s = heappop(waiting)
            stop_at = min(now + left_s / devices, next_at, due_at)
            if stop_at <= now:
                continue
            part_s = (stop_at - now) * devices
            done_s += part_s
            if stop_at < due_at and left_s - part_s > 1e-12:
                heappush(waiting, (due_at, left_s - part_s))
            now = stop_at
    return done_s
