"""What the Open Inference Protocol costs: ``python -m benchmarks.protocol --bundle DIR --images DIR``.

**Beside ``/classify``.** One server on one core, asked by turns for the same images: as JPEG files, as PNG files, and as pixels in a binary tensor. Its
policy is the shallowest subnetwork alone, where the way of a request weighs most beside its run.

**Beside Triton.** Its own server, as PyTriton brings it, and this one get the same bytes: pixels in a binary tensor, in an ``infer``.
Triton has one ONNX file of the bundle, this server all.
"""

import argparse
import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.conditions import describe_conditions
from benchmarks.documents import DOCS, percent, spread, table, write_section
from benchmarks.servers import ROOT, Server, System, anytime, peer, running
from model.bundle import read_bundle

WAYS = {"anytime": "`/classify`, JPEG", "png": "`/classify`, PNG", "pixels": "`infer`, UINT8"}
SERVER_CORE, LOAD_CORE = 0, 1
ALONE, SATURATING = 300, 2000  # requests of a closed loop
CONNECTIONS = 16  # they saturate one core

OPEN_CONNECTIONS = 256  # so many that no request waits for one
DEADLINE_MS = 25
TRIES = 3  # of a point whose generator lagged
HELD = 0.99  # in time, of all requests at a rate that a server holds

Figures = Mapping[str, Any]  # the load generator's, of one load
Rounds = Mapping[str, Sequence[Figures]]  # of each round, by the way to ask


def measure(bundle: Path, images: Path, rounds: int) -> tuple[Rounds, Rounds]:
    """Return what one request at a time found, and what saturation did."""
    alone: dict[str, list[Figures]] = {way: [] for way in WAYS}
    saturated: dict[str, list[Figures]] = {way: [] for way in WAYS}
    policy = f"static:{read_bundle(bundle).manifest.subnetworks[0].name}"
    system = anytime(bundle.resolve(), policy)
    with TemporaryDirectory() as folder, _running(system, images, Path(folder)) as server:
        for seed in range(rounds):
            for way in WAYS:
                common = ("--dialect", way, "--seed", seed, "--deadline-ms", 2000, "--in-turn")
                (one,) = _load(server, bundle, images, *common, ALONE, "--connections", 1)
                (many,) = _load(
                    server, bundle, images, *common, SATURATING, "--connections", CONNECTIONS
                )
                alone[way].append(one)
                saturated[way].append(many)
                p50_ms, per_s = one["answered_ms"]["p50"], many["answers_per_s"]
                print(f"  {WAYS[way]}: {p50_ms:.2f} ms, {per_s:.0f}/s", flush=True)
    return alone, saturated


def _running(system: System, images: Path, folder: Path) -> AbstractContextManager[Server]:
    image = next(images.glob("*/*.jp*g")).read_bytes()
    return running(system, core=SERVER_CORE, image=image, log=folder / "log")


def _load(server: Server, bundle: Path, images: Path, *words: object) -> list[Figures]:
    """Return the load generator's figures of each phase."""
    command = server.load_command(bundle, images, *words, core=LOAD_CORE)
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    found: list[Figures] = json.loads(done.stdout)
    return found


def render(alone: Rounds, saturated: Rounds) -> str:
    """Return the table: medians and ranges, the rate of each way beside that of JPEG files, and how many had an answer in time."""
    rows = []
    per_s = {
        way: [each["in_time"] * each["answers_per_s"] for each in saturated[way]] for way in WAYS
    }
    for way, name in WAYS.items():
        offered = sum(each["offered"] for each in saturated[way])
        in_time = sum(each["outcomes"].get("in_time", 0) for each in saturated[way])
        rows.append(
            [
                name,
                spread([each["answered_ms"]["p50"] for each in alone[way]], "{:.2f}".format),
                spread(per_s[way], "{:.0f}".format),
                spread([a / b for a, b in zip(per_s[way], per_s["anytime"], strict=True)]),
                f"{in_time} of {offered}",
            ]
        )
    head = ["", "unloaded p50 (ms)", "answers/s at saturation", "beside JPEG", "answered"]
    return table(head, rows)


def beside_triton(
    bundle: Path, images: Path, rates: Sequence[int], seconds: float
) -> list[list[str]]:
    """Return the rows of the table: this server, with all of its subnetworks and with one, and Triton with one."""
    small, large = (read_bundle(bundle).manifest.subnetworks[k].name for k in (0, -1))
    graphs = [(bundle / f"{name}.int8.onnx").resolve() for name in (small, large)]
    systems = [
        *(anytime(bundle.resolve(), policy) for policy in ("anytime", f"static:{small}")),
        *(peer("triton", graph, ROOT / "build" / "peers") for graph in graphs),
    ]
    rows = []
    for each in systems:
        rows.append(_row(replace(each, dialect="pixels"), bundle, images, rates, seconds))
        print(f"  {' | '.join(rows[-1])}", flush=True)
    return rows


