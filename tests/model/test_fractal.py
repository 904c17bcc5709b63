"""The network runs exactly the layers of its path, and a subnetwork is the network that it names."""

from collections.abc import Sequence
from functools import partial
from random import Random

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from model.drop_path import sample_local
from model.fractal import FractalNet, join
from model.layers import ConvLayer, MixedConv, NormMode, filters
from model.path import Path, column_path
from model.presets import Architecture

ARCHITECTURE = Architecture("small", columns=3, channels=(4, 6), classes=5, image_size=8)
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network() -> FractalNet:
    torch.manual_seed(0)
    return FractalNet(ARCHITECTURE)


def path_of(*active: int) -> Path:
    return column_path(active, blocks=2, columns=3)


def layers_run(network: FractalNet, path: Path) -> set[str]:
    """Names of the layers that a forward along ``path`` executes."""
    ran: set[str] = set()
    hooks = [
        module.register_forward_hook(lambda *_, name=name: ran.add(name))
        for name, module in network.named_modules()
        if isinstance(module, ConvLayer)
    ]
    network(IMAGES, path)
    for hook in hooks:
        hook.remove()
    return ran


def test_a_column_alone_is_a_plain_network_of_its_depth(network: FractalNet) -> None:
    convolutions = {1: ["conv"], 2: ["first.conv", "second.conv"]}
    network.eval()

    for column, names in convolutions.items():
        x = IMAGES
        for block in network.blocks:
            for name in names:
                layer = block.get_submodule(name)
                assert isinstance(layer, ConvLayer)
                norm = layer.norms["alone"]
                x = torch.relu(
                    norm(nn.functional.conv2d(x, layer.conv.get_parameter("weight"), padding=1))
                )
            x = nn.functional.max_pool2d(x, 2)
        expected = network.classifier(x.mean((2, 3)))

        assert_close(network(IMAGES, path_of(column)), expected)


