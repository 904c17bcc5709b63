"""Images are normalised over the training set; "+" and "++" mirror and shift them, "crop" shows parts of them."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from training.augment import DRAWS, LEAST_AREA, LIGHT, MAX_SHIFT, augment, channel_statistics
from training.config import Augmentation
from training.data.splits import TensorSplit

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(6, 3, 8, 8, generator=GENERATOR)


def draws(mirrored: float, down: float, right: float) -> torch.Tensor:
    return torch.tensor([[mirrored, down, right]]).expand(len(IMAGES), DRAWS["+"])


CENTRE = 0.5  # of [0, 1): a shift by 0 of -4..4


def test_normalised_images_have_mean_0_and_deviation_1() -> None:
    pixels = torch.randint(0, 256, (50, 8, 8, 3), generator=GENERATOR, dtype=torch.uint8)
    normalise = channel_statistics(TensorSplit(pixels, torch.zeros(50, dtype=torch.long)))

    x = normalise(pixels)

    assert x.shape == (50, 3, 8, 8)
    assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    assert_close(x.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)  # n or n - 1: 3e-4 apart


def test_no_augmentation_leaves_images_as_they_are() -> None:
    assert augment(IMAGES, "none", draws(0, 0, 0)) is IMAGES


@pytest.mark.parametrize("kind", MAX_SHIFT)
def test_a_centred_image_is_itself_or_its_mirror(kind: Augmentation) -> None:
    same = augment(IMAGES, kind, draws(0.9, CENTRE, CENTRE))
    mirrored = augment(IMAGES, kind, draws(0.1, CENTRE, CENTRE))

    assert torch.equal(same, IMAGES)
    assert torch.equal(mirrored, IMAGES.flip(3))


def test_mirror_does_not_shift() -> None:
    assert torch.equal(augment(IMAGES, "mirror", draws(0.1, 0, 0)), IMAGES.flip(3))
    assert torch.equal(augment(IMAGES, "mirror", draws(0.9, 0, 0)), IMAGES)


def test_plus_pads_with_the_mean_colour() -> None:
    shifted = augment(IMAGES, "+", draws(0.9, 0.0, CENTRE))

    assert torch.equal(shifted[:, :, 4:], IMAGES[:, :, :4])
    assert shifted[:, :, :4].abs().max() == 0


def test_plus_plus_pads_with_the_reflected_image() -> None:
    shifted = augment(IMAGES, "++", draws(0.9, CENTRE, 0.999))

    assert torch.equal(shifted[..., :4], IMAGES[..., 4:])
    assert torch.equal(shifted[..., 4:], IMAGES[..., 3:7].flip(3))


def test_slight_shifts_go_2_pixels_far_and_pad_with_the_reflected_image() -> None:
    shifted = augment(IMAGES, "slight", draws(0.9, CENTRE, 0.999))

    assert torch.equal(shifted[..., :6], IMAGES[..., 2:])
    assert torch.equal(shifted[..., 6:], IMAGES[..., 5:7].flip(3))


def test_each_image_is_shifted_by_its_own_draw_within_4_pixels() -> None:
    marked = torch.zeros(2000, 1, 16, 16)
    marked[:, :, 8, 8] = 1
    u = torch.rand(2000, DRAWS["+"], generator=torch.Generator().manual_seed(1))
    u[:, 0] = 0.9

    positions = augment(marked, "+", u).nonzero()[:, 2:]

    assert len(positions) == 2000
    assert positions.min() == 4
    assert positions.max() == 12
    # Nine shifts a direction, each 1/9: within 4.5 deviations sqrt(n/9 · 8/9) ≈ 14 of 222.
    for direction in (0, 1):
        counts = torch.bincount(positions[:, direction] - 4, minlength=9)
        assert (counts - 2000 / 9).abs().max() < 4.5 * (2000 / 9 * 8 / 9) ** 0.5


def crops(**changed: float) -> torch.Tensor:
    """Draws of a crop that shows the whole image as it is, but for what is changed."""
    names = ("mirrored", "area", "shape", "x", "y", "brightness", "contrast", "saturation")
    whole = dict.fromkeys(names, 0.5) | {"mirrored": 0.9, "area": 1.0} | changed
    return torch.tensor([[whole[name] for name in names]]).expand(len(IMAGES), DRAWS["crop"])


def test_a_crop_of_everything_in_the_same_light_is_the_image() -> None:
    assert_close(augment(IMAGES, "crop", crops()), IMAGES, atol=1e-5, rtol=1e-5)
    assert_close(augment(IMAGES, "crop", crops(mirrored=0.1)), IMAGES.flip(3), atol=1e-5, rtol=1e-5)


def test_a_crop_shows_a_part_of_the_image() -> None:
    """Of an image whose left half is marked, crops of the least area at its edges show different shares."""
    marked = torch.zeros_like(IMAGES)
    marked[..., :4] = 1

    left, right = (
        augment(marked, "crop", crops(area=0.0, x=x)).mean().item() for x in (0.0, 0.999)
    )

    side = LEAST_AREA**0.5
    assert left == pytest.approx(0.5 / side, abs=0.02)
    assert right == pytest.approx((side - 0.5) / side, abs=0.02)


def test_a_crop_of_a_larger_image_has_the_detail_that_is_there() -> None:
    larger = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    small = F.avg_pool2d(larger, 2)
    least = crops(area=0.0, x=0.0, y=0.0)[:3]

    assert_close(augment(larger, "crop", crops()[:3], 16), small, atol=1e-5, rtol=0)
    detailed, enlarged = (augment(each, "crop", least, 16) for each in (larger, small))
    assert detailed.std() > 1.5 * enlarged.std()  # of noise, which has the most of it


def test_light_changes_each_image_as_it_is_drawn() -> None:
    brighter = augment(IMAGES, "crop", crops(brightness=1.0))
    grey = IMAGES.mean(1, keepdim=True)

    assert_close(brighter - IMAGES, torch.full_like(IMAGES, LIGHT), atol=1e-4, rtol=0)
    paler = augment(IMAGES, "crop", crops(saturation=0.0))
    assert_close(paler - grey, (1 - LIGHT) * (IMAGES - grey), atol=1e-4, rtol=0)
