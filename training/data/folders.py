"""Folders of images by class: which files are images, of which class and for what; nothing is read here.

Hidden folders and files, and the ``__MACOSX`` that archives of macOS bring, are never part of a data set.
"""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from training import TrainingError
from training.data.imagenet import Stored, read_imagenet

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
FOREIGN_SUFFIXES = {".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".jxl"}
PARTS = ("train", "val", "test")
EXPECTED = "a folder of class folders, or one with train/<class>/* and test/<class>/*"
NAMED = 20  # classes or files in a message

Images = list[tuple[Stored, int]]
"""Files, each with its class."""


@dataclass(frozen=True, slots=True)
class ClassFolders:
    """The images of a folder, class by class in order of their names.

    Attributes:
        classes: their names, by label.
        train: images to learn from; where ``test`` is ``None``, all that there are.
        validation: images to choose by, where there is a folder of them.
        test: images to publish figures of, where there is a folder of them.
        notes: what is in the folder and is left out, a sentence each.
    """

    classes: tuple[str, ...]
    train: Images
    validation: Images | None
    test: Images | None
    notes: tuple[str, ...]


def find_images(root: Path) -> ClassFolders:
    """List the images of a folder of class folders, of one with ``train`` and ``test`` (or ``val``), or of ImageNet's archives.

    Raises:
        TrainingError: it is neither, or a class has no images.
    """
    if not root.is_dir():
        raise TrainingError(f"{root}: is no folder; expected {EXPECTED}")
    if imagenet := read_imagenet(root):
        return ClassFolders(imagenet.classes, imagenet.train, None, imagenet.test, ())
    classes = _classes(root)
    if set(classes).isdisjoint(PARTS):
        _check_number(root, root, classes)
        images, foreign = _images(root, classes)
        return ClassFolders(classes, images, None, None, _left_out(foreign))
    classes = _classes(root / "train")
    _check_number(root, root / "train", classes)
    # ImageNet's test images have no labels, and no class folders: val is the test.
    scored = [root / part for part in ("val", "test") if _classes(root / part)]
    if not scored:
        raise TrainingError(
            f"{root}: neither test nor val holds class folders; sort the images of one into folders named as those of train"
        )
    for folder in scored:
        differing = set(classes) ^ set(_classes(folder))
        if differing:
            raise TrainingError(
                f"{folder}: its class folders differ from those of train: {named(sorted(differing))}"
            )
    foreign = Counter[str]()
    parts = []
    for folder in (root / "train", *scored):
        images, own = _images(folder, classes)
        parts.append(images)
        foreign += own
    train, *validation, test = parts
    return ClassFolders(
        classes, train, validation[0] if validation else None, test, _left_out(foreign)
    )


def named(names: Iterable[str]) -> str:
    """List names, and how many more there are where they are many."""
    names = list(names)
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _check_number(root: Path, folder: Path, classes: tuple[str, ...]) -> None:
    if len(classes) < 2:
        raise TrainingError(
            f"{root}: no data set, {len(classes)} class folders in {folder}; expected {EXPECTED}, with at least 2 classes"
        )


def _is_left_out(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _classes(folder: Path) -> tuple[str, ...]:
    """Return the names of a folder's class folders, in order."""
    return tuple(
        sorted(p.name for p in folder.glob("*") if p.is_dir() and not _is_left_out(p.name))
    )


def _images(folder: Path, classes: Iterable[str]) -> tuple[Images, Counter[str]]:
    """List the images in class folders and the folders in them; count files of image formats that cannot be read."""
    images: Images = []
    foreign = Counter[str]()
    empty: list[str] = []
    unread = Counter[str]()  # the foreign ones of classes that hold no others
    for label, name in enumerate(classes):
        found: list[Path] = []
        others = Counter[str]()
        for parent, folders, files in os.walk(folder / name):
            folders[:] = [each for each in folders if not _is_left_out(each)]
            for file in files:
                suffix = os.path.splitext(file)[1].lower()
                if _is_left_out(file):
                    continue
                if suffix in IMAGE_SUFFIXES:
                    found.append(Path(parent, file))
                elif suffix in FOREIGN_SUFFIXES:
                    others[suffix] += 1
        foreign += others
        if not found:
            empty.append(name)
            unread += others
        images += [(path, label) for path in sorted(found)]
    if empty:
        read = ", ".join(sorted(IMAGE_SUFFIXES))
        held = f"but files of formats that are not read ({_counted(unread)}); convert those, "
        raise TrainingError(
            f"{folder}: these class folders hold no images ({read}): {named(empty)}; {held if unread else ''}fill or remove them"
        )
    return images, foreign


def _left_out(foreign: Counter[str]) -> tuple[str, ...]:
    """Say which images are left out, if any are."""
    if not foreign:
        return ()
    return (
        f"left out, of formats that are not read: {_counted(foreign)}; convert them to one of {', '.join(sorted(IMAGE_SUFFIXES))}",
    )


def _counted(suffixes: Counter[str]) -> str:
    return ", ".join(f"{n} {suffix}" for suffix, n in sorted(suffixes.items()))
