"""``python -m benchmarks.engine``: how many requests a second one engine takes, over the real hop.

The engine is the server's own process, but for its device, which answers at once: what is left is what a request costs
the engine itself. This process stands for a front: it keeps some requests unanswered, reads the answers, and records each.
"""

import argparse
import cProfile
import os
import pstats
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from model.bundle import PRETRAINED_DIR, Bundle
from model.images import Pixels
from service.board import Board
from service.control import tell
from service.engine import __main__ as engine
from service.engine import loaded
from service.engine.devices.device import Device
from service.engine.devices.precision import int8_name
from service.hop import (
    Answer,
    Ask,
    FrameReader,
    Kind,
    Record,
    ask_frame,
    document_frame,
    read_answer,
    read_document,
    record_frame,
)
from service.settings import Settings, plain

LONGEST_WAIT_S = 60.0
DEADLINE_S = 1.0
GENERATION = 1
SHOWN = 45  # lines of a profile


def serve(profile: bool) -> int:
    """Be the engine, with a device that answers at once."""

    def open_devices(bundle: Bundle, *_: object, **__: object) -> list[Device]:
        answers = np.full((1024, len(bundle.manifest.labels)), 0.1, np.float32)

        def run(batch: Sequence[Pixels]) -> NDArray[np.float32]:
            return answers[: len(batch)]

        names = [each.name for each in bundle.manifest.subnetworks]
        return [Device("instant:0", dict.fromkeys([*names, *map(int8_name, names)], run))]

    with patch.object(loaded, "open_devices", open_devices):
        if not profile:
            return engine.main()
        profiler = cProfile.Profile()
        code = profiler.runcall(engine.main)
    pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(SHOWN)
    return code


class FrontEnd:
    """The front's end of the hop, as cheap as can be."""

    def __init__(self, connection: socket.socket, pixels: bytes) -> None:
        self._socket = connection
        self._reader = FrameReader()
        self._pixels = pixels
        self._number = 0

    def wait_until_ready(self) -> None:
        """Return once the engine has told of its bundle."""
        while True:
            for kind, _, message in self._reader.feed(self._socket.recv(1 << 20)):
                if kind == Kind.BUNDLES:
                    generations = [each["generation"] for each in read_document(message)]
                    self._socket.sendall(document_frame(Kind.HELD, 0, generations))
                    return

    def ask(self, seconds: float, unanswered: int) -> float:
        """Keep so many requests unanswered; return how many were answered a second."""
        begun_at = time.perf_counter()
        answered, waiting, due = 0, 0, unanswered
        until = begun_at + seconds
        while waiting or due:
            self._send([self._ask() for _ in range(due)])
            waiting, due = waiting + due, 0
            records = []
            for kind, number, message in self._reader.feed(self._socket.recv(1 << 20)):
                if kind == Kind.BUNDLES:
                    continue  # told again
                assert kind == Kind.ANSWER, Kind(kind).name
                records.append(record_frame(_record(number, read_answer(message))))
            answered, waiting = answered + len(records), waiting - len(records)
            if time.perf_counter() < until:
                due = len(records)
            self._send(records)
        return answered / (time.perf_counter() - begun_at)

    def _ask(self) -> bytes:
        now = time.monotonic()
        self._number += 1
        ask = Ask(GENERATION, now, now + DEADLINE_S, "answer", "none", None, float("inf"), False)
        return ask_frame(self._number, ask, self._pixels)

    def _send(self, frames: Sequence[bytes]) -> None:
        if frames:
            self._socket.sendall(b"".join(frames))


def _record(number: int, answer: Answer) -> Record:
    return Record(
        GENERATION, "in_time", answer.subnetwork, 0, answer.is_first_reply, 0.5, 0.003, DEADLINE_S,
        0.001, 0.0001, 0.0002, 0.09, -1.0, trace_id="", request_id=f"{number:032x}",
    )  # fmt: skip


def measure(
    seconds: float, unanswered: Sequence[int], rounds: int, bundle: Path, *, profile: bool
) -> dict[int, list[float]]:
    """Return the answers a second of each round, by how many requests were unanswered."""
    settings = Settings(bundle_dir=bundle, warm_up_s=0.2, agreement_sample=0.0)
    board = Board.create(1)
    control, end = socket.socketpair()
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "benchmarks.engine", "--serve"]
    with end, theirs:
        process = subprocess.Popen(
            command + ["--profile"] * profile, stdin=end.fileno(), stdout=subprocess.DEVNULL
        )
        first = {"settings": plain(settings), "restarts": 0}
        tell(control, first, [board.descriptor])
        tell(control, {"is": "front", "front": 0}, [theirs.fileno()])
    ours.settimeout(LONGEST_WAIT_S)
    size = 32 * 32 * 3
    front = FrontEnd(ours, os.urandom(size))
    front.wait_until_ready()
    found: dict[int, list[float]] = {each: [] for each in unanswered}
    for _ in range(rounds):
        for each in unanswered:
            found[each].append(front.ask(seconds, each))
    control.shutdown(socket.SHUT_WR)
    ours.close()
    process.wait(LONGEST_WAIT_S)
    return found


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--unanswered", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--bundle", type=Path, default=PRETRAINED_DIR / "cifar10")
    parser.add_argument("--profile", action="store_true", help="print what the engine was at")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.profile)
    found = measure(
        options.seconds,
        options.unanswered,
        options.rounds,
        options.bundle,
        profile=options.profile,
    )
    print(f"{options.rounds} rounds of {options.seconds:g} s by turns; answers a second\n")
    print("| unanswered | median | range |\n|---:|---:|---|")
    for unanswered, rates in found.items():
        print(f"| {unanswered} | {median(rates):,.0f} | {min(rates):,.0f} to {max(rates):,.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
