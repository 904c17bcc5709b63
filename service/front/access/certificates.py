"""TLS: the certificate of the server, and whose certificates its clients must have; files that change are read again."""

import ssl
from collections.abc import Callable
from pathlib import Path

from service.settings import Settings, variable_name


class CertificatesUnusable(Exception):
    """A file cannot be used; the message is one line that names its setting, the file and the fault."""


class Certificates:
    """What the connections of one front are secured by.

    Args:
        settings: name the files.

    Attributes:
        context: for connections that are accepted from now on; None without TLS.

    Raises:
        CertificatesUnusable: a file cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._certificate = settings.tls_certificate
        self._key = settings.tls_key or self._certificate
        self._client_ca = settings.tls_client_ca
        self._seen = self._versions()
        self.context = _context(self._certificate, self._key, self._client_ca)

    def refresh(self) -> bool:
        """Read the certificate and its key again if their files have changed; return whether they were read.

        Raises:
            CertificatesUnusable: they cannot be used; those before stay.
        """
        seen = self._versions()
        if seen == self._seen or self.context is None:
            return False
        self._seen = seen
        _context(self._certificate, self._key, self._client_ca)  # all of it, or nothing
        _load_chain(self.context, self._certificate, self._key)
        return True

    def files(self) -> tuple[bytes, bytes, bytes | None]:
        """Return the key, the certificate, and the authorities of clients, as gRPC takes them."""
        assert self._certificate is not None
        assert self._key is not None
        authorities = self._client_ca.read_bytes() if self._client_ca else None
        return self._key.read_bytes(), self._certificate.read_bytes(), authorities

    def _versions(self) -> tuple[tuple[int, ...], ...]:
        return tuple(_version_of(path) for path in (self._certificate, self._key) if path)


def _context(
    certificate: Path | None, key: Path | None, client_ca: Path | None
) -> ssl.SSLContext | None:
    if certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)  # TLS 1.2 and later
    context.set_alpn_protocols(["http/1.1"])
    _load_chain(context, certificate, key)
    if client_ca is not None:
        _try("tls_client_ca", client_ca, lambda: context.load_verify_locations(client_ca))
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load_chain(context: ssl.SSLContext, certificate: Path | None, key: Path | None) -> None:
    assert certificate is not None
    # Without a password's callback OpenSSL would ask the terminal for one.
    load = lambda: context.load_cert_chain(certificate, key, password=lambda: "")  # noqa: E731
    _try("tls_certificate", certificate, load)


def _try(setting: str, path: Path, load: Callable[[], None]) -> None:
    try:
        load()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = error.reason if isinstance(error, ssl.SSLError) else None
        told = reason or getattr(error, "strerror", None) or error
        raise CertificatesUnusable(f"{variable_name(setting)}: {path}: {told}") from error


def _version_of(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_ino, status.st_mtime_ns, status.st_size)
