"""The devices that a bundle runs on, and how long its runs take there."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from model.bundle import Bundle
from service.engine.devices.cpu import choose_split, open_cpu_devices, possible_splits
from service.engine.devices.cuda import choose_gpus, has_cuda, open_cuda_device
from service.engine.devices.device import Device, RuntimeUnavailable, Warn
from service.engine.devices.precision import Profile
from service.engine.devices.tensorrt import open_tensorrt_device

WARM_UP_RUNS = 5

DeviceChoice = Literal["auto", "cpu", "cuda", "tensorrt"]
TimeRun = Callable[[str, int], Awaitable[float]]  # subnetwork, batch size; seconds


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a server is to run on.

    Args:
        device: ``auto`` falls back to the CPU, ``cuda`` and ``tensorrt`` do not.
        devices: how many; 0 takes all GPUs, or as many as the cores are worth.
        threads: CPU threads of a run; 0 chooses by measurement.
        cores: that runs on the CPU may use.
        engine_dir: where TensorRT keeps the engines that it builds, which takes minutes the first time.
    """

    device: DeviceChoice
    devices: int
    threads: int
    cores: int
    engine_dir: Path


def open_devices(
    bundle: Bundle, wanted: Wanted, *, batch_sizes: Sequence[int], warn: Warn
) -> list[Device]:
    """Create a session for every subnetwork on each device, on GPUs where they can be used.

    Args:
        bundle: the verified bundle.
        wanted: what is to be used.
        batch_sizes: that will be warmed up, ascending; no batch is larger than the last.
        warn: is told what will be slower than it could be, and why.

    Raises:
        RuntimeUnavailable: a GPU was asked for and ONNX Runtime cannot use it so, or a graph does not load.
    """
    if wanted.device == "cpu":
        return _open_cpu(bundle, wanted)
    try:
        gpus = choose_gpus(wanted.devices)
        if wanted.device == "tensorrt":
            engines = wanted.engine_dir
            return [
                open_tensorrt_device(
                    bundle, gpu, batch_sizes=batch_sizes, engine_dir=engines, warn=warn
                )
                for gpu in gpus
            ]
        return [open_cuda_device(bundle, gpu, batch_sizes=batch_sizes, warn=warn) for gpu in gpus]
    except RuntimeUnavailable as error:
        if wanted.device != "auto":
            raise RuntimeUnavailable(f"ANYTIME_DEVICE is {wanted.device}, but {error}") from error
        if has_cuda():
            warn(f"not on the GPU: {error}")
        return _open_cpu(bundle, wanted)


def _open_cpu(bundle: Bundle, wanted: Wanted) -> list[Device]:
    splits = possible_splits(wanted.cores, devices=wanted.devices, threads=wanted.threads)
    return open_cpu_devices(bundle, choose_split(bundle, splits))


async def measure_run_latency(
    time_run: TimeRun, subnetworks: Iterable[str], batch_sizes: Sequence[int], *, budget_s: float
) -> Profile:
    """Return the median run latency of every (subnetwork, batch size), in seconds.

    All are run in rounds, so that a machine that is slow for a while slows a run of each, not every run of one: a
    subnetwork that looks slower than a better one is never run, and so never measured, again. The largest batch goes
    first, so that the small ones find the weights in the cache, as they do in a server.

    Args:
        time_run: runs a batch and returns how long that took.
        subnetworks: their names.
        batch_sizes: the sizes to measure, ascending.
        budget_s: run time for all but the first run of each, which allocates, and on a GPU is captured too; what overruns
            its share is measured once.
    """
    names = list(subnetworks)
    cells = [(name, size) for name in names for size in reversed(batch_sizes)]
    share_s = budget_s / len(cells)
    for name, size in cells:
        await time_run(name, size)
    seen_s: dict[tuple[str, int], list[float]] = {cell: [] for cell in cells}
    for _ in range(WARM_UP_RUNS):
        for cell in cells:
            if sum(seen_s[cell]) < share_s:
                seen_s[cell].append(await time_run(*cell))
    return {name: {size: median(seen_s[name, size]) for size in batch_sizes} for name in names}


def padded(profile: Profile) -> Profile:
    """Return a profile of every batch size up to the largest, where a batch costs what the next size in it does."""

    def latency_s(cells: dict[int, float], size: int) -> float:
        return cells[min(each for each in cells if each >= size)]

    return {
        name: {size: latency_s(cells, size) for size in range(1, max(cells) + 1)}
        for name, cells in profile.items()
    }


def warm_up_batch_sizes(max_batch: int) -> list[int]:
    """Return 1, 2, 4, … and ``max_batch``."""
    powers = [2**i for i in range(max_batch.bit_length()) if 2**i < max_batch]
    return [*powers, max_batch]
