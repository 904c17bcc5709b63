"""TLS of the real server: its certificate, those of its clients, and files that change."""

import socket
import ssl
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.front.access.certificates import Certificates, CertificatesUnusable
from service.settings import read_settings
from tests.server import MODULE, ROOT, ServerProcess, started
from tests.service.conftest import free_port

GET = b"GET /health/live HTTP/1.1\r\nHost: here\r\n\r\n"


def openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


def certify(folder: Path, name: str, *by: object) -> tuple[Path, Path]:
    """Make a certificate for this machine, its own authority unless another is named, and return it and its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-days", 2),
        *("-keyout", key, "-out", certificate, *by),
    )
    return certificate, key


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def secured(folder: Path) -> Iterator[ServerProcess]:
    """A server that demands certificates of its clients."""
    certificate, key = certify(folder, "server")
    certify(folder, "client")
    settings: dict[str, Any] = {
        "tls_certificate": certificate,
        "tls_key": key,
        "tls_client_ca": folder / "client.pem",
        "grpc_port": free_port(),
        "read_head_s": 1,
    }
    with started({"fronts": 1, "max_batch": 1, **settings}) as server:
        server.wait_for("ready")
        yield server


def client_of(server: ServerProcess, folder: Path, *, certified: str | None) -> httpx.Client:
    context = ssl.create_default_context(cafile=folder / "server.pem")
    if certified:
        context.load_cert_chain(folder / f"{certified}.pem", folder / f"{certified}.key")
    return httpx.Client(base_url=server.client.base_url, verify=context, timeout=60)


def test_with_certificates_on_both_sides_an_image_is_answered(
    secured: ServerProcess, folder: Path, jpeg: bytes
) -> None:
    with client_of(secured, folder, certified="client") as client:
        answer = client.post("/classify?deadline_ms=60000", content=jpeg)
        ended = client.post("/classify", content=jpeg, headers={"Connection": "close"})
        again = client.get("/health/ready")

    assert secured.client.base_url.scheme == "https"
    assert [each.status_code for each in (answer, ended, again)] == [200, 200, 200]


@pytest.mark.parametrize("certified", [None, "stranger"])
def test_without_a_certificate_that_is_known_nothing_is_answered(
    secured: ServerProcess, folder: Path, certified: str | None
) -> None:
    certify(folder, "stranger")

    with client_of(secured, folder, certified=certified) as client, pytest.raises(httpx.HTTPError):
        client.get("/health/live")


def test_what_is_no_tls_gets_nothing_and_a_handshake_has_an_end(secured: ServerProcess) -> None:
    for sent in (GET, b""):
        with socket.create_connection(secured.address, timeout=60) as connection:
            connection.sendall(sent)
            received = b""
            try:
                while part := connection.recv(4096):
                    received += part
            except ConnectionResetError:
                pass
        assert b"HTTP" not in received


@pytest.mark.skipif(find_spec("grpc") is None, reason="needs grpcio")
def test_grpc_speaks_tls_too(secured: ServerProcess, folder: Path) -> None:
    import grpc

    address = f"127.0.0.1:{secured.settings['grpc_port']}"
    method = "/inference.GRPCInferenceService/ServerLive"
    authority, key, certificate = (
        (folder / name).read_bytes() for name in ("server.pem", "client.key", "client.pem")
    )

    def live(channel: grpc.Channel) -> bytes:
        call: Any = channel.unary_unary(method)
        reply: bytes = call(b"", timeout=60)
        return reply

    known = grpc.ssl_channel_credentials(authority, key, certificate)

    with grpc.secure_channel(address, known) as channel:
        assert live(channel) == b"\x08\x01"
    for channel in (
        grpc.secure_channel(address, grpc.ssl_channel_credentials(authority)),
        grpc.insecure_channel(address),
    ):
        with channel, pytest.raises(grpc.RpcError):
            live(channel)


def test_a_changed_certificate_is_read_and_a_bad_one_changes_nothing(
    secured: ServerProcess, folder: Path
) -> None:
    with client_of(secured, folder, certified="client") as kept:
        assert kept.get("/health/live").status_code == 200
        (folder / "server.pem").write_text("no certificate")
        reason = secured.wait_for("certificate_unusable")["reason"]
        assert kept.get("/health/live").status_code == 200
        certify(folder, "server")
        secured.wait_for("certificate_read")
        assert kept.get("/health/live").status_code == 200
    with client_of(secured, folder, certified="client") as fresh:
        assert fresh.get("/health/live").status_code == 200

    assert "server.pem" in reason


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"tls_certificate": "nowhere.pem"}, "ANYTIME_TLS_CERTIFICATE: nowhere.pem: No such file"),
        ({"tls_certificate": __file__}, f"ANYTIME_TLS_CERTIFICATE: {__file__}: "),
    ],
)
def test_a_certificate_that_cannot_be_used_is_named(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(CertificatesUnusable, match=told):
        Certificates(read_settings(settings))


def test_a_key_without_a_certificate_stops_the_start() -> None:
    server = ServerProcess(command=MODULE, folder=ROOT, tls_key="some.key")

    code, stderr = server.end()

    assert code == 2
    assert stderr.count("\n") == 1
    assert "ANYTIME_TLS_CERTIFICATE" in stderr
