"""What the supervisor tells the processes that it starts: a line of JSON each, with the descriptors that it is about.

A child finds its end as stdin. The first line says what it is to be; the end of the stream says that the supervisor is
gone, and that the child is to end too.
"""

import asyncio
import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

MOST_DESCRIPTORS = 64  # in one line
LINE_BYTES = 1 << 16
STDERR = 2


def tell(control: socket.socket, line: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Tell a child; one that has ended meanwhile is not told."""
    data = json.dumps({**line, "descriptors": len(descriptors)}).encode() + b"\n"
    with suppress(OSError):
        if descriptors:
            socket.send_fds(control, [data], descriptors)
        else:
            control.sendall(data)


def complain(message: str) -> None:
    """Write a line to stderr, if that can be written to: the exit code says it too."""
    with suppress(OSError):
        os.write(STDERR, f"anytime: {message}\n".encode(errors="backslashreplace"))


class Control:
    """A child's end.

    Args:
        end: of the connection.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._data = b""
        self._descriptors: list[int] = []

    @classmethod
    def of_stdin(cls) -> "Control":
        """Return the end that the supervisor has given this process."""
        return cls(socket.socket(fileno=sys.stdin.fileno()))

    def first(self) -> tuple[dict[str, Any], list[int]]:
        """Wait for the first line, and return it; end if the server has ended before."""
        while (line := self._next()) is None:
            if not self._read():
                raise SystemExit(0)
        return line

    def watch(
        self, told: Callable[[dict[str, Any], list[int]], None], gone: Callable[[], None]
    ) -> None:
        """Have the event loop pass each further line on, with its descriptors, and say when the supervisor is gone."""
        loop = asyncio.get_running_loop()

        def read() -> None:
            is_there = self._read()
            while (line := self._next()) is not None:
                told(*line)
            if not is_there:
                loop.remove_reader(self._socket)
                gone()

        loop.add_reader(self._socket, read)

    def _read(self) -> bool:
        """Read what has come; False at the end."""
        try:
            data, descriptors, *_ = socket.recv_fds(self._socket, LINE_BYTES, MOST_DESCRIPTORS)
        except OSError:
            return False
        self._data += data
        self._descriptors += descriptors
        return bool(data)

    def _next(self) -> "tuple[dict[str, Any], list[int]] | None":
        """Return the next line that has come, and its descriptors; end if there was no room for them."""
        data, is_whole, rest = self._data.partition(b"\n")
        if not is_whole:
            return None
        self._data = rest
        line = json.loads(data)
        count = line.pop("descriptors")
        if len(self._descriptors) < count:
            complain("a process of the server has no file descriptor left, and is started again")
            raise SystemExit(1)
        descriptors = self._descriptors[:count]
        del self._descriptors[:count]
        return line, descriptors
