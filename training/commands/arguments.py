"""Arguments that several commands share, and numbers that are refused in words where they are out of range."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

DATA_HELP = (
    "digits or pairs of them (need no download), cifar10, cifar100 or svhn (fetched once), or a path: an official archive, a "
    "folder with those of ImageNet, or a folder of images by class, <class>/*, or train/<class>/* and test/<class>/*"
)
SEEDS = range(1 << 32)  # small enough for what is derived from them
IMAGE_SIZES = range(8, 1025)  # augmentation shifts by 4 pixels; the largest costs 1,024 of CIFAR's
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


def add_run_arguments(parser: argparse.ArgumentParser, run: str) -> None:
    """Add the arguments that find what was trained and its data again."""
    parser.add_argument("--run", required=True, type=Path, help=f"folder of {run}")
    parser.add_argument(
        "--data",
        help="what it was trained on, where that is elsewhere now: " + DATA_HELP,
    )


def add_seed(command: argparse.ArgumentParser) -> None:
    """Add the argument that decides everything random."""
    command.add_argument(
        "--seed", type=within(SEEDS), default=0, help="of everything random (default: 0)"
    )
