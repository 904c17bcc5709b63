"""``make gpu``: the server on a GPU, against what the hardware could do, in one command of a few minutes.

- Answers: every subnetwork's, beside the CPU's.
- Runs: every subnetwork and batch size through the server's own device, beside plain ONNX Runtime sessions of the
  same file, a bare replay of the same network as a CUDA graph, and the times that its operations and its weights take
  at the rates measured in the same run.
- Deadlines: the server asked one request at a time, beside its full network alone, and at rising rates.
- Choices: the server beside every fixed subnetwork at the same rates.
- Wide runs: answers and runs of the network for GPUs in half precision, untrained, which is as fast as trained.
- Side by side: whether two subnetworks at once, each on its own stream, take less than one after the other.
- Training: images/s of the network for GPUs, against a bare loop and the rate of its multiply-adds.

Each part on the GPU has a process of its own, the server anyway: after a fault of the GPU nothing runs in a process any more.
A part that fails is named, costs no other part its figures, and makes the command fail in the end. The tables are written after each part.

``--device cpu`` tries the command where there is no GPU. Its figures say nothing of one and stay in ``--out``.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import onnxruntime as ort
import torch

from benchmarks.conditions import describe_conditions
from benchmarks.documents import DOCS, write_section
from benchmarks.gpu.runs import (
    SAME_ANSWER,
    SIZES,
    compare_answers,
    measure_pairs,
    measure_runs,
    memory_in_use,
)
from benchmarks.gpu.tables import CHOICE_DEADLINE_MS, render
from benchmarks.gpu.untrained import untrained_bundle
from benchmarks.serve.session import COLLAPSED, Session
from benchmarks.servers import ROOT, Server, ServerFailed, anytime
from benchmarks.training import measure_training
from model.bundle import Bundle, BundleError, read_bundle
from model.cores import cores
from training import first_line
from training.config import RECIPES

DEADLINES_MS = (2.0, 5.0, 10.0)
RATES = (100, 300, 1000, 2000, 3000)
LEAST_REQUESTS = 1000  # at a rate: of fewer, one late is more than one in a thousand
IN_TURN = 500
RUNS = 200
TRAINING_STEPS, TRAINING_ROUNDS = 10, 3
SERVING_SHARE = 0.7  # of the time is gone when no point of the server begins any more


def main() -> int:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True, help="folder of <class>/*.jpg")
    parser.add_argument("--device", choices=("cuda", "tensorrt", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a point")
    parser.add_argument(
        "--recipe",
        choices=RECIPES,
        default="gpu-wide-c3",
        metavar="NAME",
        help="what is trained, and run untrained",
    )
    parser.add_argument("--runs", type=int, default=RUNS, help="of each subnetwork and batch size")
    parser.add_argument("--rates", type=int, nargs="+", default=RATES, help="requests a second")
    parser.add_argument("--budget-s", type=float, default=400.0, help="nothing begins after it")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu")
    options = parser.parse_args()
    begun_at = time.monotonic()
    if not next(options.images.glob("*/*.jp*g"), None):
        return _stop(f"{options.images}: holds no <class>/*.jpg")
    if options.device != "cpu" and not torch.cuda.is_available():
        return _stop("PyTorch sees no GPU here; --device cpu tries the command without one")
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        bundle = read_bundle(options.bundle)
    except BundleError as error:
        return _stop(str(error))
    found = measure(
        bundle,
        options,
        end_at=begun_at + options.budget_s,
        serving_end_at=begun_at + SERVING_SHARE * options.budget_s,
    )
    print(f"the tables are in {_document(options)}")
    for failure in found["failed"]:
        _stop(failure)
    return 1 if found["failed"] else 0


def measure(
    bundle: Bundle, options: argparse.Namespace, *, end_at: float, serving_end_at: float
) -> dict[str, Any]:
    """Return the figures of all parts that begin before ``end_at``, on the monotonic clock.

    After each they are in ``gpu.json`` and in the tables too.
    """
    found: dict[str, Any] = {
        "conditions": _conditions(bundle, options.device),
        "warnings": [],
        "failed": [],
        "left_out": [],
    }
    warnings = options.out / "warnings.txt"  # of whatever process, and of one that crashed
    warnings.write_text("")
    device, runs, warn = options.device, options.runs, partial(_append, warnings)

    def save() -> None:
        found["warnings"] = warnings.read_text().splitlines()
        (options.out / "gpu.json").write_text(json.dumps(found, indent=1))
        write_section(_document(options), f"gpu {bundle.manifest.name}", render(found))

    apart = partial(partial, _in_own_process)
    recipe = RECIPES[options.recipe]
    parts: dict[str, Callable[[], Any]] = {
        "answers": apart(compare_answers, bundle, device, warn=warn),
        "runs": apart(measure_runs, bundle, device, runs=runs, warn=warn),
        "serving": partial(
            measure_serving, bundle, options, found, end_at=serving_end_at, save=save
        ),
        "wide runs": apart(_measure_untrained, options, warn=warn),
        "pairs": apart(measure_pairs, bundle, device, runs=runs, warn=warn),
        "training": apart(measure_training, recipe, steps=TRAINING_STEPS, rounds=TRAINING_ROUNDS),
    }
    for name, part in parts.items():
        if time.monotonic() > end_at:
            found["left_out"].append(name)
            continue
        print(name, flush=True)
        try:
            found[name] = part()
        except Exception as error:  # whatever it is, a GPU may be at hand only once
            found["failed"].append(f"{name}: {type(error).__name__}: {first_line(error)}")
        save()
    answers = found.get("answers", {}), found.get("wide runs", {}).get("answers", {})
    found["failed"] += [
        f"{name}: a probability differs from the CPU's by {gap:.2f}"
        for gaps in answers
        for name, gap in gaps.items()
        if not gap <= SAME_ANSWER
    ]
    save()
    return found


def _in_own_process(work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Return what the work returns, done in a new process."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_prepare) as process:
        return process.submit(work, *arguments, **named).result()


def _prepare() -> None:
    """Set up a process that measures."""
    torch.backends.cudnn.benchmark = True
    ort.set_global_thread_pool_sizes(cores(), 1)  # the first session's would stay, and a GPU's is 1


def _append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(f"{line}\n")


def _document(options: argparse.Namespace) -> Path:
    """Return where the tables are written to."""
    folder: Path = options.out if options.device == "cpu" else DOCS
    return folder / "gpu.md"


def measure_serving(
    bundle: Bundle,
    options: argparse.Namespace,
    found: dict[str, Any],
    *,
    end_at: float,
    save: Callable[[], None],
) -> dict[str, Any]:
    """Return the server's figures at rising rates: by deadline, and beside every fixed subnetwork.

    They are in ``found`` as they come, and ``save`` is called between servers. What would begin after ``end_at``, on the
    monotonic clock, is left out and named; of the fixed subnetworks the most accurate and the fastest come first.
    """
    *others, last = sorted(os.sched_getaffinity(0))
    session = Session(
        bundle,
        options.images.resolve(),
        ROOT / "build" / "peers",
        options.out,
        options.seconds,
        CHOICE_DEADLINE_MS,
        end_at,
        server_cores=",".join(map(str, others or [last])),
        load_core=last,
    )
    before = memory_in_use()
    serving: dict[str, Any] = {"alone": [], "deadlines": [], "choices": [], "memory_mib": 0.0}
    found["serving"] = serving
    ours, fixed = "anytime", [f"static:{name}" for name in session.subnetworks]
    full, cheapest = fixed[-1], fixed[0]
    batches = {"ANYTIME_MAX_BATCH": str(SIZES[-1])}
    for policy in dict.fromkeys((ours, full, cheapest, *reversed(fixed))):
        if time.monotonic() > end_at:
            found["left_out"].append(policy)
            continue
        print(f"  {policy}", flush=True)
        try:
            system = anytime(bundle.folder, policy, device=options.device, settings=batches)
            with session.serving(system) as server:
                if policy in (ours, full):
                    serving["alone"] += _alone(session, server)
                if policy == ours:
                    serving["memory_mib"] = (memory_in_use() - before) / 2**20
                    for session.deadline_ms in DEADLINES_MS:
                        for point in _rising(session, server, options, found):
                            serving["deadlines"].append(
                                {"deadline_ms": session.deadline_ms} | point
                            )
                    session.deadline_ms = CHOICE_DEADLINE_MS
                for point in _rising(session, server, options, found):
                    serving["choices"].append(point)
                    if point["in_time"] < COLLAPSED:
                        break
        except ServerFailed as error:
            print(f"  {error}", flush=True)
            found["failed"].append(f"{policy}: {str(error).splitlines()[-1]}")
        save()
    return serving


def _measure_untrained(options: argparse.Namespace, *, warn: Callable[[str], None]) -> Any:
    """Return answers and runs of a recipe's network as it is before its training, in half precision."""
    bundle = untrained_bundle(RECIPES[options.recipe], options.out / "untrained")
    answers = compare_answers(bundle, options.device, warn=warn)
    runs = measure_runs(bundle, options.device, runs=options.runs, warn=warn)
    return {"answers": answers, **runs}


