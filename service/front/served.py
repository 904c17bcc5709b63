"""A bundle that the engine serves, as a front needs it."""

import time
from collections.abc import Callable
from math import inf

from model.manifest import Manifest
from model.preprocessing import Preprocessing
from service.board import Board
from service.front.images.decoder import ImageDecoder
from service.hop import ServedBundle, ServedSubnetwork
from service.scheduling.published import Published
from service.schemas import QueryParser
from service.settings import Settings, model_of

LOOK_EVERY_S = 0.0002  # at the board: to read it takes 10 µs


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
        self.left_at = self._looked_at = -inf
        self._load: Published | None = None

    def __enter__(self) -> None:
        """Let a request in."""
        self.requests += 1

    def __exit__(self, *raised: object) -> None:
        """Let it out."""
        self.requests -= 1
        self.left_at = self._clock()
        if not self.requests:
            self._emptied()

    def replaced(self) -> None:
        """Let no other request in, and end with the last one."""
        self._is_replaced = True
        if self.is_empty:
            self._emptied()

    def _emptied(self) -> None:
        if self._is_replaced:
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
        """Return what the engine shows of its load; None while it shows that of another bundle."""
        now = self._clock()
        if now - self._looked_at > LOOK_EVERY_S:
            self._looked_at = now
            row = self._board.published(self.generation)
            self._load = None if row is None else Published.from_floats(row)
        return self._load
