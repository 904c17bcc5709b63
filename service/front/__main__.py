"""A front process; the supervisor starts it."""

import asyncio
import gc
import signal
import socket
import sys
from contextlib import suppress
from math import ceil
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import uvicorn
import uvloop

from service.board import Board
from service.control import Control
from service.front.access.origins import SECURITY_HEADERS
from service.front.app import App
from service.front.connection import Connection
from service.front.front import Front
from service.front.images.kernel_limits import hold_memory
from service.listening import accept
from service.observability.log import LineWriter, open_log, standard_output, take_in_libraries
from service.settings import Settings

if TYPE_CHECKING:
    from grpc import aio

# From the signal on, in which clients that ask again are told that their connection ends.
GRACE_S = 1.0
LAST_LOOKS = (
    3  # one takes the connections that wait, one reads them, one begins to handle what was read
)
# For which a thread waits for the interpreter of a busy loop, some three times an image; by itself Python takes ten times as long.
SWITCH_S = 0.0005
SHOW_EVERY_S = 0.25
LOOK_EVERY_S = 0.1  # at the engine, which gives a sign of life as often


def main() -> int:
    """Be a front until a signal, or until the supervisor is gone; return the exit code."""
    sys.setswitchinterval(SWITCH_S)
    control = Control.of_stdin()
    first, (board, *listeners) = control.first()
    writer = LineWriter(standard_output())
    try:
        uvloop.run(_serve(control, first, Board(board), listeners, writer))
    finally:
        writer.close()
    return 0


async def _serve(
    control: Control,
    first: dict[str, Any],
    board: Board,
    listeners: list[int],
    writer: LineWriter,
) -> None:
    settings = Settings(**first["settings"])
    hold_memory(settings.front_memory_bytes)
    log = open_log(writer.write, settings.log_level)
    take_in_libraries(log)
    front = Front(settings, log, board, first["front"], lambda: writer.dropped)
    await front.warm_up()
    gc.collect()
    gc.freeze()  # what start-up made stays: collecting it again would stall all requests for tens of ms
    loop = asyncio.get_running_loop()
    config = uvicorn.Config(
        App(front),
        http=Connection,
        ws="none",
        lifespan="off",
        access_log=False,
        proxy_headers=False,  # front.proxies says who the client is
        log_config=None,  # its loggers are taken in like those of other libraries
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=ceil(settings.drain_s),
        headers=SECURITY_HEADERS,
    )
    grpc = None
    if settings.grpc_port:  # imported for those who want it: it takes 20 MiB
        from service.front.open_inference.grpc_service import open_grpc

        grpc = await open_grpc(front, settings.host, settings.grpc_port)
    server = Server(config, front, grpc)
    tasks: set[asyncio.Task[Any]] = set()

    async def join(connection: socket.socket) -> None:
        await front.engine.lost()  # what an engine that has died had told is read to its end
        await loop.create_connection(lambda: front.engine, sock=connection)

    def told(line: dict[str, Any], descriptors: list[int]) -> None:
        if line["is"] == "engine":
            task = loop.create_task(join(socket.socket(fileno=descriptors[0])))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    def show() -> None:
        front.show()
        front.refresh()
        loop.call_later(SHOW_EVERY_S, show)

    def look() -> None:
        front.look()
        loop.call_later(LOOK_EVERY_S, look)

    # uvicorn takes these signals while it serves, and raises them again afterwards: this makes that harmless.
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, server.handle_exit)
    control.watch(told, gone=lambda: server.handle_exit(signal.SIGTERM, None))
    show()
    look()
    await server.serve(sockets=[socket.socket(fileno=each) for each in listeners])
    front.show()
    front.close()
    await asyncio.sleep(0)  # in which what is left to tell is written


class Server(uvicorn.Server):
    """uvicorn's server; it stops being ready at the first signal, before it stops listening."""

    def __init__(self, config: uvicorn.Config, front: Front, grpc: "aio.Server | None") -> None:
        super().__init__(config)
        self._front = front
        self._grpc = grpc

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. For the handshakes of TLS a client has as long as for the head of a request."""
        loop = asyncio.get_running_loop()
        context = self._front.certificates.context
        within_s = self._front.settings.read_head_s if context is not None else None

        def connect() -> Connection:
            return Connection(self.config, self.server_state, {}, loop)

        self.servers = await accept(
            connect,
            sockets or (),
            ssl=context,
            ssl_handshake_timeout=within_s,
            ssl_shutdown_timeout=within_s,
        )
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what comes for a while, each reply the last of its connection; then stop listening, and close what is idle."""
        if self._grpc is not None:
            calls = asyncio.create_task(self._grpc.stop(self._front.settings.drain_s))
        for _ in range(LAST_LOOKS):
            await asyncio.sleep(0)
        with suppress(TimeoutError):
            async with asyncio.timeout(min(GRACE_S, self._front.settings.drain_s)):
                await self._front.connections.all_closed()
        await super().shutdown(sockets)
        if self._grpc is not None:
            await calls

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain."""
        self._front.draining = True
        super().handle_exit(sig, frame)


if __name__ == "__main__":
    sys.exit(main())
