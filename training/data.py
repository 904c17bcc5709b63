"""Data sets: read from disk, split by a seed, handed out in batches.

A data set is named by a path, or by a name that needs none:

- ``digits``: scikit-learn's 1,797 handwritten digits, 8×8, part of the library;
- ``cifar10``, ``cifar100``, ``svhn``: the official archives, fetched once and verified;
- CIFAR's ``.tar.gz``, or a folder with it or with the files of CIFAR or SVHN;
- a folder with ``train/<class>/*`` and ``test/<class>/*``: JPEG, PNG or WebP images of any size. ``val/<class>/*`` are
  the validation images, or those of the test where there are no others.

Sets of CIFAR's size are one tensor in memory; larger ones stay on disk and are decoded while the network trains.
"""

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import pooch
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model.images import FORMATS, Pixels, to_pixels
from training import TrainingError
from training.archives import DOWNLOADS, Labelled, download, read_archive

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
VALIDATION_FRACTION = 0.1  # CIFAR-10: 45,000 to train on, 5,000 to select on
MAX_TENSOR_BYTES = 2 << 30  # of the training images; SVHN with its extra images still fits
HEADERS_AHEAD = 10_000  # files of a large set that wait to be opened; each takes a kilobyte
BATCHES_AHEAD = 2  # decoded while the network works on another


