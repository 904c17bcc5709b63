"""What the scheduler tells its adapter to do."""

from dataclasses import dataclass
from typing import Literal

from service.scheduling.deadline_queue import Request


@dataclass(frozen=True, slots=True)
class Shed:
    """The request was not admitted.

    Args:
        reason: ``impossible``: no idle machine could meet it; ``overloaded``: the work ahead of it is too much;
            ``queue_full``: as many wait as may.
        needed_s: the time its answer would have taken from its arrival; 0 for a full queue.
        limit: what was exceeded: the deadline in seconds, or the length of the queue.
        retry_after_s: when the accepted work should be done; 0 if waiting will not help.
    """

    reason: Literal["impossible", "overloaded", "queue_full"]
    needed_s: float
    limit: float
    retry_after_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Run ``batch`` in ``subnetwork`` on ``device`` now; report its end with ``finished``."""

    device: int
    batch: tuple[Request, ...]
    subnetwork: str
    predicted_s: float


@dataclass(frozen=True, slots=True)
class Expire:
    """Refuse ``requests``: they can no longer be met, nor answered late while that is of use."""

    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Displace:
    """Refuse ``requests``: more urgent ones have taken their places in a full queue."""

    requests: tuple[Request, ...]
    shed: Shed


@dataclass(frozen=True, slots=True)
class Deliver:
    """Answer ``requests`` with the best that they have: there is no time for a better one."""

    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before the next arrival or end of a run, or ``until`` if that is sooner."""

    until: float | None = None


Action = Run | Expire | Displace | Deliver | Wait
