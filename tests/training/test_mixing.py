"""Mini-batches are mixed, and their targets in the same shares; RandAugment changes images and no labels."""

import pytest
import torch
from torch.testing import assert_close

from training.augment import Normalisation
from training.config import Mixing
from training.mixing import Mixer

N, SIZE = 32, 16
NORMALISE = Normalisation(torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3]))
LABELS = torch.arange(N)
# Image i has the colour i / N everywhere: what a mixed one is made of can be read off it.
PLAIN = (LABELS / N)[:, None, None, None].expand(N, 3, SIZE, SIZE)


def mixed(mixing: Mixing, *, augmentation: str = "none") -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    mixer = Mixer(augmentation, mixing, NORMALISE, classes=N)  # type: ignore[arg-type]
    x, targets = mixer(NORMALISE.of_floats(PLAIN), LABELS)
    return NORMALISE.undone(x), targets


@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
def test_targets_are_mixed_in_the_shares_of_the_images(mixing: Mixing) -> None:
    images, targets = mixed(mixing)

    assert_close(targets.sum(1), torch.ones(N))
    assert_close(images.mean((1, 2, 3)), targets @ (LABELS / N), atol=1e-5, rtol=0)
    n_colours = [len(image.mul(N * 100).round().unique()) for image in images]
    assert max(n_colours) == (1 if mixing == "mixup" else 2)
    assert (targets.amax(1) < 0.99).sum() > N / 2


def test_without_mixing_images_and_labels_stay_as_they_are() -> None:
    images, targets = mixed("none")

    assert_close(images, PLAIN)
    assert targets is LABELS


def test_randaugment_changes_images_alone_and_keeps_them_images() -> None:
    torch.manual_seed(0)
    mixer = Mixer("rand", "none", NORMALISE, classes=N)
    ramp = torch.linspace(0, 1, SIZE).expand(N, 3, SIZE, SIZE)

    drawn = [mixer(NORMALISE.of_floats(ramp), LABELS) for _ in range(8)]

    assert all(targets is LABELS for _, targets in drawn)
    images = torch.stack([NORMALISE.undone(x) for x, _ in drawn])
    assert images.min() > -1e-5
    assert images.max() < 1 + 1e-5
    assert sum(not torch.allclose(each, ramp, atol=1e-3) for each in images) > 4
