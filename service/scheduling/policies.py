"""PURE: the policies that choose how many waiting requests to run next, and in which subnetwork.

A policy sees only time: how long the waiting requests may still take, and what is to be expected. It always chooses
something: requests that nothing can meet have left the queue, so that the fastest subnetwork fits the first one.

The policy ``anytime``: by the k-th deadline k requests must be done, so that each may take the k-th part of the time
until then, for the k that leaves least. Accuracy is concave in time, so equal shares lose least. Where several models
share the devices, shares are equal in multiples of what each costs at least. The most accurate subnetwork within the
share runs, in a batch while a larger one saves time. None runs that takes more, in its best batch, than the arrivals of
the last quarter of a second leave each other: a short queue does not tempt a busy machine. Where a run is so long that
urgent arrivals would be lost during it, a shallower one or a smaller batch runs that gives more correct answers, those
of the arrivals included. See docs/scheduling.md.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple, Protocol

from service.scheduling.latency import LatencyModel

# A batch grows while that takes 5 % off the time per request; below that it only delays.
EFFICIENT = 1.05
BEST = 1.01  # a batch within 1 % of the least time per request is as good as the best


@dataclass(frozen=True, slots=True)
class Candidate:
    """A subnetwork to choose from, and the fraction of its answers that are correct."""

    name: str
    accuracy: float


class Outlook(NamedTuple):
    """What the policy of a model knows of the load.

    Args:
        waiting: how many requests wait for the model; at least 1.
        runnable: how many of the most urgent may run together; at least 1.
        head_s: seconds until the run of the most urgent one must have ended.
        missed_after: how many of the most urgent can no longer be met by a run that ends after so many seconds.
        lost_during: how many arrivals are to be expected that a run of so many seconds leaves no time.
        share_s: the run time that each may take for all that wait to be met, those to come before them included.
        steady_s: the run time that each request may take if as many go on to come; less than 0 past the capacity.
        device: the one that is free.
    """

    waiting: int
    runnable: int
    head_s: float
    missed_after: Callable[[float], int]
    lost_during: Callable[[float], float]
    share_s: float
    steady_s: float
    device: int


class Choice(NamedTuple):
    """Run the ``batch_size`` most urgent requests in ``subnetwork``."""

    subnetwork: str
    batch_size: int


class ExpireHead(NamedTuple):
    """Give the ``head`` most urgent requests up, so that more of the others are met; then ask again."""

    head: int


class Option:
    """A candidate as a policy sees it.

    ``best_size`` is the batch size that takes least time per request, and ``pace_s`` that time, on an idle machine.
    """

    def __init__(self, candidate: Candidate, latency: LatencyModel, max_batch: int) -> None:
        self.name = candidate.name
        self.accuracy = candidate.accuracy
        self._latency = latency
        paces_s = [latency.profile_s(self.name, size) / size for size in range(1, max_batch + 1)]
        self.best_size = _first_near(min(paces_s), paces_s, BEST)
        self.pace_s = paces_s[self.best_size - 1]
        self._efficient = [0] + [
            _first_near(min(paces_s[:size]), paces_s, EFFICIENT) for size in range(1, max_batch + 1)
        ]

    def efficient_sizes(self, most: int, limit_s: float, device: int) -> Iterator[int]:
        """Yield batch sizes within a limit, the largest first: each the smallest with about the least time per request of those up to it."""
        size = self._efficient[most]
        while size:
            if self._latency.predict_s(self.name, size, device) <= limit_s:
                yield size
            size = self._efficient[size - 1]


class Policy(Protocol):
    """Chooses the next run."""

    @property
    def options(self) -> Sequence[Option]:
        """What it chooses from, fastest first."""

    def choose(self, outlook: Outlook) -> Choice | ExpireHead:
        """Return the next run of a free device."""


class Anytime:
    """The most accurate subnetwork within an equal share of the time."""

    def __init__(self, options: Sequence[Option], latency: LatencyModel) -> None:
        self.options = options
        self._latency = latency

    def choose(self, outlook: Outlook) -> Choice | ExpireHead:
        """Return the deepest subnetwork that those who wait have time for, and those who go on to come.

        Where arrivals would be lost during its run, the one that gives most correct answers for each that waits.
        """
        latency, device = self._latency, outlook.device
        steady_s = outlook.steady_s / latency.devices.slowdown(device)
        best, most = None, -inf
        for option in reversed(self.options):
            if option.accuracy <= most:
                break
            if option.pace_s > steady_s:
                continue
            for size in option.efficient_sizes(outlook.runnable, outlook.head_s, device):
                if latency.typical_s(option.name, size, device) > size * outlook.share_s:
                    break
                lost = outlook.lost_during(latency.predict_s(option.name, size, device))
                correct = option.accuracy - self.options[0].accuracy * lost / size
                if correct > most:
                    best, most = Choice(option.name, size), correct
                if not lost:
                    break
        return best or self._choose_overloaded(outlook)

    def _choose_overloaded(self, outlook: Outlook) -> Choice | ExpireHead:
        """Choose where not all can be met: run the fastest subnetwork in a batch of the best size.

        A head at the edge of its deadline leaves time for a small batch only, each of which makes the next head late:
        where a larger batch waits behind such heads, they are given up.
        """
        fastest, device = self.options[0], outlook.device
        best = min(fastest.best_size, outlook.waiting)
        most = min(outlook.runnable, best)
        small = max(self._latency.largest_batch(fastest.name, most, outlook.head_s, device), 1)
        missed = outlook.missed_after(self._latency.predict_s(fastest.name, best, device))
        if missed and min(outlook.waiting - missed, best) > small:
            return ExpireHead(missed)
        return Choice(fastest.name, small)


class SlackFit:
    """The most accurate subnetwork that fits the head's slack, in the largest batch that still fits.

    The policy of SuperServe (NSDI 2025, arXiv 2312.16733).
    """

    def __init__(self, options: Sequence[Option], latency: LatencyModel) -> None:
        self.options = options
        self._latency = latency

    def choose(self, outlook: Outlook) -> Choice:
        """Return the run that uses most of the head's slack."""
        for option in reversed(self.options):
            size = self._latency.largest_batch(
                option.name, outlook.runnable, outlook.head_s, outlook.device
            )
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
    return SlackFit(options, latency) if name == "slackfit" else Anytime(options, latency)


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


def _first_near(least_s: float, paces_s: Sequence[float], factor: float) -> int:
    """Return the smallest batch size whose time per request is within a factor of the least."""
    return next(size for size, pace_s in enumerate(paces_s, 1) if pace_s <= factor * least_s)
