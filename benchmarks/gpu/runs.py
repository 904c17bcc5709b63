"""What runs take on a GPU, beside what the hardware allows: the half of ``make gpu`` that needs no server."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmarks.floors import copy_rate, matrix_rate
from model import cost
from model.bundle import Bundle
from model.cores import cores
from model.fractal import FractalNet
from model.images import Pixels
from model.layers import ConvLayer, Pooled, may_precede_pooling
from model.manifest import Subnetwork
from model.sessions import open_session
from service.engine.devices.cpu import MAX_THREADS
from service.engine.devices.cuda import CUDA, CUDA_OPTIONS
from service.engine.devices.device import Device
from service.engine.devices.runtime import DeviceChoice, Wanted, open_devices
from service.settings import Settings

SIZES = (1, 2, 4, 8, 16, 64)
PAIR_SIZES = (1, 8)  # of the batches that run side by side
# Full and padded, every captured size again after all others: neither what was in the buffers before nor what was
# captured since may change an answer.
COMPARED_SIZES = (1, 3, 16, 2, 64, 1, 3, 16, 2, 64)
# Of a probability: products in TF32 or half precision, in another order.
SAME_ANSWER = 0.05

NHWC = {"prefer_nhwc": "1"}  # the layout that tensor cores take, and the bare network has

Warn = Callable[[str], None]


def compare_answers(bundle: Bundle, device: DeviceChoice, *, warn: Warn) -> dict[str, float]:
    """Return by how much a probability of each subnetwork differs from the CPU's at most."""
    opened, expected = _open(bundle, device, warn), _open(bundle, "cpu", warn)
    largest = dict.fromkeys((each.name for each in bundle.manifest.subnetworks), 0.0)
    for name in largest:
        for turn, size in enumerate(COMPARED_SIZES):
            batch = noise(bundle, size, seed=turn)
            gap = np.abs(opened.run(name, batch) - expected.run(name, batch)).max()
            largest[name] = float(np.maximum(largest[name], gap))  # no number stays none
    opened.close()
    return largest


def measure_runs(bundle: Bundle, device: DeviceChoice, *, runs: int, warn: Warn) -> dict[str, Any]:
    """Return run latencies of every subnetwork and batch size with their floors, and the rates measured."""
    manifest = bundle.manifest
    dtype = torch.float16 if manifest.precision == "float16" else torch.float32
    bare_device = "cpu" if device == "cpu" else "cuda"
    rates = matrix_rate(bare_device, dtype), copy_rate(bare_device)
    opened = _open(bundle, device, warn)
    cells: list[dict[str, Any]] = []
    session_mib: dict[str, float] = {}
    for subnetwork in manifest.subnetworks:
        print(f"  {subnetwork.name}", flush=True)
        own, session_mib[subnetwork.name] = _measure_subnetwork(
            bundle, subnetwork, opened, on=bare_device, dtype=dtype, rates=rates, runs=runs
        )
        cells += own
    opened.close()
    return {
        "precision": manifest.precision,
        "cells": cells,
        "clock_after": clock(),
        "session_mib": session_mib,
        "n": runs,
        "matrix_per_s": rates[0],
        "bytes_per_s": rates[1],
    }


def measure_pairs(
    bundle: Bundle, device: DeviceChoice, *, runs: int, warn: Warn
) -> list[dict[str, Any]]:
    """Return what every subnetwork and the full one take one after the other, and side by side.

    Both ways two threads are given a batch each and waited for; one after the other, they take turns at a lock.
    """
    opened = _open(bundle, device, warn)
    *others, full = (each.name for each in bundle.manifest.subnetworks)
    cells = []
    with ExitStack() as stack:
        # A captured graph belongs to a thread.
        threads = {name: stack.enter_context(ThreadPoolExecutor(1)) for name in (*others, full)}

        def run(name: str, batch: list[Pixels], turn: AbstractContextManager[object]) -> None:
            with turn:
                opened.run(name, batch)

        def both(name: str, batch: list[Pixels], turn: AbstractContextManager[object]) -> None:
            for begun in [threads[each].submit(run, each, batch, turn) for each in (name, full)]:
                begun.result()

        for name, size in product(others, PAIR_SIZES):
            batch = noise(bundle, size)
            for each in (name, full):  # captures its graph, which nothing may run beside
                threads[each].submit(opened.run, each, batch).result()
            apart_s, together_s = _by_turns(
                (partial(both, name, batch, Lock()), partial(both, name, batch, nullcontext())),
                runs,
            )
            cells.append(
                {
                    "pair": f"{name} and {full}",
                    "size": size,
                    "apart_ms": 1e3 * float(np.median(apart_s)),
                    "together_ms": 1e3 * float(np.median(together_s)),
                }
            )
    opened.close()
    return cells


def noise(bundle: Bundle, size: int, *, seed: int = 0) -> list[Pixels]:
    """Return images of noise: with zeros, a device may be faster than with anything else."""
    side = bundle.manifest.preprocessing.size
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, (size, side, side, 3), dtype=np.uint8))


def clock() -> str:
    """Return the clock of a GPU's processors, as it is now, where its driver tells."""
    try:
        return f"{torch.cuda.clock_rate()} MHz"
    except Exception:  # no GPU, no package to ask with, a driver that does not know
        return "clock unknown"


def memory_in_use() -> int:
    """Return the bytes in use on the GPU by all processes; 0 without one."""
    if not torch.cuda.is_available():
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free


