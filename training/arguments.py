"""Numbers on the command line, refused in words where they are out of range."""

import argparse
from collections.abc import Callable
from typing import TypeVar

LARGEST = 1_000_000  # of any number that is asked for

N = TypeVar("N", int, float)


def within(numbers: range) -> Callable[[str], int]:
    """Return a parser of whole numbers in a range."""

    def parse(text: str) -> int:
        value = int(text)
        if value not in numbers:
            raise argparse.ArgumentTypeError(f"{text} is not from {numbers[0]} to {numbers[-1]}")
        return value

    parse.__name__ = "int"  # argparse names it where the text is no number
    return parse


def positive(kind: type[N]) -> Callable[[str], N]:
    """Return a parser of positive numbers."""

    def parse(text: str) -> N:
        value = kind(text)
        if not 0 < value <= LARGEST:
            raise argparse.ArgumentTypeError(f"{text} is not a positive number up to {LARGEST:,}")
        return value

    parse.__name__ = kind.__name__
    return parse
