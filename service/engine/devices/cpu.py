"""The CPU: devices of some cores each, and how the cores are split between devices and the threads of a run.

Devices of one thread run the same sessions, each in its own thread, so that more of them take no more memory.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from model.bundle import Bundle
from model.images import Pixels
from service.engine.devices.device import Device, RunImages, graphs, open_graph
from service.engine.devices.precision import int8_name

MAX_THREADS = 4  # the networks are small: more threads wait for each other longer than they compute
# Of a core's time, what a run on more threads makes of it beside a run on one: fewer devices of more threads each end a run
# sooner, and make fewer runs a second.
LEAST_USE = 0.8
MOST_TRIALS = 30  # of each split, by turns, and in no more than TRIAL_S all together
TRIAL_S = 0.3


@dataclass(frozen=True, slots=True)
class Split:
    """So many devices, and so many threads for a run on each."""

    devices: int
    threads: int


def open_cpu_devices(bundle: Bundle, split: Split) -> list[Device]:
    """Create sessions for every subnetwork on the CPU, and more for those that the bundle has in int8 too.

    Raises:
        RuntimeUnavailable: a graph does not load.
    """
    is_shared = split.threads == 1
    opened = [_open_runs(bundle, split) for _ in range(1 if is_shared else split.devices)]
    return [
        Device(f"cpu:{i}", opened[0 if is_shared else i], threads=split.threads)
        for i in range(split.devices)
    ]


def possible_splits(cores: int, *, devices: int = 0, threads: int = 0) -> list[Split]:
    """Return the ways to split cores, of those that are left open; 0 leaves a number open."""
    if devices and threads:
        return [Split(devices, threads)]
    if threads:
        return [Split(max(cores // threads, 1), threads)]
    if devices:
        return [Split(devices, min(max(cores // devices, 1), MAX_THREADS))]
    found = [1]
    while 2 * found[-1] <= min(cores, MAX_THREADS):
        found.append(2 * found[-1])
    return [Split(cores // each, each) for each in found]


def choose_split(
    bundle: Bundle, splits: Sequence[Split], clock: Callable[[], float] = time.perf_counter
) -> Split:
    """Return the split with the most threads a run, of those whose threads are well used: as measured.

    The most accurate subnetwork is run, on one image: it takes longest, and decides what fits in a deadline.

    Args:
        bundle: the verified bundle.
        splits: to choose from, the fewest threads first.
        clock: seconds.

    Raises:
        RuntimeUnavailable: its graph does not load.
    """
    if len(splits) == 1:
        return splits[0]
    best = bundle.best
    path = bundle.graph_path(best.int8 or best)
    side = bundle.manifest.preprocessing.size
    batch = [np.zeros((side, side, 3), np.uint8)]
    runs = [
        partial(_run, open_graph(path, threads=split.threads, shares_threads=False), batch)
        for split in splits
    ]
    for run in runs:  # the first one allocates
        run()
    took_s: list[list[float]] = [[] for _ in splits]
    until = clock() + TRIAL_S
    while len(took_s[0]) < MOST_TRIALS and (not took_s[0] or clock() < until):
        for run, own_s in zip(runs, took_s, strict=True):
            begun_at = clock()
            run()
            own_s.append(clock() - begun_at)
    core_s = [split.threads * median(own_s) for split, own_s in zip(splits, took_s, strict=True)]
    enough_s = core_s[0] / LEAST_USE
    return next(
        split
        for split, own_s in reversed(list(zip(splits, core_s, strict=True)))
        if own_s <= enough_s
    )


def _open_runs(bundle: Bundle, split: Split) -> dict[str, RunImages]:
    in_int8 = (
        (int8_name(each.name), bundle.graph_path(each.int8))
        for each in bundle.manifest.subnetworks
        if each.int8
    )
    return {
        name: partial(
            _run,
            open_graph(
                path,
                threads=split.threads,
                shares_threads=split.devices == 1 or split.threads == 1,
            ),
        )
        for name, path in (*graphs(bundle), *in_int8)
    }


def _run(session: ort.InferenceSession, batch: Sequence[Pixels]) -> NDArray[np.float32]:
    images = np.stack(batch) if len(batch) > 1 else batch[0][np.newaxis]  # (N, H, W, 3)
    outputs = session.run(("probabilities",), {"images": images})
    probabilities: NDArray[np.float32] = outputs[0]
    return probabilities