def _measure_subnetwork(
    bundle: Bundle,
    subnetwork: Subnetwork,
    opened: Device,
    *,
    on: str,
    dtype: torch.dtype,
    rates: tuple[float, float],
    runs: int,
) -> tuple[list[dict[str, Any]], float]:
    """Return a cell for each batch size, and the MiB that a session of the subnetwork takes by itself."""
    matrix_per_s, bytes_per_s = rates
    architecture = bundle.architecture_of(subnetwork)
    columns = set(subnetwork.columns)
    before = memory_in_use()
    on_gpu = on == "cuda"
    plain = _plain_session(bundle.graph_path(subnetwork), CUDA_OPTIONS if on_gpu else {})
    plain.run(None, {"images": np.stack(noise(bundle, SIZES[-1]))})
    session_mib = (memory_in_use() - before) / 2**20
    nhwc = _plain_session(bundle.graph_path(subnetwork), CUDA_OPTIONS | NHWC if on_gpu else {})
    bare = _bare_network(FractalNet(architecture).eval().to(on), columns, dtype)
    weights = dtype.itemsize * cost.parameters(architecture, columns)
    cells = []
    for size in SIZES:
        batch = noise(bundle, size)
        images = {"images": np.stack(batch)}
        served_s, plain_s, nhwc_s, bare_s = _by_turns(
            (
                partial(opened.run, subnetwork.name, batch),
                partial(plain.run, ("probabilities",), images),
                partial(nhwc.run, ("probabilities",), images),
                _bare_run(bare, subnetwork.views * size),
            ),
            runs,
        )
        cells.append(
            {
                "subnetwork": subnetwork.name,
                "size": size,
                "p50_ms": 1e3 * float(np.quantile(served_s, 0.5)),
                "p99_ms": 1e3 * float(np.quantile(served_s, 0.99)),
                "plain_ms": 1e3 * float(np.quantile(plain_s, 0.5)),
                "nhwc_ms": 1e3 * float(np.quantile(nhwc_s, 0.5)),
                "bare_ms": 1e3 * float(np.quantile(bare_s, 0.5)),
                "operations_ms": 1e3 * 2 * size * subnetwork.macs / matrix_per_s,
                "bytes_ms": 1e3 * weights / bytes_per_s,
            }
        )
    return cells, session_mib


def _plain_session(path: Path, options: Mapping[str, str]) -> ort.InferenceSession:
    """Load a graph on the GPU with these options, or without any on the CPU."""
    gpu = {CUDA: options} if options else {}
    return open_session(path, threads=min(cores(), MAX_THREADS), gpu=gpu)


def _bare_network(network: FractalNet, columns: set[int], dtype: torch.dtype) -> FractalNet:
    """Return a subnetwork with nothing left to spare: batch norm folded, filters in the order that convolutions take."""
    subnetwork = network.extract(columns)
    for layer in subnetwork.modules():
        if not isinstance(layer, ConvLayer):
            continue
        ((mode, norm),) = layer.norms.items()
        assert isinstance(norm, nn.BatchNorm2d)
        if isinstance(layer.conv, nn.Conv2d):
            layer.conv = fuse_conv_bn_eval(layer.conv, norm)
            layer.norms[mode] = nn.Identity()
        elif isinstance(layer.conv, Pooled) and may_precede_pooling(norm):
            conv, pool = layer.conv
            assert isinstance(conv, nn.Conv2d)
            layer.conv = Pooled(fuse_conv_bn_eval(conv, norm), pool)
            layer.norms[mode] = nn.Identity()
    subnetwork.to(dtype)
    convert_conv2d_weight_memory_format(subnetwork, torch.channels_last)
    return subnetwork


def _bare_run(subnetwork: FractalNet, size: int) -> Callable[[], object]:
    """Return what runs a subnetwork once and waits: on a GPU, the replay of a captured graph."""
    x = _noise_tensor(subnetwork, size)

    def forward() -> None:
        with torch.inference_mode():
            subnetwork(x)

    if x.device.type == "cpu":
        return forward
    for _ in range(3):  # what is allocated and chosen once is no part of the graph
        forward()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        forward()

    def replay(_keep: object = (x, subnetwork)) -> None:  # the graph reads their memory
        graph.replay()
        torch.cuda.synchronize()

    return replay


def _noise_tensor(network: FractalNet, size: int) -> Tensor:
    """Return images of noise as a network takes them, on its device and in its precision."""
    weight, side = network.classifier.weight, network.architecture.image_size
    images = torch.randn(size, network.architecture.in_channels, side, side)
    return images.to(weight.device, weight.dtype).contiguous(memory_format=torch.channels_last)


def _by_turns(works: Sequence[Callable[[], object]], runs: int) -> list[list[float]]:
    """Return how long each run of each took, in seconds."""
    taken_s: list[list[float]] = [[] for _ in works]
    warm_up = runs // 10
    for turn in range(warm_up + runs):
        for work, seconds in zip(works, taken_s, strict=True):
            begun_at = time.perf_counter()
            work()
            if turn >= warm_up:
                seconds.append(time.perf_counter() - begun_at)
    return taken_s


def _open(bundle: Bundle, device: DeviceChoice, warn: Warn) -> Device:
    threads = min(cores(), MAX_THREADS)
    wanted = Wanted(device, 1, threads, cores(), Settings().engine_dir)
    (opened,) = open_devices(bundle, wanted, batch_sizes=SIZES, warn=warn)
    return opened
