"""What the Open Inference Protocol costs beside ``/classify``: ``python -m benchmarks.protocol --bundle DIR --images DIR``.

One server on one core, asked by turns for the same images: as JPEG files, as PNG files, and as pixels in a binary tensor. Its
policy is the shallowest subnetwork alone, where the way of a request weighs most beside its run.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.conditions import describe_conditions
from benchmarks.documents import DOCS, spread, table, write_section
from benchmarks.servers import ROOT, anytime, running
from model.bundle import read_bundle

WAYS = {"anytime": "`/classify`, JPEG", "png": "`/classify`, PNG", "pixels": "`infer`, UINT8"}
SERVER_CORE, LOAD_CORE, PORT = 0, 1, 9090
ROUNDS = 5
ALONE, SATURATING = 300, 2000  # requests of a closed loop
CONNECTIONS = 16  # they saturate one core

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


def main() -> None:
    """Measure, and write the section."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.protocol", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True, help="folder of <class>/*.jpg")
    options = parser.parse_args()
    conditions = describe_conditions(read_bundle(options.bundle))
    started = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    found = render(*measure(options.bundle, options.images))
    print(found)
    text = (
        "## The Open Inference Protocol beside `/classify`\n\n"
        "`python -m benchmarks.protocol --bundle model/pretrained/cifar10 --images DIR/test` on "
        f"{conditions['machine']} ({conditions['system']}), commit {conditions['commit']}, {started}. One server on one core, "
        f"column 1 alone, the load generator on another core; the same images as files and as binary tensors, by turns, "
        f"{ROUNDS} rounds: {ALONE} requests one after the other, then {SATURATING} on {CONNECTIONS} connections. Median and range.\n\n"
    )
    write_section(DOCS / "results.md", "protocol", text + found)


if __name__ == "__main__":
    main()
