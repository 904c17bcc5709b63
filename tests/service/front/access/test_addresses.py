"""Who a client is: a header is believed from trusted proxies alone."""

import pytest

from service.front.access.addresses import Proxies, household_of

PROXIES = Proxies("10.0.0.0/8 ::1")


def client_of(peer: str, *forwarded: bytes) -> str:
    return PROXIES.client_of(peer, [(b"x-forwarded-for", each) for each in forwarded])


def test_a_stranger_cannot_say_who_he_is() -> None:
    assert client_of("192.0.2.1", b"198.51.100.7") == "192.0.2.1"
    assert Proxies("").client_of("10.0.0.1", [(b"x-forwarded-for", b"9.9.9.9")]) == "10.0.0.1"


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ([b"198.51.100.7"], "198.51.100.7"),
        ([b"1.1.1.1, 198.51.100.7"], "198.51.100.7"),  # the first is the client's own invention
        ([b"1.1.1.1", b"198.51.100.7, 10.1.1.1"], "198.51.100.7"),
        ([b"10.2.2.2, 10.1.1.1"], "10.2.2.2"),
        ([b"2001:db8::1"], "2001:db8::1"),
        ([b"unknown"], "10.0.0.1"),
        ([b"1.1.1.1, \xff\n"], "10.0.0.1"),
        ([], "10.0.0.1"),
    ],
)
def test_of_what_proxies_say_the_last_that_is_none_of_them_counts(
    forwarded: list[bytes], client: str
) -> None:
    assert client_of("10.0.0.1", *forwarded) == client


@pytest.mark.parametrize(
    ("address", "household"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", ""),
    ],
)
def test_all_addresses_of_one_customer_are_one(address: str, household: str) -> None:
    assert household_of(address) == household
