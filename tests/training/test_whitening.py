"""A whitening stem makes the patches of the training images uncorrelated, and is not trained."""

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.testing import assert_close

from model.fractal import FractalNet
from model.presets import PRESETS
from tests.training.conftest import CPU
from training.augment import channel_statistics
from training.config import RECIPES
from training.data.data_set import DataSet
from training.data.splits import TensorSplit
from training.distributed import Group
from training.trainer import train
from training.whitening import whiten, whitening_directions

SMALL = replace(PRESETS["wide-entry-c2"], channels=(8, 16), dropout=(0, 0))


def test_patches_come_out_uncorrelated_and_equally_large() -> None:
    mixing = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(200, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    images = torch.einsum("nchw,dc->ndhw", noise, mixing)

    outputs = F.conv2d(images, whitening_directions(images, 2)).transpose(0, 1).flatten(1)

    covariance = outputs @ outputs.T / outputs.shape[1]
    assert_close(covariance, torch.eye(12), atol=0.02, rtol=0)  # but for LEAST_VARIANCE


def test_the_stem_sees_each_direction_and_its_negative(few_digits: DataSet) -> None:
    network = FractalNet(SMALL.for_data(classes=10, image_size=8))
    assert network.whitening is not None

    whiten(network.whitening, few_digits.train, channel_statistics(few_digits.train))

    filters = network.whitening.weight
    assert torch.equal(filters[:12], -filters[12:])
    assert filters[:12].abs().amax((1, 2, 3)).min() > 0


def test_training_leaves_the_whitening_filters(few_digits: DataSet, tmp_path: Path) -> None:
    assert isinstance(few_digits.train, TensorSplit)
    recipe = replace(RECIPES["wide-entry-c2"], architecture=SMALL, epochs=1, batch_size=32)
    expected = FractalNet(SMALL.for_data(classes=10, image_size=8)).whitening
    assert expected is not None
    whiten(expected, few_digits.train, channel_statistics(few_digits.train))

    checkpoint = train(
        recipe, few_digits, tmp_path, seed=0, device=CPU, resume=False, group=Group()
    )

    assert torch.equal(checkpoint.model["stem.0.weight"], expected.weight)
    assert checkpoint.model["stem.0.bias"].abs().max() > 0
