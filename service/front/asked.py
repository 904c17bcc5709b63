"""A request that the engine was asked to answer, and what it has answered so far."""

import asyncio
from typing import NamedTuple

from service.hop import Answer


class Answered(NamedTuple):
    """An answer to a request, and when it became the best.

    Attributes:
        answer: as the engine told it.
        before: those that it is better than, first to last.
        given_at: the end of its run, or when a better one was waited for no longer.
    """

    answer: Answer
    before: tuple[Answer, ...]
    given_at: float

    @property
    def runs(self) -> tuple[Answer, ...]:
        """The answers that led to this one, this one included."""
        return (*self.before, self.answer)


class Asked:
    """A request that the engine has not ended yet."""

    __slots__ = ("answers", "is_over", "last", "number", "steps")

    def __init__(self, number: int, last: "asyncio.Future[Answered]") -> None:
        self.number = number
        self.last = last
        self.answers: list[Answer] = []
        self.steps: asyncio.Queue[Answered | None] | None = None
        self.is_over = False
