"""``make gpu``: the server on a GPU, against what the hardware could do, in one command of a few minutes.

- Runs: every subnetwork and batch size through the server's own device, beside a plain ONNX Runtime session of the
  same file, a bare replay of the same network as a CUDA graph, and the times that its operations and its weights take
  at the rates measured in the same run.
- Side by side: whether two subnetworks at once, each on its own stream, take less than one after the other.
- Training: images/s of the network for GPUs, against a bare loop and the rate of its multiply-adds.
- Deadlines: the server at rising rates, by deadline.
- Choices: the server beside every fixed subnetwork at the same rates.

``--device cpu`` tries the command where there is no GPU. Its figures say nothing of one and stay in ``--out``.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmarks.conditions import describe_conditions
from benchmarks.documents import DOCS, write_section
from benchmarks.floors import copy_rate, matrix_rate
from benchmarks.gpu_tables import CHOICE_DEADLINE_MS, render
from benchmarks.serve import COLLAPSED, Session
from benchmarks.servers import ROOT, Server, ServerFailed, anytime
from benchmarks.training import measure_training
from model import cost
from model.bundle import Bundle, BundleError, read_bundle
from model.fractal import FractalNet
from model.layers import ConvLayer
from model.sessions import open_session
from service.runtime import (
    CUDA,
    CUDA_OPTIONS,
    Device,
    RuntimeUnavailable,
    default_threads,
    open_device,
)
from service.settings import Settings
from training.config import RECIPES

SIZES = (1, 2, 4, 8, 16)
PAIR_SIZES = (1, 8)  # of the batches that run side by side
DEADLINES_MS = (2.0, 5.0, 10.0)
RATES = (100, 300, 1000, 2000, 3000)
RUNS = 200
TRAINING_STEPS, TRAINING_ROUNDS = 10, 3


def main() -> int:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True, help="folder of <class>/*.jpg")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a point")
    parser.add_argument(
        "--recipe", choices=RECIPES, default="gpu-wide-c3", metavar="NAME", help="what is trained"
    )
    parser.add_argument("--runs", type=int, default=RUNS, help="of each subnetwork and batch size")
    parser.add_argument("--rates", type=int, nargs="+", default=RATES, help="requests a second")
    parser.add_argument("--budget-s", type=float, default=480.0, help="no point begins after it")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu")
    options = parser.parse_args()
    end_at = time.monotonic() + options.budget_s
    if not next(options.images.glob("*/*.jp*g"), None):
        return _stop(f"{options.images}: holds no <class>/*.jpg")
    if options.device == "cuda" and not torch.cuda.is_available():
        return _stop("PyTorch sees no GPU here; --device cpu tries the command without one")
    options.out.mkdir(parents=True, exist_ok=True)
    torch.backends.cudnn.benchmark = True
    try:
        bundle = read_bundle(options.bundle)
        conditions = describe_conditions(bundle) | {"device": _describe_device(options.device)}
        found: dict[str, Any] = {"conditions": conditions}
        found |= measure_runs(bundle, options.device, runs=options.runs)
        found["pairs"] = measure_pairs(bundle, options.device, runs=options.runs)
        found["training"] = measure_training(
            RECIPES[options.recipe], steps=TRAINING_STEPS, rounds=TRAINING_ROUNDS
        )
    except (BundleError, RuntimeUnavailable) as error:
        return _stop(str(error))
    save = partial(_save, options.out / "gpu.json", found)
    save()
    measure_serving(bundle, options, found, end_at=end_at, save=save)
    folder = DOCS if options.device == "cuda" else options.out
    write_section(folder / "gpu.md", f"gpu {bundle.manifest.name}", render(found))
    print(f"the tables are in {folder / 'gpu.md'}")
    return 0


def measure_runs(bundle: Bundle, device: str, *, runs: int) -> dict[str, Any]:
    """Return run latencies of every subnetwork and batch size with their floors, and the rates measured."""
    manifest = bundle.manifest
    dtype = torch.float16 if manifest.precision == "float16" else torch.float32
    matrix_per_s, bytes_per_s = matrix_rate(device, dtype), copy_rate(device)
    side, architecture = manifest.architecture.image_size, manifest.architecture
    opened = _open(bundle, device)
    network = FractalNet(architecture).eval()
    cells: list[dict[str, Any]] = []
    memory_mib: dict[str, float] = {}
    for subnetwork in manifest.subnetworks:
        print(f"  {subnetwork.name}", flush=True)
        active = set(subnetwork.columns)
        before = _memory_in_use()
        plain = open_session(
            bundle.graph_path(subnetwork),
            threads=default_threads(),
            gpu={CUDA: CUDA_OPTIONS} if device == "cuda" else {},
        )
        plain.run(None, {"images": np.stack(_blank_batch(bundle, SIZES[-1]))})
        memory_mib[subnetwork.name] = (_memory_in_use() - before) / 2**20
        for size in SIZES:
            images = torch.zeros(size, 3, side, side, device=device, dtype=dtype)
            bare = _bare_run(network, images.contiguous(memory_format=torch.channels_last), active)
            batch = _blank_batch(bundle, size)
            served_s, plain_s, bare_s = _by_turns(
                (
                    partial(opened.run, subnetwork.name, batch),
                    partial(plain.run, ("probabilities",), {"images": np.stack(batch)}),
                    bare,
                ),
                runs,
            )
            weights = dtype.itemsize * cost.parameters(architecture, active)
            cells.append(
                {
                    "subnetwork": subnetwork.name,
                    "size": size,
                    "p50_ms": 1e3 * float(np.quantile(served_s, 0.5)),
                    "p99_ms": 1e3 * float(np.quantile(served_s, 0.99)),
                    "plain_ms": 1e3 * float(np.quantile(plain_s, 0.5)),
                    "bare_ms": 1e3 * float(np.quantile(bare_s, 0.5)),
                    "operations_ms": 1e3 * 2 * size * subnetwork.macs / matrix_per_s,
                    "bytes_ms": 1e3 * weights / bytes_per_s,
                }
            )
    opened.close()
    return {
        "precision": manifest.precision,
        "runs": cells,
        "clock_after": _clock(device),
        "session_mib": memory_mib,
        "n": runs,
        "matrix_per_s": matrix_per_s,
        "bytes_per_s": bytes_per_s,
    }


def measure_pairs(bundle: Bundle, device: str, *, runs: int) -> list[dict[str, Any]]:
    """Return what every subnetwork and the full one take one after the other, and side by side."""
    opened = _open(bundle, device)
    *others, full = (each.name for each in bundle.manifest.subnetworks)
    cells = []
    with ExitStack() as stack:
        # A captured graph belongs to a thread.
        threads = {name: stack.enter_context(ThreadPoolExecutor(1)) for name in (*others, full)}

        def run(batch: list[NDArray[np.uint8]], *names: str) -> None:
            for begun in [threads[name].submit(opened.run, name, batch) for name in names]:
                begun.result()

        for name, size in product(others, PAIR_SIZES):
            batch = _blank_batch(bundle, size)

            def apart(name: str = name, batch: list[NDArray[np.uint8]] = batch) -> None:
                run(batch, name)
                run(batch, full)

            apart_s, together_s = _by_turns((apart, partial(run, batch, name, full)), runs)
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


def measure_serving(
    bundle: Bundle,
    options: argparse.Namespace,
    found: dict[str, Any],
    *,
    end_at: float,
    save: Callable[[], None],
) -> None:
    """Add the server's figures at rising rates: by deadline, and beside every fixed subnetwork.

    What would begin after ``end_at``, on the monotonic clock, is left out and named. ``save`` is called between servers.
    """
    cores = os.cpu_count() or 1
    session = Session(
        bundle,
        options.images.resolve(),
        ROOT / "build" / "peers",
        options.out,
        options.seconds,
        CHOICE_DEADLINE_MS,
        end_at,
        server_cores=f"0-{cores - 2}" if cores > 2 else "0",
        load_core=cores - 1,
    )
    before = _memory_in_use()
    found |= {"deadlines": [], "choices": [], "left_out": [], "memory_mib": 0.0}
    for policy in session.policies:
        if time.monotonic() > end_at:
            found["left_out"].append(policy)
            continue
        print(f"  {policy}", flush=True)
        try:
            with session.serving(anytime(bundle.folder, policy, device=options.device)) as server:
                if policy == "anytime":
                    found["memory_mib"] = (_memory_in_use() - before) / 2**20
                    for session.deadline_ms in DEADLINES_MS:
                        for point in _rising(session, server, options.rates, found):
                            found["deadlines"].append({"deadline_ms": session.deadline_ms} | point)
                    session.deadline_ms = CHOICE_DEADLINE_MS
                for point in _rising(session, server, options.rates, found):
                    found["choices"].append(point)
                    if point["in_time"] < COLLAPSED:
                        break
        except ServerFailed as error:
            print(f"  {error}", flush=True)
            found["left_out"].append(policy)
        save()


def _rising(
    session: Session, server: Server, rates: Sequence[int], found: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Give the figures at each rate, until the budget is spent."""
    for rate in rates:
        if time.monotonic() > session.end_at:
            found["left_out"].append(
                f"{server.system.name} at {rate}/s, {session.deadline_ms:g} ms"
            )
            continue
        point = session.point(server, rate, 0)
        if point is not None:
            yield point