def test_joins_are_collapsed_and_columns_pooled_before_the_last_one() -> None:
    architecture = Architecture("one-block", columns=3, channels=(4,), classes=5, image_size=8)
    torch.manual_seed(0)
    network = FractalNet(architecture).eval()
    block = network.blocks[0]

    def run(x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = block.get_submodule(name)(x, "joint")
        return x

    first = run(IMAGES, "conv")
    middle = (
        run(IMAGES, "first.conv") + run(IMAGES, "first.first.conv", "first.second.conv")
    ) / 2  # row 2 joins columns 2 and 3
    second = run(middle, "second.conv")
    third = run(middle, "second.first.conv", "second.second.conv")
    pooled = [nn.functional.max_pool2d(x, 2) for x in (first, second, third)]
    joined = (pooled[0] + pooled[1] + pooled[2]) / 3  # a third each, not 1/2, 1/4, 1/4

    assert_close(network(IMAGES), network.classifier(joined.mean((2, 3))))


def test_a_join_is_the_mean_of_the_inputs_that_it_gets() -> None:
    a, b = torch.full((1, 1, 2, 2), 1.0), torch.full((1, 1, 2, 2), 4.0)

    assert_close(join([a]), a)
    assert_close(join([a, b]), torch.full((1, 1, 2, 2), 2.5))


def test_a_join_without_inputs_is_a_bug() -> None:
    with pytest.raises(ValueError, match="at least one must survive"):
        join([])


@pytest.mark.parametrize(
    ("active", "per_block"), [((1,), 1), ((2,), 2), ((3,), 4), ((1, 3), 5), ((1, 2, 3), 7)]
)
def test_only_the_layers_of_active_columns_are_executed(
    network: FractalNet, active: tuple[int, ...], per_block: int
) -> None:
    assert len(layers_run(network, path_of(*active))) == 2 * per_block


def test_a_dropped_layer_is_not_executed_and_its_batch_norm_not_touched(
    network: FractalNet,
) -> None:
    path = sample_local(Random(0), blocks=2, columns=3, drop_probability=0.6)

    ran = layers_run(network.train(), path)

    layers = {n: m for n, m in network.named_modules() if isinstance(m, ConvLayer)}
    assert 0 < len(ran) < len(layers)
    for name, layer in layers.items():
        norm = layer.norms["joint"]
        assert isinstance(norm, nn.BatchNorm2d)
        assert int(norm.num_batches_tracked or 0) == (name in ran)
        assert (layer.conv.get_parameter("weight").grad is None) or name in ran


def test_a_column_alone_and_columns_together_keep_statistics_apart(network: FractalNet) -> None:
    def statistics(mode: str) -> list[Tensor]:
        return [
            buffer.clone()
            for name, buffer in network.named_buffers()
            if f".norms.{mode}.running_mean" in name
        ]

    before = {mode: statistics(mode) for mode in ("joint", "alone")}
    network.train()(IMAGES)

    assert all(map(torch.equal, before["alone"], statistics("alone")))
    assert not any(map(torch.equal, before["joint"], statistics("joint")))

    joint = statistics("joint")
    network(IMAGES, path_of(2))

    assert all(map(torch.equal, joint, statistics("joint")))
    assert not all(map(torch.equal, before["alone"], statistics("alone")))


@pytest.mark.parametrize("active", [(1,), (3,), (1, 2), (2, 3), (1, 2, 3)])
def test_an_extracted_subnetwork_answers_as_its_path_does(
    network: FractalNet, active: tuple[int, ...]
) -> None:
    network.train()(IMAGES)  # statistics unlike the initial ones
    network.eval()

    subnetwork = network.extract(active)

    assert torch.equal(subnetwork(IMAGES), network(IMAGES, path_of(*active)))
    assert len(list(subnetwork.parameters())) < len(list(network.parameters()))


def test_a_network_in_evaluation_answers_alike_each_time(network: FractalNet) -> None:
    network.eval()

    assert torch.equal(network(IMAGES), network(IMAGES))


def test_filters_and_classifier_are_xavier_initialised(network: FractalNet) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            # Uniform in ±sqrt(6 / (fan in + fan out)): within the bound, and close to it with this many draws.
            fans = module.weight[0].numel() + module.weight[:, 0].numel()
            bound = (6 / fans) ** 0.5
            assert module.weight.abs().max() <= bound
            assert module.weight.abs().max() > 0.8 * bound
    assert torch.equal(network.classifier.bias, torch.zeros(5))


def test_a_layer_is_convolution_dropout_norm_relu() -> None:
    layer = ConvLayer(3, 4, dropout=0.5, modes=("joint",))
    order: list[str] = []
    for module in layer.modules():
        module.register_forward_hook(lambda m, *_: order.append(type(m).__name__))

    y = layer(IMAGES, "joint")

    assert order == ["SmallMapConv2d", "Dropout", "BatchNorm2d", "ConvLayer"]
    assert y.min() == 0


def test_columns_of_different_widths_are_widened_before_joins() -> None:
    thinning = Architecture(
        "thinning", columns=3, channels=(8, 16), classes=5, image_size=8, divisors=(1, 2, 4)
    )
    torch.manual_seed(0)
    network = FractalNet(thinning).eval()

    block = network.blocks[0]
    assert block.get_parameter("second.first.conv.conv.weight").shape[:2] == (2, 4)  # sees row 2
    assert block.get_parameter("first.second.widen.weight").shape[:2] == (4, 2)  # to row 2
    assert block.get_parameter("second.second.widen.weight").shape[:2] == (8, 2)  # to the end
    for active in [(1,), (3,), (2, 3), (1, 2, 3)]:
        alone = network.extract(active)
        assert torch.equal(alone(IMAGES), network(IMAGES, network.path_of(active)))


def test_mixed_layers_have_38_percent_of_3x3_filters() -> None:
    mixed = MixedConv(16, 100)

    assert mixed.wide.weight.shape == (38, 16, 3, 3)
    assert mixed.narrow.weight.shape == (62, 16, 1, 1)
    assert mixed(torch.zeros(1, 16, 8, 8)).shape == (1, 100, 8, 8)


class DenseLayer(nn.Module):
    """A layer type of a user's own: 1×1 filters, no norm."""

    def __init__(
        self, in_channels: int, out_channels: int, *, dropout: float, modes: Sequence[NormMode]
    ) -> None:
        super().__init__()
        self.mix = filters(in_channels, out_channels, 1)

    def forward(self, x: Tensor, mode: NormMode) -> Tensor:
        return torch.tanh(self.mix(x))


def test_the_layer_type_may_be_any_other() -> None:
    network = FractalNet(ARCHITECTURE, layer=DenseLayer)
    subnetwork = network.extract((2,))

    assert network(IMAGES).shape == (4, 5)
    assert torch.equal(subnetwork(IMAGES), network(IMAGES, path_of(2)))
    assert sum(isinstance(m, DenseLayer) for m in network.modules()) == 14


def test_a_layer_may_be_bound_to_its_arguments() -> None:
    layer = partial(ConvLayer, convolution="separable")

    assert FractalNet(ARCHITECTURE, layer=layer)(IMAGES).shape == (4, 5)
