"""PURE: who a client is, by the address of its connection, or by what a proxy says that may be believed."""

from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address, ip_network


class Proxies:
    """The proxies whose word for their clients' addresses is taken.

    Args:
        trusted: addresses and networks, a space between two.
    """

    def __init__(self, trusted: str) -> None:
        self._networks = [ip_network(each, strict=False) for each in trusted.split()]

    def __contains__(self, address: str) -> bool:
        """Return whether an address is one of theirs."""
        if not self._networks:
            return False
        try:
            return any(ip_address(address) in network for network in self._networks)
        except ValueError:
            return False

    def client_of(self, peer: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Return the address of a client.

        Args:
            peer: the address of the connection.
            headers: of the request, with names in lower case.

        Returns:
            The peer's, unless it is trusted: then the last address of ``X-Forwarded-For`` that is not. What is before
            that anybody may have written.
        """
        if peer not in self:
            return peer
        values = [value for name, value in headers if name == b"x-forwarded-for"]
        client = peer
        for hop in reversed(b",".join(values).decode("latin-1").split(",")):
            try:
                client = str(ip_address(hop.strip()))
            except ValueError:
                return client
            if client not in self:
                return client
        return client


def household_of(address: str) -> str:
    """Return what is limited as one: an address of IPv4, or the /64 of one of IPv6, which is a single customer's."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ip_network((parsed, 64), strict=False))
