"""A bundle that answers: from its files, over its warm-up, to its last request."""

import asyncio
import ctypes
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import structlog

from model.bundle import Bundle, BundleError, check_unchanged, read_bundle
from model.images import Pixels
from service.engine.devices.device import Device, RuntimeUnavailable
from service.engine.devices.precision import Profile, Served, choose_precisions
from service.engine.devices.runtime import (
    Wanted,
    measure_run_latency,
    open_devices,
    padded,
    warm_up_batch_sizes,
)
from service.engine.devices.worker import Worker
from service.engine.dispatcher import RUN_OVERHEAD_S, Dispatcher, Runs
from service.engine.shadow import Agreement, Aside
from service.hop import ServedBundle
from service.observability.telemetry import Metrics
from service.problems import NotReady
from service.scheduling.latency import Devices, LatencyModel
from service.scheduling.model import Model
from service.scheduling.policies import Candidate
from service.settings import Settings, model_of

ACCURACY_DIGITS = 6  # that are shown
UNUSABLE = (BundleError, RuntimeUnavailable, ValueError)  # what ``load_bundle`` may raise
REPLACED = NotReady("the bundle was replaced", headers={"Retry-After": "1"})


@dataclass(frozen=True, slots=True)
class Resources:
    """What all bundles are served with.

    Args:
        settings: every knob.
        wanted: the devices to open.
        workers: the threads of the devices, by their place; more are added where there are more devices.
        devices: what the scheduler knows of them; grows with the workers.
        dispatcher: has requests answered.
        metrics: is told of everything.
        log: takes events.
        clock: seconds.
    """

    settings: Settings
    wanted: Wanted
    workers: list[Worker]
    devices: Devices
    dispatcher: Dispatcher
    metrics: Metrics
    log: structlog.typing.FilteringBoundLogger
    clock: Callable[[], float]


class LoadedBundle:
    """A bundle on its devices, with what schedules its requests.

    Attributes:
        name: of the model, in requests and metrics.
        generation: how many the engine has loaded, this one included.
        names: of the subnetworks, in the order that fronts know them by.
    """

    def __init__(
        self,
        name: str,
        generation: int,
        bundle: Bundle,
        devices: Sequence[Device],
        served: Sequence[Served],
        profile: Profile,
        resources: Resources,
        aside: Aside | None,
    ) -> None:
        settings = resources.settings
        self.name = name
        self.generation = generation
        self.bundle = bundle
        self.bundle_name = {"name": model_of(name), "digest": bundle.digest}
        self.served = served
        self.names = [each.subnetwork.name for each in served]
        self.expected_accuracy = {
            each.subnetwork.name: each.accuracy.estimate.value for each in served
        }
        self.devices = devices
        self.latency = LatencyModel(profile, resources.devices)
        model = Model(
            [Candidate(each, value) for each, value in self.expected_accuracy.items()],
            self.latency,
            policy=settings.policy,
            max_batch=settings.max_batch,
        )
        places = {each: place for place, each in enumerate(self.names)}
        runs = [device.run for device in devices]
        self.runs = Runs(name, model, runs, places, self._compare)
        self._dispatcher = resources.dispatcher
        self._agreement = self._open_agreement(aside, resources) if aside is not None else None
        self._workers = resources.workers

    @property
    def device_name(self) -> str:
        """What it runs on: ``cpu``, ``cuda``, or with several devices such as ``2 x cpu``."""
        kind, count = self.devices[0].name.partition(":")[0], len(self.devices)
        return kind if count == 1 else f"{count} x {kind}"

    def describe(self) -> ServedBundle:
        """Return what fronts are told of it."""
        return {
            "model": self.name,
            "generation": self.generation,
            "digest": self.bundle.digest,
            "device": self.device_name,
            "manifest": self.bundle.manifest.model_dump_json(),
            "subnetworks": [
                {
                    "name": each.subnetwork.name,
                    "precision": each.precision,
                    "expected_accuracy": round(each.accuracy.estimate.value, ACCURACY_DIGITS),
                    "expected_accuracy_interval": (
                        round(each.accuracy.estimate.low, ACCURACY_DIGITS),
                        round(each.accuracy.estimate.high, ACCURACY_DIGITS),
                    ),
                    "test_accuracy": each.accuracy.test_value,
                }
                for each in self.served
            ],
        }

    def begin(self) -> None:
        """Take requests."""
        self._dispatcher.begin(self.runs)

    def give_up(self) -> None:
        """Give requests what answers there are, and begin no more runs."""
        self._dispatcher.give_up(self.runs, REPLACED)

    def end(self) -> None:
        """Take no requests any more."""
        self._dispatcher.end(self.runs, REPLACED)

    def close(self) -> None:
        """Give its threads and its memory back, after the runs that it has begun for clients that left."""
        if self._agreement is not None:
            self._agreement.close()
        for device, worker in zip(self.devices, self._workers, strict=False):
            worker.start(device.close)

    def _compare(self, pixels: Pixels, subnetwork: str, probabilities: bytes) -> None:
        """Have an answer compared with that of the best subnetwork, if it is in the sample."""
        if self._agreement is not None:
            self._agreement.answered(pixels, subnetwork, probabilities)

    def _open_agreement(self, aside: Aside, resources: Resources) -> Agreement:
        """Return what compares a share of the answers with those of the best subnetwork."""
        return Agreement(
            aside,
            best=aside.subnetwork,
            share=resources.settings.agreement_sample,
            is_idle=lambda: self._dispatcher.is_idle,
            record=partial(resources.metrics.compared, self.name),
            on_failure=lambda error: resources.log.error("comparison_failed", exc_info=error),
        )


