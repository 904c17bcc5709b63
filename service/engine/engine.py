"""The engine: it holds the bundle, answers all fronts, and knows what became of every request."""

import asyncio
import gc
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from structlog.typing import FilteringBoundLogger

from model.bundle import Bundle
from service import board as places
from service.board import Board
from service.engine.costs import Costs
from service.engine.device import Device
from service.engine.labels import Labels
from service.engine.link import FrontLink
from service.engine.load import Load
from service.engine.loaded import (
    LoadedBundle,
    Resources,
    describe,
    load_bundle,
    read_current_bundle,
    return_memory,
)
from service.engine.runtime import Wanted
from service.engine.worker import Worker
from service.hop import Record, Tally
from service.observability.feedback import AnswerMemory
from service.observability.telemetry import Metrics, ReloadOutcome
from service.problems import BundleUnusable, NotReady, ReloadUnderWay
from service.settings import Settings

# Of the device's time, what the warm-up of the next bundle takes from requests: the warm-up lasts ten times
# ANYTIME_WARM_UP_S, and a request in ten waits for one of its runs.
RELOAD_SHARE = 0.1
MOST_RESTARTS, MOST_RELOADS = 1 << 12, 1 << 20  # before generations, of four bytes, are used again
# At most so often: what is published are instants, which stay true for a while.
PUBLISH_EVERY_S = 0.0005
FLUSH_WITHIN_S = 0.25  # for a front that does not react
BEAT_EVERY_S = 0.1
LOST_AFTER_BEATS = 30  # that a device seems to hang
LAST_REPLIES_S = 1.0  # for the answers that a drain gives out at its end


