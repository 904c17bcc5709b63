"""Data sets: read from disk, split by a seed, handed out in batches.

A data set is named by a path, or by a name that needs none:

- ``digits``: scikit-learn's 1,797 handwritten digits, 8×8, part of the library;
- ``pairs``: two of those side by side, 16×16, whose class is the larger digit;
- ``cifar10``, ``cifar100``, ``svhn``: the official archives, fetched once and verified;
- CIFAR's ``.tar.gz``, or a folder with it or with the files of CIFAR or SVHN;
- a folder with ``train/<class>/*`` and ``test/<class>/*``: JPEG, PNG or WebP images of any size. ``val/<class>/*`` are
  the validation images, or those of the test where there are no others;
- a folder with the archives of ImageNet as they are published, see ``imagenet``;
- a folder with ``<class>/*``, of which some of every class validate and some test, by the seed.

Sets of CIFAR's size are one tensor in memory; larger ones stay on disk and are decoded while the network trains.
"""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pooch
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from model.image_files import FORMATS
from model.images import Pixels
from model.preprocessing import Preprocessing
from training import TrainingError
from training.data.archives import DOWNLOADS, Archive, Labelled, download, read_archive
from training.data.decoding import naming
from training.data.digits import PACKAGED
from training.data.folders import EXPECTED, Images, find_images, named
from training.data.held_out import doubts, stratified
from training.data.imagenet import Stored
from training.data.small_versions import SmallVersions
from training.data.splits import FILES_AHEAD, FileSplit, Split, TensorSplit

OF_CIFAR = Preprocessing(size=32)  # and of SVHN
VALIDATION_FRACTION = 0.1  # CIFAR-10: 45,000 to train on, 5,000 to select on
MAX_TENSOR_BYTES = 2 << 30  # of the training images; SVHN with its extra images still fits


@dataclass(frozen=True, slots=True)
class DataSet:
    """A labelled data set.

    Attributes:
        name: that of its folder, or the one it was asked for by.
        classes: their names, by label.
        preprocessing: how its images became pixels, as those to classify have to.
        train: images to learn from.
        validation: images to choose by.
        test: images to publish figures of.
        sha256: hash of the images and labels, however a seed splits them.
        is_split_by_seed: which images validate was drawn by a seed.
        source: what it was loaded from, a name or an absolute path.
        skips_unreadable: images that could not be read were to be left out.
        notes: what its user should know of it, a sentence each.
        larger: the images to learn from, larger than they are seen, where a run is to show random parts of them.
    """

    name: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    train: Split
    validation: Split
    test: Split
    sha256: str
    is_split_by_seed: bool = True
    source: str = ""
    skips_unreadable: bool = False
    notes: tuple[str, ...] = ()
    larger: Split | None = None

    @property
    def views(self) -> Split:
        """The images to learn from, as they are before they are augmented."""
        return self.train if self.larger is None else self.larger

    @property
    def image_size(self) -> int:
        """Height and width of its images."""
        return self.preprocessing.size


