"""The images that networks trained here were held to: those that a seed put aside. The part of importing with data sets; needs torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model.preprocessing import Preprocessing
from training import TrainingError
from training.data.data_set import DataSet, load_data
from training.data.splits import Split
from training.importing.images import BATCH
from training.importing.joining import Beside, origins
from training.runs.checkpoint import check_data


@dataclass(frozen=True, slots=True)
class SplitImages:
    """A split of a data set, as ``LabelledImages`` are of files."""

    split: Split
    preprocessing: Preprocessing
    sha256: str

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of each image (N,)."""
        labels: NDArray[np.int64] = self.split.labels.numpy()
        return labels

    def batches(self) -> Iterator[NDArray[np.uint8]]:
        """Give all images in order, (n, H, W, 3) at a time."""
        for images, _ in self.split.batches(torch.split(torch.arange(len(self.split)), BATCH)):
            yield images.numpy()

    def some(self, n: int) -> NDArray[np.uint8]:
        """Return up to n images from all over the split, (n, H, W, 3)."""
        at = torch.linspace(0, len(self.split) - 1, min(n, len(self.split))).long()
        (batch,) = self.split.batches([at])
        images: NDArray[np.uint8] = batch[0].numpy()
        return images


def load_held_out(
    source: str, besides: Sequence[Beside]
) -> tuple[DataSet, SplitImages, SplitImages]:
    """Load the data set that bundles were trained on, with its validation and its test images.

    Raises:
        TrainingError: one was trained on other data, or with a seed that put other images aside.
    """
    trained = list(origins(besides))
    if not trained:
        raise TrainingError(
            f"--data {source}: nothing here was trained on a data set; give the images to compare on with --images"
        )
    first, origin = trained[0]
    data = load_data(source, seed=origin.seed, preprocessing=first.manifest.preprocessing)
    for beside, own in trained:
        check_data(data, own.dataset_sha256, f"{beside.bundle.folder}: {own.dataset}")
        if data.is_split_by_seed and own.seed != origin.seed:
            raise TrainingError(
                f"{beside.bundle.folder}: was trained with seed {own.seed}, which put other images aside than seed {origin.seed} of "
                f"{first.bundle.folder}; give images that neither learnt from with --images"
            )
    return data, *held_out(data)


def held_out(data: DataSet) -> tuple[SplitImages, SplitImages]:
    """Return the validation and the test images of a data set."""
    validation, test = (
        SplitImages(split, data.preprocessing, data.sha256)
        for split in (data.validation, data.test)
    )
    return validation, test
