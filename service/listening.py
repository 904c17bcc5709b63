"""Sockets that listen on every address of a host, all on one port."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

BACKLOG = 2048  # connections that wait until the server takes them
# libuv takes one connection a look from a listener: behind a thousand others, whose bodies are read meanwhile, the next would
# wait for seconds.
ACCEPTS_A_LOOK = 4
NOT_HERE = (
    errno.EADDRNOTAVAIL,
    errno.EAFNOSUPPORT,
)  # a name may stand for IPv6 where there is none


def listen(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen on the addresses of a host: a name, or an address, of IPv6 with or without brackets.

    ``::`` takes connections over IPv4 too, and a name such as ``localhost`` those to each of its addresses.

    Raises:
        OSError: one of the addresses cannot be listened on, or there is none; the message is one line.
    """
    try:
        return _listen_on_all(_bare(host), port)
    except UnicodeError as error:
        raise OSError(f"cannot listen on {host}:{port}: this can be no host") from error
    except OSError as error:
        number = error.errno or 0  # under 0 it is the resolver's
        reason = os.strerror(number) if number > 0 else error.strerror
        raise OSError(f"cannot listen on {_written(host)}:{port}: {reason}") from error


async def accept(
    connect: Callable[[], asyncio.Protocol], listeners: Iterable[socket.socket], **options: Any
) -> list[asyncio.Server]:
    """Take the connections that come to some listeners, on the running event loop.

    Args:
        connect: makes the protocol of each.
        options: of ``create_server``.
    """
    loop = asyncio.get_running_loop()
    return [
        await loop.create_server(connect, sock=each.dup(), backlog=BACKLOG, **options)
        for each in listeners
        for _ in range(ACCEPTS_A_LOOK)
    ]


def url_of(host: str, listeners: Sequence[socket.socket], scheme: str = "http") -> str:
    """Return the URL at which a host is reached."""
    return f"{scheme}://{_written(host)}:{listeners[0].getsockname()[1]}"


def _listen_on_all(host: str, port: int) -> list[socket.socket]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    refusal = OSError(errno.EADDRNOTAVAIL, "")
    with ExitStack() as undo:
        for family, address in dict.fromkeys((each[0], each[4]) for each in found):
            try:
                listener = socket.create_server(
                    (address[0], port, *address[2:]),
                    family=family,
                    backlog=BACKLOG,
                    dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
                )
            except OSError as error:
                if error.errno not in NOT_HERE:
                    raise
                refusal = error
                continue
            listeners.append(undo.enter_context(listener))
            port = listener.getsockname()[1]  # if any was wanted, all take this one
        if not listeners:
            raise refusal
        undo.pop_all()
    return listeners


def _bare(host: str) -> str:
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _written(host: str) -> str:
    """Return a host as it is written before a port."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
