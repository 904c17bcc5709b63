"""Signatures of bundles, in minisign's form: of the manifest, which holds the checksum of every other file.

The keys and signatures are those of the program ``minisign`` (Ed25519): either can be made and checked with it too.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minisign import PublicKey, SecretKey


class SignatureRefused(Exception):
    """A signature, or a key, cannot be accepted; the message says why in a few words."""


def check_signature(content: bytes, signature: bytes, keys: Sequence[str]) -> None:
    """See to it that one of the keys has signed the content.

    Args:
        content: what was signed.
        signature: the file that ``minisign`` writes beside it.
        keys: public keys, a line of base64 each.

    Raises:
        SignatureRefused: none has, or a key is none.
    """
    from minisign import ParseError, Signature, VerifyError  # loads cryptography

    try:
        parsed = Signature.from_bytes(signature)
    except ParseError as error:
        raise SignatureRefused(f"is no signature of minisign ({error})") from error
    if bytes(parsed) != signature.rstrip(b"\n"):  # base64 has several ways to say the same
        raise SignatureRefused("is not written as minisign writes a signature")
    for key in map(parse_key, keys):
        try:
            key.verify(content, parsed)
            return
        except VerifyError:
            continue
    raise SignatureRefused("is the signature of other content, or of a key that is not accepted")


def parse_key(key: str) -> "PublicKey":
    """Read a public key.

    Raises:
        SignatureRefused: it is none.
    """
    from minisign import ParseError, PublicKey

    try:
        return PublicKey.from_base64(key)
    except ParseError as error:
        raise SignatureRefused(f"{key!r} is no public key of minisign ({error})") from error


def make_key() -> "SecretKey":
    """Return a new key to sign with."""
    from minisign import KeyPair

    return KeyPair.generate().secret_key


def read_secret_key(content: bytes, ask_password: Callable[[], str]) -> "SecretKey":
    """Read a key to sign with; its password is asked for where it has one.

    Raises:
        SignatureRefused: it is none, or the password is wrong.
    """
    from minisign import Error, SecretKey

    try:
        key = SecretKey.from_bytes(content)
        if key.is_encrypted():
            key.decrypt(ask_password())
    except Error as error:
        raise SignatureRefused(f"is no secret key that can be used ({error})") from error
    return key
