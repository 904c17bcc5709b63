"""The end of a connection: what the client still sends behind the last reply is read, for nothing.

To close at once would reset the connection, and take the reply from a client that sends first and reads then.
"""

import asyncio
import time

LINGER_S = 30.0
SILENT_S = 2.0  # without a byte
MOST_BYTES = 64 << 20


class Lingering:
    """A connection that has had its last reply.

    Args:
        transport: its own.

    Attributes:
        expires_at: when it ends unless the client does something.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        now = time.monotonic()
        self._transport = transport
        self._until = now + LINGER_S
        self._read_bytes = 0
        self.expires_at = now + SILENT_S
        transport.write_eof()

    def read(self, size: int) -> None:
        """Read what is of no use; end where that is too much."""
        self._read_bytes += size
        self.expires_at = min(time.monotonic() + SILENT_S, self._until)
        if self._read_bytes > MOST_BYTES:
            self._transport.abort()

    def expire(self) -> None:
        """End, unless the client still reads."""
        now = time.monotonic()
        if self._transport.get_write_buffer_size() and now < self._until:
            self.expires_at = now + SILENT_S
        else:
            self._transport.abort()
