"""What comes over a connection is read as the requests that it is, however it is cut."""

import pytest

from service.front.http.request_parser import LargeHeadError, MalformedError, RequestParser

UPGRADE = b"POST /classify HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nhi"


class Heard:
    """Keeps what the parser tells."""

    def __init__(self) -> None:
        self.begun = self.ended = 0
        self.heads: list[tuple[bytes, bytes]] = []
        self.body = b""

    def head_begun(self) -> None:
        self.begun += 1

    def head_read(self, head: RequestParser) -> None:
        self.heads.append((head.method, head.raw_path))

    def body_read(self, body: bytes) -> None:
        self.body += body

    def request_read(self) -> None:
        self.ended += 1


@pytest.mark.parametrize("cut", [1, 7, 64, 10**6])
def test_thousands_of_wishes_for_another_protocol_at_once_are_ignored_one_by_one(cut: int) -> None:
    heard = Heard()
    parser = RequestParser(heard, 32_768)
    data = 2_000 * UPGRADE

    for at in range(0, len(data), cut):
        parser.feed(data[at : at + cut])

    assert heard.begun == heard.ended == 2_000
    assert heard.heads == 2_000 * [(b"POST", b"/classify")]
    assert heard.body == 2_000 * b"hi"


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", MalformedError),
        (b"GET / HTTP/1.1\r\n\r\n", MalformedError),
        (b"GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", MalformedError),
        (b"GET / HTTP/1.0\r\nHost: a\r\nhost: a\r\n\r\n", MalformedError),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", MalformedError),
        (
            b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            MalformedError,
        ),
        (  # found by fuzzing: what is wrong shows only once the head is read again
            b"POST / HTTP/1.1\r\nUpgrade: a\r\nConnection: Upgrade\r\nTransfer-Encoding: b\r\n\r\n",
            MalformedError,
        ),
        (b"GET / HTTP/1.1\r\na: " + 50_000 * b"b", LargeHeadError),
        (b"GET /" + 40_000 * b"b" + b" HTTP/1.1\r\n\r\n", LargeHeadError),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + 6_000 * b"a: b\r\n" + b"\r\n", LargeHeadError),
    ],
)
def test_what_is_no_request_ends_there(data: bytes, error: type[Exception]) -> None:
    parser = RequestParser(Heard(), 32_768)

    def feed() -> None:
        for at in range(0, len(data), 8192):
            parser.feed(data[at : at + 8192])

    with pytest.raises(error):
        feed()
