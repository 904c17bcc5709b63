"""Every knob of the service, read once from ``ANYTIME_*`` environment variables and the command line."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import SettingsConfigDict

from model.bundle import PRETRAINED_DIR
from model.signature import SignatureRefused, parse_key
from service.access_settings import AccessSettings, ExpandedPath, expanded
from service.scheduling.requests import OnMiss

ENV_PREFIX = "ANYTIME_"

SHORTEST_MS, LONGEST_MS = 0.001, 86_400_000  # deadlines that can be asked for: up to a day

# Python and pydantic take more for a number: 1_000, the digits of every script, inf and nan.
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
CANARY = "@canary"  # behind the name of a model: that of the bundle which is tried beside its own


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


class Settings(AccessSettings):
    """Every knob of the service; ``ANYTIME_MAX_BATCH=8`` sets ``max_batch``.

    White space around a value does not count, and an empty value is none: compose files and secrets bring both along.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    fronts: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Processes that read, decode and reply; 0 chooses by the cores at hand.",
    )
    bundle_dir: ExpandedPath = Field(
        default=PRETRAINED_DIR / "cifar10",
        description="Folder with manifest.json and the ONNX files.",
    )
    bundles: str = Field(
        default="",
        description="Several models: name=folder, a comma between two, in place of the bundle folder; "
        "name@0.05=folder is a canary of one.",
    )
    bundle_keys: str = Field(
        default="",
        description="Public keys of minisign, a space between two; a bundle must be signed with one of them.",
    )
    device: Literal["auto", "cpu", "cuda", "tensorrt"] = Field(
        default="auto", description="Where to run: auto takes a GPU if ONNX Runtime can use one."
    )
    engine_dir: ExpandedPath = Field(
        default=Path("~/.cache/anytime/engines"),
        description="Folder in which TensorRT keeps its engines; building them takes minutes.",
    )
    devices: int = Field(
        default=0,
        ge=0,
        le=256,
        description="Devices that run side by side: GPUs, or parts of the CPU; 0 takes what the machine grants.",
    )
    threads: int = Field(
        default=0,
        ge=0,
        le=256,
        description="CPU threads of one run; 0 measures at start what pays, and takes at most 4.",
    )
    default_deadline_ms: float = Field(
        default=100.0,
        ge=SHORTEST_MS,
        le=LONGEST_MS,
        description="Deadline of requests that name none.",
    )
    default_on_miss: OnMiss = Field(
        default="answer",
        description="When no answer fits the deadline: answer late from the fastest subnetwork, or refuse.",
    )
    max_lateness: float = Field(
        default=3.0,
        ge=0,
        allow_inf_nan=False,
        description="Latest answer with on_miss=answer, in deadlines after the deadline; what would be later is refused.",
    )
    default_top_k: int = Field(
        default=5, ge=1, description="Labels in `top` for requests that do not say."
    )
    policy: str = Field(
        default="anytime",
        pattern=r"^(anytime|slackfit|static:.+)$",
        description="How subnetworks are chosen: anytime, slackfit or static:<subnetwork>.",
    )
    max_batch: int = Field(
        default=16, ge=1, le=1024, description="Most requests that run together."
    )
    max_queue: int = Field(
        default=1024, ge=1, description="Most requests that wait; more are refused."
    )
    max_body_bytes: int = Field(
        default=10 * 2**20, ge=1, description="Largest request body in bytes."
    )
    max_head_bytes: int = Field(
        default=32_768, ge=256, description="Largest request line and headers together in bytes."
    )
    read_head_s: float = Field(
        default=10.0,
        gt=0,
        le=3600,
        description="Longest wait for a request's first line and headers, and for the first byte.",
    )
    read_body_s: float = Field(
        default=30.0, gt=0, le=3600, description="Longest wait for a request's body."
    )
    keep_alive_s: float = Field(
        default=75.0,  # longer than common clients and proxies keep a connection in their pools
        gt=0,
        le=86_400,
        description="Time for which a connection is kept without a request.",
    )
    max_pixels: int = Field(
        default=25_000_000,
        ge=1,
        description="Largest image in pixels; larger ones are never decoded.",
    )
    decode_s: int = Field(
        default=10,
        ge=1,
        le=3600,
        description="Longest that a large image may take to decode, in seconds of a core.",
    )
    decode_memory_bytes: int = Field(
        default=2**30,
        ge=2**24,
        description="Most memory that a large image may take to decode.",
    )
    front_memory_bytes: int = Field(
        default=4 * 2**30,
        ge=2**26,
        description="Most memory that a front may take beyond that of its start.",
    )
    max_files: int = Field(default=64, ge=1, le=64, description="Most images in one request.")
    max_streams: int = Field(
        default=256, ge=1, description="Most streams that a front answers at a time."
    )
    max_connections: int = Field(
        default=8192,
        ge=1,
        description="Most connections of a front; beyond that the one that waits longest ends.",
    )
    max_connections_per_address: int = Field(
        default=4096,  # a proxy that is not named as trusted may have thousands of requests here
        ge=1,
        description="Most connections of a front from one address, or one /64 of IPv6; of trusted proxies any number.",
    )
    warm_up_s: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="Time for measuring run latencies at start-up, and on a reload.",
    )
    drain_s: float = Field(
        default=30.0,
        ge=0,
        allow_inf_nan=False,
        description="Longest wait at SIGTERM, and on a reload, for requests in flight.",
    )
    agreement_sample: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Share of answers compared with the best subnetwork's while nothing else is to do.",
    )
    feedback_answers: int = Field(
        default=50_000, ge=0, description="Latest answers that are kept for their labels."
    )
    feedback_window_s: float = Field(
        default=86_400.0,
        gt=0,
        allow_inf_nan=False,
        description="Time after an answer in which its label is taken.",
    )
    page: bool = Field(default=True, description="Show the page at / to browsers.")
    page_load: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Let the page have the server send load to itself: auto only where no other machine reaches it.",
    )
    grafana_url: str = Field(
        default="",
        pattern=r"^(https?://\S+)?$",
        description="Where the page's link to Grafana leads; no link without it.",
    )
    trace_sample: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of requests traced with OpenTelemetry, whoever's trace they are in; 0 is off.",
    )
    trace_callers: bool = Field(
        default=False,
        description="Trace what callers trace, and of theirs nothing else: for callers that can be trusted.",
    )
    log_level: Literal["info", "warning", "error"] = Field(
        default="info", description="Least level of what is logged; info has the lines of requests."
    )
    log_sample: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Share of requests that get a log line; failures always do.",
    )

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
    known = {variable_name(field) for field in Settings.model_fields}
    return sorted(name for name in os.environ if name.startswith(ENV_PREFIX) and name not in known)


def variable_name(field: str) -> str:
    """Return the environment variable of a setting."""
    return ENV_PREFIX + field.upper()


def option_name(field: str) -> str:
    """Return the option of a setting on the command line."""
    return "--" + field.replace("_", "-")