async def load_bundle(
    name: str,
    generation: int,
    bundle: Bundle,
    resources: Resources,
    *,
    rest: Callable[[float], Awaitable[None]],
) -> LoadedBundle:
    """Load a bundle and warm it up.

    Args:
        name: of the model.
        generation: of it.
        bundle: as it was read.
        resources: its workers run the warm-up too, so that runs for requests and runs of the warm-up take turns.
        rest: is awaited after each run of the warm-up, with its run latency; may raise to give up.

    Raises:
        BundleError: the bundle changed meanwhile.
        RuntimeUnavailable: the device or a graph cannot be used.
        ValueError: there is no such policy, or its subnetwork is not in the bundle.
    """
    settings = resources.settings
    undo = ExitStack()
    aside: Aside | None = None
    if settings.agreement_sample:  # first of all: it is to be there before the first request
        aside = Aside(bundle, bundle.best.name)
        undo.callback(aside.close)
    with undo:
        loaded = await _warm_up(name, generation, bundle, resources, aside, rest)
        undo.pop_all()
    return loaded


async def _warm_up(
    name: str,
    generation: int,
    bundle: Bundle,
    resources: Resources,
    aside: Aside | None,
    rest: Callable[[float], Awaitable[None]],
) -> LoadedBundle:
    """Load every graph, and measure run latencies."""
    settings = resources.settings
    sizes = warm_up_batch_sizes(settings.max_batch)
    devices = await asyncio.to_thread(_load, bundle, resources, sizes)
    workers = resources.workers
    workers += [Worker() for _ in range(len(devices) - len(workers))]
    resources.devices.extend(len(workers))
    first, *others = [each for each in zip(devices, workers, strict=False) if not each[1].is_lost]

    async def time_run(device: Device, worker: Worker, run_name: str, size: int) -> float:
        run = partial(_time_run, bundle, device, run_name, size, resources.clock)
        run_s = await worker.call(run)
        await rest(run_s)
        return run_s

    async def run_each(device: Device, worker: Worker) -> None:
        for name in device.names:
            for size in sizes:
                await time_run(device, worker, name, size)

    names = first[0].names
    measured = await measure_run_latency(
        partial(time_run, *first), names, sizes, budget_s=settings.warm_up_s
    )
    served = choose_precisions(bundle.manifest.subnetworks, measured)
    chosen = {each.subnetwork.name: each.run_name for each in served}
    for device in devices:
        device.keep(chosen)
    await asyncio.gather(*(run_each(*each) for each in others))  # they are taken to be as fast
    profile = {each: measured[run_name] for each, run_name in chosen.items()}
    if devices[0].gpu is not None:
        profile = padded(profile)
    # What was measured is as slow as the device now is.
    slowdown = resources.devices.slowdown(workers.index(first[1]))
    profile = {
        each: {size: (run_s + RUN_OVERHEAD_S) / slowdown for size, run_s in cells.items()}
        for each, cells in profile.items()
    }
    return LoadedBundle(name, generation, bundle, devices, served, profile, resources, aside)


def _load(bundle: Bundle, resources: Resources, batch_sizes: Sequence[int]) -> list[Device]:
    """Open every graph on every device, and see to it that they are those of the manifest."""
    devices = open_devices(
        bundle,
        resources.wanted,
        batch_sizes=batch_sizes,
        warn=lambda reason: resources.log.warning("slower_device", reason=reason),
    )
    check_unchanged(bundle)
    return devices


def _time_run(
    bundle: Bundle, device: Device, name: str, size: int, clock: Callable[[], float]
) -> float:
    """Run a batch of blank images; return how long it took.

    Raises:
        RuntimeUnavailable: the graph does not run, or does not fit the manifest.
    """
    side, classes = bundle.manifest.preprocessing.size, len(bundle.manifest.labels)
    batch = [np.zeros((side, side, 3), np.uint8)] * size
    started_at = clock()
    try:
        probabilities = device.run(name, batch)
    except Exception as error:  # ONNX Runtime has no common base of its errors
        reason = str(error).splitlines()[0]
        raise RuntimeUnavailable(f"{bundle.folder}: {name} does not run: {reason}") from error
    run_s = clock() - started_at
    if probabilities.shape != (size, classes):
        raise RuntimeUnavailable(
            f"{bundle.folder}: {name} gives {probabilities.shape} for {size} images, "
            f"the manifest lists {classes} labels"
        )
    return run_s


def return_memory() -> None:
    """Give memory that is free back to the system; glibc keeps it, some 20 MiB more with each reload."""
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def read_current_bundle(folder: Path, settings: Settings) -> Bundle:
    """Read the bundle that a folder holds, or leads to, at this moment.

    Raises:
        BundleError: it cannot be used.
    """
    try:
        resolved = folder.resolve()  # a link may lead elsewhere before all is loaded
    except (OSError, RuntimeError) as error:
        raise BundleError(f"{folder}: {error}") from error
    return read_bundle(resolved, keys=settings.bundle_keys.split())


def describe(error: Exception) -> str:
    """Return why a bundle cannot be served; of an error that was not foreseen, its kind too."""
    return str(error) if isinstance(error, UNUSABLE) else f"{type(error).__name__}: {error}"
