"""ImageNet as it is published (ILSVRC 2012): archives of archives, a list of labels, and a table of the classes.

Read in place, never unpacked: an image is a part of an archive, found by its place in it. What is read of a folder:

- ``ILSVRC2012_img_train.tar``, an archive for each class, or ``train/<class>/*``;
- ``ILSVRC2012_img_val.tar``, or ``val/*`` without class folders;
- ``ILSVRC2012_devkit_t12.tar.gz`` or the folder of that name, with the labels of the latter and the words for the classes.
"""

import io
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from tqdm import tqdm

from training import TrainingError, first_line

TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12"
META, LABELS = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
MOST_DEVKIT_BYTES = 1 << 24  # of one of its files; the largest has 1 MB
SUFFIX, VAL_PREFIX = ".jpeg", "ILSVRC2012_val_"


@dataclass(frozen=True, slots=True)
class Member:
    """An image within an archive; it is opened as a path is.

    Attributes:
        archive: that holds it.
        folder: the one that it would be unpacked into; that of images to validate with is no class.
        name: of its file.
        offset: of its first byte in the archive.
        size: in bytes.
    """

    archive: Path
    folder: str
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        """Name it in a message."""
        return f"{self.archive}: {self.name}"

    def read_bytes(self) -> bytes:
        """Return the file."""
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def open(self, mode: Literal["rb"] = "rb") -> IO[bytes]:
        """Return the file to read from, of which no more is read than is asked for."""
        return io.BufferedReader(_Part(self.archive, self.offset, self.size))


class _Part(io.RawIOBase):
    """A part of a file, as a file of its own."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._at = path.open("rb"), offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._offset + self._at)
        content = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()


Stored = Path | Member
"""An image file, in a folder or in an archive."""


def named_and_sized(file: Stored) -> bytes:
    """Return name, class folder and size of an image as a line for a hash; an archive's are as if it were unpacked."""
    if isinstance(file, Member):
        return f"{file.folder}/{file.name} {file.size}\n".encode()
    return os.fsencode(f"{file.parent.name}/{file.name} {file.stat().st_size}\n")


@dataclass(frozen=True, slots=True)
class ImageNet:
    """The images of the classes in order of their WordNet ids, which name their folders.

    Attributes:
        classes: in words, by label.
        train: to learn from.
        test: those that are published to validate with.
    """

    classes: tuple[str, ...]
    train: list[tuple[Stored, int]]
    test: list[tuple[Stored, int]]


def read_imagenet(root: Path) -> ImageNet | None:
    """List ImageNet's images; ``None`` where a folder is not as it is published.

    Raises:
        TrainingError: a part of it is missing or damaged, or its parts do not belong together.
    """
    train_tar, val_tar = root / TRAIN_TAR, root / VAL_TAR
    is_val_flat = any(_flat(root / "val"))
    if not (train_tar.is_file() or val_tar.is_file() or is_val_flat):
        return None
    ids, words, listed = _devkit(root)
    try:
        train = _members(train_tar) if train_tar.is_file() else _folders(root / "train")
        val = _members(val_tar) if val_tar.is_file() else list(_flat(root / "val"))
    except (OSError, tarfile.TarError) as error:
        raise TrainingError(f"{root}: an archive is damaged or cut off ({error})") from error
    if len(val) != len(listed):
        raise TrainingError(
            f"{root}: has {len(val)} images to validate with, the list in {DEVKIT} {len(listed)} labels"
        )
    val.sort(key=lambda image: image.name)  # numbered, as the list is
    names = sorted({_class_of(image) for image in train})
    known = dict(zip(ids.values(), words, strict=True))
    if not names or not set(names) <= known.keys():
        unknown = next((name for name in names if name not in known), "")
        raise TrainingError(
            f"{root}: {f'the class {unknown} is not in {DEVKIT}' if names else f'holds neither {TRAIN_TAR} nor class folders in train'}"
        )
    label = {name: k for k, name in enumerate(names)}
    unlearnt = {ids[each] for each in listed} - label.keys()
    if unlearnt:
        raise TrainingError(f"{root}: no image to train on of the class {min(unlearnt)}")
    test = [(image, label[ids[each]]) for image, each in zip(val, listed, strict=True)]
    return ImageNet(
        classes=_distinct(names, [known[name] for name in names]),
        train=sorted(
            ((image, label[_class_of(image)]) for image in train), key=lambda x: (x[1], x[0].name)
        ),
        test=sorted(test, key=lambda x: (x[1], x[0].name)),  # as in folders of classes
    )


