"""API keys: who may do what, and how much of it.

The file of the keys holds a hash of each and never the key itself. A key is 32 random bytes, so that one SHA-256 is
enough: there is nothing to guess that a slow hash would protect.
"""

import secrets
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from service.board import KEYS as MOST_KEYS  # each is compared with what was sent, 0.2 µs a key

KEY_PREFIX = "anytime_"  # by which a key is known where it leaked
KEY_BYTES = 32
MOST_FILE_BYTES = 2**20
MOST_AT_ONCE = 1_000_000  # requests of a key

KeyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Scope(StrEnum):
    """What a key may be for."""

    CLASSIFY = "classify"
    FEEDBACK = "feedback"
    METRICS = "metrics"
    ADMIN = "admin"


class KeysUnusable(Exception):
    """The file of the keys cannot be used; the message is one line that names the file and the fault."""


class KeyEntry(BaseModel):
    """What the file says of a key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    requests_per_s: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None = None
    burst: Annotated[int, Field(ge=1, le=MOST_AT_ONCE)] | None = None
    concurrency: Annotated[int, Field(ge=1, le=MOST_AT_ONCE)] | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is known here.

    Attributes:
        name: for logs and metrics.
        digest: SHA-256 of the key.
        scopes: what it is for.
        requests_per_s: how many requests may come in a second over time; None for any number.
        burst: how many may come at once after a pause.
        concurrency: how many may be answered at a time; None for any number.
        place: of the key in the file, from 0.
    """

    name: str
    digest: bytes
    scopes: frozenset[Scope]
    requests_per_s: float | None
    burst: int
    concurrency: int | None
    place: int


class Keyring:
    """The keys that are accepted."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self.keys = tuple(keys)

    def find(self, sent: bytes) -> ApiKey | None:
        """Return the key that was sent, if it is one; it takes as long whichever it is, and if it is none."""
        digest = sha256(sent).digest()
        found = None
        for key in self.keys:
            if compare_digest(key.digest, digest):
                found = key
        return found


def read_keys(path: Path) -> Keyring:
    """Read the file of the keys.

    Raises:
        KeysUnusable: it cannot be read, or says what it cannot mean.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_FILE_BYTES + 1)
    except OSError as error:
        raise KeysUnusable(f"{path}: {error.strerror or error}") from error
    if len(content) > MOST_FILE_BYTES:
        raise KeysUnusable(f"{path}: is over {MOST_FILE_BYTES} bytes")
    try:
        tables = tomllib.loads(content.decode())
        entries = TypeAdapter(dict[KeyName, KeyEntry]).validate_python(tables)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"] if part != "[key]")
        raise KeysUnusable(f"{path}: {where}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise KeysUnusable(f"{path}: is no TOML ({error})") from error
    if not entries:
        raise KeysUnusable(f"{path}: holds no keys; anytime keys new NAME --file {path} makes one")
    if len(entries) > MOST_KEYS:
        raise KeysUnusable(f"{path}: holds {len(entries)} keys, at most {MOST_KEYS} are read")
    if len({entry.sha256 for entry in entries.values()}) < len(entries):
        raise KeysUnusable(f"{path}: holds one key under two names")
    return Keyring(
        ApiKey(
            name,
            bytes.fromhex(entry.sha256),
            entry.scopes,
            entry.requests_per_s,
            entry.burst or max(1, round(entry.requests_per_s or 1)),
            entry.concurrency,
            place,
        )
        for place, (name, entry) in enumerate(entries.items())
    )


def make_api_key() -> str:
    """Return a new key; nobody can tell it from its hash."""
    return KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)


def write_entry(name: str, entry: KeyEntry) -> str:
    """Return what the file of the keys says of a key.

    Raises:
        KeysUnusable: the name cannot be one.
    """
    try:
        TypeAdapter(KeyName).validate_python(name)
    except ValidationError as error:
        raise KeysUnusable(
            f"{name!r} cannot be a key's name: up to 64 letters, digits, '.', '_' and '-' can, the first a letter or digit"
        ) from error
    fields: dict[str, object] = entry.model_dump(exclude_none=True, exclude={"scopes"})
    scopes = ", ".join(f'"{each}"' for each in Scope if each in entry.scopes)
    lines = [f'["{name}"]', f"scopes = [{scopes}]"]
    lines += [
        f'{field} = "{value}"' if isinstance(value, str) else f"{field} = {value}"
        for field, value in fields.items()
    ]
    return "\n".join(lines) + "\n"
