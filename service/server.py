"""The server: one engine and its fronts, started, joined, watched over and ended by this process.

    supervisor ── engine          answers: queue, scheduler, bundle, devices, metrics
               ├─ front 0         HTTP: reads, decodes, replies
               └─ front 1 ...

A process that dies is started again; the others go on meanwhile. Fronts and engine are joined by a socket pair each,
which this process makes anew whenever one of the two starts.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from model.cores import cores
from service import __version__
from service.board import Board, Pulse
from service.control import complain, tell
from service.front.access.certificates import Certificates, CertificatesUnusable
from service.front.access.keys import KeysUnusable, read_keys
from service.listening import listen, url_of
from service.observability.log import LineWriter, open_log, standard_output, take_in_libraries
from service.settings import Settings, SettingsError, plain, unknown_settings

ENGINE, FRONT = (Path(__file__).with_name(each) / "__main__.py" for each in ("engine", "front"))
MAX_FRONTS = 4  # by default: a request costs the engine nearly what it costs a front, so that more would wait for it
RESTART_AFTER_S = 0.1  # doubled each time that it dies soon again
LONGEST_RESTART_S = 5.0
SOON_S = 10.0
END_WITHIN_S = 5.0  # beyond the time that a drain may take
WATCH_EVERY_S = 0.5
HANGS_AFTER_LOOKS = 6  # without a sign of life; a process that works gives one at least every 0.25 s, on a busy machine too


class Child:
    """A process, and this end of what it is told over."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._process: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self.pulse = Pulse(HANGS_AFTER_LOOKS)

    @property
    def pid(self) -> int | None:
        """Its number; None while it does not run."""
        return self._process.pid if self._process is not None else None

    async def start(self, first: dict[str, Any], descriptors: Sequence[int]) -> None:
        """Start it, and tell it what it is to be.

        Raises:
            OSError: the system lacks memory, processes or descriptors for it.
        """
        self._control, end = socket.socketpair()
        with end:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", str(self._program)),
                stdin=end.fileno(),
                start_new_session=True,  # the signals of a terminal are this process's
            )
        tell(self._control, first, descriptors)

    def tell(self, line: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Tell it something more, if it runs."""
        if self._control is not None:
            tell(self._control, line, descriptors)

    def signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self._process is not None:
            with suppress(ProcessLookupError):  # it has ended just now
                self._process.send_signal(number)

    def end(self) -> None:
        """Tell it that it is to end; what it was told before still counts."""
        if self._control is not None:
            self._control.shutdown(socket.SHUT_WR)

    async def ended(self) -> int | None:
        """Wait for its end; return the exit code, under 0 if a signal ended it; None if it was not even started."""
        code = await self._process.wait() if self._process is not None else None
        self._process = None
        if self._control is not None:
            self._control.close()
            self._control = None
        return code


class Server:
    """The processes, and what joins them.

    Args:
        settings: every knob.
        listeners: the sockets that clients connect to.
        board: what the processes share.
        log: takes events.
    """

    def __init__(
        self,
        settings: Settings,
        listeners: Sequence[socket.socket],
        board: Board,
        log: FilteringBoundLogger,
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._log = log
        self._board = board
        self._engine = Child(ENGINE)
        self._fronts = [Child(FRONT) for _ in range(board.fronts)]
        self._engines_ended = 0
        self._died = 0
        self._ended = 0  # the process that the last look found ended and not waited for
        self._has_failed = False
        self._over = asyncio.Event()
        self._has_engine = asyncio.Event()  # which can be told to reload

    async def run(self) -> int:
        """Serve until a signal; return the exit code: 0 after a drain, 1 if it cannot serve."""
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, self._over.set)
        loop.add_signal_handler(signal.SIGHUP, self._engine.tell, {"is": "reload"})
        engine = asyncio.create_task(self._keep(self._engine, "engine", self._start_engine))
        fronts = [
            asyncio.create_task(self._keep(each, f"front-{i}", partial(self._start_front, i)))
            for i, each in enumerate(self._fronts)
        ]
        watching = asyncio.create_task(self._watch())
        await self._has_engine.wait()
        scheme = "https" if self._settings.tls_certificate else "http"
        self._log.info("listening", url=url_of(self._settings.host, self._listeners, scheme))
        await self._over.wait()
        began_at = time.monotonic()
        if not self._has_failed:
            self._log.info("draining", within_s=self._settings.drain_s)
        watching.cancel()
        for listener in self._listeners:
            listener.close()  # the fronts have their own, for as long as they take connections
        self._engine.tell({"is": "drain"})
        await self._end(self._fronts, fronts)
        await self._end([self._engine], [engine])
        if not self._has_failed:
            self._log.info("stopped", after_s=round(time.monotonic() - began_at, 3))
        return int(self._has_failed)

    async def _keep(self, child: Child, name: str, start: Callable[[], Awaitable[None]]) -> None:
        """Have a process run until the server is to end."""
        pause_s = RESTART_AFTER_S
        while not self._over.is_set():
            started_at = time.monotonic()
            try:
                await start()
            except OSError as error:
                self._log.error("process_not_started", process=name, reason=str(error))
                child.signal(signal.SIGKILL)  # it may run, and not be joined to the others
            code = await child.ended()
            if self._over.is_set():
                return
            if child is self._engine and (code or 0) > 0 and not self._board.has_engine:
                self._has_failed = True  # it has said why
                self._over.set()
                return
            if code is not None:
                self._died += 1
                self._log.error("process_died", process=name, exit_code=code)
            if time.monotonic() - started_at > SOON_S:
                pause_s = RESTART_AFTER_S
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), pause_s)
            pause_s = min(2 * pause_s, LONGEST_RESTART_S)

    async def _start_engine(self) -> None:
        self._board.beat(0.0)  # the last one was that of an engine before
        first = {**self._first(), "restarts": self._engines_ended}
        self._engines_ended += 1
        await self._engine.start(first, [self._board.descriptor])
        for index, front in enumerate(self._fronts):
            if front.pid is not None:
                self._join(index)
        self._has_engine.set()
        self._tell_processes()

    async def _start_front(self, index: int) -> None:
        self._board.clear(index)
        sockets = [each.fileno() for each in self._listeners]
        first = {**self._first(), "front": index}
        await self._fronts[index].start(first, [self._board.descriptor, *sockets])
        if self._engine.pid is not None:
            self._join(index)
        self._tell_processes()

    def _first(self) -> dict[str, Any]:
        return {"settings": plain(self._settings)}

    def _join(self, index: int) -> None:
        """Give a front and the engine the two ends of a new connection."""
        ends = socket.socketpair()
        self._engine.tell({"is": "front", "front": index}, [ends[0].fileno()])
        self._fronts[index].tell({"is": "engine"}, [ends[1].fileno()])
        for end in ends:
            end.close()

    def _tell_processes(self) -> None:
        """Tell the engine whose memory and time the metrics show, and how many have died."""
        pids = [os.getpid(), *(each.pid for each in (self._engine, *self._fronts) if each.pid)]
        self._engine.tell({"is": "processes", "processes": pids, "died": self._died})

    async def _watch(self) -> None:
        """End processes that have stopped working, so that they are started again."""
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            beats = [
                self._board.engine_beat_at,
                *map(self._board.beat_at, range(len(self._fronts))),
            ]
            for child, beat_at in zip((self._engine, *self._fronts), beats, strict=True):
                if child.pulse.has_stopped(beat_at):
                    child.signal(signal.SIGKILL)
            self._reap_orphan()

    def _reap_orphan(self) -> None:
        """Take leave of a process that has ended and that nobody else waits for.

        Where this is process 1 of a container, what a child leaves behind becomes its own. This process waits for those
        that it has started: one that it has not for two looks is an orphan.
        """
        if not hasattr(os, "waitid"):  # macOS, where no container has it for process 1
            return
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # there is none at all
            return
        before, self._ended = self._ended, ended.si_pid if ended is not None else 0
        if self._ended and self._ended == before:
            with suppress(ChildProcessError):
                os.waitpid(self._ended, os.WNOHANG)

    async def _end(self, children: Sequence[Child], keeping: Sequence[asyncio.Task[None]]) -> None:
        """Have processes end, and see to it that they do."""
        for child in children:
            child.end()
        within_s = self._settings.drain_s + END_WITHIN_S
        _, pending = await asyncio.wait(keeping, timeout=within_s)
        if pending:
            for child in children:
                child.signal(signal.SIGKILL)
            await asyncio.wait(pending)


def serve(settings: Settings) -> int:
    """Serve until a signal; return the exit code: 0 after a drain, 1 if it cannot serve, 2 for a bad setting."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until then the engine reads what there is
    writer = LineWriter(standard_output())
    try:
        log = open_log(writer.write, settings.log_level)
        take_in_libraries(log)
        told = settings.model_dump(mode="json", exclude_defaults=True, exclude_unset=True)
        log.info("start", version=__version__, settings=told)
        try:
            _check_traces(settings)
            _check_access(settings)
            _check_tls(settings)
            _check_grpc(settings)
            listeners = listen(settings.host, settings.port)
            if settings.private_port:
                listeners += listen(settings.host, settings.private_port)
        except SettingsError as error:
            return _fail(str(error), 2)
        except OSError as error:
            return _fail(str(error), 1)
        for name in unknown_settings():
            log.warning("unknown_setting", variable=name)
        try:
            board = Board.create(settings.fronts or default_fronts(cores()))
        except OSError as error:
            return _fail(f"no shared memory for the server's processes: {error.strerror}", 1)
        for place, share in enumerate(settings.canaries.values()):
            board.set_share(place, share)
        return asyncio.run(_run(settings, listeners, board, log))
    finally:
        writer.close()


async def _run(
    settings: Settings,
    listeners: Sequence[socket.socket],
    board: Board,
    log: FilteringBoundLogger,
) -> int:
    return await Server(settings, listeners, board, log).run()


def default_fronts(at_hand: int) -> int:
    """Return how many fronts so many cores are worth."""
    return min(max(at_hand // 2, 1), MAX_FRONTS)


def _check_grpc(settings: Settings) -> None:
    """See to it that gRPC can be served if it is wanted; each front listens on its port by itself.

    Raises:
        SettingsError: gRPC is not installed.
        OSError: its port cannot be listened on.
    """
    if not settings.grpc_port:
        return
    if find_spec("grpc") is None:
        raise SettingsError(
            f"ANYTIME_GRPC_PORT is {settings.grpc_port}, but gRPC is not installed: "
            "pip install 'anytime-inference[grpc]', or set it to 0"
        )
    for listener in listen(settings.host, settings.grpc_port):
        listener.close()


def _check_traces(settings: Settings) -> None:
    """See to it that traces can be made if they are wanted.

    Raises:
        SettingsError: OpenTelemetry is not installed.
    """
    if settings.trace_sample and find_spec("opentelemetry") is None:
        raise SettingsError(
            f"ANYTIME_TRACE_SAMPLE is {settings.trace_sample:g}, but OpenTelemetry is not installed: "
            "pip install 'anytime-inference[traces]', or set it to 0"
        )


def _check_tls(settings: Settings) -> None:
    """See to it that TLS can be spoken if it is wanted.

    Raises:
        SettingsError: it cannot, or a file is named that is of no use without a certificate.
    """
    if settings.tls_certificate is None and (settings.tls_key or settings.tls_client_ca):
        raise SettingsError("ANYTIME_TLS_CERTIFICATE is needed where TLS is wanted")
    try:
        Certificates(settings)
    except CertificatesUnusable as error:
        raise SettingsError(str(error)) from error


def _check_access(settings: Settings) -> None:
    """See to it that strangers are let in only where that was said.

    Raises:
        SettingsError: it was not, or the keys cannot be read.
    """
    if settings.keys_file is not None:
        try:
            read_keys(settings.keys_file)
        except KeysUnusable as error:
            raise SettingsError(f"ANYTIME_KEYS_FILE: {error}") from error
    elif not settings.is_private and not settings.open:
        raise SettingsError(
            f"ANYTIME_HOST is {settings.host}, which other machines may reach, and there are no keys: set "
            "ANYTIME_KEYS_FILE (see anytime keys new --help), or ANYTIME_OPEN=true to let everybody in"
        )


def _fail(message: str, code: int) -> int:
    complain(message)
    return code
