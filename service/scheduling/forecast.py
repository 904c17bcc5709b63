"""PURE: what a queue does not show: the requests yet to arrive, and the work outside the runs.

On one core a request costs more outside its run than in the shallowest subnetwork, and while a run is under way
arrivals wait unseen in sockets. Each expected arrival therefore takes time from those that wait.
"""

from collections import deque
from math import exp

import numpy as np
from numpy.typing import NDArray

RECENT_S = 0.025  # time constant of the current rate; over 5 ms it was no better
PROOFS = (16, 64)  # so many arrivals prove a rate before the recent one has risen to it
LASTING_S = (
    0.25  # time constant of the lasting rate: that a late answer waits for, some deadlines long
)
CLOSED_LOOP_ARRIVALS = 24  # after so many arrivals that each found an idle machine, callers wait for their answers: none comes before
SHORTEST_PROOF_S = 0.004  # what comes in less comes at one instant, and proves no rate
HERALD_GAIN = 1 / 256  # an arrival: what follows an arrival is learned over several bursts
HERALD_MEMORY_S = 0.5  # a burst that long ago says little; a load that has ended is forgotten
GAPS_IN_A_BURST = 10.0  # after so many expected gaps without an arrival a burst is over
DEADLINES_KEPT = 64  # the latest deadlines stand for the coming ones
OVERHEAD_GAIN = 0.05  # an observation: a mean over some twenty
HARM = 0.02  # arrivals that a run may cost their deadline, expected
ANSWER_GAIN = 0.02  # a request: a mean over some fifty


