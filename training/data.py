"""Data sets: read from disk, split by a seed, handed out as tensors.

A data set is named by the path of a folder or by the name of one that needs no folder:

- ``digits``: scikit-learn's 1,797 handwritten digits, 8×8, part of the library;
- a folder with ``train/<class>/*`` and ``test/<class>/*``: JPEG or PNG images of any size.
"""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from sklearn.datasets import load_digits
from torch import Tensor

from training.errors import TrainingError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png"}
VALIDATION_FRACTION = 0.1  # CIFAR-10: 45,000 to train on, 5,000 to select on


@dataclass(frozen=True, slots=True)
class Split:
    """Images uint8 (N, H, W, 3) and their labels int64 (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def take(self, indices: Tensor) -> "Split":
        """Return the images at ``indices``."""
        return Split(self.images[indices], self.labels[indices])

    def to(self, device: torch.device) -> "Split":
        """Return the split on another device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, slots=True)
class DataSet:
    """A labelled data set; ``train`` and ``validation`` are the official training images, split by a seed."""

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    sha256: str

    @property
    def image_size(self) -> int:
        """Height and width of the images in pixels."""
        return int(self.train.images.shape[1])


def load_data(source: str, *, seed: int, image_size: int = 32) -> DataSet:
    """Load a data set and split its training images 9:1 into train and validation.

    Args:
        source: ``digits`` or a folder.
        seed: decides which images validate.
        image_size: images of a folder are resized to this height and width.

    Raises:
        TrainingError: there is no such data, or it cannot be read.
    """
    if source == "digits":
        classes, train, test = _digits()
    else:
        classes, train, test = _class_folders(Path(source), image_size)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    n_validation = int(len(train) * VALIDATION_FRACTION)
    return DataSet(
        name=Path(source).name,
        classes=classes,
        train=train.take(order[n_validation:]),
        validation=train.take(order[:n_validation]),
        test=test,
        sha256=_sha256((train, test)),
    )


def _digits() -> tuple[tuple[str, ...], Split, Split]:
    """Return the digits as RGB, every fifth one for the test."""
    data = load_digits()
    gray = (data.images * (255 / 16)).astype(np.uint8)
    images = torch.from_numpy(np.repeat(gray[..., None], 3, axis=3))
    labels = torch.from_numpy(data.target.astype(np.int64))
    is_test = torch.arange(len(labels)) % 5 == 0
    everything = Split(images, labels)
    return tuple(map(str, range(10))), everything.take(~is_test), everything.take(is_test)


def _class_folders(root: Path, image_size: int) -> tuple[tuple[str, ...], Split, Split]:
    """Read ``train/<class>/*`` and ``test/<class>/*``."""
    folders = sorted(p for p in (root / "train").glob("*") if p.is_dir())
    classes = tuple(p.name for p in folders)
    if len(classes) < 2:
        raise TrainingError(
            f"{root}: no data; expected train/<class>/*.jpg and test/<class>/*.jpg with at least 2 classes"
        )
    splits = [_read_split(root / part, classes, image_size) for part in ("train", "test")]
    return classes, splits[0], splits[1]


def _read_split(folder: Path, classes: Iterable[str], image_size: int) -> Split:
    """Read the images of one split, class by class in order of their names."""
    files = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).glob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not files:
        raise TrainingError(f"{folder}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(lambda item: _read_image(item[0], image_size), files, chunksize=256))
    labels = torch.tensor([label for _, label in files])
    return Split(torch.from_numpy(np.stack(images)), labels)


def _read_image(path: Path, image_size: int) -> NDArray[np.uint8]:
    """Decode one image to (H, W, 3)."""
    try:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise TrainingError(f"{path}: not a readable image ({error})") from error
    if rgb.size != (image_size, image_size):
        rgb = rgb.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(rgb)


def _sha256(splits: Iterable[Split]) -> str:
    """Hash images and labels as they were read."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(split.images.numpy().tobytes())
        digest.update(split.labels.numpy().tobytes())
    return digest.hexdigest()
