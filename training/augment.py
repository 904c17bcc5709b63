"""From stored images to what the network sees: normalisation, and augmentation of whole batches (§4.1)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.config import Augmentation
from training.data import Split

MAX_SHIFT = 4  # pixels
DRAWS = 3  # random numbers for one image: mirrored or not, shift down, shift right
STATISTICS_BATCH = 100  # in float64; a large image takes a megabyte
STATISTICS_IMAGES = 50_000  # mean and deviation of a larger set are those of this many images


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Mean and standard deviation of each channel (3,), of images in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Turn uint8 (N, H, W, 3) into float32 (N, 3, H, W) with mean 0 and deviation 1 a channel."""
        x = (images.float() / 255 - self.mean) / self.std
        return x.permute(0, 3, 1, 2)

    def to(self, device: torch.device) -> "Normalisation":
        """Return the same on another device."""
        return Normalisation(self.mean.to(device), self.std.to(device))


def channel_statistics(split: Split) -> Normalisation:
    """Measure the channels of a split's images."""
    n = min(len(split), STATISTICS_IMAGES)
    total, squares, pixels = torch.zeros(3).double(), torch.zeros(3).double(), 0
    for images, _ in split.batches(torch.split(torch.arange(n), STATISTICS_BATCH)):
        values = images.flatten(0, 2).double() / 255
        total += values.sum(0)
        squares += values.square().sum(0)
        pixels += len(values)
    mean = total / pixels
    std = (squares / pixels - mean.square()).clamp(min=1e-6).sqrt()
    return Normalisation(mean.float(), std.float())


def augment(images: Tensor, kind: Augmentation, draws: Tensor) -> Tensor:
    """Mirror and shift each image of a batch.

    Args:
        images: (N, 3, H, W), normalised, so that zero padding is padding with the mean colour.
        kind: "none", "+" (zero padding) or "++" (reflection).
        draws: (N, DRAWS), uniform in [0, 1).

    Returns:
        (N, 3, H, W).
    """
    if kind == "none":
        return images
    _, _, height, width = images.shape
    device = images.device
    mirrored = draws[:, 0] < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)

    mode = "constant" if kind == "+" else "reflect"
    padded = F.pad(images, (MAX_SHIFT,) * 4, mode=mode)  # (N, 3, H + 8, W + 8)
    shifts = (draws[:, 1:] * (2 * MAX_SHIFT + 1)).long()  # (N, 2)
    rows = shifts[:, :1] + torch.arange(height, device=device)  # (N, H)
    columns = shifts[:, 1:] + torch.arange(width, device=device)  # (N, W)
    image = torch.arange(len(images), device=device)[:, None, None]
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