class Engine:
    """What all fronts ask.

    Args:
        settings: every knob.
        metrics: is told of everything.
        log: takes events.
        board: where fronts see the load.
        cores: that the server may use; runs on the CPU get what the fronts leave.
        restarts: engines of this server that have ended before; their bundles are other generations.
        clock: seconds; the system's monotonic clock, as in the fronts.

    Attributes:
        draining: the server is about to stop, and still answers what reaches it.
        is_broken: set once no device is left that runs.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        metrics: Metrics,
        log: FilteringBoundLogger,
        board: Board,
        cores: int,
        restarts: int,
        clock: Callable[[], float],
    ) -> None:
        self.log = log
        self.draining = False
        self.is_broken = asyncio.Event()
        self._settings = settings
        self._metrics = metrics
        self._board = board
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        answers = AnswerMemory(
            capacity=settings.feedback_answers, window_s=settings.feedback_window_s
        )
        self._labels = Labels(answers, metrics)
        self._cores = cores
        self._costs: Costs | None = None
        self._workers: list[Worker] = []
        self._hanging: Counter[int] = Counter()  # beats in a row, by device
        self._load = Load(clock)
        wanted = Wanted(
            settings.device,
            settings.devices,
            settings.threads,
            max(cores - board.fronts, 1),
            settings.engine_dir,
        )
        self._resources = Resources(
            settings, wanted, self._workers, metrics, log, clock, self._load_changed, self._lose
        )
        self._current: LoadedBundle | None = None
        self._generation = restarts % MOST_RESTARTS * MOST_RELOADS
        self._loaded: dict[int, LoadedBundle] = {}  # by generation: while one is replaced, both
        self._links: set[FrontLink] = set()
        self._reloading = asyncio.Lock()
        self._all_released = asyncio.Event()
        self._all_left = asyncio.Event()
        self._published_at = 0.0
        self._publishing: asyncio.TimerHandle | None = None
        metrics.ready.set_function(
            lambda: float(self._current is not None and not self.draining and bool(self._links))
        )
        metrics.connections.set_function(lambda: board.total(places.CONNECTIONS))
        self._beat()

    # Its life

    async def start(self, bundle: Bundle) -> None:
        """Warm the bundle up, and say so once every front knows it.

        Raises:
            BundleError, RuntimeUnavailable, ValueError: it cannot be served.
        """
        started_at = self._clock()
        loaded = await self._open(bundle)
        await self._return_memory()  # of the graphs that were only tried
        gc.collect()
        gc.freeze()  # what start-up made stays: collecting it again would stall a request for tens of ms
        await self._wait_for_fronts()
        self.log.info(
            "ready",
            bundle=bundle.manifest.name,
            device=loaded.device_name,
            threads=loaded.devices[0].threads,
            subnetworks=len(bundle.manifest.subnetworks),
            fronts=self._board.fronts,
            warm_up_s=round(self._clock() - started_at, 3),
        )

    async def reload(self) -> dict[str, Any]:
        """Answer from the bundle that is in its folder now; return its name and that before, which has ended then.

        Until then, and if the new one cannot be used, the one before answers.

        Raises:
            BundleUnusable: says why.
            NotReady: the server starts or stops.
        """
        async with self._reloading:
            old, started_at = self._current, self._clock()
            if old is None:
                raise NotReady("the server is warming up", headers={"Retry-After": "1"})
            names = {"bundle": old.bundle_name, "before": old.bundle_name}
            try:
                bundle = await asyncio.to_thread(read_current_bundle, self._settings)
                if bundle.digest == old.bundle.digest:
                    self._reloaded("unchanged", bundle=old.bundle_name)
                    return names
                new = await self._open(bundle)
            except NotReady:  # it is to stop
                raise
            except Exception as error:  # whatever a bundle may do, the one before goes on
                reason = describe(error)
                self._reloaded("failed", bundle=old.bundle_name, reason=reason)
                raise BundleUnusable(reason, bundle=old.bundle_name) from error
            await self._end(old)
            self._reloaded(
                "replaced",
                bundle=new.bundle_name,
                before=old.bundle_name,
                reload_s=round(self._clock() - started_at, 3),
            )
            return {**names, "bundle": new.bundle_name}

    async def fronts_left(self) -> None:
        """Wait for the fronts that answer what they have accepted, no longer than they may."""
        if self._links:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._all_left.wait(), self._settings.drain_s)

    def close(self) -> None:
        """End what ``start`` and ``reload`` began, after the last request was answered."""
        self._beating.cancel()
        for link in tuple(self._links):
            link.close()
        for loaded in self._loaded.values():
            loaded.close()
        for worker in self._workers:
            worker.close()

    # What links ask

    def front_came(self, link: FrontLink) -> None:
        """Take in a front."""
        self._links.add(link)
        self._all_left.clear()
        if self._current is not None:
            link.tell_bundle(self._current.describe())

    def front_released(self) -> None:
        """Note that a front asks nothing more of some bundles."""
        if self._is_released():
            self._all_released.set()

    def front_left(self, link: FrontLink, *, lost: int) -> None:
        """Account for a front that has ended with so many requests unanswered."""
        self._links.discard(link)
        if not self._links:
            self._all_left.set()
        self.front_released()
        if lost:
            for _ in range(lost):
                self._metrics.request_ended("failed")
            self.log.error("front_lost", front=link.front, requests=lost)

    def loaded(self, generation: int) -> LoadedBundle | None:
        """Return the bundle of a generation, if it still answers."""
        return self._loaded.get(generation)

    def record(self, record: Record) -> None:
        """Account for an answer that was replied."""
        loaded = self._loaded.get(record.generation)
        if loaded is None:  # the bundle, or the engine that ran it, has ended meanwhile
            self._metrics.request_ended(record.outcome)
            return
        subnetwork = loaded.names[record.subnetwork]
        label = loaded.bundle.manifest.labels[record.label]
        if record.is_first_reply:
            loaded.latency.observe_reply(record.reply_s)
        self._metrics.answered(
            subnetwork=subnetwork,
            label=label,
            confidence=record.confidence,
            accuracy=loaded.expected_accuracy[subnetwork],
            outcome=record.outcome,
            latency_s=record.latency_s,
            deadline_s=record.deadline_s,
            queue_s=record.queue_s,
            decode_s=record.decode_s,
            reply_s=record.reply_s,
            slack_s=record.slack_s,
            trace_id=record.trace_id,
        )
        if record.first_answer_s >= 0:
            self._metrics.first_answer.observe(record.first_answer_s)
        self._labels.answers.remember(
            record.request_id,
            subnetwork=subnetwork,
            label=label,
            bundle=loaded.bundle.digest,
            now=self._clock(),
        )

    def count(self, tally: Tally) -> None:
        """Add what a front has counted."""
        for outcome, count in tally.get("requests", {}).items():
            self._metrics.request_ended(outcome, count=count)
        for reason, count in tally.get("connections_ended", {}).items():
            self._metrics.connections_ended.inc(reason, amount=count)
        for refusal, count in tally.get("keys_refused", {}).items():
            self._metrics.keys_refused.inc(refusal, amount=count)

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """Carry out what a front asks of the engine itself.

        Raises:
            Problem: says why that cannot be.
        """
        match name:
            case "metrics":
                await self._flush()
                body, content_type = self._metrics.exposition(arguments["accept"])
                return {"body": body.decode(), "content_type": content_type}
            case "feedback":
                return await self._feedback(arguments["request_id"], arguments["label"])
            case "invalid_feedback":
                self._metrics.feedback.inc("invalid")
                return None
            case "predicted_run_latency_s":
                loaded = self._loaded.get(arguments["generation"])
                if loaded is None:
                    raise NotReady("the bundle was replaced", headers={"Retry-After": "1"})
                return {each: loaded.latency.predict_s(each, 1) for each in loaded.names}
            case "load_report":
                return self._load.report()
            case "want_load":
                return self._load.want(arguments["wanted"], arguments["sender"])
            case "reload":
                if self._reloading.locked():
                    raise ReloadUnderWay(
                        "another reload has not ended yet", headers={"Retry-After": "1"}
                    )
                return await self.reload()
        raise ValueError(f"there is no call {name!r}")

    # Its parts

    async def _feedback(self, request_id: str, label: str) -> dict[str, Any]:
        """Compare an answer with its label."""
        if self._current is None:
            raise NotReady("the server is warming up", headers={"Retry-After": "1"})
        if not self._labels.expects(request_id):
            await self._flush()  # another front may have answered just now
        return self._labels.compare(request_id, label, self._current.bundle, now=self._clock())

    async def _flush(self) -> None:
        """Have every front tell what it has still to tell; one that does not react is not waited for."""
        flushes = [asyncio.ensure_future(link.flush()) for link in self._links]
        if flushes:
            await asyncio.wait(flushes, timeout=FLUSH_WITHIN_S)

    async def _open(self, bundle: Bundle) -> LoadedBundle:
        """Warm a bundle up, and answer new requests from it."""
        self._generation += 1
        new = await load_bundle(self._generation, bundle, self._resources, rest=self._rest)
        if self._current is None:
            self._opened(new.devices)
        else:
            new.latency.observe_reply(self._current.latency.reply_s)
        self._loaded[new.generation] = self._current = new
        self._all_released.clear()
        self._metrics.show(
            bundle=new.bundle_name,
            accuracy=new.expected_accuracy,
            labels=bundle.manifest.labels,
            predict_s=lambda name: new.latency.predict_s(name, 1),
            slowdowns={
                device.name: partial(new.latency.slowdown, place)
                for place, device in enumerate(new.devices)
            },
            queue_depth=lambda: sum(len(each.scheduler) for each in self._loaded.values()),
        )
        self._publish()
        for link in self._links:
            link.tell_bundle(new.describe())
        return new

    async def _end(self, old: LoadedBundle) -> None:
        """Wait for a replaced bundle's last request, within bounds, and give its memory back.

        A deadline may be a day, and so long may a client take to read a stream.
        """
        await self._wait_for_fronts(self._settings.drain_s)
        old.end()
        await self._wait_for_fronts(LAST_REPLIES_S)
        del self._loaded[old.generation]
        await asyncio.to_thread(old.close)
        await self._return_memory()  # behind the end of the old sessions

    async def _wait_for_fronts(self, within_s: float | None = None) -> None:
        """Wait until every front asks the current bundle alone."""
        if not self._is_released():
            self._all_released.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._all_released.wait(), within_s)

    def _is_released(self) -> bool:
        """Whether every front has come and asks the current bundle alone."""
        if self._current is None:
            return False
        before = self._current.generation - 1
        there = {link.front for link in self._links if link.released >= before}
        return len(there) == self._board.fronts

    def _load_changed(self) -> None:
        """Let fronts see the load, soon if they saw it a moment ago."""
        now = self._clock()
        if now - self._published_at >= PUBLISH_EVERY_S:
            self._publish()
        elif self._publishing is None:
            self._publishing = self._loop.call_later(PUBLISH_EVERY_S, self._publish)

    def _publish(self) -> None:
        """Write to the board when a new request could be answered."""
        if self._publishing is not None:
            self._publishing.cancel()
            self._publishing = None
        loaded, now = self._current, self._clock()
        self._published_at = now
        if loaded is not None:
            assert self._costs is not None
            self._costs.observe(loaded.scheduler, loaded.dispatcher.run_here_s)
            load = loaded.scheduler.admission.publish(now)
            self._board.publish(loaded.generation, load.to_floats())
            for link in self._links:
                self._board.set(link.front, places.RECEIVED, link.received)

    def _beat(self) -> None:
        """Say from time to time that the event loop works, and a device that requests run on."""
        self._beating = self._loop.call_later(BEAT_EVERY_S, self._beat)
        now = self._clock()
        hanging = [
            place
            for place, each in enumerate(self._workers)
            if not each.is_lost and each.seems_to_hang(now)
        ]
        self._hanging = Counter({place: self._hanging[place] + 1 for place in hanging})
        if hanging and len(hanging) == self._devices_left:
            return  # fronts answer for it meanwhile, and the supervisor ends it
        self._board.beat(now)
        for place in hanging:
            if self._hanging[place] == LOST_AFTER_BEATS:
                self._lose(place)

    def _lose(self, place: int) -> None:
        """Go on without a device whose runs fail or hang; without the last one the engine has to be started again."""
        worker = self._workers[place]
        if worker.is_lost:
            return
        worker.is_lost = True
        self.log.error("device_lost", device=place, left=self._devices_left)
        if not self._devices_left:
            self.is_broken.set()
            return
        for loaded in self._loaded.values():
            loaded.dispatcher.lose(place)

    @property
    def _devices_left(self) -> int:
        return sum(not each.is_lost for each in self._workers)

    def _opened(self, devices: Sequence[Device]) -> None:
        """Take in the devices of the first bundle: the next ones get as many."""
        threads = sum(each.threads for each in devices if each.gpu is None) or 1
        # More than there are cores: fronts and runs take time from each other.
        shares_cores = self._cores < self._board.fronts + threads
        self._costs = Costs(self._board, shares_cores=shares_cores, clock=self._clock)
        wanted = replace(self._resources.wanted, devices=len(devices), threads=devices[0].threads)
        self._resources = replace(self._resources, wanted=wanted)
        self._metrics.devices.set_function(lambda: self._devices_left)
        self._show_memory([each.gpu for each in devices if each.gpu is not None])

    async def _return_memory(self) -> None:
        """Give memory back to the system, behind what the devices were told to do."""
        serving = [each for each in self._workers if not each.is_lost]
        await asyncio.gather(*(each.call(return_memory) for each in serving))

    def _show_memory(self, gpus: Sequence[int]) -> None:
        """Show the memory of the GPUs, if their driver tells."""
        if not gpus:
            return
        try:  # its packages come with the extra ``gpu``
            from service.observability.gpu import memory_reader
        except ImportError as error:
            self.log.warning(
                "no_gpu_memory", reason=f"{error}; install nvidia-ml-py and cuda-bindings"
            )
            return
        read = [each for gpu in gpus if (each := memory_reader(gpu)) is not None]
        if read:
            gauge = self._metrics.gpu_memory
            gauge.labels("used").set_function(lambda: sum(each().used for each in read))
            gauge.labels("total").set_function(lambda: sum(each().total for each in read))

    async def _rest(self, run_s: float) -> None:
        """Leave the device to requests after a run of the warm-up."""
        if self.draining:
            raise NotReady("the server is stopping", headers={"Retry-After": "1"})
        if self._current is not None:
            await asyncio.sleep(run_s * (1 / RELOAD_SHARE - 1))

    def _reloaded(self, outcome: ReloadOutcome, **fields: Any) -> None:
        """Account for a reload."""
        self._metrics.reloads.inc(outcome)
        log = self.log.error if outcome == "failed" else self.log.info
        log("reload", outcome=outcome, **fields)
