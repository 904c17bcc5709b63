"""Augmentation of whole batches of normalised images, on the device that holds them (§4.1: "+" and "++")."""

import torch
import torch.nn.functional as F
from torch import Tensor

from training.config import Augmentation

MAX_SHIFT = 4  # pixels


def augment(images: Tensor, kind: Augmentation, generator: torch.Generator) -> Tensor:
    """Mirror and shift each image of a batch at random.

    Args:
        images: (N, 3, H, W), normalised, so that zero padding is padding with the mean colour.
        kind: "none", "+" (zero padding) or "++" (reflection).
        generator: where the draws come from; on the CPU, so that every device draws alike.

    Returns:
        (N, 3, H, W).
    """
    if kind == "none":
        return images
    n, _, height, width = images.shape
    device = images.device
    mirrored = torch.rand(n, generator=generator).to(device) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)

    mode = "constant" if kind == "+" else "reflect"
    padded = F.pad(images, (MAX_SHIFT,) * 4, mode=mode)  # (N, 3, H + 8, W + 8)
    shifts = torch.randint(0, 2 * MAX_SHIFT + 1, (2, n, 1), generator=generator).to(device)
    rows = shifts[0] + torch.arange(height, device=device)  # (N, H)
    columns = shifts[1] + torch.arange(width, device=device)  # (N, W)
    image = torch.arange(n, device=device)[:, None, None]
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