class Split(Protocol):
    """Images and their labels int64 (N,), wherever the images are."""

    @property
    def labels(self) -> Tensor:
        """The class of each image."""

    def __len__(self) -> int:
        """Return the number of images."""

    def take(self, indices: Tensor) -> Self:
        """Return the images at ``indices``."""

    def to(self, device: torch.device) -> Self:
        """Return the split with batches and labels on another device."""

    def batches(self, chunks: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Give, for each chunk of indices (n,), the images uint8 (n, H, W, 3) and their labels (n,)."""

    def content(self) -> Iterator[bytes]:
        """Give what identifies the split, for a hash."""


@dataclass(frozen=True, slots=True)
class TensorSplit:
    """Images uint8 (N, H, W, 3) in memory, and their labels int64 (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def take(self, indices: Tensor) -> "TensorSplit":
        """Return the images at ``indices``."""
        return TensorSplit(self.images[indices], self.labels[indices])

    def to(self, device: torch.device) -> "TensorSplit":
        """Return the split on another device."""
        return TensorSplit(self.images.to(device), self.labels.to(device))

    def batches(self, chunks: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the images and labels at each chunk of indices."""
        for chunk in chunks:
            indices = chunk.to(self.labels.device)
            yield self.images[indices], self.labels[indices]

    def content(self) -> Iterator[bytes]:
        """Give the pixels and the labels."""
        yield self.images.numpy().tobytes()
        yield self.labels.numpy().tobytes()


@dataclass(frozen=True, slots=True)
class FileSplit:
    """Image files and their labels int64 (N,), decoded when a batch is asked for."""

    paths: NDArray[np.object_]
    labels: Tensor
    image_size: int

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def take(self, indices: Tensor) -> "FileSplit":
        """Return the images at ``indices``."""
        return replace(self, paths=self.paths[indices.numpy()], labels=self.labels[indices.cpu()])

    def to(self, device: torch.device) -> "FileSplit":
        """Return the split with its labels, and so its batches, on another device."""
        return replace(self, labels=self.labels.to(device))

    def batches(self, chunks: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the images and labels at each chunk of indices, decoding some chunks ahead in threads."""
        waiting: deque[tuple[Tensor, list[Future[Pixels]]]] = deque()
        with ThreadPoolExecutor() as pool:
            for chunk in chunks:
                files = self.paths[chunk.numpy()]
                waiting.append((chunk, [pool.submit(_read, f, self.image_size) for f in files]))
                if len(waiting) > BATCHES_AHEAD:
                    yield self._decoded(*waiting.popleft())
            while waiting:
                yield self._decoded(*waiting.popleft())

    def content(self) -> Iterator[bytes]:
        """Give names and sizes of the files, and the labels: to read a large set for a hash would take hours."""
        for path in self.paths:
            yield os.fsencode(f"{path.parent.name}/{path.name} {path.stat().st_size}\n")
        yield self.labels.numpy().tobytes()

    def _decoded(self, chunk: Tensor, images: Sequence[Future[Pixels]]) -> tuple[Tensor, Tensor]:
        """Return the batch of a chunk once its images are decoded."""
        device = self.labels.device
        stacked = torch.from_numpy(np.stack([image.result() for image in images]))
        return stacked.to(device), self.labels[chunk.to(device)]


@dataclass(frozen=True, slots=True)
class DataSet:
    """A labelled data set.

    Attributes:
        name: that of its folder, or the one it was asked for by.
        classes: their names, by label.
        image_size: height and width.
        train: images to learn from.
        validation: images to choose by.
        test: images to publish figures of.
        sha256: hash of the images and labels, however a seed splits them.
        is_split_by_seed: ``train`` and ``validation`` are the official training images, split by a seed.
    """

    name: str
    classes: tuple[str, ...]
    image_size: int
    train: Split
    validation: Split
    test: Split
    sha256: str
    is_split_by_seed: bool = True


def load_data(
    source: str, *, seed: int, image_size: int = 32, max_tensor_bytes: int = MAX_TENSOR_BYTES
) -> DataSet:
    """Load a data set and split its training images 9:1 into train and validation, where it has none to validate with.

    Args:
        source: a name or a path, see above.
        seed: decides which images validate.
        image_size: images of class folders are resized to this height and width.
        max_tensor_bytes: class folders with larger training images are left on disk.

    Raises:
        TrainingError: there is no such data, or it cannot be read.
    """
    train: Split
    test: Split
    validation: Split | None = None
    if source == "digits":
        classes, train, test = _digits()
        image_size = 8
    else:
        is_name = source in DOWNLOADS
        cache = Path(pooch.os_cache("anytime-inference")) / source
        path = download(DOWNLOADS[source], cache) if is_name else Path(source)
        if not source or not path.exists():
            raise TrainingError(f"{source or 'an empty name'}: no such data; choose {_choices()}")
        archive = read_archive(path)
        if archive:
            classes, train, test = archive.classes, _split(archive.train), _split(archive.test)
            image_size = 32
        else:
            classes, train, validation, test = _class_folders(path, image_size, max_tensor_bytes)
    _check_classes(source, classes)
    for kind, split in (("training", train), ("test", test)):
        if not len(split):
            raise TrainingError(f"{source}: holds no {kind} images")
    digest = hashlib.sha256()
    for split in filter(None, (train, validation, test)):
        for part in split.content():
            digest.update(part)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    n_validation = 0 if validation else int(len(train) * VALIDATION_FRACTION)
    if len(train) * VALIDATION_FRACTION < 1:
        raise TrainingError(f"{source}: holds {len(train)} training images; at least 10 are needed")
    return DataSet(
        name=Path(source).resolve().name,
        classes=classes,
        image_size=image_size,
        train=train.take(order[n_validation:]),
        validation=validation or train.take(order[:n_validation]),
        test=test,
        sha256=digest.hexdigest(),
        is_split_by_seed=validation is None,
    )


def _check_classes(source: str, classes: tuple[str, ...]) -> None:
    """See to it that classes can be told apart and written down, before anything is trained."""
    twice = [name for name in classes if classes.count(name) > 1]
    if twice:
        raise TrainingError(f"{source}: names the class {twice[0]!r} twice")
    for name in classes:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise TrainingError(f"{source}: the class name {name!r} is not UTF-8") from error


def _choices() -> str:
    """Say what a data set can be named by."""
    return f"digits, {', '.join(DOWNLOADS)}, or a folder with train/<class>/* and test/<class>/*"


def _digits() -> tuple[tuple[str, ...], TensorSplit, TensorSplit]:
    """Return the digits as RGB, every fifth one for the test."""
    from sklearn.datasets import load_digits  # a second that only they cost

    data = load_digits()
    gray = (data.images * (255 / 16)).astype(np.uint8)
    images = torch.from_numpy(np.repeat(gray[..., None], 3, axis=3))
    labels = torch.from_numpy(data.target.astype(np.int64))
    is_test = torch.arange(len(labels)) % 5 == 0
    everything = TensorSplit(images, labels)
    return tuple(map(str, range(10))), everything.take(~is_test), everything.take(is_test)


def _split(part: Labelled) -> TensorSplit:
    """Return a part of an archive as tensors."""
    return TensorSplit(torch.from_numpy(part.images), torch.from_numpy(part.labels))


def _class_folders(
    root: Path, image_size: int, max_tensor_bytes: int
) -> tuple[tuple[str, ...], Split, Split | None, Split]:
    """Read the images to train on, to validate with where there are any, and to test with."""
    classes = _classes(root / "train")
    if len(classes) < 2:
        raise TrainingError(
            f"{root}: no data set, {len(classes)} classes in train; expected {_choices()} with at least 2 classes"
        )
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
                f"{folder}: its class folders differ from those of train: {', '.join(sorted(differing)[:5])}"
            )
    files = [_files(part, classes, image_size) for part in (root / "train", *scored)]
    splits: list[Split] = [*files]
    if len(files[0]) * image_size**2 * 3 > max_tensor_bytes:
        for split in files:
            _check_headers(split)
    else:
        splits = [_in_memory(split) for split in files]
    train, *validation, test = splits
    return classes, train, validation[0] if validation else None, test


def _classes(folder: Path) -> tuple[str, ...]:
    """Return the names of a folder's class folders, in order."""
    return tuple(
        sorted(p.name for p in folder.glob("*") if p.is_dir() and not p.name.startswith("."))
    )


def _files(folder: Path, classes: Iterable[str], image_size: int) -> FileSplit:
    """List the images of one split, class by class in order of their names."""
    files: list[tuple[Path, int]] = []
    for label, name in enumerate(classes):
        found = [
            path
            for path in sorted((folder / name).glob("*"))
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
        ]
        if not found:
            raise TrainingError(
                f"{folder / name}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})"
            )
        files += [(path, label) for path in found]
    paths = np.empty(len(files), object)
    paths[:] = [path for path, _ in files]
    return FileSplit(paths, torch.tensor([label for _, label in files]), image_size)


def _check_headers(split: FileSplit) -> None:
    """Open every file of a split, which might else be met when training has gone on for days."""
    with ThreadPoolExecutor() as pool:
        for chunk in np.array_split(split.paths, len(split) // HEADERS_AHEAD + 1):
            for _ in pool.map(_check_header, chunk):
                pass


def _check_header(path: Path) -> None:
    with _opened(path):
        pass


def _in_memory(split: FileSplit) -> TensorSplit:
    """Decode every image of a split."""
    batches = split.batches(torch.split(torch.arange(len(split)), 1024))
    return TensorSplit(torch.cat([images for images, _ in batches]), split.labels)


def _read(path: Path, image_size: int) -> Pixels:
    """Decode one image to (H, W, 3), as the server does."""
    with _opened(path) as image:
        return to_pixels(image, image_size)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image for the block; name its file where anything fails."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise TrainingError(
            f"{path}: not a readable image ({error}); replace it before you train: a set without it is another"
        ) from error
