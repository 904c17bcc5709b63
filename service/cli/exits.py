"""How a command ends that cannot go on: one line on stderr, and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from service.control import complain

FAILED, MISUSED = 1, 2


def fail(message: str, code: int = FAILED) -> NoReturn:
    """End the command."""
    complain(message)
    raise typer.Exit(code)


@contextmanager
def importing(extras: str) -> Iterator[None]:
    """Name the extras that bring what the block imports, where something of it is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed: pip install 'anytime-inference[{extras}]'")
