"""A bundle may have to be signed; the form is minisign's."""

import pytest

from model.signature import SignatureRefused, check_signature, make_key, parse_key

# Of minisign's documentation: a signature of "test" that its own program made.
KEY = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"
SIGNATURE = b"""untrusted comment: signature from minisign secret key
RWQf6LRCGA9i59SLOFxz6NxvASXDJeRtuZykwQepbDEGt87ig1BNpWaVWuNrm73YiIiJbq71Wi+dP9eKL8OC351vwIasSSbXxwA=
trusted comment: timestamp:1555779966\tfile:test
QtKMXWyYcwdpZAlPF7tE2ENJkRd1ujvKjlj1m9RtHTBnZPa5WKU5uWRs5GoP5M/VqE81QFuMKI5k/SfNQUaOAA==
"""


def test_a_signature_of_minisign_is_accepted() -> None:
    check_signature(b"test", SIGNATURE, [KEY])


@pytest.mark.parametrize(
    ("content", "signature", "fault"),
    [
        (b"test", b"", "is no signature"),
        (b"test", SIGNATURE.replace(b"xwA=", b"xwB="), "is not written as"),
        (b"tesT", SIGNATURE, "of other content"),
        (b"test", SIGNATURE.replace(b"file:test", b"file:rest"), "of other content"),
    ],
)
def test_any_other_signature_is_refused(content: bytes, signature: bytes, fault: str) -> None:
    with pytest.raises(SignatureRefused, match=fault):
        check_signature(content, signature, [KEY])


def test_what_is_no_key_is_named() -> None:
    with pytest.raises(SignatureRefused, match="'RWQ' is no public key of minisign"):
        parse_key("RWQ")


def test_one_of_several_keys_is_enough() -> None:
    """A key is replaced by accepting both for a while."""
    with make_key() as other:
        keys = [other.get_public_key().to_base64().decode(), KEY]

    check_signature(b"test", SIGNATURE, keys)
    with pytest.raises(SignatureRefused, match="a key that is not accepted"):
        check_signature(b"test", SIGNATURE, keys[:1])