def _distinct(ids: list[str], words: list[str]) -> tuple[str, ...]:
    """Name each class by its first word, and its id too where another class has that (a crane may be a bird)."""
    first = [word.split(",")[0].strip() for word in words]
    n = Counter(first)
    return tuple(
        word if n[word] == 1 else f"{word} ({id_})" for word, id_ in zip(first, ids, strict=True)
    )


def _class_of(image: Stored) -> str:
    return image.folder if isinstance(image, Member) else image.parent.name


def _flat(folder: Path) -> Iterator[Stored]:
    """Give the numbered images of a folder, which lie in no class folder."""
    yield from (path for path in folder.glob(f"{VAL_PREFIX}*") if _is_image(path.name))


def _folders(folder: Path) -> list[Stored]:
    return [path for path in folder.glob("*/*") if _is_image(path.name)]


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIX) and not name.startswith(".")


def _members(path: Path) -> list[Stored]:
    """List the images of an archive, and of the archives in it, each of which is a class."""
    found: list[Stored] = []
    with (
        tarfile.open(path, "r:") as archive,
        tqdm(desc=path.name, unit=" images", disable=None) as bar,
    ):
        for outer in archive:
            name = outer.name.rpartition("/")[2]
            if not outer.isfile():
                continue
            if _is_image(name):
                found.append(Member(path, "val", name, outer.offset_data, outer.size))
                bar.update()
            elif name.endswith(".tar"):
                inner = archive.extractfile(outer)
                assert inner  # of a file
                for member in _images_in(inner, outer, path):
                    found.append(member)
                    bar.update()
    return found


def _images_in(file: IO[bytes], outer: tarfile.TarInfo, path: Path) -> Iterator[Member]:
    folder = outer.name.rpartition("/")[2].removesuffix(".tar")
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for each in archive:
            name = each.name.rpartition("/")[2]
            if each.isfile() and _is_image(name):
                yield Member(path, folder, name, outer.offset_data + each.offset_data, each.size)


def _devkit(root: Path) -> tuple[dict[int, str], list[str], list[int]]:
    """Return the id of each class by its number, their words in the same order, and the number of each image's class."""
    from scipy.io import loadmat

    try:
        synsets = loadmat(io.BytesIO(_devkit_file(root, META)), squeeze_me=True)["synsets"]
        leaves = [each for each in synsets if not each["num_children"]]
        ids = {int(each["ILSVRC2012_ID"]): str(each["WNID"]) for each in leaves}
        words = [str(each["words"]) for each in leaves]
        listed = [int(line) for line in _devkit_file(root, LABELS).split()]
        if len(ids) != len(leaves) or not set(listed) <= ids.keys():
            raise ValueError("its list names classes that its table does not have")
    except TrainingError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in the reader
        raise TrainingError(f"{root}: {DEVKIT} is damaged ({first_line(error)})") from error
    return ids, words, listed


def _devkit_file(root: Path, name: str) -> bytes:
    """Return a file of the development kit, unpacked or not."""
    folder, packed = root / DEVKIT, root / f"{DEVKIT}.tar.gz"
    if (folder / name).is_file():
        return (folder / name).read_bytes()
    if not packed.is_file():
        raise TrainingError(
            f"{root}: ImageNet's images are there, and {packed.name} is missing, which has their labels"
        )
    with tarfile.open(packed, "r:gz") as archive:
        member = archive.getmember(f"{DEVKIT}/{name}")
        file = archive.extractfile(member)
        if file is None or member.size > MOST_DEVKIT_BYTES:
            raise ValueError(f"{name} is no file of its size")
        return file.read()
