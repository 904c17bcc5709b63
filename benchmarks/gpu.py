"""``make gpu``: the server on a GPU, against what the hardware could do, in one command of a few minutes.

- Answers: every subnetwork's, beside the CPU's.
- Runs: every subnetwork and batch size through the server's own device, beside plain ONNX Runtime sessions of the
  same file, a bare replay of the same network as a CUDA graph, and the times that its operations and its weights take
  at the rates measured in the same run.
- Wide runs: the same of the network for GPUs in half precision, untrained, which is as fast as trained.
- Side by side: whether two subnetworks at once, each on its own stream, take less than one after the other.
- Training: images/s of the network for GPUs, against a bare loop and the rate of its multiply-adds.
- Deadlines: the server asked one request at a time, beside its full network alone, and at rising rates.
- Choices: the server beside every fixed subnetwork at the same rates.

A part that fails is named, costs no other part its figures, and makes the command fail in the end.

``--device cpu`` tries the command where there is no GPU. Its figures say nothing of one and stay in ``--out``.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.conditions import describe_conditions
from benchmarks.documents import DOCS, write_section
from benchmarks.gpu_runs import (
    SAME_ANSWER,
    clock,
    compare_answers,
    measure_pairs,
    measure_runs,
    memory_in_use,
)
from benchmarks.gpu_tables import CHOICE_DEADLINE_MS, render
from benchmarks.serve import COLLAPSED, Session
from benchmarks.servers import ROOT, Server, ServerFailed, anytime
from benchmarks.training import measure_training
from benchmarks.untrained import untrained_bundle
from model.bundle import Bundle, BundleError, read_bundle
from training.config import RECIPES

DEADLINES_MS = (2.0, 5.0, 10.0)
RATES = (100, 300, 1000, 2000, 3000)
LEAST_REQUESTS = 1000  # at a rate: of fewer, one late is more than one in a thousand
IN_TURN = 500
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
    parser.add_argument("--budget-s", type=float, default=400.0, help="no point begins after it")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu")
    options = parser.parse_args()
    end_at = time.monotonic() + options.budget_s
    if not next(options.images.glob("*/*.jp*g"), None):
        return _stop(f"{options.images}: holds no <class>/*.jpg")
    if options.device != "cpu" and not torch.cuda.is_available():
        return _stop("PyTorch sees no GPU here; --device cpu tries the command without one")
    options.out.mkdir(parents=True, exist_ok=True)
    torch.backends.cudnn.benchmark = True
    try:
        bundle = read_bundle(options.bundle)
    except BundleError as error:
        return _stop(str(error))
    found = measure(bundle, options, end_at)
    folder = options.out if options.device == "cpu" else DOCS
    write_section(folder / "gpu.md", f"gpu {bundle.manifest.name}", render(found))
    print(f"the tables are in {folder / 'gpu.md'}")
    for failure in found["failed"]:
        _stop(failure)
    return 1 if found["failed"] else 0


def measure(bundle: Bundle, options: argparse.Namespace, end_at: float) -> dict[str, Any]:
    """Return the figures of all parts; after each they are in ``gpu.json`` too."""
    found: dict[str, Any] = {
        "conditions": _conditions(bundle, options.device),
        "warnings": [],
        "failed": [],
        "left_out": [],
    }
    device, runs, warn = options.device, options.runs, found["warnings"].append
    save = partial(_save, options.out / "gpu.json", found)
    parts: dict[str, Callable[[], Any]] = {
        "answers": partial(compare_answers, bundle, device, warn=warn),
        "runs": partial(measure_runs, bundle, device, runs=runs, warn=warn),
        "wide runs": partial(_measure_untrained, options, warn=warn),
        "pairs": partial(measure_pairs, bundle, device, runs=runs, warn=warn),
        "training": partial(
            measure_training, RECIPES[options.recipe], steps=TRAINING_STEPS, rounds=TRAINING_ROUNDS
        ),
        "serving": partial(measure_serving, bundle, options, found, end_at=end_at, save=save),
    }
    for name, part in parts.items():
        print(name, flush=True)
        try:
            found[name] = part()
        except Exception as error:  # whatever it is, a GPU may be at hand only once
            reason = next(iter(str(error).splitlines()), "")
            found["failed"].append(f"{name}: {type(error).__name__}: {reason}")
        save()
    found["failed"] += [
        f"{name}: a probability differs from the CPU's by {gap:.2f}"
        for name, gap in found.get("answers", {}).items()
        if gap > SAME_ANSWER
    ]
    return found


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
    monotonic clock, is left out and named; the fixed subnetworks come from the most accurate on.
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
    ours, *fixed = session.policies
    for policy in (ours, *reversed(fixed)):
        if time.monotonic() > end_at:
            found["left_out"].append(policy)
            continue
        print(f"  {policy}", flush=True)
        try:
            with session.serving(anytime(bundle.folder, policy, device=options.device)) as server:
                if policy in (ours, fixed[-1]):
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
    """Return the runs of a recipe's network as it is before its training, in half precision."""
    bundle = untrained_bundle(RECIPES[options.recipe], options.out / "untrained")
    return measure_runs(bundle, options.device, runs=options.runs, warn=warn)


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
    name = f"{torch.cuda.get_device_name()}, {clock()} at the start"
    if device == "tensorrt":
        name += ", TensorRT"
    return conditions | {"device": name}


def _save(path: Path, found: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(found, indent=1))


def _stop(reason: str) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
