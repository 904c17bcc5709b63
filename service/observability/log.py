"""The log: events as JSON lines, written in a thread of its own, so that nobody waits for whoever reads them."""

import logging
import os
import sys
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from select import select
from typing import Any

import structlog

from service.outcomes import Outcome

PENDING_BYTES = 2**20  # of lines that wait to be written; what comes on top is dropped
GATHER_S = 0.01  # after the first line: a thread that wakes for each one costs the event loop more than the line
FLUSH_S = 1.0  # at the end


class LineWriter:
    """Writes lines to a descriptor; lines that it has no room for, or cannot write, are dropped and counted.

    Args:
        descriptor: a file, a pipe or a terminal; None drops all.
    """

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._counting = threading.RLock()  # may be taken again by a signal's handler that logs
        self._pending_bytes = self._dropped = 0
        self._is_cut = False  # the last line written is not whole
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """How many lines were dropped."""
        return self._dropped

    def write(self, line: str) -> None:
        """Have a line written soon; this takes no time and never fails."""
        data = f"{line}\n".encode(errors="backslashreplace")
        with self._counting:
            if self._pending_bytes + len(data) > PENDING_BYTES:
                self._dropped += 1
                return
            self._pending_bytes += len(data)
        self._lines.put(data)

    def close(self) -> None:
        """Write what waits, unless that takes too long."""
        self._closing.set()
        self._lines.put(None)
        self._thread.join(FLUSH_S)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            self._closing.wait(GATHER_S)
            gathered = [line, *self._waiting()]
            data = b"".join(gathered)
            dropped = self._write(data)
            with self._counting:
                self._pending_bytes -= len(data)
                self._dropped += dropped

    def _waiting(self) -> list[bytes]:
        lines: list[bytes] = []
        try:
            while (line := self._lines.get_nowait()) is not None:
                lines.append(line)
            self._lines.put(None)  # it is for the loop
        except Empty:
            pass
        return lines

    def _write(self, lines: bytes) -> int:
        """Write lines, and return how many of them could not be written whole."""
        if self._descriptor is None:
            return lines.count(b"\n")
        rest = memoryview(b"\n" + lines if self._is_cut else lines)
        whole = len(rest)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # somebody else has made it so
                select([], [self._descriptor], [])
            except OSError:  # nobody reads, or the disk is full; that may pass
                self._is_cut = self._is_cut if len(rest) == whole else True
                return min(bytes(rest).count(b"\n"), lines.count(b"\n"))
        self._is_cut = False
        return 0


def standard_output() -> int | None:
    """Return the descriptor of stdout, or none if the process was started without one.

    From then on nothing else, such as a connection, can come to lie where libraries print to; nor can it in the processes
    that this one starts.
    """
    while (held := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(held, True)
    os.close(held)
    return sys.stdout.fileno() if sys.stdout is not None else None


def open_log(
    write: Callable[[str], None], level: str = "info"
) -> structlog.typing.FilteringBoundLogger:
    """Return a logger that has events of a level or above written as JSON lines."""
    logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        _Lines(write),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
    )
    return logger


class _Lines:
    """What structlog hands rendered lines to: a method for each level."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.info = self.warning = self.error = write


def take_in_libraries(log: structlog.typing.FilteringBoundLogger) -> None:
    """Have what libraries warn of and log, and what a thread dies of, written as events of this log."""
    logging.basicConfig(handlers=[_LibraryHandler(log)], level=logging.WARNING, force=True)
    logging.captureWarnings(True)

    def thread_died(args: threading.ExceptHookArgs) -> None:
        name = args.thread.name if args.thread is not None else ""
        log.error("thread_died", thread=name, exc_info=args.exc_value)

    threading.excepthook = thread_died


class _LibraryHandler(logging.Handler):
    """Writes what comes over Python's ``logging`` as events."""

    def __init__(self, log: structlog.typing.FilteringBoundLogger) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            message = record.getMessage()
        except Exception:  # its arguments do not fit
            message = str(record.msg)
        log = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        log("library", logger=record.name, message=message.strip(), exc_info=record.exc_info)


class RequestLog:
    """Writes one line for each request in a sample, and for every one that the server failed.

    Args:
        log: where to.
        share: of the requests in the sample; they are taken evenly.
    """

    def __init__(self, log: structlog.typing.FilteringBoundLogger, share: float) -> None:
        self._log = log
        self._share = share
        self._credit = 0.0

    def __call__(self, outcome: Outcome, fields: Callable[[], dict[str, Any]]) -> None:
        """Note the end of a request; ``fields`` is called if it gets a line."""
        self._credit += self._share
        if self._credit >= 1.0:
            self._credit -= 1.0
            self._log.info("request", outcome=outcome, **fields())
        elif outcome == "failed":
            self._log.error("request", outcome=outcome, **fields())
