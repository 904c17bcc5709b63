"""PURE: the policies that choose how many waiting requests to run next, and in which subnetwork.

A policy sees only time: how long each waiting request may still take, the most urgent first. It always chooses
something; the scheduler has already given up requests that nothing can meet, so the fastest subnetwork fits the head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.latency import LatencyModel

PAYS = (
    0.95  # a larger batch is worth its delay if it takes at most this share of the time per request
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A subnetwork to choose from, and the fraction of its answers that are correct."""

    name: str
    accuracy: float


@dataclass(frozen=True, slots=True)
class Choice:
    """Run the ``batch_size`` most urgent requests in ``subnetwork``."""

    subnetwork: str
    batch_size: int


class Policy(Protocol):
    """Chooses the next run."""

    @property
    def front(self) -> Sequence[Candidate]:
        """The subnetworks it chooses from, fastest first."""

    def choose(self, slack_s: NDArray[np.float64], device: int) -> Choice:
        """Return the next run of a free device.

        Args:
            slack_s: (n,) seconds until each waiting request's run must have ended, ascending; n >= 1.
            device: the device that is free.
        """


class Anytime:
    """The most accurate subnetwork within an equal share of the slack.

    With the queue in deadline order, k requests must be done by the k-th deadline, so each may take
    the minimum over k of slack_k / k. Accuracy is concave in time, so equal shares lose least.
    """

    def __init__(self, front: Sequence[Candidate], latency: LatencyModel, max_batch: int) -> None:
        self.front = front
        self._latency = latency
        self._sizes = _sizes(max_batch)
        self._counts = np.arange(1.0, 1025.0)

    def choose(self, slack_s: NDArray[np.float64], device: int) -> Choice:
        """Return the deepest subnetwork whose time per request is within the share."""
        if len(slack_s) > len(self._counts):
            self._counts = np.arange(1.0, 2.0 * len(slack_s))
        waiting = len(slack_s)
        share_s = self._latency.devices * float((slack_s / self._counts[:waiting]).min())
        head_s = float(slack_s[0])
        for candidate in reversed(self.front):
            size = self._paying_size(candidate.name, waiting, head_s, device)
            if size and self._latency.predict_s(candidate.name, size, device) / size <= share_s:
                return Choice(candidate.name, size)
        fastest = self.front[0].name
        return Choice(fastest, max(self._paying_size(fastest, waiting, head_s, device), 1))

    def _paying_size(self, subnetwork: str, waiting: int, limit_s: float, device: int) -> int:
        """Return the batch size that gives least time per request within a limit; 0 if not even one fits."""
        best, best_s = 0, float("inf")
        for size in self._sizes:
            if size > waiting:
                break
            latency_s = self._latency.predict_s(subnetwork, size, device)
            if latency_s > limit_s:
                break
            if latency_s / size < PAYS * best_s:
                best, best_s = size, latency_s / size
        return best


class SlackFit:
    """The most accurate subnetwork that fits the head's slack, in the largest batch that still fits.

    The policy of SuperServe (NSDI 2025, arXiv 2312.16733).
    """

    def __init__(self, front: Sequence[Candidate], latency: LatencyModel, max_batch: int) -> None:
        self.front = front
        self._latency = latency
        self._sizes = _sizes(max_batch)

    def choose(self, slack_s: NDArray[np.float64], device: int) -> Choice:
        """Return the run that uses most of the head's slack."""
        head_s = float(slack_s[0])
        for candidate in reversed(self.front):
            fitting = [
                size
                for size in self._sizes
                if size <= len(slack_s)
                and self._latency.predict_s(candidate.name, size, device) <= head_s
            ]
            if fitting:
                return Choice(candidate.name, fitting[-1])
        return Choice(self.front[0].name, 1)


def policy_named(
    name: str, subnetworks: Sequence[Candidate], latency: LatencyModel, *, max_batch: int
) -> Policy:
    """Build a policy: ``anytime``, ``slackfit`` or ``static:<subnetwork>``.

    Raises:
        ValueError: no policy or subnetwork has that name.
    """
    kind, _, only = name.partition(":")
    if kind == "static" and only:
        chosen = [candidate for candidate in subnetworks if candidate.name == only]
        if not chosen:
            names = ", ".join(candidate.name for candidate in subnetworks)
            raise ValueError(f"policy {name!r}: no such subnetwork; there are {names}")
        return Anytime(chosen, latency, max_batch)
    if name == "anytime":
        return Anytime(accuracy_front(subnetworks, latency), latency, max_batch)
    if name == "slackfit":
        return SlackFit(accuracy_front(subnetworks, latency), latency, max_batch)
    raise ValueError(f"policy {name!r}: use anytime, slackfit or static:<subnetwork>")


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


def _sizes(max_batch: int) -> tuple[int, ...]:
    """Return the batch sizes considered: powers of two, and the largest."""
    powers = [2**k for k in range(max_batch.bit_length()) if 2**k <= max_batch]
    return tuple(sorted({*powers, max_batch}))
