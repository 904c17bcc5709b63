"""What the engine serves, as a front needs it: the bundle for the model that a request asks for.

A model may have two bundles: its own and a canary. Which answers is decided by the request's id alone: the same id gets
the same bundle from every front, for as long as the canary's share is the same. The share is on the board, so that it is
one number for all fronts, and changes from one request to the next without anything being loaded or lost.
"""

from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import parse_qsl
from zlib import crc32

from service.board import Board
from service.front.served import Served
from service.problems import InvalidParameter, NotFound
from service.schemas import CACHED_QUERIES, MODEL
from service.settings import CANARY, Settings, model_of


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
        if unread or any(each.left_at > arrived_at for each in self.bundles):
            return False
        return sum(each.requests for each in self.bundles) == 1


def _named_model(query_string: bytes, fields: tuple[tuple[str, str], ...]) -> str | None:
    """Return the model that a query or a form names first, if it does."""
    query = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
    return next((text for name, text in (*query, *fields) if name == MODEL), None)
