"""The filters of a whitening stem: the directions in which patches of the training images vary, each scaled alike."""

import torch
from torch import Tensor, nn

from training.augment import Normalisation
from training.data.splits import Split

WHITENING_IMAGES = 5_000  # some millions of patches: stable from some hundreds of images
LEAST_VARIANCE = 5e-4  # added to each direction's, so that noise is not made as loud as the picture


@torch.no_grad()
def whiten(stem: nn.Conv2d, training: Split, normalise: Normalisation) -> None:
    """Give a stem's convolution its filters, the directions of most variance first, then their negatives.

    Behind ReLU a filter and its negative keep both signs of what they see. ``training`` and ``normalise`` are on the
    convolution's device.
    """
    (kernel, _), images = stem.kernel_size, min(len(training), WHITENING_IMAGES)
    (x, _) = next(training.batches([torch.arange(images)]))
    directions = whitening_directions(normalise(x), kernel)
    filters = torch.cat([directions, -directions])[: len(stem.weight)]
    stem.weight.zero_()[: len(filters)] = filters


def whitening_directions(images: Tensor, kernel: int) -> Tensor:
    """Return the filters (C · kernel², C, kernel, kernel) that make the patches of images (N, C, H, W) white.

    Their outputs are uncorrelated and, but for ``LEAST_VARIANCE``, of mean square 1.
    """
    channels = images.shape[1]
    patches = images.unfold(2, kernel, 1).unfold(3, kernel, 1)  # (N, C, H', W', kernel, kernel)
    patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels * kernel**2)
    variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
    scaled = directions.T / (variances + LEAST_VARIANCE).sqrt()[:, None]
    filters: Tensor = scaled.flip(0).view(-1, channels, kernel, kernel)
    return filters