def load_data(
    source: str,
    *,
    seed: int,
    preprocessing: Preprocessing = OF_CIFAR,
    views: Preprocessing | None = None,
    skip_unreadable: bool = False,
    max_tensor_bytes: int = MAX_TENSOR_BYTES,
    cache: Path | None = None,
) -> DataSet:
    """Load a data set and split its training images 9:1 into train and validation, where it has none to validate with.

    Args:
        source: a name or a path, see above.
        seed: decides which images validate, and of one folder of classes which test.
        preprocessing: how images of class folders become pixels; other sets have their own.
        views: how those become pixels that a run learns from, where that is another way.
        skip_unreadable: leave images of class folders that cannot be read out, instead of refusing them.
        max_tensor_bytes: class folders with larger training images are left on disk.
        cache: folder for the small versions of images of class folders, so that each is decoded once; none keeps nothing.

    Raises:
        TrainingError: there is no such data, or it cannot be read.
    """
    train: Split
    test: Split | None
    validation: Split | None = None
    larger: Split | None = None
    notes: tuple[str, ...] = ()
    is_path = source not in PACKAGED and source not in DOWNLOADS
    path = Path(source)
    if source in PACKAGED:
        archive: Archive | None = PACKAGED[source]()
    else:
        if not is_path:
            path = download(DOWNLOADS[source], Path(pooch.os_cache("anytime-inference")) / source)
        if not source or not path.exists():
            raise TrainingError(f"{source or 'an empty name'}: no such data; choose {_choices()}")
        archive = read_archive(path)
    if archive:
        classes, train, test = archive.classes, _split(archive.train), _split(archive.test)
        preprocessing = Preprocessing(size=train.images.shape[1])
    else:
        classes, (train, larger, validation, test), notes = _class_folders(
            path, preprocessing, views or preprocessing, max_tensor_bytes, skip_unreadable, cache
        )
    _check_classes(source, classes)
    for kind, split in (("training", train), ("test", test)):
        if split is not None and not len(split):
            raise TrainingError(f"{source}: holds no {kind} images")
    if len(train) * VALIDATION_FRACTION < 1:
        raise TrainingError(f"{source}: holds {len(train)} training images; at least 10 are needed")
    digest = hashlib.sha256()
    for split in filter(None, (train, validation, test)):
        for part in split.content():
            digest.update(part)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    is_split_by_seed = validation is None
    if test is None:
        *held_out, learnt = stratified(train.labels, order)
        test, validation = (train.take(own) for own in held_out)
        if not len(test):
            raise TrainingError(
                f"{source}: no class has three images or more, so that none can be held out to validate and to test"
            )
    else:
        n_validation = 0 if validation else int(len(train) * VALIDATION_FRACTION)
        drawn, learnt = order[:n_validation], order[n_validation:]
        if n_validation and len(set(train.labels[drawn].tolist())) < len(classes):  # few images
            fair, rest = stratified(train.labels, order, parts=1, fraction=VALIDATION_FRACTION)
            drawn, learnt = (fair, rest) if len(fair) else (drawn, learnt)
        validation = validation or train.take(drawn)
    train = train.take(learnt)
    return DataSet(
        name=Path(source).resolve().name,
        classes=classes,
        preprocessing=preprocessing,
        train=train,
        validation=validation,
        test=test,
        sha256=digest.hexdigest(),
        is_split_by_seed=is_split_by_seed,
        skips_unreadable=skip_unreadable,
        source=str(Path(source).resolve()) if is_path else source,
        notes=(*notes, *(() if archive else doubts(classes, train, validation, test))),
        larger=larger.take(learnt) if larger else None,
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
    return f"{', '.join((*PACKAGED, *DOWNLOADS))}, or {EXPECTED}"


def _split(part: Labelled) -> TensorSplit:
    """Return a part of an archive as tensors."""
    return TensorSplit(torch.from_numpy(part.images), torch.from_numpy(part.labels))


Parts = tuple[Split, Split | None, Split | None, Split | None]


def _class_folders(
    root: Path,
    preprocessing: Preprocessing,
    views: Preprocessing,
    max_tensor_bytes: int,
    skip_unreadable: bool,
    cache: Path | None,
) -> tuple[tuple[str, ...], Parts, tuple[str, ...]]:
    """Read class folders: their names, their images, and what is left out of them."""
    found = find_images(root, allows_empty=True)  # what else is wrong is told with it
    # By the size that is seen: where the images are is part of their hash, which scoring and export have to find again.
    is_large, is_large_to_view = (
        len(found.train) * how.size**2 * 3 > max_tensor_bytes for how in (preprocessing, views)
    )
    faults: list[str] = []
    versions = {how: SmallVersions(how, cache) for how in (preprocessing, views)}

    def readable(images: Images, how: Preprocessing) -> tuple[Split, Images]:
        small = versions[how]
        read: Callable[[Stored], Pixels | None] = _check_header if is_large else small.read
        pixels: list[Pixels] = []
        kept: Images = []
        for image, result in zip(images, _attempt_each(read, images, small), strict=True):
            if isinstance(result, TrainingError):
                faults.append(str(result))
                continue
            kept.append(image)
            if result is not None:
                pixels.append(result)
        labels = torch.tensor([label for _, label in kept], dtype=torch.int64)
        if not is_large and kept:
            return TensorSplit(torch.from_numpy(np.stack(pixels)), labels), kept
        return _on_disk(kept, labels, small), kept

    train, learnt = readable(found.train, preprocessing)
    larger = None
    if views != preprocessing:
        stays_on_disk = is_large or is_large_to_view
        larger = (
            _on_disk(learnt, train.labels, versions[views])
            if stays_on_disk
            else readable(learnt, views)[0]
        )
    validation, test = (
        None if images is None else readable(images, preprocessing)[0]
        for images in (found.validation, found.test)
    )
    parts = (train, larger, validation, test)
    what = f"{len(faults)} images cannot be read" if len(faults) > 1 else "an image cannot be read"
    problems = list(found.empty)
    if faults and not skip_unreadable:
        problems.append(
            f"{root}: {what}; mend the data, or go without with --skip-unreadable: {named(faults)}"
        )
    lost = set(range(len(found.classes))) - set(train.labels.tolist())
    if lost and not problems:
        lacking = named(found.classes[label] for label in sorted(lost))
        problems.append(
            f"{root}: no image of these classes can be read: {lacking}: {named(faults)}"
        )
    if problems:
        raise TrainingError("; ".join(problems))
    if not faults:
        return found.classes, parts, found.notes
    note = f"{what}, left out: {named(faults)}"
    return found.classes, parts, (*found.notes, note)


def _on_disk(images: Images, labels: Tensor, versions: SmallVersions) -> FileSplit:
    """Return images that are read whenever they are asked for."""
    files = np.empty(len(images), object)
    files[:] = [file for file, _ in images]
    return FileSplit(files, labels, versions)


def _attempt_each(
    read: Callable[[Stored], Pixels | None], images: Images, versions: SmallVersions
) -> Iterator[Pixels | TrainingError | None]:
    """Give what reading each image gives, or how it fails: all of them are met before training, not days into it."""

    def attempt(image: tuple[Stored, int]) -> Pixels | TrainingError | None:
        try:
            return read(image[0])
        except TrainingError as error:
            return error

    with ThreadPoolExecutor() as pool, tqdm(total=len(images), desc="reading", disable=None) as bar:
        for first in range(0, len(images), FILES_AHEAD):
            for result in pool.map(attempt, images[first : first + FILES_AHEAD]):
                bar.set_postfix(versions.kept, refresh=False)
                bar.update()
                yield result


def _check_header(path: Stored) -> None:
    with naming(path), path.open("rb") as file, Image.open(file, formats=FORMATS):
        pass
