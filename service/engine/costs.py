"""What requests cost the cores that also run them, outside their runs."""

import time
from collections.abc import Callable

from service import board as places
from service.board import Board
from service.scheduling.scheduler import Scheduler

REQUESTS = 16  # reading a thread's CPU clock costs a microsecond
MOST_UNSEEN = 64  # that are told one by one; more say no more
WINDOW_S = 0.5  # where they take longer to come, scrapes and probes cost as much as they do


class Costs:
    """Tells the scheduler what the CPU clocks of the engine's loop and of the fronts say.

    Args:
        board: has what the fronts have spent.
        shares_cores: whether the fronts take their time from the runs.
        clock: seconds.
    """

    def __init__(self, board: Board, *, shares_cores: bool, clock: Callable[[], float]) -> None:
        self._board = board
        self._shares_cores = shares_cores
        self._clock = clock
        self._seen = self._read(0.0)
        self._unseen = [0] * board.fronts

    def observe(self, scheduler: Scheduler, run_here_s: float) -> None:
        """Look at the clocks, if enough requests have come since the last look.

        Args:
            scheduler: is told.
            run_here_s: what runs have taken the engine's loop.
        """
        self._count_unseen(scheduler)
        came = self._board.total(places.HANDLED) - self._seen[1]
        if 0 <= came < REQUESTS:
            return
        seen = self._read(run_here_s)
        window_s, came, shed, spent_s, shed_s = (
            now - before for now, before in zip(seen, self._seen, strict=True)
        )
        self._seen = seen
        # What a front had written is gone with it.
        if came > 0 and shed >= 0 and window_s < WINDOW_S:
            cost_s = max(spent_s - shed_s, 0.0) / came
            arrival_s = max(spent_s, 0.0) / (came + shed)
            replying_s = cost_s / 2 * came / (came + shed)
            scheduler.observe_overhead(cost_s, arrival_s - replying_s)

    def _count_unseen(self, scheduler: Scheduler) -> None:
        """Tell the scheduler of requests that fronts have refused: they may come again, and others do."""
        for front in range(self._board.fronts):
            unseen = int(self._board.get(front, places.UNSEEN))
            came, self._unseen[front] = unseen - self._unseen[front], unseen
            deadline_s = self._board.get(front, places.UNSEEN_DEADLINE_S)
            for _ in range(min(came, MOST_UNSEEN)):
                scheduler.admission.count_shed(self._clock(), deadline_s)

    def _read(self, run_here_s: float) -> tuple[float, float, float, float, float]:
        """Return now, requests handled, requests shed, seconds spent outside of runs, and those for requests shed."""
        total = self._board.total
        spent_s = time.thread_time() - run_here_s
        shed_s = 0.0
        if self._shares_cores:
            spent_s += total(places.CPU_S)
            shed_s = total(places.SHED_CPU_S)
        return self._clock(), total(places.HANDLED), total(places.SHED), spent_s, shed_s
