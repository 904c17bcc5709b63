"""What the engine serves, as a front needs it: its bundles, and which of them a request asks for.

A model may have two bundles: its own and a canary. Which answers is decided by the request's id alone: the same id gets
the same bundle from every front, for as long as the canary's share is the same. The share is on the board, so that it is
one number for all fronts, and changes from one request to the next without anything being loaded or lost.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from math import inf
from urllib.parse import parse_qsl
from zlib import crc32

from model.manifest import Manifest
from model.preprocessing import Preprocessing
from service.board import BeingWrittenError, Board
from service.front.images.decoder import ImageDecoder
from service.hop import ServedBundle, ServedSubnetwork
from service.problems import InvalidParameter, NotFound
from service.scheduling.published import Published
from service.schemas import CACHED_QUERIES, MODEL, QueryParser
from service.settings import CANARY, Settings, model_of


class Served:
    """A bundle that the engine serves, as a front needs it.

    A request enters it (``with served:``) before its image is decoded and leaves it with its answer: one bundle decodes
    it, runs it and names its labels, and the engine ends one that was replaced after its last request.

    Attributes:
        name: of the model; of a canary, of the model and ``@canary``.
        requests: that are in it.
        left_at: when the last one has left it.
    """

    def __init__(
        self,
        document: ServedBundle,
        settings: Settings,
        board: Board,
        open_decoder: Callable[[Preprocessing], ImageDecoder],
        on_empty: Callable[[], None],
    ) -> None:
        self.name = document["model"]
        self.generation = document["generation"]
        self.device = document["device"]
        self.manifest: Manifest = Manifest.model_validate_json(document["manifest"])
        self.bundle_name = {"name": model_of(self.name), "digest": document["digest"]}
        self.subnetworks: list[ServedSubnetwork] = document["subnetworks"]
        self._places = {each["name"]: place for place, each in enumerate(self.subnetworks)}
        self.parse_query = QueryParser(
            settings,
            model=model_of(self.name),
            subnetworks=list(self._places),
            classes=len(self.manifest.labels),
        )
        self.decoder = open_decoder(self.manifest.preprocessing)
        self._board = board
        self._on_empty = on_empty
        self.requests = 0
        self._is_replaced = False
        self._clock = time.monotonic
        self.left_at = -inf
        self._load: Published | None = None
        self._edition = -1.0  # of the load

    def __enter__(self) -> None:
        """Let a request in."""
        self.requests += 1

    def __exit__(self, *raised: object) -> None:
        """Let it out."""
        self.requests -= 1
        self.left_at = self._clock()
        if self._is_replaced and not self.requests:
            self._emptied()

    def replaced(self) -> None:
        """Let no other request in, and end with the last one."""
        self._is_replaced = True
        if self.is_empty:
            self._emptied()

    def _emptied(self) -> None:
        self.decoder.close()
        self._on_empty()

    @property
    def names(self) -> tuple[str, ...]:
        """The subnetworks, in the bundle's order."""
        return tuple(self._places)

    @property
    def is_empty(self) -> bool:
        """Whether no request is in it."""
        return not self.requests

    def place_of(self, subnetwork: str | None) -> int:
        """Return the place of a subnetwork in what the engine publishes; 0 is any."""
        return 0 if subnetwork is None else 1 + self._places[subnetwork]

    def place_in_list(self, subnetwork: str | None) -> int | None:
        """Return the place of a subnetwork in the bundle's list."""
        return None if subnetwork is None else self._places[subnetwork]

    def load(self) -> Published | None:
        """Return what the engine shows of its load, or what it showed before while it writes; None while it shows that of another bundle."""
        edition = self._board.edition
        if edition != self._edition:
            with suppress(BeingWrittenError):
                row = self._board.published(self.generation)
                self._load = None if row is None else Published.from_floats(row)
                self._edition = edition
        return self._load

    def idle_s(self, subnetwork: str | None = None) -> float:
        """Return the shortest deadline in seconds that an idle machine meets, in any subnetwork or one; 0 where that is not known."""
        load = self.load()
        return load.idle_s[self.place_of(subnetwork)] if load is not None else 0.0


class Canary:
    """A bundle that answers a share of a model's requests.

    Args:
        served: what answers.
        board: has the share.
        place: of the share there.
    """

    def __init__(self, served: Served, board: Board, place: int) -> None:
        self.served = served
        self._board = board
        self._place = place

    @property
    def share(self) -> float:
        """Of the requests for the model."""
        return self._board.share(self._place)

    def set_share(self, share: float) -> None:
        """Have every front give it so many from now on."""
        self._board.set_share(self._place, share)

    def answers(self, request_id: str) -> bool:
        """Whether it answers a request."""
        return crc32(request_id.encode()) < self.share * 2**32


class Serving:
    """All bundles that answer.

    Args:
        bundles: in the order of the settings; the first answers requests that name no model.
        settings: say what canaries there are.
        board: has their shares.
    """

    def __init__(self, bundles: Sequence[Served], settings: Settings, board: Board) -> None:
        self.bundles = tuple(bundles)
        self._by_name = {each.name: each for each in self.bundles}
        self._canaries = {
            model_of(name): Canary(self._by_name[name], board, place)
            for place, name in enumerate(settings.canaries)
        }
        self._named = lru_cache(CACHED_QUERIES)(_named_model)

    @property
    def names(self) -> tuple[str, ...]:
        """The models, without the canaries."""
        return tuple(name for name in self._by_name if not name.endswith(CANARY))

    def of(self, model: str | None, request_id: str = "") -> Served:
        """Return the bundle that answers for a model.

        Args:
            model: its name, which may be that of a canary; None stands for the first.
            request_id: chooses between a model's own bundle and its canary; an empty one chooses the model's own.

        Raises:
            InvalidParameter: there is no such model.
        """
        served = self.bundles[0] if model is None else self._by_name.get(model)
        if served is None:
            allowed = f"one of {', '.join(self.names)}"
            raise InvalidParameter(
                f"{MODEL} is {model!r}; it must be {allowed}",
                parameter=MODEL,
                value=model,
                allowed=allowed,
            )
        canary = self._canaries.get(served.name)
        if canary is not None and request_id and canary.answers(request_id):
            return canary.served
        return served

    def canary_of(self, model: str | None) -> Canary:
        """Return the canary of a model; None stands for the first.

        Raises:
            InvalidParameter: there is no such model.
            NotFound: it has no canary.
        """
        name = self.of(model).name
        canary = self._canaries.get(name)
        if canary is None:
            raise NotFound(f"{name} has no canary: ANYTIME_BUNDLES names one as {name}@0.05=folder")
        return canary

    def asked(
        self,
        query_string: bytes,
        fields: tuple[tuple[str, str], ...] = (),
        request_id: str = "",
    ) -> Served:
        """Return the bundle that a query or a form asks for; see ``of``.

        Raises:
            InvalidParameter: there is no such model.
        """
        return self.of(self._named(query_string, fields), request_id)

    def is_alone_since(self, arrived_at: float, unread: int) -> bool:
        """Say whether the one request that is in a bundle has shared this front with no other since it arrived.

        Args:
            arrived_at: when it did.
            unread: requests that were read and whose handling has not begun.
        """
        requests = 0
        for each in self.bundles:
            if unread or each.left_at > arrived_at:
                return False
            requests += each.requests
        return requests == 1


def _named_model(query_string: bytes, fields: tuple[tuple[str, str], ...]) -> str | None:
    """Return the model that a query or a form names first, if it does."""
    query = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
    return next((text for name, text in (*query, *fields) if name == MODEL), None)