def _open(bundle: Bundle, device: str) -> Device:
    return open_device(
        bundle,
        device="cuda" if device == "cuda" else "cpu",
        threads=0,
        batch_sizes=SIZES,
        engine_dir=Settings().engine_dir,
        warn=print,
    )


def _blank_batch(bundle: Bundle, size: int) -> list[NDArray[np.uint8]]:
    side = bundle.manifest.architecture.image_size
    return [np.zeros((side, side, 3), np.uint8)] * size


def _bare_run(network: FractalNet, x: Tensor, active: set[int]) -> Callable[[], object]:
    """Return what runs a subnetwork once and waits: on a GPU, the replay of a captured graph.

    Batch norm is folded into the filters, and they lie in memory as convolutions take them: nothing is left to spare.
    """
    subnetwork = network.extract(active)
    for layer in subnetwork.modules():
        if isinstance(layer, ConvLayer) and isinstance(layer.conv, nn.Conv2d):
            ((mode, norm),) = layer.norms.items()
            assert isinstance(norm, nn.BatchNorm2d)
            layer.conv = fuse_conv_bn_eval(layer.conv, norm)
            layer.norms[mode] = nn.Identity()
    subnetwork.to(x.device, x.dtype)
    convert_conv2d_weight_memory_format(subnetwork, torch.channels_last)

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

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize()

    return replay


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


def _describe_device(device: str) -> str:
    """Return the name of the device, and the clocks of a GPU."""
    if device == "cpu":
        return "CPU, to try the command"
    return f"{torch.cuda.get_device_name()}, {_clock(device)} at the start"


def _clock(device: str) -> str:
    """Return the clock of a GPU's processors, as it is now."""
    return f"{torch.cuda.clock_rate()} MHz" if device == "cuda" else "no clock"


def _memory_in_use() -> int:
    """Return the bytes in use on the GPU by all processes; 0 without one."""
    if not torch.cuda.is_available():
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free


def _save(path: Path, found: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(found, indent=1))


def _stop(reason: str) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
