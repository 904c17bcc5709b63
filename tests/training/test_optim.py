"""The learning rate falls as the recipe says; only filters decay, and Muon turns them."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format
from torch.testing import assert_close

from model.fractal import FractalNet
from training.config import RECIPES
from training.optim import MUON_WEIGHT_DECAY, Optimizer, averaged, rate_factor

TINY = RECIPES["tiny"]
WITH_MUON = replace(TINY, muon_rate=0.1, weight_decay=0.0)


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


def test_a_linear_rate_falls_from_its_highest_to_0() -> None:
    assert [rate_factor("linear", progress) for progress in (0, 0.25, 0.75)] == [1, 0.75, 0.25]


@pytest.fixture
def network() -> FractalNet:
    torch.manual_seed(0)
    network = FractalNet(TINY.architecture)
    convert_conv2d_weight_memory_format(network, torch.channels_last)
    return network


def filters_of(network: nn.Module) -> list[Tensor]:
    return [m.weight for m in network.modules() if isinstance(m, nn.Conv2d)]


def take_step(
    network: FractalNet, optimizer: Optimizer, loss: Callable[[Tensor], Tensor] = torch.sum
) -> None:
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    optimizer.zero_grad()
    torch.autograd.backward(loss(network(images)))
    optimizer.step()


def test_scales_shifts_and_biases_do_not_decay(network: FractalNet) -> None:
    optimizer = Optimizer(network, replace(TINY, weight_decay=0.5))
    optimizer.set_rate(1.0)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}

    take_step(network, optimizer, loss=lambda logits: 0 * logits.sum())  # nothing but decay

    for name, parameter in network.named_parameters():
        shrunk = 1 - 0.5 * TINY.learning_rate * (1 + 0.9)  # Nesterov looks a step ahead
        assert_close(parameter, before[name] * (shrunk if parameter.ndim > 1 else 1))


def test_muon_moves_every_filter_bank_by_nearly_the_same_length(network: FractalNet) -> None:
    optimizer = Optimizer(network, WITH_MUON)
    optimizer.set_rate(0.5)
    before = [f.detach().clone() for f in filters_of(network)]

    take_step(network, optimizer, loss=lambda logits: 1e-3 * logits.square().sum())

    for old, new in zip(before, filters_of(network), strict=True):
        move = (new - old * (1 - 0.05 * MUON_WEIGHT_DECAY)).flatten(1)
        singular = torch.linalg.svdvals(move) / 0.05
        assert singular.min() > 0.3
        assert singular.max() < 1.6


def test_muon_leaves_what_has_no_gradient(network: FractalNet) -> None:
    optimizer = Optimizer(network, WITH_MUON)
    optimizer.set_rate(1.0)
    before = [f.detach().clone() for f in filters_of(network)]
    optimizer.zero_grad()

    optimizer.step()

    assert all(torch.equal(b, f) for b, f in zip(before, filters_of(network), strict=True))


def test_scaling_filters_for_muon_changes_no_answer(network: FractalNet) -> None:
    images = torch.rand(4, 3, 32, 32)
    network.train()
    before = network(images)

    Optimizer(network, WITH_MUON).scale_filters()

    lengths = [f.norm() / len(f) ** 0.5 for f in filters_of(network)]
    assert_close(torch.stack(lengths), torch.ones(len(lengths)))
    assert_close(network(images), before, atol=1e-2, rtol=1e-2)


def test_filters_that_keep_their_length_have_it_before_every_step(network: FractalNet) -> None:
    keeping = replace(WITH_MUON, keeps_length=True)
    optimizer = Optimizer(network, keeping)
    with torch.no_grad():
        for filters in filters_of(network):
            filters.mul_(7)

    optimizer.set_rate(0.0)  # the step itself moves nothing
    take_step(network, optimizer)

    for filters in filters_of(network):
        assert_close(filters.norm(), torch.tensor(len(filters) ** 0.5))


def test_shifts_move_at_a_rate_of_their_own(network: FractalNet) -> None:
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    steps = {}
    for rate in (0.0, 10 * TINY.learning_rate):
        network.load_state_dict(before, strict=False)
        optimizer = Optimizer(network, replace(TINY, shift_rate=rate))
        optimizer.set_rate(0.5)
        take_step(network, optimizer, loss=lambda logits: 1e-3 * logits.square().sum())
        steps[rate] = {n: p.detach() - before[n] for n, p in network.named_parameters()}

    usual, faster = steps.values()
    for name, step in usual.items():
        is_shift = ".norms." in name and name.endswith(".bias")
        assert_close(faster[name], (10 if is_shift else 1) * step)


def test_scaling_leaves_filters_that_sgd_moves(network: FractalNet) -> None:
    before = [f.detach().clone() for f in filters_of(network)]

    Optimizer(network, TINY).scale_filters()

    assert all(torch.equal(b, f) for b, f in zip(before, filters_of(network), strict=True))


def test_the_average_follows_the_weights() -> None:
    network = nn.Linear(1, 1, bias=False)
    average = averaged(network, 0.9)
    for value in (0.0, 1.0):
        nn.init.constant_(network.weight, value)
        average.update_parameters(network)

    assert average.module.get_parameter("weight").item() == pytest.approx(0.1)  # 0.9 · 0 + 0.1 · 1
