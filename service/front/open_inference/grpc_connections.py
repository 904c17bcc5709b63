"""How many connections an address may have over gRPC, which tells Python nothing of its connections.

They are found among the descriptors of this process once a second. What is beyond the limit is shut down, the newest first.
"""

import asyncio
import os
import socket
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress

from service.front.access.addresses import Proxies, household_of

LOOK_EVERY_S = 1.0
DESCRIPTORS = "/dev/fd"


class GrpcConnections:
    """The connections to a port that this process has accepted.

    Args:
        port: that clients connect to.
        most: how many an address may have, or a /64 of IPv6; trusted proxies any number.
        proxies: those that are trusted.
        on_ended: is called for each that is shut down.
    """

    def __init__(
        self, port: int, *, most: int, proxies: Proxies, on_ended: Callable[[], None]
    ) -> None:
        self._port = port
        self._most = most
        self._proxies = proxies
        self._on_ended = on_ended
        # Who is at the other end of each descriptor, by descriptor and inode, the oldest first; empty: nobody who is limited.
        self._seen: dict[tuple[int, int], str] = {}

    def watch(self) -> None:
        """Keep to the limit from now on, on the running event loop."""
        self.look()
        asyncio.get_running_loop().call_later(LOOK_EVERY_S, self.watch)

    def look(self) -> None:
        """Shut down the connections that are too many now."""
        there = set(_sockets())
        self._seen = {each: client for each, client in self._seen.items() if each in there}
        for each in sorted(there - self._seen.keys()):
            self._seen[each] = self._client_of(each[0])
        by_client = defaultdict(list)
        for (descriptor, inode), client in self._seen.items():
            if client:
                by_client[client].append((descriptor, inode))
        for connections in by_client.values():
            for each in connections[self._most :]:
                with suppress(OSError), socket.socket(fileno=os.dup(each[0])) as connection:
                    connection.shutdown(socket.SHUT_RDWR)  # whereupon gRPC closes it
                    self._seen[each] = ""
                    self._on_ended()

    def _client_of(self, descriptor: int) -> str:
        """Return who counts as one for a connection, or nothing if it has no limit, or is none to the port."""
        with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
            if connection.family in (socket.AF_INET, socket.AF_INET6):
                _, port, *_ = connection.getsockname()
                if port == self._port:
                    address = connection.getpeername()[0]  # raises where it is the listener
                    return "" if address in self._proxies else household_of(address)
        return ""


def _sockets() -> Iterator[tuple[int, int]]:
    """Give descriptor and inode of every socket."""
    for name in os.listdir(DESCRIPTORS):
        with suppress(OSError):  # the listing's own is closed by now
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode):
                yield int(name), status.st_ino
