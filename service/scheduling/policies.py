"""PURE: the policies that choose how many waiting requests to run next, and in which subnetwork.

A policy sees only time: how long each waiting request may still take, the most urgent first, and what is to be
expected. It always chooses something: the scheduler has given up what nothing can meet, so that the fastest subnetwork
fits the first request.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.scheduling.latency import LatencyModel

EFFICIENT = (
    1.05  # a batch grows while that takes 5 % off the time per request; below that it only delays
)

ROOMY = 1.5  # times its prediction: a run with less room may be late by a stall of its own length

BEST = 1.01  # a batch within 1 % of the least time per request is as good as the best


@dataclass(frozen=True, slots=True)
class Candidate:
    """A subnetwork to choose from, and the fraction of its answers that are correct."""

    name: str
    accuracy: float


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a policy knows of the load.

    Args:
        slack_s: (n,) seconds until each waiting request's run must have ended, ascending; n >= 1.
        places: (p,) ascending indices of waiting requests, from 0: those whose deadlines are looked at.
        due_before: (p,) how many requests, it included and those expected to come, are due by each one's deadline.
        runnable: how many of the most urgent may run together; at least 1.
        machine_s: (p,) the machine time, of all devices, that arrivals leave until then.
        busy_s: seconds of work that the other devices still have before them.
        outside_s: seconds each waiting request will cost outside its run.
        free: the fraction of the machine's time that arrivals leave for waiting requests.
        rate: arrivals to expect, per second.
        device: the device that is free.
        second_run_s: how long a run may take that follows another one of the most urgent requests, both counted.
    """

    slack_s: NDArray[np.float64]
    places: NDArray[np.intp]
    due_before: NDArray[np.float64]
    machine_s: NDArray[np.float64]
    runnable: int
    busy_s: float
    outside_s: float
    free: float
    rate: float
    device: int
    second_run_s: float


@dataclass(frozen=True, slots=True)
class Choice:
    """Run the ``batch_size`` most urgent requests in ``subnetwork``; ``insured``: and then, if all goes well, deeper."""

    subnetwork: str
    batch_size: int
    insured: bool = False


@dataclass(frozen=True, slots=True)
class ExpireHead:
    """Give up the ``count`` most urgent requests, so that more of the others are met; then ask again."""

    count: int


class Option:
    """A candidate as a policy sees it.

    ``best_size`` is the batch size that takes least time per request, and ``pace_s`` that time.
    """

    def __init__(self, candidate: Candidate, latency: LatencyModel, max_batch: int) -> None:
        self.name = candidate.name
        self.accuracy = candidate.accuracy
        self._latency = latency
        paces_s = [latency.profile_s(self.name, size) / size for size in range(1, max_batch + 1)]
        self.best_size = _first_near(min(paces_s), paces_s, BEST)
        self.pace_s = paces_s[self.best_size - 1]  # on an idle machine
        self._efficient_sizes = [0, 1]
        for size in range(2, max_batch + 1):
            self._efficient_sizes.append(_first_near(min(paces_s[:size]), paces_s, EFFICIENT))

    def profile_s(self, size: int) -> float:
        """Return the run latency of a batch on an idle machine."""
        return self._latency.profile_s(self.name, size)

    def fitting(self, most: int, limit_s: float, device: int) -> int:
        """Return the largest batch size, at most ``most``, within a limit; 0 if none fits."""
        size = min(most, len(self._efficient_sizes) - 1)
        while size and self._latency.predict_s(self.name, size, device) > limit_s:
            guess = int(size * limit_s / self._latency.predict_s(self.name, size, device))
            size = max(min(guess, size - 1), 0) if size > 8 else size - 1
        return size

    def efficient_size(self, size: int) -> int:
        """Return the smallest batch size that, of those up to ``size``, has about the least time per request."""
        return self._efficient_sizes[size]


class Policy(Protocol):
    """Chooses the next run."""

    @property
    def options(self) -> Sequence[Option]:
        """What it chooses from, fastest first."""

    def choose(self, outlook: Outlook) -> Choice | ExpireHead:
        """Return the next run of a free device."""


