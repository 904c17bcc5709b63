"""One fate for each request, whatever happens: hypothesis drives the scheduler with faults, pauses and cancellations."""

from math import inf
from typing import Any

from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.scheduling.latency import Devices, LatencyModel
from service.scheduling.model import Model
from service.scheduling.policies import Candidate
from service.scheduling.requests import Deliver, Displace, Expire, Request, Run, Wait
from service.scheduling.scheduler import Scheduler

PROFILE = {"tiny": {1: 0.0001}, "fast": {1: 0.001, 4: 0.002}, "deep": {1: 0.010, 4: 0.040}}
CANDIDATES = [Candidate("tiny", 0.1), Candidate("fast", 0.8), Candidate("deep", 0.9)]
DEVICES, MODELS, MAX_QUEUE = 2, 2, 6
MANY = 10_000  # steps: more than any end takes

deadlines_s = strategies.sampled_from([0.0, 0.00005, 0.0015, 0.005, 0.02, 0.1, 1.0, 60.0])


class Fates(RuleBasedStateMachine):
    """An adapter of the scheduler, as the dispatcher is one, whose devices and clients do what hypothesis thinks of."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        devices = Devices(DEVICES)
        models = [
            Model(CANDIDATES, LatencyModel(PROFILE, devices), max_batch=4) for _ in range(MODELS)
        ]
        self.scheduler = Scheduler(devices, models, max_queue=MAX_QUEUE)
        self.running: dict[int, tuple[Run, float]] = {}
        self.lost: set[int] = set()
        self.admitted: list[Request] = []
        self.fates: dict[Request, str] = {}

    # What happens

    @rule(
        deadline_s=deadlines_s,
        on_miss=strategies.sampled_from(["answer", "refuse"]),
        subnetwork=strategies.sampled_from([None, None, *PROFILE]),
        refine=strategies.sampled_from(["none", "none", "deepest", "steps"]),
        model=strategies.integers(0, MODELS - 1),
        on_its_way_s=strategies.sampled_from([0.0, 0.0005, 0.05]),
        count=strategies.integers(1, 4),
    )
    def arrive(
        self,
        deadline_s: float,
        on_miss: Any,
        subnetwork: str | None,
        refine: Any,
        model: int,
        on_its_way_s: float,
        count: int,
    ) -> None:
        arrived_at = self.now - on_its_way_s
        for _ in range(count):
            wanted: Any = refine if subnetwork is None else "none"
            request = Request(arrived_at, arrived_at + deadline_s, on_miss, subnetwork, wanted)
            asked = self.scheduler.models[model]
            if self.scheduler.admit(request, self.now, model=asked) is None:
                self.admitted.append(request)
        self.act()

    @rule(
        pause_s=strategies.sampled_from([0.0001, 0.001, 0.01, 0.3, 100.0]),
        is_told=strategies.booleans(),
    )
    def let_time_go_by(self, pause_s: float, is_told: bool) -> None:
        """The machine may have stood still: nobody is told when a time is up."""
        self.now += pause_s
        if is_told:
            self.act()

    @precondition(lambda self: self.running)
    @rule(data=strategies.data(), took=strategies.sampled_from([0.1, 1.0, 1.0, 10.0, 1000.0]))
    def end_a_run(self, data: strategies.DataObject, took: float) -> None:
        device = data.draw(strategies.sampled_from(sorted(self.running)))
        run, began_at = self.running[device]
        self.now = max(self.now, began_at + took * run.predicted_s)
        self.finish(device, is_fine=True)

    @precondition(lambda self: self.running)
    @rule(data=strategies.data())
    def fail_a_run(self, data: strategies.DataObject) -> None:
        """It raises, or gives what is no answer."""
        self.finish(data.draw(strategies.sampled_from(sorted(self.running))), is_fine=False)

    @precondition(lambda self: len(self.lost) < DEVICES - 1)
    @rule(device=strategies.integers(0, DEVICES - 1))
    def lose_a_device(self, device: int) -> None:
        """Its run, if it has one, never ends."""
        self.lost.add(device)
        self.scheduler.lose(device)
        run, _ = self.running.pop(device, (None, 0.0))
        for request in run.batch if run is not None else ():
            self.fail(request)
        self.act()

    @precondition(lambda self: self.admitted)
    @rule(data=strategies.data())
    def leave(self, data: strategies.DataObject) -> None:
        """A client goes, maybe one that was answered, and maybe while its request runs."""
        request = data.draw(strategies.sampled_from(self.admitted))
        self.scheduler.cancel(request)
        self.fates.setdefault(request, "abandoned")
        self.act()

    @rule()
    def give_up(self) -> None:
        """A drain is over, or the choice of a run has failed."""
        for model in self.scheduler.models:
            for request in self.scheduler.clear(model):
                self.fail(request)
        self.act()

    # What the adapter does

    def act(self) -> None:
        for _ in range(MANY):
            match self.scheduler.next_action(self.now):
                case Run() as run:
                    assert run.device not in self.running
                    assert run.device not in self.lost
                    assert len({request.model for request in run.batch}) == 1
                    assert not any(request in self.fates for request in run.batch)
                    self.running[run.device] = run, self.now
                case Expire(requests) | Displace(requests, _):
                    for request in requests:
                        assert request.answered_by is None
                        self.end(request, "refused")
                case Deliver(requests):
                    for request in requests:
                        assert request.answered_by is not None
                        self.end(request, "delivered")
                case Wait(until):
                    assert until is None or until >= self.now
                    return
        raise AssertionError("there is always something to do")

    def finish(self, device: int, *, is_fine: bool) -> None:
        run, began_at = self.running.pop(device)
        self.scheduler.finished(run, self.now)
        if is_fine:
            run.model.latency.observe(run.subnetwork, len(run.batch), self.now - began_at, device)
        for request in run.batch:
            if request in self.fates:  # its client has gone
                continue
            if not is_fine:
                self.fail(request)
            elif not self.scheduler.refine(request, run.subnetwork, self.now):
                self.end(request, "answered")
        self.act()

    def fail(self, request: Request) -> None:
        if request not in self.fates:
            self.scheduler.cancel(request)  # else it is delivered again at its deadline
            self.end(request, "delivered" if request.answered_by is not None else "failed")

    def end(self, request: Request, fate: str) -> None:
        assert request not in self.fates, (fate, self.fates[request])
        self.fates[request] = fate

    # What always holds

    @invariant()
    def no_more_wait_than_may(self) -> None:
        assert len(self.scheduler) <= MAX_QUEUE
        assert self.scheduler.refinable <= MAX_QUEUE

    @invariant()
    def whoever_has_no_fate_waits_or_runs(self) -> None:
        in_runs = {each for run, _ in self.running.values() for each in run.batch}
        without = [each for each in self.admitted if each not in self.fates]
        waiting = [each for each in without if each not in in_runs]
        assert len(waiting) == len(self.scheduler) + self.scheduler.refinable

    def teardown(self) -> None:
        """Every request ends, once those that run have ended and the last deadline is over."""
        for _ in range(MANY):
            self.act()
            if self.running:
                device = min(self.running)
                run, began_at = self.running[device]
                self.now = max(self.now, began_at + run.predicted_s)
                self.finish(device, is_fine=True)
                continue
            action = self.scheduler.next_action(self.now)
            assert isinstance(action, Wait)
            if action.until is None:
                break
            assert action.until < inf
            self.now = action.until
        assert self.fates.keys() == set(self.admitted)


Fates.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestFates = Fates.TestCase
