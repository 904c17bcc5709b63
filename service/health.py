"""``python -m service.health``: ends with 0 if the server of this machine or container is ready, for checks that run a command.

It reads the server's own variables, over HTTP or TLS. Where clients must have certificates, of which it has none, it can only
see that the server answers a handshake.
"""

import os
import socket
import ssl
import sys
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection

HOST = "127.0.0.1"
PATIENCE_S = 4.0


def main() -> int:
    """Ask, and return the exit code."""
    port = int(_variable("PORT") or "8000")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is this machine
    with suppress(OSError, HTTPException):
        if _variable("TLS_CLIENT_CA"):
            plain = socket.create_connection((HOST, port), PATIENCE_S)
            with plain, context.wrap_socket(plain):
                return 0
        is_secure = bool(_variable("TLS_CERTIFICATE"))
        connection = (
            HTTPSConnection(HOST, port, timeout=PATIENCE_S, context=context)
            if is_secure
            else HTTPConnection(HOST, port, timeout=PATIENCE_S)
        )
        connection.request("GET", "/health/ready")
        return int(connection.getresponse().status != HTTPStatus.OK)
    return 1


def _variable(name: str) -> str:
    return os.environ.get(f"ANYTIME_{name}", "").strip()


if __name__ == "__main__":
    sys.exit(main())