class Anytime:
    """The most accurate subnetwork within an equal share of the slack; see docs/scheduling.md.

    By the k-th deadline k requests must be done, so each may take the minimum over k of slack_k / k. Accuracy is
    concave in time, so equal shares lose least.
    """

    def __init__(self, options: Sequence[Option], latency: LatencyModel) -> None:
        self.options = options
        self._latency = latency
        self._hull = _hull(options)

    def choose(self, outlook: Outlook) -> Choice | ExpireHead:
        """Return the deepest subnetwork whose time per request is within the share."""
        device, slowdown = outlook.device, self._latency.slowdown(outlook.device)
        head_s = float(outlook.slack_s[0])
        share_s = self._share_s(outlook)
        fastest = self.options[0]
        each_s = fastest.pace_s * slowdown + 2 * outlook.outside_s
        arrivals_fit = outlook.rate * each_s < self._latency.devices
        for option in reversed(self.options if arrivals_fit else self.options[:1]):
            size = option.efficient_size(option.fitting(outlook.runnable, head_s, device))
            if size and self._latency.typical_s(option.name, size, device) <= size * share_s:
                if self._is_to_insure(option, size, outlook, size * share_s):
                    return Choice(fastest.name, size, insured=True)
                return Choice(option.name, size)
        return self._choose_overloaded(outlook, head_s, slowdown)

    def _is_to_insure(self, safe: Option, size: int, outlook: Outlook, share_s: float) -> bool:
        """Whether to let the fastest answer first, and then, most likely in time, an option that is better or as good."""
        device, fastest = outlook.device, self.options[0]
        left_s = min(share_s, size * outlook.second_run_s)
        left_s -= self._latency.typical_s(fastest.name, size, device)
        room_s = float(outlook.slack_s[0]) / ROOMY
        is_tight = self._latency.predict_s(safe.name, size, device) > room_s
        return any(
            self._latency.typical_s(deep.name, size, device) <= left_s
            for deep in self.options[1:]
            if deep.accuracy > safe.accuracy or (deep is safe and is_tight)
        )

    def _share_s(self, outlook: Outlook, after: int = 0, run_s: float = 0.0) -> float:
        """Return the run time that each request may take for all to be met, once some have run."""
        first = int(outlook.places.searchsorted(after)) if after else 0
        if first == len(outlook.places):
            return float("inf")
        machine_s = outlook.machine_s[first:] - (outlook.busy_s + run_s)
        shares_s = machine_s / (outlook.due_before[first:] - after)
        return float(shares_s.min()) - outlook.outside_s

    def _choose_overloaded(
        self, outlook: Outlook, head_s: float, slowdown: float
    ) -> Choice | ExpireHead:
        """Choose where not all can be met at their best: serve the head in a small batch, or let it go?

        Time has a price: the accuracy that a second adds where the share now lies. A run is worth its answers, less
        the price of its time, less what its requests would earn in a batch of the best size.
        """
        fastest = self.options[0]
        best = min(fastest.best_size, len(outlook.slack_s))
        most = min(outlook.runnable, best)
        small = max(fastest.fitting(most, head_s, outlook.device), 1)
        if small >= best:
            return Choice(fastest.name, small)
        need_s = self._latency.predict_s(fastest.name, best, outlook.device)
        skip = int(np.searchsorted(outlook.slack_s, need_s))
        large = min(len(outlook.slack_s) - skip, best)
        # The head keeps none waiting, or only those that another subnetwork runs.
        if not skip or large <= small:
            return Choice(fastest.name, small)
        left_s = self._share_s(outlook, small, fastest.profile_s(small) * slowdown)
        mean_s = self._latency.devices * outlook.free / max(outlook.rate, 1e-9)
        price, earned = self._price(min(left_s, mean_s) / slowdown)

        def worth(size: int) -> float:
            return size * (fastest.accuracy - earned) - price * fastest.profile_s(size)

        if worth(large) - skip * earned > worth(small):
            return ExpireHead(skip)
        return Choice(fastest.name, small)

    def _price(self, share_s: float) -> tuple[float, float]:
        """Return accuracy per second at a share, and what a request then earns over the price of its time."""
        for price, end_s, earned in self._hull:
            if end_s > share_s:
                return price, earned
        return 0.0, self.options[-1].accuracy


class SlackFit:
    """The most accurate subnetwork that fits the head's slack, in the largest batch that still fits.

    The policy of SuperServe (NSDI 2025, arXiv 2312.16733).
    """

    def __init__(self, options: Sequence[Option]) -> None:
        self.options = options

    def choose(self, outlook: Outlook) -> Choice:
        """Return the run that uses most of the head's slack."""
        head_s = float(outlook.slack_s[0])
        for option in reversed(self.options):
            size = option.fitting(outlook.runnable, head_s, outlook.device)
            if size:
                return Choice(option.name, size)
        return Choice(self.options[0].name, 1)


def policy_named(
    name: str,
    subnetworks: Sequence[Candidate],
    latency: LatencyModel,
    *,
    max_batch: int,
) -> Policy:
    """Build a policy: ``anytime``, ``slackfit`` or ``static:<subnetwork>``.

    Raises:
        ValueError: no policy or subnetwork has that name.
    """
    kind, _, only = name.partition(":")
    if kind == "static":
        chosen: Sequence[Candidate] = [each for each in subnetworks if each.name == only]
        if not chosen:
            names = ", ".join(candidate.name for candidate in subnetworks)
            raise ValueError(f"policy {name!r}: no such subnetwork; there are {names}")
    elif name in ("anytime", "slackfit"):
        chosen = accuracy_front(subnetworks, latency)
    else:
        raise ValueError(f"policy {name!r}: use anytime, slackfit or static:<subnetwork>")
    options = [Option(candidate, latency, max_batch) for candidate in chosen]
    if name == "slackfit":
        return SlackFit(options)
    return Anytime(options, latency)


def _first_near(least_s: float, paces_s: Sequence[float], factor: float) -> int:
    """Return the smallest batch size whose time per request is within a factor of the least."""
    return next(size for size, pace_s in enumerate(paces_s, 1) if pace_s <= factor * least_s)


def _hull(options: Sequence[Option]) -> list[tuple[float, float, float]]:
    """Return the concave hull of (time, accuracy) from (0, 0) up: slope, end, and height at 0 of each segment's line."""
    segments: list[tuple[float, float, float]] = []
    time_s, accuracy = 0.0, 0.0
    while steeper := [
        ((each.accuracy - accuracy) / (each.pace_s - time_s), each.pace_s, each.accuracy)
        for each in options
        if each.pace_s > time_s and each.accuracy > accuracy
    ]:
        slope, time_s, accuracy = max(steeper)
        segments.append((slope, time_s, accuracy - slope * time_s))
    return segments


def accuracy_front(
    subnetworks: Sequence[Candidate], latency: LatencyModel
) -> tuple[Candidate, ...]:
    """Return the subnetworks that no other beats in both accuracy and latency, fastest first."""
    front: list[Candidate] = []
    for candidate in sorted(
        subnetworks, key=lambda each: (latency.profile_s(each.name, 1), -each.accuracy)
    ):
        if not front or candidate.accuracy > front[-1].accuracy:
            front.append(candidate)
    return tuple(front)
