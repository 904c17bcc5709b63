"""PURE: a request, and what may become of it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from service.scheduling.model import Model

OnMiss = Literal["answer", "refuse"]
Refine = Literal["none", "deepest", "steps"]


@dataclass(eq=False, slots=True)
class Request:
    """One request for an answer; two requests are never equal.

    Args:
        arrived_at: when it arrived, in seconds of a monotonic clock.
        deadline_at: when its answer is due, reply included, on the same clock.
        on_miss: what becomes of it where no subnetwork can meet its deadline: a late answer, or a shed.
        late_until: when a late answer is of no use any more; set by admission, ``deadline_at`` where none is wanted.
        subnetwork: the only subnetwork that may answer it; None leaves the choice to the policy.
        refine: what follows its first answer, which then comes from the fastest subnetwork: nothing, the deepest answer
            that there is time for, or every step to it.
        payload: whatever the caller attaches; never looked at.
        answered_by: the subnetwork of the best answer that it has.
        model: whose answer it asks for; set by admission.
    """

    arrived_at: float
    deadline_at: float
    on_miss: OnMiss = "answer"
    subnetwork: str | None = None
    refine: Refine = "none"
    payload: Any = None
    answered_by: str | None = None
    late_until: float = field(init=False)
    model: "Model" = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Want no late answer until admission says how late one may be."""
        self.late_until = self.deadline_at


class Shed(NamedTuple):
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


class Run(NamedTuple):
    """Run ``batch``, all for one model, in ``subnetwork`` on ``device`` now; report its end with ``finished``."""

    device: int
    batch: tuple[Request, ...]
    subnetwork: str
    predicted_s: float

    @property
    def model(self) -> "Model":
        """Whose subnetwork it is."""
        return self.batch[0].model


class Expire(NamedTuple):
    """Refuse ``requests``: they can no longer be met, nor answered late while that is of use."""

    requests: tuple[Request, ...]


class Displace(NamedTuple):
    """Refuse ``requests``: more urgent ones have taken their places in a full queue."""

    requests: tuple[Request, ...]
    shed: Shed


class Deliver(NamedTuple):
    """Answer ``requests`` with the best that they have: there is no time for a better one."""

    requests: tuple[Request, ...]


class Wait(NamedTuple):
    """Nothing to do before the next arrival or end of a run, or ``until`` if that is sooner."""

    until: float | None = None


Action = Run | Expire | Displace | Deliver | Wait
