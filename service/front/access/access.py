"""Who may ask for what, and how much of it: a request is let in by its head, before its body is read.

Limits of a key hold for the server as a whole: its fronts share them on the board. Two fronts that look at the same instant
may let one request too many through.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from math import ceil
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from service.board import Board
from service.front.access.addresses import Proxies
from service.front.access.keys import ApiKey, Keyring, KeysUnusable, Scope, read_keys
from service.front.access.limits import Bucket
from service.front.access.origins import Origins
from service.outcomes import KeyRefusal
from service.problems import Forbidden, NotFound, Problem, TooManyRequests, Unauthorized
from service.settings import Settings

Headers = Iterable[tuple[bytes, bytes]]

OPEN = {"/health/live", "/health/ready"}
SCOPES: Mapping[str, Scope] = {
    "classify": Scope.CLASSIFY,
    "v2": Scope.CLASSIFY,
    "feedback": Scope.FEEDBACK,
    "metrics": Scope.METRICS,
    "admin": Scope.ADMIN,
    "inference.GRPCInferenceService": Scope.CLASSIFY,
}  # by the first part of a path; any key is enough for all else
LOADING = ("/v2/repository/models/", "/inference.GRPCInferenceService/RepositoryModel")
PRIVATE = {Scope.METRICS, Scope.ADMIN}  # what may have a port of its own
BEARER = b"bearer "
LOG_EVERY_S = 1.0  # of what strangers are refused


@dataclass(frozen=True, slots=True)
class Entered:
    """A request that was let in.

    Attributes:
        headers: of its reply, which say what is left to its key.
        leave: is to be called once it is over.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    leave: Callable[[], None] = lambda: None


WITHOUT_KEY = Entered()


