"""PURE: one of the models that share the devices, and the requests that wait for it.

What models share is elsewhere: the devices in ``latency.py``, their time in ``forecast.py``, the order of all requests in
``scheduler.py``. A request waits with others of its model, so that a batch never mixes two.
"""

from collections import deque
from collections.abc import Sequence
from math import inf
from operator import attrgetter

from service.scheduling.deadline_queue import DeadlineQueue
from service.scheduling.latency import LatencyModel
from service.scheduling.policies import Candidate, policy_named

LATEST = 16  # arrivals that stand for the coming ones
EXPECTED_S = 0.25  # after the last arrival, no further one is expected
# Of the time that an arrival could wait: those that come meanwhile run one after the other.
BLOCKED = 0.5


class Model:
    """A model to be scheduled.

    Args:
        subnetworks: all that may be run; the policy chooses from those on the accuracy/latency front.
        latency: predicted run latencies; it also says which devices run them.
        policy: ``anytime``, ``slackfit`` or ``static:<subnetwork>``.
        max_batch: the most requests in one run.

    Attributes:
        accuracy: of each subnetwork.
        fastest: what those run in that could not be met otherwise.
        pace_s: the least time per request in a run, on an idle machine.
        queue: its timely requests.
        late: those that get a late answer, by ``late_until``.

    Raises:
        ValueError: no such policy.
    """

    def __init__(
        self,
        subnetworks: Sequence[Candidate],
        latency: LatencyModel,
        *,
        policy: str = "anytime",
        max_batch: int = 16,
    ) -> None:
        self.latency = latency
        self.max_batch = max_batch
        self.policy = policy_named(policy, subnetworks, latency, max_batch=max_batch)
        self.accuracy = {each.name: each.accuracy for each in subnetworks}
        self.fastest = self.policy.options[0]
        self.pace_s = self.fastest.pace_s
        self.queue = DeadlineQueue()
        self.late = DeadlineQueue(attrgetter("late_until"))
        self._fastest_place = latency.subnetworks.index(self.fastest.name)
        self._idle_reserve_s = -1.0
        self._idles_s: tuple[float, ...] = ()
        self._spare_s: deque[float] = deque(maxlen=LATEST)
        self._arrived_at = -inf

    @property
    def waiting(self) -> int:
        """How many requests wait for an answer."""
        return len(self.queue.deadlines) + len(self.late.deadlines)

    def arrived(self, now: float, spare_s: float) -> None:
        """Note a request, and how long it could wait for the devices; less than 0 where it could not be met anyway."""
        if spare_s >= 0:
            self._spare_s.append(spare_s)
            self._arrived_at = now

    def max_blocking_s(self, now: float) -> float:
        """Return how long a run for another model may be, so that the requests expected for this one are met after it."""
        if now - self._arrived_at > EXPECTED_S:
            return inf
        return BLOCKED * min(self._spare_s)

    def least_s(self, subnetwork: str | None = None) -> float:
        """Return how long before its deadline the run of a request must start, if it runs alone: in this subnetwork, or any."""
        name = subnetwork or self.fastest.name
        devices = self.latency.devices
        return self.latency.predict_s(name, 1, devices.fastest) + devices.reserve_s

    def idle_s(self, subnetwork: str | None = None) -> float:
        """Return the shortest deadline that an idle machine meets, in this subnetwork or any."""
        name = subnetwork or self.fastest.name
        return self.latency.profile_s(name, 1) + self.latency.devices.idle_reserve_s

    def runs_s(self) -> tuple[float, ...]:
        """Return ``least_s`` of any subnetwork, then of each, in the order of the profile."""
        devices = self.latency.devices
        runs_s = [each + devices.reserve_s for each in self.latency.alone_s(devices.fastest)]
        return (runs_s[self._fastest_place], *runs_s)

    def idles_s(self) -> tuple[float, ...]:
        """Return ``idle_s`` of any subnetwork, then of each; it changes with the reserve alone."""
        reserve_s = self.latency.devices.idle_reserve_s
        if reserve_s != self._idle_reserve_s:
            self._idle_reserve_s = reserve_s
            self._idles_s = tuple(map(self.idle_s, (None, *self.latency.subnetworks)))
        return self._idles_s
