"""Ten-crop testing: an image's middle and corners, mirrored too, whose answers are averaged (Krizhevsky et al., NIPS 2012)."""

from torch import Tensor

from model.preprocessing import Preprocessing
from training import TrainingError


def around(seen: Preprocessing) -> Preprocessing:
    """Return how an image becomes the square that the crops are taken of: 256×256 for ImageNet's 224×224.

    Raises:
        TrainingError: nothing of an image lies around what is seen of it.
    """
    side = seen.scaled_side
    if side <= seen.size:
        raise TrainingError(
            f"ten crops: images are {seen.description}, and nothing lies around that; train with --fit crop"
        )
    return Preprocessing(size=side, shorter_side=side, interpolation=seen.interpolation)


def ten_crops(images: Tensor, size: int) -> list[Tensor]:
    """Return ten views of a batch (N, H, W, 3), each (N, size, size, 3): four corners and the middle, and their mirror images."""
    down, across = images.shape[1] - size, images.shape[2] - size
    places = [(0, 0), (0, across), (down, 0), (down, across), (down // 2, across // 2)]
    crops = [images[:, top : top + size, left : left + size] for top, left in places]
    return [*crops, *(crop.flip(2) for crop in crops)]
