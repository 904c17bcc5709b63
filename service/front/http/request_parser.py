"""What comes over a connection, read as HTTP/1.1: heads within a limit, bodies, and requests for other protocols ignored."""

from typing import Protocol

import httptools


class MalformedError(Exception):
    """What came is no HTTP/1.1; says why not."""

    def __init__(self, detail: str = "what was sent is no HTTP/1.1 request") -> None:
        super().__init__(detail)


class LargeHeadError(Exception):
    """What came belongs to no body, and is more than a head may have."""


class Reader(Protocol):
    """Is told what was read."""

    def head_begun(self) -> None:
        """Take note that the first bytes of a request have come."""

    def head_read(self, head: "RequestParser") -> None:
        """Take a request whose head has come."""

    def body_read(self, body: bytes) -> None:
        """Take a part of its body."""

    def request_read(self) -> None:
        """Take note of its end."""


class RequestParser:
    """Parses one connection's requests; httptools does all of it, once.

    Args:
        reader: is told what was read.
        root_path: is taken away from paths that begin with it.
        max_head_bytes: of a request's first line, headers and trailers, and of anything else that is no body.

    Attributes:
        method, target, raw_path, query_string, http_version, headers: of the last head; names of headers are in lower case.
        keep_alive: whether it lets another request follow.
        is_in_head: a head has begun, and has not ended.
    """

    def __init__(self, reader: Reader, max_head_bytes: int, root_path: str = "") -> None:
        self._reader = reader
        self._max_head_bytes = max_head_bytes
        self._root = root_path.encode() + b"/"
        self._parser = httptools.HttpRequestParser(self)
        self._head_bytes = 0
        self._hosts = 0  # headers of that name
        self._untold_bytes = 0  # since the parser told of anything: of a header that does not end
        self.method = self.target = self.raw_path = self.query_string = b""
        self.http_version = ""
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_in_head = self.keep_alive = False

    def feed(self, data: bytes) -> None:
        """Parse what has come.

        Raises:
            MalformedError, LargeHeadError: nobody knows what follows it.
        """
        self._untold_bytes += len(data)
        try:
            while data:
                data = data[self._parse(data) :]
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, (LargeHeadError, MalformedError)):
                raise error.__context__ from None
            if error.__context__ is None:
                raise MalformedError from error
            raise  # a bug in one of the calls below
        self._check_size()

    def close(self) -> None:
        """Let go of its reader, which holds it too: a connection's memory is free at its end, not when somebody collects it."""
        del self._parser, self._reader

    def _parse(self, data: bytes) -> int:
        """Parse data up to its end, or up to the end of a head that asks for another protocol; return how much that was.

        httptools takes what follows such a head for that protocol. No other is spoken here, and then HTTP has the wish
        ignored: the head is read again without it.
        """
        try:
            self._parser.feed_data(data)
            return len(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self.method == b"CONNECT":
                raise MalformedError from upgrade
            end = int(upgrade.args[0])
        lines = [b"%b %b HTTP/1.1" % (self.method, self.target)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(b"\r\n".join([*lines, b"", b""]))
        return end

    def _check_size(self) -> None:
        limit = self._max_head_bytes
        if self._head_bytes > limit or self._untold_bytes > limit:
            raise LargeHeadError

    # httptools' calls

    def on_message_begin(self) -> None:
        """Begin a head, or begin it again."""
        self.target, self.headers = b"", []
        self._head_bytes = self._untold_bytes = self._hosts = 0
        if not self.is_in_head:
            self.is_in_head = True
            self._reader.head_begun()

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        self.target += url
        self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; behind a chunked body it is a trailer, which nobody asked for."""
        self._head_bytes += len(name) + len(value) + 4  # what is between them, and the end
        if self.is_in_head:
            name = name.lower()
            self.headers.append((name, value))
            if name == b"host":
                self._hosts += 1

    def on_headers_complete(self) -> None:
        """Tell of a head, unless it is to be read again."""
        self._untold_bytes = 0
        self._check_size()
        self.method = self._parser.get_method()
        if self._parser.should_upgrade():
            return
        self.http_version = self._parser.get_http_version()
        self.keep_alive = self.http_version == "1.1" and self._parser.should_keep_alive()
        if self._hosts != 1 and (self._hosts or self.http_version == "1.1"):
            raise MalformedError(f"a request has one Host header; this one has {self._hosts}")
        try:
            url = httptools.parse_url(self.target)
        except httptools.HttpParserInvalidURLError as error:
            raise MalformedError from error
        path, self.query_string = url.path or b"/", url.query or b""
        is_below = len(self._root) > 1 and path.startswith(self._root)
        self.raw_path = path[len(self._root) - 1 :] if is_below else path
        self.is_in_head = False
        self._reader.head_read(self)

    def on_body(self, body: bytes) -> None:
        """Pass a part of a body on."""
        self._untold_bytes = 0
        self._reader.body_read(body)

    def on_message_complete(self) -> None:
        """Tell of a request's end."""
        self._untold_bytes = 0
        if not self.is_in_head:
            self._reader.request_read()
