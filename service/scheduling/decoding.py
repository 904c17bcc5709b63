"""PURE: which image is decoded next, and which is refused because it could not be in time.

A large image may take longer to decode than to run. So it is admitted to a queue of its own, by the rules of ``admission.py``:

1. An image is *timely* if, behind those due before it, it is decoded early enough for its run and reply to be in time.
2. One that is not is *late*: let in if it is decoded, behind all others and in the time that arrivals leave, while its
   answer is of use. It is decoded when no timely one waits.
3. Any other is refused. But a decoder that has nothing to do takes one that may be late if little comes, for it costs no
   other, and any if nothing came for a while: only decoding tells how long it takes.

What an image takes is predicted from the latest of its format and size. When its caller has it, from what is ahead of it,
and a margin: a high quantile of how far such predictions were exceeded, by whatever kept the decoder or its caller.
"""

from bisect import bisect_right, insort
from collections.abc import Iterable
from dataclasses import dataclass
from math import exp, inf
from operator import attrgetter

from service.scheduling.latency import track

GAIN = 0.2  # of the way to what an image took: five cover two thirds of a change
MARGIN_STEP = 0.05  # an image: some ten that are far later double the margin
LEAST_MARGIN_S = 0.001
CAUTION = 1.3  # times the margin: in a flood all are let in at the limit, and a quantile of them would be late
INITIAL_PACE_S = 5e-9  # a pixel of a JPEG takes 3 to 5 ns
LASTING_S = 0.25  # time constant of the load; a margin learnt so long ago is of another load
LIGHT_LOAD = 0.5  # a decoder with no more and nothing to do takes any image that may be late
LEAST_IDLE = 0.03  # as in ``forecast.py``


@dataclass(slots=True, eq=False)
class Turn:
    """An image that was let in.

    Args:
        kind: its format, and its work to a factor of two.
        work: its pixels, times the passes over them.
        takes_s: what its decoding should take.
        admitted_at: when it was let in.
        wait_s: from then, what it should take until it is decoded.
        urgency: what turns are ordered by: whether its answer will be late, and when it should be decoded.
        begun_at, ended_at: when its decoding began, and ended.
    """

    kind: tuple[str, int]
    work: int
    takes_s: float
    admitted_at: float
    wait_s: float
    urgency: tuple[bool, float]
    begun_at: float = inf
    ended_at: float = inf


class DecodeQueue:
    """The images that wait to be decoded, and those that are; whoever asks from several threads holds a lock.

    Args:
        at_a_time: how many are.
    """

    def __init__(self, at_a_time: int) -> None:
        self._at_a_time = at_a_time
        self._waiting: list[Turn] = []  # by urgency
        self._begun: list[Turn] = []
        self._pace_s: dict[tuple[str, int], float] = {}  # for each of its work, by kind
        self._margin_s = LEAST_MARGIN_S
        self._handing_s = 0.0  # from the end of a decoding until its caller has the image
        self._ended_at = -inf
        self._load = 0.0  # seconds of decoding that arrive a second
        self._load_at = -inf

    def __len__(self) -> int:
        """Return how many images wait, or are decoded."""
        return len(self._waiting) + len(self._begun)

    def admit(
        self, image_format: str, work: int, now: float, *, in_time_by: float, of_use_by: float
    ) -> Turn | None:
        """Let an image in, or refuse it.

        Args:
            image_format: its format.
            work: its pixels, times the passes over them.
            now: seconds.
            in_time_by: when it must be decoded for an answer in time.
            of_use_by: and for one that is of use: later, if it may be late.
        """
        is_free = not len(self)
        is_rested = is_free and now - self._ended_at > LASTING_S
        if is_rested:
            self._margin_s = LEAST_MARGIN_S
        margin_s = CAUTION * self._margin_s
        kind = image_format, work.bit_length()
        takes_s = work * self._pace_s.get(kind, INITIAL_PACE_S)
        load = self._count(takes_s + self._handing_s, now) / self._at_a_time
        may_be_late = of_use_by > in_time_by
        takes_it = is_rested or (is_free and may_be_late and load < LIGHT_LOAD)
        urgency = (False, in_time_by)
        place = bisect_right(self._waiting, urgency, key=attrgetter("urgency"))
        wait_s = self._ahead_s(self._waiting[:place], now) + takes_s
        if now + wait_s + margin_s > in_time_by:
            urgency = (True, of_use_by)
            wait_s = self.drain_s(now) + takes_s
            late_s = (wait_s + margin_s) / max(1 - load, LEAST_IDLE)
            if now + late_s > of_use_by and not takes_it:
                return None
        turn = Turn(kind, work, takes_s, now, wait_s, urgency)
        insort(self._waiting, turn, key=attrgetter("urgency"))
        return turn

    def drain_s(self, now: float) -> float:
        """Return the seconds until all images should be decoded."""
        return self._ahead_s(self._waiting, now)

    def begin(self, now: float) -> Turn | None:
        """Return the turn that begins now, if one waits and may."""
        if not self._waiting or len(self._begun) == self._at_a_time:
            return None
        turn = self._waiting.pop(0)
        turn.begun_at = now
        self._begun.append(turn)
        return turn

    def end(self, turn: Turn, now: float, *, is_decoded: bool) -> None:
        """Let the next begin; learn what an image takes, if it was decoded, or took longer than it should."""
        self._begun.remove(turn)
        self._ended_at = turn.ended_at = now
        took_s = now - turn.begun_at
        if is_decoded or took_s > turn.takes_s:
            pace_s = took_s / turn.work
            before_s = self._pace_s.setdefault(turn.kind, pace_s)
            self._pace_s[turn.kind] = before_s + GAIN * (pace_s - before_s)

    def leave(self, turn: Turn, now: float, *, is_decoded: bool) -> None:
        """Forget a turn, whose caller has its image or wants it no more.

        How far the prediction was exceeded is learnt from it, as in ``end``.
        """
        if is_decoded:
            self._handing_s += GAIN * (now - turn.ended_at - self._handing_s)
        exceeded_s = now - turn.admitted_at - turn.wait_s
        is_late, _ = turn.urgency
        if not is_late and (is_decoded or exceeded_s > 0):
            margin_s = track(self._margin_s, max(exceeded_s, 0.0), MARGIN_STEP)
            self._margin_s = max(margin_s, LEAST_MARGIN_S)
        if turn in self._waiting:
            self._waiting.remove(turn)

    def _ahead_s(self, before: Iterable[Turn], now: float) -> float:
        """Return the seconds until an image behind some that wait should begin to be decoded."""
        ahead_s = 0.0
        for each in self._begun:
            ahead_s += max(each.begun_at + each.takes_s - now, 0.0)
        for each in before:
            ahead_s += each.takes_s
        return ahead_s / self._at_a_time

    def _count(self, takes_s: float, now: float) -> float:
        """Count an arrival, and return the load with it."""
        self._load *= exp((self._load_at - now) / LASTING_S)
        self._load += takes_s / LASTING_S
        self._load_at = now
        return self._load
