"""The figures of the paper's networks, and what torch counts."""

from itertools import combinations
from random import Random

import pytest
import torch
from torch import Tensor, nn

from model.cost import depth, macs, parameters, path_macs
from model.drop_path import sample_local
from model.fractal import FractalNet
from model.path import Path, column_path
from model.presets import PRESETS, Architecture

PARAMETERS = {  # K = 10, 32×32
    "wide-c1": 3_917_386,
    "wide-c2": 13_325_322,
    "wide-c3": 33_724_618,
    "wide-c4": 76_106_634,
    "medium-c3": 8_438_890,
    "narrow-c1": 246_682,
    "narrow-c2": 836_106,
    "narrow-c3": 2_113_594,
    "narrow-c4": 4_767_210,
    "narrow-c5": 10_173_082,
    "narrow-c6": 21_083_466,
}
MMACS = {  # columns 1..4 alone, then full; C = 4
    "wide-c4": (67.83, 228.3, 549.1, 1190.9, 2036.1),
    "narrow-c4": (4.572, 14.60, 34.65, 74.76, 128.6),
}
SMALL = {
    "uniform": Architecture("uniform", columns=3, channels=(4, 6), classes=5, image_size=8),
    "thinning": Architecture(
        "thinning",
        columns=3,
        channels=(8, 16),
        classes=5,
        image_size=8,
        divisors=(1, 2, 4),
        convolution="mixed",
    ),
    "patches": PRESETS["patches-c4"].for_data(classes=5, image_size=16),
    "entry": PRESETS["wide-entry-c2"].for_data(classes=5, image_size=13),
}


def column_sets(architecture: Architecture) -> list[tuple[int, ...]]:
    columns = range(1, architecture.columns + 1)
    return [c for n in columns for c in combinations(columns, n)]


def count_macs(network: FractalNet, image_size: int, path: Path | None = None) -> int:
    """Multiply-adds of one image, counted where they are done: in convolutions and linear layers."""
    counted = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal counted
        if isinstance(module, nn.Conv2d):
            counted += module.weight.numel() * output.shape[2] * output.shape[3]
        elif isinstance(module, nn.Linear):
            counted += module.weight.numel()

    for module in network.modules():
        module.register_forward_hook(count)
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, image_size, image_size), path)
    return counted


@pytest.mark.parametrize("name", PARAMETERS)
def test_full_networks_have_the_published_parameters(name: str) -> None:
    architecture = PRESETS[name]

    assert parameters(architecture, architecture.all_columns) == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_uniform_networks_agree_with_the_closed_form_of_the_paper(name: str) -> None:
    a = PRESETS[name]
    c, layers = a.columns, 2**a.columns - 1
    filters = sum(
        9 * (c * before * after + (layers - c) * after**2)
        for before, after in zip((3, *a.channels), a.channels, strict=False)
    )
    published = filters + 2 * layers * sum(a.channels) + (a.channels[-1] + 1) * a.classes

    assert parameters(a, a.all_columns) == published


@pytest.mark.parametrize("name", MMACS)
def test_macs_agree_with_the_table(name: str) -> None:
    a = PRESETS[name]
    subnetworks = [(1,), (2,), (3,), (4,), (1, 2, 3, 4)]

    for active, mmacs in zip(subnetworks, MMACS[name], strict=True):
        # The table gives four digits or one decimal.
        assert macs(a, active) / 1e6 == pytest.approx(mmacs, abs=0.05, rel=5e-4)


@pytest.mark.parametrize("name", SMALL)
def test_every_subnetwork_costs_what_torch_counts(name: str) -> None:
    a = SMALL[name]
    network = FractalNet(a)

    for active in column_sets(a):
        subnetwork = network.extract(active)
        assert parameters(a, active) == sum(p.numel() for p in subnetwork.parameters())
        assert macs(a, active) == count_macs(subnetwork, a.image_size)


@pytest.mark.parametrize("name", SMALL)
def test_every_drawn_path_costs_what_torch_counts(name: str) -> None:
    a, paths = SMALL[name], Random(0)

    for _ in range(10):
        path = sample_local(paths, blocks=a.blocks, columns=a.columns, drop_probability=0.5)
        assert path_macs(a, path) == count_macs(FractalNet(a), a.image_size, path)


@pytest.mark.parametrize("name", ["narrow-c3", "plain-20", "tiny"])
def test_presets_cost_what_torch_counts(name: str) -> None:
    a = PRESETS[name]
    network = FractalNet(a, modes=("alone",) if a.is_plain else ("joint",))

    assert parameters(a, a.all_columns) == sum(p.numel() for p in network.parameters())
    assert macs(a, a.all_columns) == count_macs(network, a.image_size)


def test_the_imagenet_network_costs_what_torch_counts() -> None:
    with torch.device("meta"):
        a = PRESETS["fractalnet-34"]
        network = FractalNet(a, modes=("joint",))

    assert parameters(a, a.all_columns) == sum(p.numel() for p in network.parameters())


def test_the_thinning_network_has_the_published_22_9_million_parameters() -> None:
    a = PRESETS["thinning-c4"]

    # The paper gives neither its mix of filters nor its projections: 0.38 of 3×3 comes within 1 %.
    assert parameters(a, a.all_columns) == pytest.approx(22.9e6, rel=0.01)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        *((f"narrow-c{c}", 5 * 2 ** (c - 1)) for c in range(1, 7)),
        ("wide-c3", 20),
        ("medium-c3", 20),
        ("plain-40", 40),
        ("thinning-c4", 40),
        ("fractalnet-34", 33),  # the classifier is the 34th
    ],
)
def test_networks_are_as_deep_as_the_paper_says(name: str, layers: int) -> None:
    assert depth(PRESETS[name], PRESETS[name].all_columns) == layers


def test_depth_counts_the_convolutions_on_the_longest_path() -> None:
    a = SMALL["uniform"]
    network = FractalNet(a)
    ran = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *_: ran.append(1))

    network(torch.zeros(2, 3, 8, 8), column_path((3,), blocks=2, columns=3))

    assert depth(a, (3,)) == len(ran) == 8