def _alone(session: Session, server: Server) -> Iterator[dict[str, Any]]:
    """Give the figures of requests that are asked one after the other, by deadline."""
    for deadline_ms in DEADLINES_MS:
        arguments = ("--in-turn", IN_TURN, "--connections", 1, "--deadline-ms", deadline_ms)
        (figures,) = session.measure(server, *arguments)
        yield {"system": server.system.name, "deadline_ms": deadline_ms, **figures}


def _rising(
    session: Session, server: Server, options: argparse.Namespace, found: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Give the figures at each rate, until the budget is spent."""
    for rate in options.rates:
        if time.monotonic() > session.end_at:
            found["left_out"].append(
                f"{server.system.name} at {rate}/s, {session.deadline_ms:g} ms"
            )
            continue
        session.seconds = max(options.seconds, LEAST_REQUESTS / rate)
        point = session.point(server, rate, 0)
        if point is not None:
            yield point


def _conditions(bundle: Bundle, device: str) -> dict[str, Any]:
    """Return them with the device: a GPU's name and clock, and what PyTorch computes with."""
    conditions = describe_conditions(bundle)
    if device == "cpu":
        return conditions | {"device": "CPU, to try the command"}
    conditions["versions"] |= {
        "torch": torch.__version__,
        "CUDA": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]  # torch leaves it so
    }
    name = torch.cuda.get_device_name()
    if device == "tensorrt":
        name += ", TensorRT"
    return conditions | {"device": name}


def _stop(reason: str) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return 1
