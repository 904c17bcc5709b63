"""The server process, from its settings to its exit code."""

import asyncio
import signal
import socket
from contextlib import suppress
from math import ceil
from types import FrameType

import uvicorn

from model.bundle import BundleError
from service.cli.exits import complain
from service.front.app import Service, create_app
from service.front.connection import Connection
from service.front.listening import listen, url_of
from service.observability.log import LineWriter, open_log, standard_output, take_in_libraries
from service.settings import Settings, SettingsError, unknown_settings

GRACE_S = (
    1.0  # from the signal on, in which clients that ask again are told that their connection ends
)
LAST_LOOKS = (
    3  # one takes the connections that wait, one reads them, one begins to handle what was read
)


class Server(uvicorn.Server):
    """uvicorn's server; it stops being ready at the first signal, before it stops listening."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and to reload at SIGHUP."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._service.reload_wanted.set)
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what comes for a while, each reply the last of its connection; then stop listening, and close what is idle."""
        for _ in range(LAST_LOOKS):
            await asyncio.sleep(0)
        with suppress(TimeoutError):
            async with asyncio.timeout(min(GRACE_S, self._service.settings.drain_s)):
                await self._service.connections.all_closed()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain."""
        self._service.draining = True
        super().handle_exit(sig, frame)


def serve(settings: Settings) -> int:
    """Serve until a signal; return the exit code: 0 after a drain, 1 if it cannot serve, 2 for a bad setting."""
    writer = LineWriter(standard_output())
    try:
        return _serve(settings, writer)
    finally:
        writer.close()


def _serve(settings: Settings, writer: LineWriter) -> int:
    """Serve until a signal, with a log that is written by ``writer``; return the exit code."""
    log = open_log(writer.write)
    take_in_libraries(log)
    try:
        app = create_app(settings, log, on_failure=lambda: signal.raise_signal(signal.SIGTERM))
        listeners = listen(settings.host, settings.port)
    except SettingsError as error:
        return _complain(str(error), 2)
    except (BundleError, OSError) as error:
        return _complain(str(error), 1)
    service: Service = app.state.service
    service.metrics.log_lines_dropped.set_function(lambda: writer.dropped)
    for name in unknown_settings():
        service.log.warning("unknown_setting", variable=name)
    config = uvicorn.Config(
        app,
        http=Connection,
        loop="auto",
        ws="none",
        access_log=False,
        proxy_headers=False,  # nothing asks who the client is
        log_config=None,  # its loggers are taken in like those of other libraries
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=ceil(settings.drain_s),
    )
    server = Server(config, service)
    # uvicorn takes these signals while it serves, and raises them again afterwards: this makes that harmless.
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, server.handle_exit)
    signal.signal(signal.SIGHUP, lambda *_: service.reload_wanted.set())  # until the loop takes it
    service.log.info("listening", url=url_of(settings.host, listeners))
    server.run(sockets=listeners)
    return _complain(service.failure, 1) if service.failure else 0


def _complain(message: str, code: int) -> int:
    complain(message)
    return code
