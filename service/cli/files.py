"""Image files by what is named on the command line: files, folders, patterns, or ``-`` for stdin."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".webp"}
STDIN = "-"


class NoImages(Exception):
    """What is named leads to no image; the message is one line that says which."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image that was named; ``label`` is the folder that it lies in, of a folder of classes."""

    name: str
    label: str | None = None

    def read(self) -> bytes:
        """Return what is in it.

        Raises:
            OSError: it cannot be read.
        """
        return sys.stdin.buffer.read() if self.name == STDIN else Path(self.name).read_bytes()


def find_images(names: Sequence[str]) -> list[ImageFile]:
    """Return the images that are meant, in the order of the names, those of a folder sorted.

    Raises:
        NoImages: one leads to none.
    """
    return [each for name in names for each in _find(name)]


def _find(name: str) -> Iterator[ImageFile]:
    path = Path(name)
    if name == STDIN or path.is_file():
        yield ImageFile(name)
    elif path.is_dir():
        found = sorted(each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES)
        if not found:
            raise NoImages(f"{name}: no {', '.join(sorted(SUFFIXES))} in this folder")
        for each in found:
            yield ImageFile(str(each), each.parent.name if each.parent != path else None)
    elif has_magic(name) and (matches := sorted(glob(name, recursive=True))):
        for match in matches:
            yield from _find(match)
    else:
        raise NoImages(f"{name}: no such file or folder")
