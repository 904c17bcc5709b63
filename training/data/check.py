"""What a folder of images holds, before anything is trained on it: classes, sizes, what cannot be read, what is twice.

Images that are alike, though their files differ, as scaled, recompressed or relit ones do, have perceptual hashes that are
close to each other.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from model.image_files import UnknownImage, read_image_file
from model.images import to_pixels
from model.preprocessing import Preprocessing
from training import first_line
from training.data.folders import ClassFolders, find_images, named
from training.data.imagenet import Stored

PROBE = Preprocessing(size=32)  # images are decoded so, to see whether they can be, and hashed
# Of 64, in which the hashes of images that look the same differ at most. Among 8,000 images of CIFAR-10 all 12 pairs
# within 6 bits show the same picture; of the 9 that differ in 8 bits a third does not.
ALIKE_BITS = 6
COMPARED = 1024  # hashes at a time with all others
FEW_IMAGES = 20  # of a class; fewer are hardly learnt
UNEVEN = 10  # times as many images in one class as in another


@dataclass(frozen=True, slots=True)
class Looked:
    """An image file, looked at.

    Attributes:
        path: of the file.
        part: "train", "val" or "test"; "all" where the folder is not split.
        label: its class.
        digest: sha256 of its bytes.
        look: 64 bits that images of the same look share but for a few.
        sides: width and height; none where it cannot be read.
        fault: why it cannot be read, empty where it can.
    """

    path: Stored
    part: str
    label: int
    digest: bytes
    look: int
    sides: tuple[int, int] | None
    fault: str = ""


def check_folder(root: Path) -> str:
    """Look at every image of a folder by class and return a report of lines.

    Raises:
        TrainingError: it holds no images by class.
    """
    found = find_images(root, allows_empty=True)
    images = _look_at_all(found)
    readable = [image for image in images if not image.fault]
    return "\n".join(
        (
            f"{root}: {len(images)} images in {len(found.classes)} classes",
            *_counts(found, images),
            *_sizes(readable),
            *_faults(images, root),
            *_duplicates(readable, root),
            *found.empty,
            *found.notes,
            *_suggestions(found, readable),
        )
    )


def _look_at_all(found: ClassFolders) -> list[Looked]:
    parts = {"train": found.train, "val": found.validation, "test": found.test}
    if found.test is None:
        parts = {"all": found.train}
    files = [(path, part, label) for part, own in parts.items() for path, label in own or ()]
    with ThreadPoolExecutor() as pool:
        looked = pool.map(lambda file: _look(*file), files)
        return list(tqdm(looked, total=len(files), desc="reading", unit=" images", disable=None))


def _look(path: Stored, part: str, label: int) -> Looked:
    try:
        content = path.read_bytes()
        file = read_image_file(content)
        pixels = to_pixels(file, PROBE)
    except MemoryError:
        raise
    except UnknownImage as error:
        return Looked(path, part, label, b"", 0, None, f"its bytes {error}")
    except Exception as error:  # whatever is wrong with it is what is reported
        return Looked(path, part, label, b"", 0, None, first_line(error))
    digest = hashlib.sha256(content).digest()
    look = int(str(imagehash.phash(Image.fromarray(pixels))), 16)
    return Looked(path, part, label, digest, look, (file.width, file.height))


def _counts(found: ClassFolders, images: Sequence[Looked]) -> list[str]:
    """Return a table of the images of each class in each part."""
    parts = list(dict.fromkeys(image.part for image in images))
    counts: dict[tuple[str, int], int] = defaultdict(int)
    for image in images:
        counts[image.part, image.label] += 1
    width = max(len("class"), *map(len, found.classes))
    head = f"{'class':<{width}}" + "".join(f" {part:>7}" for part in parts)
    rows = [
        f"{name:<{width}}" + "".join(f" {counts[part, label]:>7}" for part in parts)
        for label, name in enumerate(found.classes)
    ]
    return [head, *rows]


def _sizes(readable: Sequence[Looked]) -> list[str]:
    sides = sorted(image.sides for image in readable if image.sides)
    if not sides:
        return []
    by_area = sorted(sides, key=lambda each: each[0] * each[1])
    smallest, middle, largest = (by_area[i] for i in (0, len(by_area) // 2, -1))
    return [
        "sizes: "
        + ", ".join(
            f"{what} {width}×{height}"
            for what, (width, height) in (
                ("smallest", smallest),
                ("middle", middle),
                ("largest", largest),
            )
        )
    ]


def _faults(images: Sequence[Looked], root: Path) -> list[str]:
    faults = [f"{_short(image, root)} ({image.fault})" for image in images if image.fault]
    return [f"cannot be read: {len(faults)}: {named(faults)}"] if faults else []


def _duplicates(readable: Sequence[Looked], root: Path) -> list[str]:
    """Name the files that are there several times, and the images: in two parts, as two classes, or otherwise."""
    same: dict[bytes, list[Looked]] = defaultdict(list)
    for image in readable:
        same[image.digest].append(image)
    files = list(same.values())
    alike = _alike(np.array([copies[0].look for copies in files], np.uint64))
    images = [[image for i in group for image in files[i]] for group in alike]
    return [
        *_repeated(files, "the same file", " = ", root),
        *_repeated(images, "nearly the same image", " ≈ ", root),
    ]


def _alike(looks: NDArray[np.uint64]) -> list[list[int]]:
    """Return the groups of several images that look the same, each like another of its group."""
    pairs = []
    for first in range(0, len(looks), COMPARED):
        differing = np.bitwise_count(looks[first : first + COMPARED, None] ^ looks)
        rows, columns = np.nonzero(differing <= ALIKE_BITS)
        pairs.append((rows + first, columns))
    if not pairs:
        return []
    rows, columns = np.concatenate(pairs, axis=1)
    links = coo_array((np.ones(len(rows), bool), (rows, columns)), (len(looks),) * 2)
    groups: dict[int, list[int]] = defaultdict(list)
    for i, group in enumerate(connected_components(links, directed=False)[1]):
        groups[group].append(i)
    return [group for group in groups.values() if len(group) > 1]


def _repeated(groups: Iterable[Sequence[Looked]], what: str, sign: str, root: Path) -> list[str]:
    """Name the groups of several images that are one."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for copies in groups:
        if len(copies) < 2:
            continue
        if len({image.label for image in copies}) > 1:
            kind = "as several classes"
        elif len({image.part for image in copies}) > 1:
            kind = "to train and to score with, which flatters"
        else:
            kind = "several times"
        kinds[kind].append(sign.join(_short(image, root) for image in copies))
    return [
        f"{what} {kind}: {len(named_so)}: {named(named_so)}"
        for kind, named_so in sorted(kinds.items())
    ]


def _suggestions(found: ClassFolders, readable: Sequence[Looked]) -> list[str]:
    learnt = [image for image in readable if image.part in ("train", "all")]
    numbers = [sum(i.label == label for i in learnt) for label in range(len(found.classes))]
    lines = []
    few = [
        f"{name} ({n})" for name, n in zip(found.classes, numbers, strict=True) if n < FEW_IMAGES
    ]
    if few:
        lines.append(
            f"suggestion: fewer than {FEW_IMAGES} images to learn from are hardly enough: {named(few)}"
        )
    if max(numbers) > UNEVEN * min(numbers):
        lines.append(
            f"suggestion: one class has {max(numbers)} images and another {min(numbers)}; rare ones will be missed"
        )
    shorter = median(min(image.sides) for image in readable if image.sides) if readable else 0
    size = 128 if shorter >= 256 else 64 if shorter >= 96 else 0
    if size:
        lines.append(f"suggestion: the images are large enough for --image-size {size}")
    return lines


def _short(image: Looked, root: Path) -> str:
    return str(image.path).removeprefix(f"{root}{os.sep}")
