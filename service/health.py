"""``python -P -m service.health``: ends with 0 if the server of this machine or container is ready, for checks that run a command.

It reads the server's own variables, over HTTP or TLS. Where clients must have certificates, of which it has none, it can only
see that the server answers a handshake. ``-P`` keeps Python from taking a ``service`` of the current folder for this one.
"""

import os
import socket
import ssl
import sys
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection

THIS_MACHINE = "127.0.0.1"
ALL_ADDRESSES = {"", "0.0.0.0", "::"}  # this machine's own among them
PATIENCE_S = 4.0


def main() -> int:
    """Ask, and return the exit code."""
    host, port = _variable("HOST").strip("[]"), int(_variable("PORT") or "8000")
    if host in ALL_ADDRESSES:
        host = THIS_MACHINE
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is this machine
    with suppress(OSError, HTTPException):
        if _variable("TLS_CLIENT_CA"):
            plain = socket.create_connection((host, port), PATIENCE_S)
            with plain, context.wrap_socket(plain):
                return 0
        is_secure = bool(_variable("TLS_CERTIFICATE"))
        connection = (
            HTTPSConnection(host, port, timeout=PATIENCE_S, context=context)
            if is_secure
            else HTTPConnection(host, port, timeout=PATIENCE_S)
        )
        connection.request("GET", "/health/ready")
        return int(connection.getresponse().status != HTTPStatus.OK)
    return 1


def _variable(name: str) -> str:
    return os.environ.get(f"ANYTIME_{name}", "").strip()


if __name__ == "__main__":
    sys.exit(main())
