"""The bundles that answer: their start, their reload, and the end of those that were replaced."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from model.bundle import Bundle
from service.engine.devices.device import Device
from service.engine.loaded import (
    LoadedBundle,
    Resources,
    describe,
    load_bundle,
    read_current_bundle,
    return_memory,
)
from service.hop import ServedBundle
from service.observability.telemetry import ReloadOutcome
from service.problems import BundleUnusable, NotReady

# Of the device's time, what the warm-up of the next bundle takes while requests come: it lasts ten times as long as its runs
# then, and a request in ten waits for one of them.
RELOAD_SHARE = 0.1
MOST_RESTARTS, MOST_RELOADS = 1 << 12, 1 << 20  # before generations, of four bytes, are used again
LAST_REPLIES_S = 1.0  # for the answers that a drain gives out at its end


class Link(Protocol):
    """The way to a front.

    Attributes:
        front: which front it is.
        received: how many requests have come.
        held: the generations of the bundles that the front may still ask; None before it knows any.
    """

    front: int
    received: int
    held: frozenset[int] | None

    def tell_bundles(self, documents: Sequence[ServedBundle]) -> None:
        """Tell what answers from now on."""

    async def flush(self) -> None:
        """Wait until all that the front has to tell has come, or the front has left."""

    def close(self) -> None:
        """End the connection."""


class Bundles:
    """A bundle for each model of the settings, and those that were replaced and still answer what they have begun.

    Args:
        resources: what they are served with.
        links: the fronts that are there, each of which is told what answers.
        fronts: how many there are to be.
        restarts: engines of this server that have ended before; their bundles are other generations.
        on_change: is called when others answer than before.

    Attributes:
        is_draining: the server is about to stop, and takes no other bundle.
    """

    def __init__(
        self,
        resources: Resources,
        links: Collection[Link],
        *,
        fronts: int,
        restarts: int,
        on_change: Callable[[], None],
    ) -> None:
        self.is_draining = False
        self._resources = resources
        self._settings = resources.settings
        self._metrics = resources.metrics
        self._clock = resources.clock
        self._links = links
        self._fronts = fronts
        self._on_change = on_change
        self._generation = restarts % MOST_RESTARTS * MOST_RELOADS
        # By the names of the settings, where None stands for that of the bundle; complete once all are warm.
        self._current: dict[str | None, LoadedBundle] = {}
        self._loaded: dict[int, LoadedBundle] = {}  # by generation: while one is replaced, both
        self._reloading = asyncio.Lock()
        self._held_changed = asyncio.Event()

    @property
    def current(self) -> Collection[LoadedBundle]:
        """Those that answer new requests, in the order of the settings; none before all are warm."""
        return self._current.values()

    @property
    def loaded(self) -> Iterable[LoadedBundle]:
        """All that answer."""
        return self._loaded.values()

    @property
    def is_reloading(self) -> bool:
        """Whether one is being replaced."""
        return self._reloading.locked()

    def of(self, generation: int) -> LoadedBundle | None:
        """Return the bundle of a generation, if it still answers."""
        return self._loaded.get(generation)

    def describe(self) -> list[ServedBundle]:
        """Return what fronts are told."""
        return [each.describe() for each in self.current]

    async def load(
        self, on_open: Callable[[Sequence[Device]], None]
    ) -> dict[str | None, LoadedBundle]:
        """Read the bundles and warm them up; return what is to ``begin``.

        Args:
            on_open: is given the devices of the first one; the next ones get as many.

        Raises:
            BundleError, RuntimeUnavailable, ValueError: one cannot be served.
        """
        folders = self._settings.models
        bundles = {name: self._read(folder) for name, folder in folders.items()}
        loaded: dict[str | None, LoadedBundle] = {}
        for name, bundle in bundles.items():
            loaded[name] = await self._load(name, bundle)
            if len(loaded) == 1:
                self._opened(loaded[name].devices)
                on_open(loaded[name].devices)
        return loaded

    def begin(self, loaded: Mapping[str | None, LoadedBundle]) -> None:
        """Answer from bundles that are warm."""
        for name, each in loaded.items():
            self._begin(name, each)
        self._tell_bundles()

    async def wait_for_fronts(self) -> None:
        """Wait until every front knows them."""
        current = {each.generation for each in self.current}
        await self._wait_for_fronts(lambda held: current <= held)

    async def reload_all(self) -> None:
        """Reload each model in its turn; the log says what became of it."""
        for each in tuple(self._current.values()):
            with suppress(BundleUnusable):
                await self.reload(each.name)

    async def reload(self, model: str | None = None) -> dict[str, Any]:
        """Answer from the bundle that is in a model's folder now; return its name and that before, which has ended then.

        Until then, and if the new one cannot be used, the one before answers.

        Args:
            model: its name; None stands for the first.

        Raises:
            BundleUnusable: says why.
            NotReady: the server starts or stops.
        """
        async with self._reloading:
            started_at = self._clock()
            if not self._current:
                raise NotReady("the server is warming up", headers={"Retry-After": "1"})
            name, old = next(
                (name, each)
                for name, each in self._current.items()
                if model is None or each.name == model
            )
            names = {"bundle": old.bundle_name, "before": old.bundle_name}
            try:
                folder = self._settings.models[name]
                bundle = await asyncio.to_thread(self._read, folder)
                if bundle.digest == old.bundle.digest:
                    self._reloaded(old, "unchanged", bundle=old.bundle_name)
                    return names
                new = await self._load(name, bundle)
            except NotReady:  # it is to stop
                raise
            except Exception as error:  # whatever a bundle may do, the one before goes on
                reason = describe(error)
                self._reloaded(old, "failed", bundle=old.bundle_name, reason=reason)
                raise BundleUnusable(reason, bundle=old.bundle_name) from error
            self._begin(name, new)
            self._tell_bundles()
            await self._end(old)
            self._reloaded(
                new,
                "replaced",
                bundle=new.bundle_name,
                before=old.bundle_name,
                reload_s=round(self._clock() - started_at, 3),
            )
            return {**names, "bundle": new.bundle_name}

    def held_changed(self) -> None:
        """Note that a front asks other bundles than before, or has left."""
        self._held_changed.set()

    def close(self) -> None:
        """End all, after the last request was answered."""
        for loaded in self.loaded:
            loaded.close()

    def _read(self, folder: Path) -> Bundle:
        return read_current_bundle(folder, self._settings)

    async def _load(self, name: str | None, bundle: Bundle) -> LoadedBundle:
        """Warm a bundle up."""
        self._generation += 1
        return await load_bundle(
            name or bundle.manifest.name, self._generation, bundle, self._resources, rest=self._rest
        )

    def _begin(self, name: str | None, new: LoadedBundle) -> None:
        """Answer a model's new requests from a bundle."""
        before = self._current.get(name)
        if before is not None and before.name != new.name:
            self._metrics.hide(before.name)
        self._loaded[new.generation] = self._current[name] = new
        new.begin()
        self._metrics.show(
            new.name,
            bundle=new.bundle_name,
            accuracy=new.expected_accuracy,
            labels=new.bundle.manifest.labels,
            predict_s=lambda subnetwork: new.latency.predict_s(subnetwork, 1),
            slowdowns={
                device.name: partial(self._resources.devices.slowdown, place)
                for place, device in enumerate(new.devices)
            },
            queue_depth=lambda: sum(
                each.runs.model.waiting for each in self._loaded.values() if each.name == new.name
            ),
        )
        self._on_change()

    def _tell_bundles(self) -> None:
        """Tell every front what answers."""
        for link in self._links:
            link.tell_bundles(self.describe())

    async def _end(self, old: LoadedBundle) -> None:
        """Wait for a replaced bundle's last request, within bounds, and give its memory back.

        A deadline may be a day, and so long may a client take to read a stream.
        """

        def is_released(held: Set[int]) -> bool:
            return old.generation not in held

        await self._wait_for_fronts(is_released, self._settings.drain_s)
        old.give_up()
        await self._wait_for_fronts(is_released, LAST_REPLIES_S)
        del self._loaded[old.generation]
        old.end()
        await asyncio.to_thread(old.close)
        await self.return_memory()  # behind the end of the old sessions

    async def return_memory(self) -> None:
        """Give memory back to the system, behind what the devices were told to do."""
        serving = [each for each in self._resources.workers if not each.is_lost]
        await asyncio.gather(*(each.call(return_memory) for each in serving))

    def _opened(self, devices: Sequence[Device]) -> None:
        """Let the next bundles have as many devices as the first one."""
        wanted = replace(self._resources.wanted, devices=len(devices), threads=devices[0].threads)
        self._resources = replace(self._resources, wanted=wanted)

    async def _wait_for_fronts(
        self, is_done: Callable[[Set[int]], bool], within_s: float | None = None
    ) -> None:
        """Wait until every front is there, and what it may still ask is as wanted."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not self._all_hold(is_done):
                    self._held_changed.clear()
                    await self._held_changed.wait()

    def _all_hold(self, is_done: Callable[[Set[int]], bool]) -> bool:
        there = {link.front for link in self._links if link.held is not None and is_done(link.held)}
        return len(there) == self._fronts

    async def _rest(self, run_s: float) -> None:
        """Leave the device to requests after a run of the warm-up, where one came in the time that the run may have."""
        if self.is_draining:
            raise NotReady("the server is stopping", headers={"Retry-After": "1"})
        turn_s = run_s / RELOAD_SHARE
        if self._resources.dispatcher.asked_at > self._clock() - turn_s:
            await asyncio.sleep(turn_s - run_s)

    def _reloaded(self, of: LoadedBundle, outcome: ReloadOutcome, **fields: Any) -> None:
        """Account for a reload."""
        self._metrics.reloads.inc(of.name, outcome)
        log = self._resources.log.error if outcome == "failed" else self._resources.log.info
        log("reload", outcome=outcome, **fields)
