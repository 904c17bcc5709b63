import asyncio
import socket
from contextlib import ExitStack

import pytest
import uvloop

from service.listening import ACCEPTS_A_LOOK, accept, listen, url_of

needs_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")


def reaches(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=10).close()
    except ConnectionRefusedError:
        return False
    return True


def answering(host: str) -> tuple[set[str], str]:
    """Return at which of the loopback addresses a host answers, and its URL without the port."""
    listeners = listen(host, 0)
    port = listeners[0].getsockname()[1]
    try:
        found = {each for each in ("127.0.0.1", "::1") if reaches(each, port)}
        return found, url_of(host, listeners).removesuffix(f":{port}")
    finally:
        for listener in listeners:
            listener.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_an_address_of_ipv4_is_listened_on_alone(host: str) -> None:
    assert answering(host) == ({"127.0.0.1"}, f"http://{host}")


@needs_ipv6
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_address_of_ipv6_may_stand_in_brackets(host: str) -> None:
    assert answering(host) == ({"::1"}, "http://[::1]")


@needs_ipv6
@pytest.mark.parametrize("host", ["::", "[::]"])
def test_all_addresses_of_ipv6_are_all_of_ipv4_too(host: str) -> None:
    assert answering(host) == ({"127.0.0.1", "::1"}, "http://[::]")


def test_a_name_is_listened_on_at_each_of_its_addresses() -> None:
    addresses = {str(each[4][0]) for each in socket.getaddrinfo("localhost", 0)}
    here = {each for each in addresses if each != "::1" or socket.has_dualstack_ipv6()}

    assert answering("localhost") == (here, "http://localhost")


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("no.such.host.invalid", r"no\.such\.host\.invalid:1: .+"),
        ("a..b", r"a\.\.b:1: this can be no host"),
        ("192.0.2.1", r"192\.0\.2\.1:1: Cannot assign requested address"),
    ],
)
def test_a_host_that_is_not_here_is_named_in_one_line(host: str, reason: str) -> None:
    with pytest.raises(OSError, match=f"^cannot listen on {reason}$"):
        listen(host, 1)


@needs_ipv6
def test_a_port_that_is_taken_at_one_address_is_not_shared_at_the_others() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(OSError, match=r"cannot listen on \[::\]:\d+: Address already in use"),
    ):
        listen("::", taken.getsockname()[1])


def test_several_connections_are_taken_in_each_look() -> None:
    connections = 10 * ACCEPTS_A_LOOK

    async def looks() -> int:
        """Return how many looks it takes until all connections that wait are taken."""
        made: list[None] = []

        class Taken(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                made.append(None)

        with ExitStack() as closing:
            listeners = listen("127.0.0.1", 0)
            for each in listeners:
                closing.callback(each.close)
            for _ in range(connections):
                closing.enter_context(socket.create_connection(listeners[0].getsockname()))
            count, servers = 0, await accept(Taken, listeners)
            while len(made) < connections:
                count += 1
                await asyncio.sleep(0)
            for server in servers:
                server.close()
            return count

    assert uvloop.run(looks()) < connections / 2  # some look for nothing
