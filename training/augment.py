"""From stored images to what the network sees: normalisation, and augmentation of whole batches (§4.1)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.config import Augmentation
from training.data.splits import Split

MAX_SHIFT: dict[Augmentation, int] = {"slight": 2, "+": 4, "++": 4}  # pixels
# Random numbers for one image: mirrored or not, shift down, shift right; of a crop its area and shape, where it lies
# across and down, and its brightness, contrast and saturation.
DRAWS: dict[Augmentation, int] = {
    "none": 3,
    "mirror": 3,
    "slight": 3,
    "+": 3,
    "++": 3,
    "crop": 8,
    "rand": 8,
}
LEAST_AREA = 0.4  # of the image, that a crop shows; an object at its edge is still there
LONGEST = 4 / 3  # of a crop's sides to each other
LIGHT = 0.2  # by what share brightness, contrast and saturation change at most
STATISTICS_BATCH = 100  # in float64; a large image takes a megabyte
STATISTICS_IMAGES = 50_000  # mean and deviation of a larger set are those of this many images


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Mean and standard deviation of each channel (3,), of images in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Turn uint8 (N, H, W, 3) into float32 (N, 3, H, W) with mean 0 and deviation 1 a channel."""
        return self.of_floats(images.float().permute(0, 3, 1, 2) / 255)

    def of_floats(self, x: Tensor) -> Tensor:
        """Turn images (N, 3, H, W) in [0, 1] into such with mean 0 and deviation 1 a channel."""
        return (x - self.mean[:, None, None]) / self.std[:, None, None]

    def undone(self, x: Tensor) -> Tensor:
        """Turn normalised images (N, 3, H, W) into those in [0, 1] that they were."""
        return x * self.std[:, None, None] + self.mean[:, None, None]

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


def augment(images: Tensor, kind: Augmentation, draws: Tensor, size: int | None = None) -> Tensor:
    """Mirror each image of a batch, and shift it or show a part of it in another light.

    Args:
        images: (N, 3, H, W), normalised, so that zero padding is padding with the mean colour.
        kind: "none", "mirror" (no shifts), "+" (zero padding), "++" and "slight" (reflection), "crop" or, of which RandAugment comes after, "rand".
        draws: (N, DRAWS[kind]), uniform in [0, 1).
        size: height and width of crops; that of the images where it is not given.

    Returns:
        (N, 3, H, W); of crops (N, 3, size, size).
    """
    if kind == "none":
        return images
    if kind in ("crop", "rand"):
        return _relit(_cropped(images, draws[:, :5], size or images.shape[2]), draws[:, 5:])
    _, _, height, width = images.shape
    device = images.device
    mirrored = draws[:, 0] < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    if kind == "mirror":
        return images

    mode = "constant" if kind == "+" else "reflect"
    most = MAX_SHIFT[kind]
    padded = F.pad(images, (most,) * 4, mode=mode)  # (N, 3, H + 2 most, W + 2 most)
    shifts = (draws[:, 1:] * (2 * most + 1)).long()  # (N, 2)
    rows = shifts[:, :1] + torch.arange(height, device=device)  # (N, H)
    columns = shifts[:, 1:] + torch.arange(width, device=device)  # (N, W)
    image = torch.arange(len(images), device=device)[:, None, None]
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _cropped(images: Tensor, draws: Tensor, size: int) -> Tensor:
    """Bring a part of each image to size × size, half of them mirrored (Inception's crops: Szegedy et al., CVPR 2015)."""
    mirrored, area, ratio, x, y = draws.unbind(1)
    area = LEAST_AREA + (1 - LEAST_AREA) * area
    ratio = LONGEST ** (2 * ratio - 1)
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    zero = torch.zeros_like(width)
    across = torch.stack(
        [width * (mirrored < 0.5).float().mul(-2).add(1), zero, (1 - width) * (2 * x - 1)], 1
    )
    down = torch.stack([zero, height, (1 - height) * (2 * y - 1)], 1)
    shape = [*images.shape[:2], size, size]
    grid = F.affine_grid(torch.stack([across, down], 1), shape, align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _relit(images: Tensor, draws: Tensor) -> Tensor:
    """Change brightness, contrast and saturation of each image (N, 3, H, W), normalised."""
    factors = (1 + LIGHT * (2 * draws - 1))[:, :, None, None, None]  # (N, 3, 1, 1, 1)
    brightness, contrast, saturation = factors.unbind(1)
    grey = images.mean(1, keepdim=True)
    images = grey + saturation * (images - grey)
    middle = images.mean((1, 2, 3), keepdim=True)
    return middle + contrast * (images - middle) + (brightness - 1)