def _row(
    system: System, bundle: Path, images: Path, rates: Sequence[int], seconds: float
) -> list[str]:
    """Measure one server."""
    common: tuple[object, ...] = ("--deadline-ms", DEADLINE_MS)
    with TemporaryDirectory() as folder, _running(system, images, Path(folder)) as server:
        (alone,) = _load(server, bundle, images, *common, "--in-turn", ALONE, "--connections", 1)
        phases = [f"--phase={rate}:{seconds:g}" for rate in rates]
        common += ("--connections", OPEN_CONNECTIONS)
        points = _load(server, bundle, images, *common, *phases)
        for n, phase in enumerate(phases):
            for seed in range(1, TRIES):
                if points[n]["lagging"]:
                    points[n : n + 1] = _load(
                        server, bundle, images, *common, "--seed", seed, phase
                    )
    name = system.name if system.name.startswith("triton") else f"this server: {system.name}"
    return triton_row(name, alone, rates, points)


def triton_row(
    name: str,
    alone: Mapping[str, Any],
    rates: Sequence[int],
    points: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Return a row of the table.

    Args:
        name: of the server.
        alone: figures of requests one after the other.
        rates: a second, rising.
        points: figures of each; one that the generator could not send in time is a dash.
    """
    held = 0
    for rate, point in zip(rates, points, strict=True):
        if point["in_time"] < HELD:
            break
        held = rate
    latency = alone["answered_ms"]
    correct = [percent(None if point["lagging"] else point["correct_in_time"]) for point in points]
    return [name, f"{latency['p50']:.2f} / {latency['p99']:.2f}", str(held), *correct]


def main() -> None:
    """Measure, and write the sections."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.protocol", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True, help="folder of <class>/*.jpg")
    parser.add_argument(
        "--parts", nargs="+", choices=("classify", "triton"), default=("classify", "triton")
    )
    parser.add_argument("--rounds", type=int, default=5, help="beside /classify")
    parser.add_argument(
        "--rates", type=int, nargs="+", default=(500, 1000, 2000, 4000), help="beside Triton"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="of each rate, beside Triton")
    options = parser.parse_args()
    conditions = describe_conditions(read_bundle(options.bundle))
    started = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    where = (
        f"on {conditions['machine']} ({conditions['system']}), commit {conditions['commit']}, {started}. One server on one core, the "
        "load generator on another"
    )
    command = "python -m benchmarks.protocol --bundle model/pretrained/cifar10 --images DIR/test"
    if "classify" in options.parts:
        found = render(*measure(options.bundle, options.images, options.rounds))
        print(found)
        text = (
            f"## The Open Inference Protocol beside `/classify`\n\n`{command} --parts classify --rounds {options.rounds}` {where}; column 1 alone; the same images "
            f"as files and as binary tensors, by turns, {options.rounds} rounds: {ALONE} requests one after the other, then {SATURATING} on "
            f"{CONNECTIONS} connections. Median and range.\n\n"
        )
        write_section(DOCS / "results.md", "protocol", text + found)
    if "triton" in options.parts:
        rates = " ".join(map(str, options.rates))
        head = [
            "",
            "unloaded p50 / p99 (ms)",
            f"held with {percent(HELD)} in time",
            *(f"{rate}/s" for rate in options.rates),
        ]
        found = table(
            head, beside_triton(options.bundle, options.images, options.rates, options.seconds)
        )
        print(found)
        text = (
            f"## The same `infer` to this server and to Triton\n\n`{command} --parts triton --rates {rates} --seconds {options.seconds:g}` {where}. Both get "
            f"the same bytes, a binary tensor of pixels; Triton ({_triton_version()}, its Python backend with dynamic batching) runs one int8 "
            f"file of the bundle. {ALONE} requests one after the other, then {options.seconds:g} s at each rate, Poisson, on {OPEN_CONNECTIONS} connections, "
            f"with a deadline of {DEADLINE_MS} ms: the share of all requests that were answered in time and rightly.\n\n"
        )
        write_section(DOCS / "results.md", "protocol-triton", text + found)


def _triton_version() -> str:
    """Return the package that its server comes from."""
    pinned = (ROOT / "benchmarks/peers/requirements/triton.txt").read_text().split()
    return next(each for each in pinned if "pytriton" in each)


if __name__ == "__main__":
    main()
