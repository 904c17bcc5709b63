"""What the engine serves, as a front needs it: the bundle for the model that a request asks for."""

from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import parse_qsl

from service.front.served import Served
from service.problems import InvalidParameter
from service.schemas import CACHED_QUERIES, MODEL


class Serving:
    """All bundles that answer.

    Args:
        bundles: in the order of the settings; the first answers requests that name no model.
    """

    def __init__(self, bundles: Sequence[Served]) -> None:
        self.bundles = tuple(bundles)
        self._by_name = {each.name: each for each in self.bundles}
        self._named = lru_cache(CACHED_QUERIES)(_named_model)

    @property
    def names(self) -> tuple[str, ...]:
        """The models."""
        return tuple(self._by_name)

    def of(self, model: str | None) -> Served:
        """Return the bundle that answers for a model; None stands for the first.

        Raises:
            InvalidParameter: there is no such model.
        """
        if model is None:
            return self.bundles[0]
        served = self._by_name.get(model)
        if served is None:
            allowed = f"one of {', '.join(self.names)}"
            raise InvalidParameter(
                f"{MODEL} is {model!r}; it must be {allowed}",
                parameter=MODEL,
                value=model,
                allowed=allowed,
            )
        return served

    def asked(self, query_string: bytes, fields: tuple[tuple[str, str], ...] = ()) -> Served:
        """Return the bundle that a query or a form asks for.

        Raises:
            InvalidParameter: there is no such model.
        """
        return self.of(self._named(query_string, fields))

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
