"""What the Open Inference Protocol costs: ``python -m benchmarks.protocol --bundle DIR --images DIR``.

**Beside ``/classify``.** One server on one core, asked by turns for the same images: as JPEG files, as PNG files, and as pixels in a binary tensor. Its
policy is the shallowest subnetwork alone, where the way of a request weighs most beside its run.

**Beside Triton.** Its own server, as PyTriton brings it, and this one get the same bytes: pixels in a binary tensor, in an ``infer``.
Triton has one ONNX file of the bundle, this server all.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.conditions import describe_conditions
from benchmarks.documents import DOCS, percent, spread, table, write_section
from benchmarks.servers import ROOT, System, anytime, peer, running
from model.bundle import read_bundle

WAYS = {"anytime": "`/classify`, JPEG", "png": "`/classify`, PNG", "pixels": "`infer`, UINT8"}
SERVER_CORE, LOAD_CORE, PORT = 0, 1, 9090
ROUNDS = 5
ALONE, SATURATING = 300, 2000  # requests of a closed loop
CONNECTIONS = 16  # they saturate one core

RATES = (500, 1000, 2000, 4000)  # a second, one after the other
OPEN_CONNECTIONS = 256  # so many that no request waits for one
DEADLINE_MS = 25
HELD = 0.99  # in time, of all requests at a rate that a server holds

Figures = Mapping[str, Sequence[float]]  # of each round, by the way to ask


def measure(bundle: Path, images: Path) -> tuple[Figures, Figures]:
    """Return the median latency of one request at a time in ms, and the answers/s at saturation."""
    alone_ms: dict[str, list[float]] = {way: [] for way in WAYS}
    per_s: dict[str, list[float]] = {way: [] for way in WAYS}
    image = next(images.glob("*/*.jp*g")).read_bytes()
    policy = f"static:{read_bundle(bundle).manifest.subnetworks[0].name}"
    common = ["--port", PORT, "--core", LOAD_CORE, "--bundle", bundle, "--images", images]
    common += ["--deadline-ms", 2000]

    def ask(way: str, seed: int, count: int, connections: int) -> float:
        load = ["--dialect", way, "--seed", seed, "--in-turn", count, "--connections", connections]
        command = [sys.executable, "-m", "benchmarks.load", *map(str, common + load)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
        (figures,) = json.loads(done.stdout)
        assert figures["in_time"] == 1.0, figures
        if connections == 1:
            return float(figures["answered_ms"]["p50"])
        return float(figures["answers_per_s"])

    with (
        TemporaryDirectory() as folder,
        running(
            anytime(bundle.resolve(), policy),
            core=SERVER_CORE,
            port=PORT,
            image=image,
            log=Path(folder) / "log",
        ),
    ):
        for seed in range(ROUNDS):
            for way in WAYS:
                alone_ms[way].append(ask(way, seed, ALONE, 1))
                per_s[way].append(ask(way, seed, SATURATING, CONNECTIONS))
    return alone_ms, per_s


def render(alone_ms: Figures, per_s: Figures) -> str:
    """Return the table: medians and ranges, and the rate of each beside that of files."""
    rows = [
        [
            name,
            spread(alone_ms[way], "{:.2f}".format),
            spread(per_s[way], "{:.0f}".format),
            spread([a / b for a, b in zip(per_s[way], per_s["anytime"], strict=True)]),
        ]
        for way, name in WAYS.items()
    ]
    return table(["", "unloaded p50 (ms)", "answers/s at saturation", "beside JPEG"], rows)


def beside_triton(bundle: Path, images: Path, seconds: float) -> list[list[str]]:
    """Return the rows of the table: this server, with all of its subnetworks and with one, and Triton with one."""
    small, large = (read_bundle(bundle).manifest.subnetworks[k].name for k in (0, -1))
    graphs = [(bundle / f"{name}.int8.onnx").resolve() for name in (small, large)]
    systems = [
        *(anytime(bundle.resolve(), policy) for policy in ("anytime", f"static:{small}")),
        *(peer("triton", graph, ROOT / "build" / "peers") for graph in graphs),
    ]
    image = next(images.glob("*/*.jp*g")).read_bytes()
    return [
        _row(replace(each, dialect="pixels"), bundle, images, image, seconds) for each in systems
    ]


def _row(system: System, bundle: Path, images: Path, image: bytes, seconds: float) -> list[str]:
    """Measure one server."""

    def load(*words: object) -> list[dict[str, Any]]:
        common = ["--port", PORT, "--core", LOAD_CORE, "--bundle", bundle, "--images", images]
        given = [*common, "--dialect", "pixels", "--deadline-ms", DEADLINE_MS, *words]
        command = [sys.executable, "-m", "benchmarks.load", *map(str, given)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    with (
        TemporaryDirectory() as folder,
        running(system, core=SERVER_CORE, port=PORT, image=image, log=Path(folder) / "log"),
    ):
        (alone,) = load("--in-turn", ALONE, "--connections", 1)
        phases = [f"--phase={rate}:{seconds:g}" for rate in RATES]
        points = load("--connections", OPEN_CONNECTIONS, *phases)
    name = system.name if system.name.startswith("triton") else f"this server: {system.name}"
    return triton_row(name, alone, points)


def triton_row(
    name: str, alone: Mapping[str, Any], points: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return a row of the table.

    Args:
        name: of the server.
        alone: figures of requests one after the other.
        points: figures of each of ``RATES``; one that the generator could not send in time is a dash.
    """
    held = 0
    for rate, point in zip(RATES, points, strict=True):
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
        found = render(*measure(options.bundle, options.images))
        print(found)
        text = (
            f"## The Open Inference Protocol beside `/classify`\n\n`{command} --parts classify` {where}; column 1 alone; the same images "
            f"as files and as binary tensors, by turns, {ROUNDS} rounds: {ALONE} requests one after the other, then {SATURATING} on "
            f"{CONNECTIONS} connections. Median and range.\n\n"
        )
        write_section(DOCS / "results.md", "protocol", text + found)
    if "triton" in options.parts:
        head = [
            "",
            "unloaded p50 / p99 (ms)",
            f"held with {percent(HELD)} in time",
            *(f"{rate}/s" for rate in RATES),
        ]
        found = table(head, beside_triton(options.bundle, options.images, options.seconds))
        print(found)
        text = (
            f"## The same `infer` to this server and to Triton\n\n`{command} --parts triton --seconds {options.seconds:g}` {where}. Both get "
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
