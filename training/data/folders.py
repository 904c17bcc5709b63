"""Folders of images by class: which files are images, of which class and for what; nothing is read here.

Hidden folders and files, and the ``__MACOSX`` that archives of macOS bring, are never part of a data set.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from training import TrainingError
from training.data.imagenet import Stored, read_imagenet

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".webp"}
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
        empty: which classes have no images, a sentence for each part.
    """

    classes: tuple[str, ...]
    train: Images
    validation: Images | None
    test: Images | None
    notes: tuple[str, ...]
    empty: tuple[str, ...] = ()


def find_images(root: Path, *, allows_empty: bool = False) -> ClassFolders:
    """List the images of a folder of class folders, of one with ``train`` and ``test`` (or ``val``), or of ImageNet's archives.

    Args:
        root: the folder.
        allows_empty: leave it to the caller to tell of classes that have no images, instead of refusing them.

    Raises:
        TrainingError: it is neither, or a class has no images.
    """
    if not root.is_dir():
        raise TrainingError(f"{root}: is no folder; expected {EXPECTED}")
    if imagenet := read_imagenet(root):
        return ClassFolders(imagenet.classes, imagenet.train, None, imagenet.test, ())
    classes = _classes(root)
    if set(classes).isdisjoint(PARTS):
        folders = [root]
        _check_number(root, root, classes)
    else:
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
        folders = [root / "train", *scored]
    held = [_look_into(folder, classes) for folder in folders]
    empty = tuple(each.emptiness for each in held if each.emptiness)
    if empty and not allows_empty:
        raise TrainingError("; ".join(empty))
    train, *others = (each.images for each in held)
    validation = others[0] if len(others) > 1 else None
    test = others[-1] if others else None
    return ClassFolders(classes, train, validation, test, tuple(_left_out(held)), empty)


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


@dataclass(slots=True)
class _Held:
    """What class folders of one part hold.

    Attributes:
        images: those that can be trained on.
        foreign: numbers of image files by their suffix, of formats that are not read.
        others: numbers of other files by their suffix.
        links: to folders, which are not followed: they may lead in a circle.
        strays: images beside the class folders.
        emptiness: which classes have no images, as a sentence.
    """

    images: Images = field(default_factory=list)
    foreign: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    links: list[str] = field(default_factory=list)
    strays: int = 0
    emptiness: str = ""


def _look_into(folder: Path, classes: Iterable[str]) -> _Held:
    """List the images in class folders and the folders in them, and count what else is there."""
    held = _Held()
    held.strays = sum(
        _suffix(path.name) in IMAGE_SUFFIXES | FOREIGN_SUFFIXES and not _is_left_out(path.name)
        for path in folder.iterdir()
        if path.is_file()
    )
    empty: list[str] = []
    unread = Counter[str]()  # the foreign ones of classes that hold no others
    for label, name in enumerate(classes):
        found: list[Path] = []
        foreign = Counter[str]()
        for parent, folders, files in os.walk(folder / name):
            folders[:] = [each for each in folders if not _is_left_out(each)]
            held.links += [path for each in folders if os.path.islink(path := f"{parent}/{each}")]
            for file in files:
                suffix = _suffix(file)
                if _is_left_out(file):
                    continue
                if suffix in IMAGE_SUFFIXES:
                    found.append(Path(parent, file))
                elif suffix in FOREIGN_SUFFIXES:
                    foreign[suffix] += 1
                else:
                    held.others[suffix or "without a suffix"] += 1
        held.foreign += foreign
        if not found:
            empty.append(name)
            unread += foreign
        held.images += [(path, label) for path in sorted(found)]
    if empty:
        read = ", ".join(sorted(IMAGE_SUFFIXES))
        but = f"but files of formats that are not read ({_counted(unread)}); convert those, "
        held.emptiness = f"{folder}: these class folders hold no images ({read}): {named(empty)}; {but if unread else ''}fill or remove them"
    return held


def _suffix(file: str) -> str:
    return os.path.splitext(file)[1].lower()


def _left_out(parts: Iterable[_Held]) -> Iterator[str]:
    """Say what is left out, if anything is."""
    foreign, others, links, strays = Counter[str](), Counter[str](), list[str](), 0
    for held in parts:
        foreign += held.foreign
        others += held.others
        links += held.links
        strays += held.strays
    if foreign:
        yield f"left out, of formats that are not read: {_counted(foreign)}; convert them to one of {', '.join(sorted(IMAGE_SUFFIXES))}"
    if others:
        yield f"left out, no images by their names: {_counted(others)}"
    if links:
        yield f"left out, links to folders: {named(links)}; put the images there, or links to them"
    if strays:
        yield f"left out, images in no class folder: {strays}"


def _counted(suffixes: Counter[str]) -> str:
    return ", ".join(f"{n} {suffix}" for suffix, n in sorted(suffixes.items()))
