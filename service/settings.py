"""Every knob of the service, read once from ``ANYTIME_*`` environment variables and the command line."""

import os
import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from model.bundle import PRETRAINED_DIR
from model.signature import SignatureRefused, parse_key
from service.scheduling.requests import OnMiss

ENV_PREFIX = "ANYTIME_"
KEY_VARIABLE = f"{ENV_PREFIX}KEY"  # what commands that ask a server bear; no setting of the server

SHORTEST_MS, LONGEST_MS = 0.001, 86_400_000  # deadlines that can be asked for: up to a day

# Python and pydantic take more for a number: 1_000, the digits of every script, inf and nan.
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
CANARY = "@canary"  # behind the name of a model: that of the bundle which is tried beside its own


def expanded(path: Path) -> Path:
    """Return a path with ``~`` and ``$NAME`` filled in where they stand for something, as a shell does."""
    return Path(os.path.expanduser(os.path.expandvars(path)))


ExpandedPath = Annotated[Path, AfterValidator(expanded)]
Port = Annotated[int, Field(ge=0, le=65535)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class SettingsError(Exception):
    """A setting has a value that it cannot take; the message is one line that names it."""


def model_of(name: str) -> str:
    """Return the model of a bundle's name: that of a canary is its model's."""
    return name.removesuffix(CANARY)


def _read_bundles(text: str) -> Iterator[tuple[str, float | None, Path]]:
    """Give the name, the share if it is a canary, and the folder of each bundle in a setting.

    Raises:
        ValueError: it is written otherwise; the message says how.
    """
    for each in text.split(",") if text else ():
        left, _, folder = map(str.strip, each.partition("="))
        name, is_canary, share = left.partition("@")
        if not MODEL_NAME.fullmatch(name) or not folder:
            raise ValueError(
                f"{each.strip()!r} is no name=folder; a name is of letters, digits and . _ -"
            )
        if not is_canary:
            yield name, None, expanded(Path(folder))
        elif NUMBER.fullmatch(share) and 0 <= float(share) <= 1:
            yield name + CANARY, float(share), expanded(Path(folder))
        else:
            raise ValueError(f"the share of {left!r} is no number from 0 to 1")


class Settings(BaseSettings):
    """Every knob of the service; ``ANYTIME_MAX_BATCH=8`` sets ``max_batch``.

    White space around a value does not count, and an empty value is none: compose files and secrets bring both along.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,  # what stands below a setting describes it
    )

    # Who reaches the server where
    host: str = "127.0.0.1"
    """Address or name to listen on; 0.0.0.0 for all of IPv4, :: for those of IPv6 too."""
    port: Port = 8000
    """Port to listen on; 0 takes a free one."""
    grpc_port: Port = 0
    """Port for the Open Inference Protocol over gRPC, on the same address; 0 is off."""
    private_port: Port = 0
    """Port for /metrics and /admin, which are then served there alone; 0 is the same port as all else."""
    root_path: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)*$")] = ""
    """Path below which a proxy shows the server, such as /anytime; paths may come with or without it."""
    trusted_proxies: str = ""
    """Addresses and networks of proxies whose X-Forwarded-For is believed, a space between two."""
    cors_origins: Annotated[str, Field(pattern=r"^(https?://[^\s/*,]+(\s+|$))*$")] = ""
    """Origins whose pages may read replies, such as https://example.com, a space between two."""
    tls_certificate: ExpandedPath | None = None
    """PEM file of the server's certificate and its chain; TLS is on with it."""
    tls_key: ExpandedPath | None = None
    """PEM file of its key, if that is not in the certificate's."""
    tls_client_ca: ExpandedPath | None = None
    """PEM file of authorities; a client must have a certificate of one of them."""
    keys_file: ExpandedPath | None = None
    """File of the API keys; with one, every request but those for /health must bear a key."""
    open: bool = False
    """Let whoever reaches the server ask without a key, where other machines can too."""
    admin_key: SecretStr = SecretStr("")
    """Key of POST /admin/reload, which is off without one."""

    # What answers
    fronts: Annotated[int, Field(ge=0, le=64)] = 0
    """Processes that read, decode and reply; 0 chooses by the cores at hand."""
    bundle_dir: ExpandedPath = PRETRAINED_DIR / "cifar10"
    """Folder with manifest.json and the ONNX files."""
    bundles: str = ""
    """Several models: name=folder, a comma between two, in place of the bundle folder; name@0.05=folder is a canary of one."""
    bundle_keys: str = ""
    """Public keys of minisign, a space between two; a bundle must be signed with one of them."""
    device: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto"
    """Where to run: auto takes a GPU if ONNX Runtime can use one."""
    engine_dir: ExpandedPath = Path("~/.cache/anytime/engines")
    """Folder in which TensorRT keeps its engines; building them takes minutes."""
    devices: Annotated[int, Field(ge=0, le=256)] = 0
    """Devices that run side by side: GPUs, or parts of the CPU; 0 takes what the machine grants."""
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    """CPU threads of one run; 0 measures at start what pays, and takes at most 4."""
    default_deadline_ms: Annotated[float, Field(ge=SHORTEST_MS, le=LONGEST_MS)] = 100.0
    """Deadline of requests that name none."""
    default_on_miss: OnMiss = "answer"
    """When no answer fits the deadline: answer late from the fastest subnetwork, or refuse."""
    max_lateness: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 3.0
    """Latest answer with on_miss=answer, in deadlines after the deadline; what would be later is refused."""
    default_top_k: Count = 5
    """Labels in `top` for requests that do not say."""
    policy: Annotated[str, Field(pattern=r"^(anytime|slackfit|static:.+)$")] = "anytime"
    """How subnetworks are chosen: anytime, slackfit or static:<subnetwork>."""
    max_batch: Annotated[int, Field(ge=1, le=1024)] = 16
    """Most requests that run together."""
    max_queue: Count = 1024
    """Most requests that wait; more are refused."""
    max_body_bytes: Count = 10 * 2**20
    """Largest request body in bytes."""
    max_head_bytes: Annotated[int, Field(ge=256)] = 32_768
    """Largest request line and headers together in bytes."""
    read_head_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """Longest wait for a request's first line and headers, and for the first byte."""
    read_body_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """Longest wait for a request's body."""
    keep_alive_s: Annotated[float, Field(gt=0, le=86_400)] = (
        75.0  # longer than pools of clients keep one
    )
    """Time for which a connection is kept without a request."""
    max_pixels: Count = 25_000_000
    """Largest image in pixels; larger ones are never decoded."""
    decode_s: Annotated[int, Field(ge=1, le=3600)] = 10
    """Longest that a large image may take to decode, in seconds of a core."""
    decode_memory_bytes: Annotated[int, Field(ge=2**24)] = 2**30
    """Most memory that a large image may take to decode."""
    front_memory_bytes: Annotated[int, Field(ge=2**26)] = 4 * 2**30
    """Most memory that a front may take beyond that of its start."""
    max_files: Annotated[int, Field(ge=1, le=64)] = 64
    """Most images in one request."""
    max_streams: Count = 256
    """Most streams that a front answers at a time."""
    max_connections: Count = 8192
    """Most connections of a front; beyond that the one that waits longest ends."""
    max_connections_per_address: Count = 4096  # a proxy that is not trusted may have thousands here
    """Most connections of a front from one address, or one /64 of IPv6; of trusted proxies any number."""
    warm_up_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Time for measuring run latencies at start-up, and on a reload."""
    drain_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0
    """Longest wait at SIGTERM, and on a reload, for requests in flight."""
    agreement_sample: Share = 0.01
    """Share of answers compared with the best subnetwork's while nothing else is to do."""
    feedback_answers: Annotated[int, Field(ge=0)] = 50_000
    """Latest answers that are kept for their labels."""
    feedback_window_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 86_400.0
    """Time after an answer in which its label is taken."""
    page: bool = True
    """Show the page at / to browsers."""
    page_load: Literal["auto", "on", "off"] = "auto"
    """Let the page have the server send load to itself: auto only where no other machine reaches it."""
    grafana_url: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""
    """Where the page's link to Grafana leads; no link without it."""
    trace_sample: Share = 0.0
    """Share of requests traced with OpenTelemetry, whoever's trace they are in; 0 is off."""
    trace_callers: bool = False
    """Trace what callers trace, and of theirs nothing else: for callers that can be trusted."""
    log_level: Literal["info", "warning", "error"] = "info"
    """Least level of what is logged; info has the lines of requests."""
    log_sample: Share = 0.01
    """Share of requests that get a log line; failures always do."""

    @property
    def is_private(self) -> bool:
        """Whether no other machine reaches the server."""
        try:
            return self.host == "localhost" or ip_address(self.host.strip("[]")).is_loopback
        except ValueError:  # a name
            return False

    @property
    def models(self) -> dict[str | None, Path]:
        """The folders of the models by their names; None stands for the name that its bundle has."""
        if not self.bundles:
            return {None: self.bundle_dir}
        return {name: folder for name, _, folder in _read_bundles(self.bundles)}

    @property
    def canaries(self) -> dict[str, float]:
        """The share of its model's requests that each canary begins with."""
        return {name: share for name, share, _ in _read_bundles(self.bundles) if share is not None}

    @model_validator(mode="before")
    @classmethod
    def _drop_blanks(cls, values: dict[str, Any]) -> dict[str, Any]:
        trimmed = {
            name: value.strip() if isinstance(value, str) else value
            for name, value in values.items()
        }
        return {name: value for name, value in trimmed.items() if value != ""}

    @field_validator("*", mode="before")
    @classmethod
    def _check_number(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        is_number = cls.model_fields[info.field_name].annotation in (int, float)
        if is_number and isinstance(value, str) and not NUMBER.fullmatch(value):
            raise PydanticCustomError("number", "Input should be a number, such as 25 or 0.5")
        return value

    @field_validator("bundles")
    @classmethod
    def _check_bundles(cls, bundles: str) -> str:
        try:
            names = [name for name, _, _ in _read_bundles(bundles)]
        except ValueError as error:
            raise PydanticCustomError("bundles", "{reason}", {"reason": str(error)}) from error
        for name in names:
            if names.count(name) > 1:
                raise PydanticCustomError("bundles", "two are called {name}", {"name": name})
            if model_of(name) not in names:
                reason = f"there is no {model_of(name)}=folder for its canary"
                raise PydanticCustomError("bundles", "{reason}", {"reason": reason})
        return bundles

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

    @field_validator("bundle_keys")
    @classmethod
    def _check_bundle_keys(cls, keys: str) -> str:
        try:
            for key in keys.split():
                parse_key(key)
        except SignatureRefused as error:
            raise PydanticCustomError("bundle_keys", "{reason}", {"reason": str(error)}) from error
        return keys


def read_settings(options: Mapping[str, Any] = MappingProxyType({})) -> Settings:
    """Read the settings from the environment.

    Args:
        options: of the command line, by the setting's name; they go before the variables.

    Raises:
        SettingsError: an option or a variable has a bad value.
    """
    try:
        return Settings(**options)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        name = option_name(field) if field in options else variable_name(field)
        is_secret = Settings.model_fields[field].annotation is SecretStr
        got = "" if is_secret else f", got {first['input']!r}"
        raise SettingsError(f"{name}: {first['msg']}{got}") from error


def plain(settings: Settings) -> dict[str, Any]:
    """Return the settings as JSON takes them, secrets in clear text, for another process of this server."""

    def value_of(value: Any) -> Any:
        if isinstance(value, SecretStr):
            return value.get_secret_value()
        return str(value) if isinstance(value, Path) else value

    return {name: value_of(getattr(settings, name)) for name in Settings.model_fields}


def unknown_settings() -> list[str]:
    """Return the variables that look like settings and are none: a misspelt one would be ignored."""
    known = {variable_name(field) for field in Settings.model_fields} | {KEY_VARIABLE}
    return sorted(name for name in os.environ if name.startswith(ENV_PREFIX) and name not in known)


def variable_name(field: str) -> str:
    """Return the environment variable of a setting."""
    return ENV_PREFIX + field.upper()


def option_name(field: str) -> str:
    """Return the option of a setting on the command line."""
    return "--" + field.replace("_", "-")
