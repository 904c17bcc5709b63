"""``python -m benchmarks.hop``: what the pixels of a request cost on their way from a front to the engine.

Two processes, each on uvloop as in the server, on a socket pair: one asks and waits for a short answer, the other reads
the pixels and answers. Pixels travel in the message, as they do, or lie in memory that both share.
"""

import argparse
import asyncio
import mmap
import os
import socket
import sys
import time
from collections.abc import Callable
from math import inf
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from statistics import median
from typing import cast

import numpy as np
import uvloop
from numpy.typing import NDArray

from model.images import Pixels
from service.hop import Answer, Ask, FrameReader, answer_frame, ask_frame, read_ask

SIDES = (32, 96, 224, 448)
ANSWER = Answer(bytes(40), 0, 1, 0.001, 0.0, 0.0, True, True)


class Engine(asyncio.Protocol):
    """Reads all pixels of a request, as a batch that is made of them does, and answers."""

    def __init__(self, shared: NDArray[np.uint8], ended: "asyncio.Future[None]") -> None:
        self._shared = shared
        self._ended = ended
        self._reader = FrameReader()
        self._batch = np.empty_like(shared)
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer each request."""
        for _, number, message in self._reader.feed(data):
            _, pixels = read_ask(message)
            source = np.frombuffer(pixels, np.uint8) if len(pixels) else self._shared
            np.copyto(self._batch, source)
            self._transport.write(answer_frame(number, ANSWER))

    def connection_lost(self, exc: Exception | None) -> None:
        """End with the other."""
        self._ended.set_result(None)


class Front(asyncio.Protocol):
    """Asks again whenever an answer comes."""

    def __init__(self, ask: Callable[[], bytes], times: int) -> None:
        self.took_s: list[float] = []
        self.ended = asyncio.get_running_loop().create_future()
        self._ask = ask
        self._left = times
        self._reader = FrameReader()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask first."""
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        """Ask again."""
        for _ in self._reader.feed(data):
            self.took_s.append(time.perf_counter() - self._sent_at)
            self._left -= 1
            if self._left:
                self._send()
            else:
                self._transport.close()
                self.ended.set_result(None)

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._ask())


def measure(side: int, times: int, *, is_shared: bool) -> tuple[float, float]:
    """Return the median round trip, and the CPU time of both processes a request, in seconds."""
    pixels: Pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    shared = np.frombuffer(mmap.mmap(-1, pixels.nbytes), np.uint8)
    request = Ask(1, 0.0, 1.0, "answer", "none", None, inf, False)

    def ask() -> bytes:
        if not is_shared:
            return ask_frame(1, request, pixels.tobytes())
        np.copyto(shared, pixels.reshape(-1))
        return ask_frame(1, request, b"")

    ours, theirs = socket.socketpair()
    child = os.fork()
    if not child:
        ours.close()
        uvloop.run(_answer(theirs, shared))
        os._exit(0)
    theirs.close()
    before_s = _cpu_s()
    took_s = uvloop.run(_ask(ours, ask, times))
    os.waitpid(child, 0)
    return median(took_s), (_cpu_s() - before_s) / times


def _cpu_s() -> float:
    """Return the CPU time of this process, and of those that it has waited for."""
    used = [getrusage(each) for each in (RUSAGE_SELF, RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


async def _answer(connection: socket.socket, shared: NDArray[np.uint8]) -> None:
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    await loop.create_connection(lambda: Engine(shared, ended), sock=connection)
    await ended


async def _ask(connection: socket.socket, ask: Callable[[], bytes], times: int) -> list[float]:
    loop = asyncio.get_running_loop()
    _, front = await loop.create_connection(lambda: Front(ask, times), sock=connection)
    await front.ended
    return front.took_s


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hop", description=__doc__)
    parser.add_argument("--times", type=int, default=2000, help="requests of a round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(
        "| pixels | KB | in the message: round trip, µs | CPU, µs | shared: round trip, µs | CPU, µs |"
    )
    print("|---:|---:|---:|---:|---:|---:|")
    for side in SIDES:
        cells = [f"{side} × {side}", f"{side * side * 3 / 1000:.0f}"]
        rounds = [
            [measure(side, options.times, is_shared=each) for each in (False, True)]
            for _ in range(options.rounds)
        ]
        for way in zip(*rounds, strict=True):
            for values in zip(*way, strict=True):
                us = sorted(1e6 * each for each in values)
                cells.append(f"{median(us):.0f} ({us[0]:.0f} to {us[-1]:.0f})")
        print("| " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
