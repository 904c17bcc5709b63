import pytest

from service import board as places
from service.board import Board
from service.engine.costs import REQUESTS, Costs
from service.scheduling.latency import Devices, LatencyModel
from service.scheduling.model import Model
from service.scheduling.policies import Candidate
from service.scheduling.requests import Request, Run
from service.scheduling.scheduler import Scheduler


class Told(Scheduler):
    """A scheduler that keeps what it is told of costs."""

    def __init__(self) -> None:
        devices = Devices()
        latency = LatencyModel({"only": {1: 0.001}}, devices)
        super().__init__(devices, [Model([Candidate("only", 0.9)], latency)])
        self.costs: list[tuple[float, float]] = []

    def observe_overhead(self, cost_s: float, deciding_s: float) -> None:
        self.costs.append((cost_s, deciding_s))


@pytest.mark.parametrize(("pause_s", "is_told"), [(0.001, True), (0.1, False)])
def test_requests_that_come_close_together_tell_what_one_costs(
    pause_s: float, is_told: bool
) -> None:
    board, scheduler, now = Board.create(2), Told(), 0.0
    costs = Costs(board, shares_cores=True, clock=lambda: now)
    for n in range(1, 2 * REQUESTS + 1):
        now += pause_s  # in which scrapes and probes are answered too
        board.set(n % 2, places.HANDLED, n // 2)
        board.set(n % 2, places.CPU_S, n * 0.0005)
        costs.observe(scheduler, run_here_s=0.0)

    assert bool(scheduler.costs) is is_told
    assert all(0.0005 < cost_s < 0.1 for cost_s, _ in scheduler.costs)


def test_what_was_shed_early_is_no_cost_of_those_that_came() -> None:
    board, scheduler, now = Board.create(1), Told(), 0.0
    costs = Costs(board, shares_cores=True, clock=lambda: now)
    board.set(0, places.HANDLED, REQUESTS)
    board.set(0, places.SHED, REQUESTS)
    board.set(0, places.CPU_S, 1.0)
    board.set(0, places.SHED_CPU_S, 100.0)  # more than all that there was
    costs.observe(scheduler, run_here_s=0.0)

    ((cost_s, deciding_s),) = scheduler.costs
    assert cost_s == 0 < deciding_s


def test_fronts_on_cores_of_their_own_cost_the_runs_nothing() -> None:
    board, scheduler = Board.create(1), Told()
    costs = Costs(board, shares_cores=False, clock=lambda: 0.0)
    board.set(0, places.HANDLED, REQUESTS)
    board.set(0, places.CPU_S, 100.0)
    costs.observe(scheduler, run_here_s=0.0)

    assert scheduler.costs[0][0] < 1.0


def test_where_fronts_refuse_many_the_engine_leaves_the_time_to_them() -> None:
    def chosen(unseen: int) -> str:
        now, devices, board = 0.0, Devices(), Board.create(1)
        latency = LatencyModel({"fast": {1: 0.001}, "deep": {1: 0.02}}, devices)
        candidates = [Candidate("fast", 0.8), Candidate("deep", 0.9)]
        scheduler = Scheduler(devices, [Model(candidates, latency)])
        costs = Costs(board, shares_cores=True, clock=lambda: now)
        board.set(0, places.UNSEEN_DEADLINE_S, 0.1)
        for each in range(unseen):
            now += 0.002
            board.set(0, places.UNSEEN, each)
            costs.observe(scheduler, run_here_s=0.0)
        scheduler.admission.admit(Request(now, now + 0.1), now)
        action = scheduler.next_action(now)
        assert isinstance(action, Run)
        return action.subnetwork

    assert chosen(unseen=0) == "deep"
    assert chosen(unseen=300) == "fast"
