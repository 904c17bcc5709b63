"""The engine process; the supervisor starts it."""

import asyncio
import signal
import socket
import sys
import time
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import uvloop
from prometheus_client import CollectorRegistry

from model.cores import cores
from service import __version__
from service import board as places
from service.board import Board
from service.control import Control, complain
from service.engine.engine import Engine
from service.engine.link import FrontLink
from service.engine.loaded import describe
from service.observability.log import LineWriter, open_log, standard_output, take_in_libraries
from service.observability.telemetry import Metrics
from service.problems import Problem
from service.settings import Settings


def main() -> int:
    """Be the engine until the supervisor says that it is over, or is gone; return the exit code."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)  # some send these to every process: fronts answer first
    control = Control.of_stdin()
    first, descriptors = control.first()
    writer = LineWriter(standard_output())
    try:
        return uvloop.run(_serve(control, first, Board(descriptors[0]), writer))
    finally:
        writer.close()


async def _serve(control: Control, first: dict[str, Any], board: Board, writer: LineWriter) -> int:
    settings = Settings(**first["settings"])
    log = open_log(writer.write, settings.log_level)
    take_in_libraries(log)
    metrics = Metrics(CollectorRegistry(), version=__version__)
    metrics.log_lines_dropped.set_function(
        lambda: writer.dropped + board.total(places.LINES_DROPPED)
    )
    engine = Engine(
        settings,
        metrics=metrics,
        log=log,
        board=board,
        cores=cores(),
        restarts=first["restarts"],
        clock=time.monotonic,
    )
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    tasks: set[asyncio.Task[Any]] = set()

    def told(line: dict[str, Any], descriptors: list[int]) -> None:
        match line["is"]:
            case "front":
                link = partial(FrontLink, engine, line["front"])
                begin(loop.create_connection(link, sock=socket.socket(fileno=descriptors[0])))
            case "processes":
                metrics.watch_processes(line["processes"], line["died"])
            case "reload":
                begin(reload())
            case "drain":
                engine.drain()

    def begin(work: Coroutine[Any, Any, Any]) -> None:
        task = loop.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def reload() -> None:
        await asyncio.wait([starting])
        with suppress(Problem):  # the log says why
            await engine.reload_all()

    control.watch(told, gone=lambda: over.set_result(None))
    starting = loop.create_task(engine.start())
    await asyncio.wait((starting, over), return_when=asyncio.FIRST_COMPLETED)
    if starting.done():
        error = starting.exception()
        if isinstance(error, Exception) and not engine.draining:
            return _fail(describe(error))
    broken = loop.create_task(engine.is_broken.wait())
    await asyncio.wait((over, broken), return_when=asyncio.FIRST_COMPLETED)
    if not over.done():
        return _fail("no device is left that runs")
    await engine.fronts_left()  # without a supervisor all are told at once
    for task in (starting, broken, *tasks):
        task.cancel()
    engine.close()
    return 0


def _fail(reason: str) -> int:
    complain(reason)
    return 1


if __name__ == "__main__":
    sys.exit(main())
