"""The learning rate falls as the recipe says; only filters decay."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from model.fractal import FractalNet
from training.config import RECIPES
from training.optim import averaged, build_optimizer, rate_factor


@pytest.mark.parametrize(
    ("epoch", "factor"),
    [
        (0, 1),
        (199, 1),
        (200, 1e-1),
        (299, 1e-1),
        (300, 1e-2),
        (350, 1e-3),
        (375, 1e-4),
        (399, 1e-4),
    ],
)
def test_the_paper_divides_by_10_when_the_remaining_epochs_halve(epoch: int, factor: float) -> None:
    assert rate_factor("paper", epoch / 400) == pytest.approx(factor)


@pytest.mark.parametrize(("epoch", "factor"), [(49, 1), (50, 0.1), (64, 0.1), (65, 0.01)])
def test_imagenet_divides_at_epochs_50_and_65_of_70(epoch: int, factor: float) -> None:
    assert rate_factor("imagenet", epoch / 70) == pytest.approx(factor)


@given(progress=st.floats(0, 1, exclude_max=True))
def test_one_cycle_stays_between_0_and_its_highest(progress: float) -> None:
    assert 0 <= rate_factor("one-cycle", progress) <= 1


def test_one_cycle_warms_up_and_anneals() -> None:
    assert rate_factor("one-cycle", 0) == 0
    assert rate_factor("one-cycle", 0.2) == 1
    assert rate_factor("one-cycle", 0.999) < 1e-4


def test_scales_shifts_and_biases_do_not_decay() -> None:
    recipe = RECIPES["tiny"]
    network = FractalNet(recipe.architecture)

    weights, others = build_optimizer(network, recipe).param_groups

    filters = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(weights["params"]) == len(filters)
    assert weights["weight_decay"] == recipe.weight_decay
    assert others["weight_decay"] == 0
    assert weights["momentum"] == 0.9


def test_the_average_follows_the_weights() -> None:
    network = nn.Linear(1, 1, bias=False)
    average = averaged(network, 0.9)
    for value in (0.0, 1.0):
        nn.init.constant_(network.weight, value)
        average.update_parameters(network)

    assert average.module.get_parameter("weight").item() == pytest.approx(0.1)  # 0.9 · 0 + 0.1 · 1
