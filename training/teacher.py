"""A teacher: what the best subnetwork of a bundle answers to views of the training images, for other networks to learn.

A view is all training images, each mirrored and shifted by draws of its own. The teacher answers once to each view,
for all columns, and a run looks at one after the other, an epoch each. Mirrored images have two views, which take turns;
shifted ones have a new view each epoch.
"""

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from model.bundle import Bundle
from model.cores import cores
from model.sessions import open_session
from training import TrainingError
from training.augment import DRAWS, Normalisation, augment, channel_statistics
from training.config import Augmentation
from training.data.data_set import DataSet
from training.evaluate import in_order
from training.runs.files import written_whole

MIRRORED_VIEWS = 2  # of every image, one the mirror image of the other
LARGEST_DRAW = 1 - 2**-24  # the float32 before 1, which no draw is


@dataclass(frozen=True, slots=True)
class Teacher:
    """The answers of a network to some views of a data set's training images.

    Attributes:
        description: name and digest of its bundle.
        augmentation: how the views are made.
        logits: float16 (views, N, classes).
    """

    description: str
    augmentation: Augmentation
    logits: NDArray[np.float16]

    def view(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Return the draws (N, DRAWS[augmentation]) that make the view of an epoch, and the probabilities (N, classes) to learn."""
        own = epoch % len(self.logits)
        logits = torch.from_numpy(self.logits[own].astype(np.float32))
        return draws_of(own, len(logits), self.augmentation), logits.softmax(1)


def draws_of(view: int, n: int, augmentation: Augmentation) -> Tensor:
    """Return the draws (N, DRAWS[augmentation]) of a view of ``n`` images; every other view is the opposite of the one before."""
    drawn = torch.rand(n, DRAWS[augmentation], generator=torch.Generator().manual_seed(view // 2))
    return (1 - drawn).clamp(max=LARGEST_DRAW) if view % 2 else drawn


def ask(
    bundle: Bundle, data: DataSet, path: Path, *, augmentation: Augmentation, epochs: int
) -> Teacher:
    """Return what the best subnetwork of a bundle answers to the training images; kept at ``path``, so as to ask once.

    There is a view for each of ``epochs``, unless images are mirrored only.

    It answers in 8-bit integers where the bundle has them: on a CPU three times as fast, and as accurate.

    Raises:
        TrainingError: it is for other classes, or for images that are brought to their size in another way.
    """
    manifest = bundle.manifest
    if manifest.labels != data.classes or manifest.preprocessing != data.preprocessing:
        raise TrainingError(
            f"{bundle.folder}: knows {len(manifest.labels)} classes, images {manifest.preprocessing.description}; {data.name} has "
            f"{len(data.classes)}, images {data.preprocessing.description}: a teacher needs the same, by the same names"
        )
    views = MIRRORED_VIEWS if augmentation == "mirror" else epochs
    key = np.array([bundle.digest, data.sha256, augmentation, str(views)])
    kept = _read(path, key)
    if kept is None:
        kept = _answers(bundle, data, augmentation, views)
        with written_whole(path) as file:
            np.savez(file, key=key, logits=kept)
    return Teacher(f"{bundle.manifest.name} {bundle.digest[:12]}", augmentation, kept)


def _read(path: Path, key: NDArray[np.str_]) -> NDArray[np.float16] | None:
    """Return the answers that are kept for this key, if they are."""
    try:
        with path.open("rb") as file, np.load(file) as kept:
            return kept["logits"] if np.array_equal(kept["key"], key) else None
    except (FileNotFoundError, BadZipFile, KeyError, ValueError):
        return None


def _answers(
    bundle: Bundle, data: DataSet, augmentation: Augmentation, views: int
) -> NDArray[np.float16]:
    """Return the logits (views, N, classes) of the best subnetwork."""
    best = bundle.best
    session = open_session(bundle.graph_path(best.int8 or best), threads=cores())
    normalise = channel_statistics(data.train)
    logits = np.empty((views, len(data.train), len(data.classes)), np.float16)
    total = views * len(data.train)
    with tqdm(total=total, desc="asking the teacher", unit=" images", disable=None) as bar:
        for view in range(views):
            draws = draws_of(view, len(data.train), augmentation)
            chunks = in_order(data.train)
            for chunk, (images, _) in zip(chunks, data.train.batches(chunks), strict=True):
                seen = augment(normalise(images), augmentation, draws[chunk])
                given = {"images": _bytes_of(seen, normalise).numpy()}
                logits[view, chunk.numpy()] = session.run(["logits"], given)[0]
                bar.update(len(chunk))
    return logits


def _bytes_of(x: Tensor, normalise: Normalisation) -> Tensor:
    """Return normalised images (N, 3, H, W) as the bytes (N, H, W, 3) that they were."""
    return (255 * normalise.undone(x)).permute(0, 2, 3, 1).round().clamp(0, 255).byte()
