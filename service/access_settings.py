"""The settings of who reaches the server where: addresses, ports, proxies, origins, TLS and keys."""

import os
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings


def expanded(path: Path) -> Path:
    """Return a path with ``~`` and ``$NAME`` filled in where they stand for something, as a shell does."""
    return Path(os.path.expanduser(os.path.expandvars(path)))


ExpandedPath = Annotated[Path, AfterValidator(expanded)]


class AccessSettings(BaseSettings):
    """Who reaches the server where; a part of ``Settings``."""

    host: str = Field(
        default="127.0.0.1",
        description="Address or name to listen on; 0.0.0.0 for all of IPv4, :: for those of IPv6 too.",
    )
    port: int = Field(
        default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one."
    )
    grpc_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="Port for the Open Inference Protocol over gRPC, on the same address; 0 is off.",
    )
    private_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="Port for /metrics and /admin, which are then served there alone; 0 is the same port as all else.",
    )
    root_path: str = Field(
        default="",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="Path below which a proxy shows the server, such as /anytime; paths may come with or without it.",
    )
    trusted_proxies: str = Field(
        default="",
        description="Addresses and networks of proxies whose X-Forwarded-For is believed, a space between two.",
    )
    cors_origins: str = Field(
        default="",
        pattern=r"^(https?://[^\s/*,]+(\s+|$))*$",
        description="Origins whose pages may read replies, such as https://example.com, a space between two.",
    )
    tls_certificate: ExpandedPath | None = Field(
        default=None,
        description="PEM file of the server's certificate and its chain; TLS is on with it.",
    )
    tls_key: ExpandedPath | None = Field(
        default=None, description="PEM file of its key, if that is not in the certificate's."
    )
    tls_client_ca: ExpandedPath | None = Field(
        default=None,
        description="PEM file of authorities; a client must have a certificate of one of them.",
    )
    keys_file: ExpandedPath | None = Field(
        default=None,
        description="File of the API keys; with one, every request but those for /health must bear a key.",
    )
    open: bool = Field(
        default=False,
        description="Let whoever reaches the server ask without a key, where other machines can too.",
    )
    admin_key: SecretStr = Field(
        default=SecretStr(""), description="Key of POST /admin/reload, which is off without one."
    )

    @property
    def is_private(self) -> bool:
        """Whether no other machine reaches the server."""
        try:
            return self.host == "localhost" or ip_address(self.host.strip("[]")).is_loopback
        except ValueError:  # a name
            return False

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, proxies: str) -> str:
        for each in proxies.split():
            try:
                ip_network(each, strict=False)
            except ValueError as error:
                raise PydanticCustomError(
                    "proxies", "{each} is no address or network", {"each": each}
                ) from error
        return proxies

    @field_validator("admin_key")
    @classmethod
    def _check_key(cls, key: SecretStr) -> SecretStr:
        if not key.get_secret_value().isprintable():
            raise PydanticCustomError("unprintable", "Input should be one line of printable text")
        return key