class Access:
    """The way in to one front.

    Args:
        settings: name the file of the keys; without one all may ask for all, but for what takes an admin.
        board: where the fronts share what is left of each key's limits.
        index: which of the fronts this is.
        clock: seconds, monotonic, the same for all fronts.
        log: is told what was refused, never a key.
        count: counts it.

    Attributes:
        demands_keys: whether every request must bear one.
        origins: whose pages may read replies.
        proxies: whose word for their clients' addresses is taken.

    Raises:
        KeysUnusable: the file cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        board: Board,
        index: int,
        *,
        clock: Callable[[], float],
        log: FilteringBoundLogger,
        count: Callable[[KeyRefusal], None],
    ) -> None:
        self.demands_keys = settings.keys_file is not None
        self._file = settings.keys_file
        self._admin_key = settings.admin_key.get_secret_value()
        self._board = board
        self._index = index
        self._clock = clock
        self._log = log
        self._count = count
        self.origins = Origins(settings.cors_origins)
        self.proxies = Proxies(settings.trusted_proxies)
        self._private_port = settings.private_port
        self._shows_page = settings.page
        self._in_flight: dict[int, int] = {}
        self._logged_at = -LOG_EVERY_S
        self._seen = _version_of(self._file)
        self._keyring = self._read()

    def refresh(self) -> None:
        """Read the keys again if their file has changed; one that cannot be used leaves those before."""
        seen = _version_of(self._file)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._keyring = self._read()
            self._log.info("keys_read", keys=len(self._keyring.keys))
        except KeysUnusable as error:
            self._log.error("keys_unusable", reason=str(error))

    def is_visit(self, method: str, path: str, headers: Headers, port: int) -> bool:
        """Whether a request is a browser's first, for the page: it bears no key, and gets a place to enter one instead."""
        return (
            self.demands_keys
            and self._shows_page
            and (method in ("GET", "HEAD") and path == "/")
            and port != self._private_port
            and not _key_in(headers)
        )

    def is_stranger(self, headers: Headers) -> bool:
        """Whether a request bears no key of this server, where one is demanded."""
        return self.demands_keys and self._keyring.find(_key_in(headers)) is None

    def enter(self, path: str, headers: Headers, peer: str, port: int) -> Entered | Problem:
        """Let a request in, or say why not; see ``find``."""
        key = self.find(path, headers, peer, port)
        if key is None:
            return WITHOUT_KEY
        return (
            key
            if isinstance(key, Problem)
            else self._take(path, key, self.proxies.client_of(peer, headers))
        )

    def find(self, path: str, headers: Headers, peer: str, port: int) -> ApiKey | Problem | None:
        """Return the key that a request bears, or say why it is refused; nothing is taken from the key's limits.

        Args:
            path: of what is asked for.
            headers: names in lower case.
            peer: the address that the request came from; empty over gRPC, where that is not told in time.
            port: of the server, that it came to.

        Returns:
            None where no key is needed.
        """
        if path in OPEN:
            return None
        scope, key = _scope_of(path), None
        if self.demands_keys or scope is Scope.ADMIN:
            sent = _key_in(headers)
            key = self._keyring.find(sent) if sent else None
            if key is None and not self.demands_keys and not self._has_admin:
                return NotFound("no key is for /admin here: set ANYTIME_ADMIN_KEY", path=path)
            client = self.proxies.client_of(peer, headers)
            if key is None:
                reason: KeyRefusal = "unknown" if sent else "missing"
                return self._refuse(path, client, reason, _unauthorized())
            if scope is not None and scope not in key.scopes:
                detail = f"the key {key.name!r} is not for {scope.value}"
                problem = Forbidden(detail, scope=scope.value)
                return self._refuse(path, client, "scope", problem, key)
        if self._private_port and (port == self._private_port) != (scope in PRIVATE):
            return NotFound(f"nothing is served at {path} on this port", path=path)
        return key

    @property
    def _has_admin(self) -> bool:
        return any(Scope.ADMIN in key.scopes for key in self._keyring.keys)

    def _take(self, path: str, key: ApiKey, client: str) -> Entered | Problem:
        """Take a request out of what a key may ask for."""
        now, place, headers = self._clock(), key.place, {}
        if key.concurrency is not None and self._board.in_flight(place) >= key.concurrency:
            detail = f"{key.concurrency} requests of {key.name!r} are answered already, the most that may at a time"
            problem = TooManyRequests(detail, headers={"Retry-After": "1"}, limit=key.concurrency)
            return self._refuse(path, client, "concurrency", problem, key)
        if key.requests_per_s is not None:
            bucket = Bucket(key.requests_per_s, key.burst)
            full_at, wait_s = bucket.take(self._board.full_at(place), now)
            self._board.set_full_at(place, full_at)
            headers = bucket.quota(full_at, now).headers()
            if wait_s > 0:
                detail = f"{key.name!r} may ask {key.requests_per_s:g} times a second"
                headers["Retry-After"] = str(ceil(wait_s))
                problem = TooManyRequests(detail, headers=headers, limit=key.requests_per_s)
                return self._refuse(path, client, "rate", problem, key)
        if key.concurrency is None:
            return Entered(headers)
        self._change_in_flight(place, 1)
        return Entered(headers, lambda: self._change_in_flight(place, -1))

    def _change_in_flight(self, place: int, by: int) -> None:
        self._in_flight[place] = self._in_flight.get(place, 0) + by
        self._board.set_in_flight(self._index, place, self._in_flight[place])

    def _refuse(
        self,
        path: str,
        client: str,
        reason: KeyRefusal,
        problem: Problem,
        key: ApiKey | None = None,
    ) -> Problem:
        """Account for a refusal; of many, one a second is logged."""
        self._count(reason)
        now = self._clock()
        if now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            name = {"key": key.name} if key else {}
            self._log.warning("key_refused", reason=reason, path=path, client=client, **name)
        return problem

    def _read(self) -> Keyring:
        keys = list(read_keys(self._file).keys) if self._file is not None else []
        if self._admin_key:
            digest = sha256(self._admin_key.encode()).digest()
            keys.append(ApiKey("admin", digest, frozenset({Scope.ADMIN}), None, 1, None, len(keys)))
        return Keyring(keys)


def _scope_of(path: str) -> Scope | None:
    """Return what a key must be for; None where any is enough."""
    if path.startswith(LOADING):
        return Scope.ADMIN
    return SCOPES.get(path.split("/", 2)[1] if path.startswith("/") else "")


def _key_in(headers: Headers) -> bytes:
    """Return the key that was sent, empty if none was."""
    for name, value in headers:
        if name == b"authorization" and value[: len(BEARER)].lower() == BEARER:
            return value[len(BEARER) :].strip()
        if name == b"x-api-key":
            return value
    return b""


def _unauthorized() -> Problem:
    return Unauthorized(
        "a key of this server must come as 'Authorization: Bearer KEY', or as 'X-API-Key: KEY'",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _version_of(path: Path | None) -> tuple[Any, ...]:
    """Return what changes when a file does."""
    if path is None:
        return ()
    try:
        status = path.stat()
    except OSError as error:
        return (error.errno,)
    return (status.st_ino, status.st_mtime_ns, status.st_size)
