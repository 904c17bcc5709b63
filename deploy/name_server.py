"""A DNS server for one name, to try what finds its servers by name; its addresses may change at any time."""

import socket
import struct
import threading

TYPE_A = 1
TTL_S = 1


class NameServer:
    """Answers every question for an IPv4 address with the same list.

    Args:
        addresses: the list; whoever holds it may change it.
    """

    def __init__(self, addresses: list[str]) -> None:
        self.addresses = addresses
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._socket.getsockname())
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def __enter__(self) -> "NameServer":
        """Answer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Answer no more."""
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _answer(self) -> None:
        while (came := self._socket.recvfrom(4096))[0]:
            query, client = came
            self._socket.sendto(self._reply(query), client)

    def _reply(self, query: bytes) -> bytes:
        """Return the reply to a query (RFC 1035, section 4): its question, and the addresses that it asks for."""
        end = query.index(b"\0", 12) + 5  # of the question: a name, its type, its class
        (kind,) = struct.unpack("!H", query[end - 4 : end - 2])
        found = [socket.inet_aton(each) for each in self.addresses] if kind == TYPE_A else []
        head = query[:2] + struct.pack("!HHHHH", 0x8580, 1, len(found), 0, 0)
        name = b"\xc0\x0c"  # that of the question
        records = (name + struct.pack("!HHIH", TYPE_A, 1, TTL_S, 4) + each for each in found)
        return head + query[12:end] + b"".join(records)
