"""How a command ends that cannot go on: one line on stderr, and an exit code."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import typer

FAILED, MISUSED = 1, 2
STDERR = 2


def complain(message: str) -> None:
    """Write a line to stderr, if that can be written to: the exit code says it too."""
    with suppress(OSError):
        os.write(STDERR, f"anytime: {message}\n".encode(errors="backslashreplace"))


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
