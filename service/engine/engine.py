"""The engine: it holds the bundles, answers all fronts, and knows what became of every request."""

import asyncio
import gc
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from structlog.typing import FilteringBoundLogger

from service import board as places
from service.board import Board
from service.engine.bundles import Bundles, Link
from service.engine.costs import Costs
from service.engine.devices.device import Device
from service.engine.devices.runtime import Wanted
from service.engine.devices.worker import Worker
from service.engine.dispatcher import Dispatcher
from service.engine.labels import Labels
from service.engine.load import Load
from service.engine.loaded import LoadedBundle, Resources
from service.hop import Record, Tally
from service.observability.feedback import AnswerMemory
from service.observability.telemetry import Metrics
from service.problems import NotReady, ReloadUnderWay
from service.scheduling.latency import Devices
from service.scheduling.scheduler import Scheduler
from service.settings import Settings

# While nothing waits or runs, what fronts see stays true but for estimates, which change slowly.
PUBLISH_IDLE_EVERY_S = 0.01
NETWORK_MARGIN_S = 0.0002  # between a caller on this machine and the server; a longer way is the caller's to allow for
FLUSH_WITHIN_S = 0.25  # for a front that does not react
BEAT_EVERY_S = 0.1
LOST_AFTER_BEATS = 30  # that a device seems to hang


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
        dispatcher: has requests answered.
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
        devices = Devices(0, network_margin_s=NETWORK_MARGIN_S)  # the first bundle opens them
        self._scheduler = Scheduler(
            devices, max_queue=settings.max_queue, max_lateness=settings.max_lateness
        )
        self.dispatcher = Dispatcher(
            self._scheduler,
            workers=self._workers,
            metrics=metrics,
            clock=clock,
            on_failure=lambda error: log.error("run_failed", exc_info=error),
            on_change=self._load_changed,
            on_broken=self._lose,
        )
        wanted = Wanted(
            settings.device,
            settings.devices,
            settings.threads,
            max(cores - board.fronts, 1),
            settings.engine_dir,
        )
        self._links: set[Link] = set()
        self._bundles = Bundles(
            Resources(
                settings, wanted, self._workers, devices, self.dispatcher, metrics, log, clock
            ),
            self._links,
            fronts=board.fronts,
            restarts=restarts,
            on_change=self._publish,
        )
        self._all_left = asyncio.Event()
        self._shown_idle = False  # fronts see that nothing waits or runs
        self._publishing: asyncio.TimerHandle | None = None
        metrics.ready.set_function(
            lambda: float(bool(self._bundles.current) and not self.draining and bool(self._links))
        )
        for place, name in enumerate(settings.canaries):
            metrics.canary_share.labels(name).set_function(partial(board.share, place))
        metrics.connections.set_function(lambda: board.total(places.CONNECTIONS))
        self._beat()

    # Its life

    async def start(self) -> None:
        """Answer, and say so once every front knows from what.

        Raises:
            BundleError, RuntimeUnavailable, ValueError: a bundle cannot be served.
        """
        started_at = self._clock()
        loaded = await self._bundles.load(self._opened)
        await self._bundles.return_memory()  # of the graphs that were only tried
        gc.collect()  # before anybody asks: it takes a tenth of a second, on a busy core as long as fronts wait for a beat
        gc.freeze()  # what start-up made stays: collecting it again would stall a request for tens of ms
        self._bundles.begin(loaded)
        current = tuple(self._bundles.current)
        await self._bundles.wait_for_fronts()
        self.log.info(
            "ready",
            bundle=", ".join(each.name for each in current),
            device=current[0].device_name,
            threads=current[0].devices[0].threads,
            subnetworks=sum(len(each.names) for each in current),
            fronts=self._board.fronts,
            warm_up_s=round(self._clock() - started_at, 3),
        )

    async def reload_all(self) -> None:
        """Reload each model in its turn; the log says what became of it."""
        await self._bundles.reload_all()

    def drain(self) -> None:
        """Note that the server is about to stop; what reaches it is still answered."""
        self.draining = self._bundles.is_draining = True

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
        self._bundles.close()
        self.dispatcher.close()
        for worker in self._workers:
            worker.close()

    # What links ask

    def front_came(self, link: Link) -> None:
        """Take in a front."""
        self._links.add(link)
        self._all_left.clear()
        if self._bundles.current:
            link.tell_bundles(self._bundles.describe())

    def front_released(self) -> None:
        """Note that a front asks other bundles than before."""
        self._bundles.held_changed()

    def front_left(self, link: Link, *, lost: int) -> None:
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
        return self._bundles.of(generation)

    def record(self, record: Record) -> None:
        """Account for an answer that was replied."""
        loaded = self._bundles.of(record.generation)
        if loaded is None:  # the bundle, or the engine that ran it, has ended meanwhile
            self._metrics.request_ended(record.outcome)
            return
        subnetwork = loaded.names[record.subnetwork]
        label = loaded.bundle.manifest.labels[record.label]
        if record.is_first_reply:
            self._scheduler.devices.observe_reply(record.reply_s)
        self._metrics.answered(
            loaded.name,
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
            self._metrics.first_answer.observe(record.first_answer_s, loaded.name)
        self._labels.answers.remember(
            record.request_id,
            subnetwork=subnetwork,
            label=label,
            model=loaded.name,
            bundle=loaded.bundle.digest,
            now=self._clock(),
        )

    def count(self, tally: Tally) -> None:
        """Add what a front has counted."""
        for model, counts in tally.get("requests", {}).items():
            for outcome, count in counts.items():
                self._metrics.request_ended(outcome, model, count=count)
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
                loaded = self._bundles.of(arguments["generation"])
                if loaded is None:
                    raise NotReady("the bundle was replaced", headers={"Retry-After": "1"})
                return {each: loaded.latency.predict_s(each, 1) for each in loaded.names}
            case "load_report":
                return self._load.report()
            case "want_load":
                return self._load.want(arguments["wanted"], arguments["sender"])
            case "reload":
                if self._bundles.is_reloading:
                    raise ReloadUnderWay(
                        "another reload has not ended yet", headers={"Retry-After": "1"}
                    )
                return await self._bundles.reload(arguments["model"])
        raise ValueError(f"there is no call {name!r}")

    # Its parts

    async def _feedback(self, request_id: str, label: str) -> dict[str, Any]:
        """Compare an answer with its label."""
        if not self._bundles.current:
            raise NotReady("the server is warming up", headers={"Retry-After": "1"})
        if not self._labels.expects(request_id):
            await self._flush()  # another front may have answered just now
        return self._labels.compare(request_id, label, self._bundles.current, now=self._clock())

    async def _flush(self) -> None:
        """Have every front tell what it has still to tell; one that does not react is not waited for."""
        flushes = [asyncio.ensure_future(link.flush()) for link in self._links]
        if flushes:
            await asyncio.wait(flushes, timeout=FLUSH_WITHIN_S)

    def _load_changed(self) -> None:
        """Let fronts see the load: at once, or if it is still none, within a while."""
        if not (self._shown_idle and self.dispatcher.is_idle):
            self._publish()
            return
        self._show_received()
        if self._publishing is None:
            self._publishing = self._loop.call_later(PUBLISH_IDLE_EVERY_S, self._publish)

    def _publish(self) -> None:
        """Write to the board when a new request could be answered."""
        if self._publishing is not None:
            self._publishing.cancel()
            self._publishing = None
        self._shown_idle = self.dispatcher.is_idle
        if self._bundles.current:
            assert self._costs is not None
            self._costs.observe(self._scheduler, self.dispatcher.run_here_s)
            published = dict(
                zip(
                    self._scheduler.models,
                    self._scheduler.admission.publish(self._clock()),
                    strict=True,
                )
            )
            self._board.publish(
                {
                    each.generation: published[each.runs.model].to_floats()
                    for each in self._bundles.loaded
                }
            )
            self._show_received()

    def _show_received(self) -> None:
        """Write to the board which requests the load counts in."""
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
        self._publish()  # where fronts refuse everything nobody asks: it is here that what they go by is doubted
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
        self.dispatcher.lose(place)

    @property
    def _devices_left(self) -> int:
        return sum(not each.is_lost for each in self._workers)

    def _opened(self, devices: Sequence[Device]) -> None:
        """Take in the devices of the first bundle."""
        threads = sum(each.threads for each in devices if each.gpu is None) or 1
        # More than there are cores: fronts and runs take time from each other.
        shares_cores = self._cores < self._board.fronts + threads
        self._costs = Costs(self._board, shares_cores=shares_cores, clock=self._clock)
        self._metrics.devices.set_function(lambda: self._devices_left)
        self._show_memory([each.gpu for each in devices if each.gpu is not None])

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
