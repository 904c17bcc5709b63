"""The images that files are compared on, and what their folders are called among the network's classes."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.preprocessing import Preprocessing
from training import TrainingError
from training.data.decoding import batches_ahead, read_pixels
from training.data.folders import Images, find_images, named
from training.data.imagenet import Stored, named_and_sized

BATCH = 32


class MeasuredImages(Protocol):
    """Images of known classes, wherever they are."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of each (N,)."""

    @property
    def preprocessing(self) -> Preprocessing:
        """How they became pixels."""

    @property
    def sha256(self) -> str:
        """What tells them from others."""

    def batches(self) -> Iterator[NDArray[np.uint8]]:
        """Give all images in order, (n, H, W, 3) at a time."""

    def some(self, n: int) -> NDArray[np.uint8]:
        """Return up to n images from all over them, (n, H, W, 3)."""


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Image files of known classes, decoded when they are asked for.

    Attributes:
        labels: (N,), the class of each.
    """

    paths: tuple[Stored, ...]
    labels: NDArray[np.int64]
    preprocessing: Preprocessing

    def batches(self) -> Iterator[NDArray[np.uint8]]:
        """Give all images in order, (n, H, W, 3) at a time."""
        starts = range(0, len(self.paths), BATCH)
        batches = (self.paths[first : first + BATCH] for first in starts)
        return batches_ahead(batches, partial(read_pixels, preprocessing=self.preprocessing))

    def some(self, n: int) -> NDArray[np.uint8]:
        """Return up to n images from all over the folder, (n, H, W, 3)."""
        at = np.linspace(0, len(self.paths) - 1, min(n, len(self.paths))).astype(int)
        return np.stack([read_pixels(self.paths[i], self.preprocessing) for i in at])

    @property
    def sha256(self) -> str:
        """A hash of the files' names and sizes, and of their classes."""
        digest = hashlib.sha256(self.labels.tobytes())
        for path in self.paths:
            digest.update(named_and_sized(path))
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Folder:
    """What a folder of images is for.

    Attributes:
        classes: the names of its class folders, in order.
        validation: images to choose by.
        test: images to publish figures of, where there are some apart.
        notes: what its user should know, a sentence each.
    """

    classes: tuple[str, ...]
    validation: Images
    test: Images | None
    notes: tuple[str, ...]


def find_folder(root: Path) -> Folder:
    """List the images of a folder of class folders; of one with ``train``, those in ``val`` and ``test``.

    Raises:
        TrainingError: there are none by class.
    """
    found = find_images(root)
    if found.test is None:
        return Folder(found.classes, found.train, None, found.notes)
    if found.validation is None:
        return Folder(found.classes, found.test, None, found.notes)
    return Folder(found.classes, found.validation, found.test, found.notes)


def read_labels(path: Path) -> tuple[str, ...]:
    """Read the names of classes, a line each, in the order of a network's outputs.

    Raises:
        TrainingError: it is no text, empty, or names a class twice.
    """
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").rstrip().splitlines()]
    except UnicodeDecodeError as error:
        raise TrainingError(
            f"{path}: is no text in UTF-8, with the name of a class in each line"
        ) from error
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line:
            raise TrainingError(f"{path}: line {number} is empty; each names a class, so delete it")
        if line in seen:
            raise TrainingError(
                f"{path}: lines {seen[line]} and {number} are both {line!r}; answers name their class, so that each needs "
                "a name of its own"
            )
        seen[line] = number
    if len(lines) < 2:
        raise TrainingError(f"{path}: names {len(lines)} classes; a classifier has at least 2")
    return tuple(lines)


def class_numbers(
    folders: Sequence[str], labels: Sequence[str], root: Path
) -> tuple[list[int], str]:
    """Return the class of each folder, and a sentence that says how it was told.

    Folders are called as the labels, or by their numbers; as many as there are labels, of other names, are in their order.

    Raises:
        TrainingError: they are none of these.
    """
    known = {label: number for number, label in enumerate(labels)}
    unknown = [name for name in folders if name not in known]
    if not unknown:
        return [known[name] for name in folders], "folders are called as their labels"
    if all(name.isdecimal() and int(name) < len(labels) for name in folders):
        return [
            int(name) for name in folders
        ], "folders are called by the numbers of their classes, from 0"
    if len(unknown) == len(folders) == len(labels):
        how = "no folder is called as a label: in the order of their names they are taken for the classes"
        return list(range(len(labels))), how
    raise TrainingError(
        f"{root}: {len(unknown)} of its {len(folders)} folders are called as none of the {len(labels)} labels: "
        f"{named(unknown)}"
    )
