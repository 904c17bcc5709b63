"""Muon moves a matrix as torch's own does, in every direction alike."""

import pytest
import torch
from torch import nn

from training.muon import Muon, orthogonalised

SHAPES = [(16, 144), (64, 64), (48, 12)]  # wide, square, tall


@pytest.mark.parametrize("shape", SHAPES)
def test_steps_are_those_of_torch_but_for_its_rounding(shape: tuple[int, int]) -> None:
    drawn = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=drawn)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers = (
        Muon([ours], rate=0.1, momentum=0.9, weight_decay=0.02),
        torch.optim.Muon([theirs], momentum=0.9, weight_decay=0.02),
    )
    for _ in range(3):
        gradient = torch.randn(shape, generator=drawn)
        for matrix, optimizer in zip((ours, theirs), optimizers, strict=True):
            matrix.grad = gradient.clone()
            optimizer.param_groups[0]["lr"] = 0.1
            optimizer.step()

    moved, expected = ours - start, theirs - start
    assert (moved - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("shape", SHAPES)
def test_every_direction_comes_to_about_the_length_1(shape: tuple[int, int]) -> None:
    directions = min(shape)
    left = torch.linalg.qr(torch.randn(shape[0], directions)).Q
    right = torch.linalg.qr(torch.randn(shape[1], directions)).Q
    uneven = left @ torch.diag(torch.logspace(0, -2, directions)) @ right.T

    lengths = torch.linalg.svdvals(orthogonalised(uneven))

    assert lengths.min() > 0.5
    assert lengths.max() < 1.3


def test_nothing_moves_nowhere() -> None:
    assert torch.equal(orthogonalised(torch.zeros(4, 8)), torch.zeros(4, 8))
