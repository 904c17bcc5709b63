"""Sections of the documents that a command writes, between two marks, and what they are made of."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median

DOCS = Path(__file__).parents[1] / "docs"


def write_section(document: Path, name: str, text: str) -> None:
    """Put a section in its place in a document, which need not exist; the last one if it has none."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    whole = document.read_text() if document.exists() else "# Results\n"
    before, _, rest = whole.partition(begin)
    after = rest.partition(end)[2].lstrip("\n")
    section = f"{begin}\n\n{text.strip()}\n\n{end}\n"
    document.write_text(before.rstrip("\n") + "\n\n" + section + (f"\n{after}" if after else ""))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float], text: Callable[[float], str] = "{:.3g}".format) -> str:
    """Return median and range."""
    return f"{text(median(values))} ({text(min(values))}–{text(max(values))})"


def percent(value: float | None, unit: str = " %") -> str:
    """Return a fraction as per cent, a dash for none."""
    return "–" if value is None else f"{100 * value:.1f}{unit}"