class Forecast:
    """The rate and deadlines of the requests to come, and what a request costs outside its run."""

    def __init__(self) -> None:
        self._recent = 0.0  # arrivals a second at the last arrival; decays from there
        self._burst_rate = 0.0  # the recent rate as arrivals found it: what one arrival lets expect
        self._lasting = 0.0  # arrivals a second at the last one, over a longer time
        self._last_at = 0.0
        self._closed_loop_arrivals = 0  # the latest arrivals that found an idle machine
        self._rate_lower_bound = (
            0.0  # the rate that the latest arrivals prove, by a standard deviation
        )
        self._latest: deque[float] = deque(maxlen=PROOFS[-1])
        self._deadlines_s: deque[float] = deque(maxlen=DEADLINES_KEPT)
        self._seen = 0
        self._sorted_s: NDArray[np.float64] = np.zeros(0)
        self._sums_s: NDArray[np.float64] = np.zeros(1)
        self._overhead_s = 0.0
        self._arrival_s = 0.0
        self._deciding_s = 0.0
        self._staged = 0.0
        self._going_on = 1.0

    @property
    def staged(self) -> float:
        """The share of arrivals that want a first answer at once."""
        return self._staged

    @property
    def going_on(self) -> float:
        """The share of those whose first answer is not enough."""
        return self._going_on

    @property
    def overhead_s(self) -> float:
        """The mean cost outside its run, on the machine that runs it, of a request that is decided on."""
        return self._overhead_s

    @property
    def arrival_s(self) -> float:
        """The mean cost of any arrival there; one that is shed unread costs little."""
        return self._arrival_s

    @property
    def deciding_s(self) -> float:
        """The part of it until the arrival waits for its run, or is shed: that is spent before any run."""
        return self._deciding_s

    def arrived(
        self,
        now: float,
        deadline_s: float,
        *,
        found_idle: bool = False,
        is_staged: bool | None = None,
    ) -> None:
        """Count an arrival.

        Args:
            now: when it came.
            deadline_s: how long until it is due.
            found_idle: whether it found nothing to wait for.
            is_staged: whether it wants a first answer at once; None: it was refused before that was known.
        """
        if is_staged is not None:
            self._staged += ANSWER_GAIN * (is_staged - self._staged)
        self._closed_loop_arrivals = self._closed_loop_arrivals + 1 if found_idle else 0
        silence_s = max(now - self._last_at, 0.0)
        self._last_at = now
        self._latest.append(now)
        spans_s = [(n, now - self._latest[-n]) for n in PROOFS if len(self._latest) >= n]
        self._rate_lower_bound = max(
            ((n - n**0.5) / max(s, SHORTEST_PROOF_S) for n, s in spans_s), default=0.0
        )
        self._recent *= exp(-silence_s / RECENT_S)
        self._burst_rate *= exp(-silence_s / HERALD_MEMORY_S)
        self._burst_rate += HERALD_GAIN * (self._recent - self._burst_rate)
        self._recent += 1 / RECENT_S
        self._lasting = self._lasting * exp(-silence_s / LASTING_S) + 1 / LASTING_S
        self._deadlines_s.append(max(deadline_s, 0.0))
        self._seen += 1
        if self._seen < DEADLINES_KEPT or self._seen % (DEADLINES_KEPT // 4) == 0:
            self._sorted_s = np.sort(np.array(self._deadlines_s))
            self._sums_s = np.concatenate(([0.0], np.cumsum(self._sorted_s)))

    def observe_overhead(self, cost_s: float, arrival_s: float, deciding_s: float) -> None:
        """Learn what a request that was decided on cost outside its run, any arrival, and that until it was decided on."""
        self._overhead_s += OVERHEAD_GAIN * (cost_s - self._overhead_s)
        self._arrival_s += OVERHEAD_GAIN * (arrival_s - self._arrival_s)
        self._deciding_s += OVERHEAD_GAIN * (deciding_s - self._deciding_s)

    def observe_first_answer(self, *, is_enough: bool) -> None:
        """Learn whether a first answer was enough."""
        self._going_on += ANSWER_GAIN * ((not is_enough) - self._going_on)

    def rate(self, now: float, *, beside: float | None = None) -> float:
        """Return the arrivals to expect, per second, soon after ``now``.

        Args:
            now: the present.
            beside: when a request arrived whose own arrival is no sign of others.
        """
        if self._closed_loop_arrivals >= CLOSED_LOOP_ARRIVALS:
            return 0.0
        silence_s = max(now - self._last_at, 0.0)
        recent = max(self._recent, self._rate_lower_bound) * exp(-silence_s / RECENT_S)
        if beside is not None:
            recent = max(recent - exp((beside - now) / RECENT_S) / RECENT_S, 0.0)
        if self._burst_rate <= recent:
            return recent
        goes_on = exp(-silence_s * self._burst_rate / GAPS_IN_A_BURST)
        return recent + (self._burst_rate - recent) * goes_on

    def lasting_rate(self, now: float) -> float:
        """Return the mean rate of arrivals, per second, over a quarter of a second."""
        return self._lasting * exp(-max(now - self._last_at, 0.0) / LASTING_S)

    def lull_rate(self, now: float) -> float:
        """Return the part of the rate that does not come from the latest arrivals alone: what is left in a lull."""
        return min(self._burst_rate, self.rate(now))

    def max_blocking_s(self, answer_s: float, rate: float) -> float:
        """Return for how long a device may be kept from arrivals: but one in 50 such runs costs none its deadline.

        Args:
            answer_s: what an arrival's answer takes at least; what is due sooner is lost anyhow.
            rate: of arrivals, per second, over 0.
        """
        # How long each of the latest arrivals could have waited.
        waits_s = self._sorted_s - answer_s
        waits_s = waits_s[waits_s.searchsorted(0.0) :]
        if not len(waits_s):
            return float("inf")
        # Deadlines lost by a second of waiting.
        lost = rate * np.arange(1.0, len(waits_s) + 1.0) / len(self._sorted_s)
        longest_s = np.minimum(np.append(waits_s[1:], np.inf), HARM / lost)
        return float(max(waits_s[0], longest_s.max()))

    def overtaking_s(self, slack_s: NDArray[np.float64]) -> NDArray[np.float64] | float:
        """Return for how long arrivals go before each waiting request: E[max(slack - deadline, 0)].

        Times the rate, it is how many requests will come to be due before it.

        Args:
            slack_s: (n,) ascending.
        """
        if not len(self._sorted_s) or slack_s[-1] <= self._sorted_s[0]:
            return 0.0  # as long as all deadlines are alike
        sooner = np.searchsorted(self._sorted_s, slack_s)
        means_s: NDArray[np.float64] = sooner * slack_s - self._sums_s[sooner]
        return means_s / len(self._sorted_s)
