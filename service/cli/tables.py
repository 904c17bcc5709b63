"""Text for the terminal: rows in columns, and points in a plot."""

from collections.abc import Sequence
from math import log

import typer

MARKS = "abcdefghijklmnopqrstuvwxyz"


class Table:
    """Rows that are printed as they come, in columns whose widths are known before.

    Args:
        columns: title and width of each; a negative width puts the text to the right.
    """

    def __init__(self, columns: Sequence[tuple[str, int]]) -> None:
        self._widths = [width for _, width in columns]
        self._titles = [title for title, _ in columns]
        self._has_begun = False

    def row(self, *cells: str, colour: str | None = None) -> None:
        """Print a row, and before the first one the titles."""
        if not self._has_begun:
            self._has_begun = True
            typer.secho(self._line(self._titles), bold=True)
        typer.secho(self._line(cells), fg=colour)

    def _line(self, cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(-width) if width < 0 else cell.ljust(width)
            for cell, width in zip(cells, self._widths, strict=False)
        )
        return "  ".join(padded).rstrip()


def plot(points: Sequence[tuple[float, float]], *, width: int = 60, height: int = 12) -> list[str]:
    """Return the lines of a plot of some points, named a, b, c… in their order; x is logarithmic.

    Args:
        points: x > 0 and y of each.
        width, height: of the field, in characters.
    """
    xs, ys = [log(x) for x, _ in points], [y for _, y in points]
    field = [[" "] * width for _ in range(height)]
    for mark, x, y in zip(MARKS, xs, ys, strict=False):
        row, column = height - 1 - _place(y, ys, height), _place(x, xs, width)
        field[row][column] = mark
    return ["".join(row).rstrip() for row in field]


def _place(value: float, values: Sequence[float], size: int) -> int:
    """Return where a value lies between the least and the largest."""
    least, largest = min(values), max(values)
    return round((value - least) / (largest - least) * (size - 1)) if largest > least else 0
