"""A layer that pools gives the same values whether batch norm comes before or behind its pooling."""

import pytest
import torch
from torch import Tensor, nn

from model.layers import ConvLayer


def norm_of(layer: ConvLayer) -> nn.BatchNorm2d:
    norm = layer.norms["alone"]
    assert isinstance(norm, nn.BatchNorm2d)
    return norm


def values_pooled_first(layer: ConvLayer, x: Tensor) -> Tensor:
    return torch.relu(norm_of(layer)(layer.conv(x)))


@pytest.fixture
def layer() -> ConvLayer:
    """A layer that pools, with statistics, scales and shifts as training leaves them."""
    torch.manual_seed(0)
    layer = ConvLayer(3, 8, dropout=0.0, modes=["alone"], is_pooled=True)
    nn.init.uniform_(norm_of(layer).weight, 0.5, 1.5)
    nn.init.normal_(norm_of(layer).bias)
    for _ in range(3):
        layer(torch.randn(4, 3, 9, 9), "alone")
    return layer.eval()


def test_a_trained_layer_pools_last_and_means_the_same(layer: ConvLayer) -> None:
    x = torch.randn(2, 3, 9, 9)

    assert torch.allclose(layer(x, "alone"), values_pooled_first(layer, x), atol=1e-5)


def test_a_negative_scale_keeps_the_order_of_training(layer: ConvLayer) -> None:
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        norm_of(layer).weight[3] = -1.0

    assert torch.equal(layer(x, "alone"), values_pooled_first(layer, x))


def test_statistics_are_always_taken_behind_the_pooling(layer: ConvLayer) -> None:
    x = torch.randn(4, 3, 9, 9)
    norm = norm_of(layer)
    norm.reset_running_stats()
    norm.momentum = None

    norm.train()  # as batch norm is estimated anew: the rest of the layer is not in training
    layer(x, "alone")

    pooled = layer.conv(x)
    assert norm.running_mean is not None
    assert torch.allclose(norm.running_mean, pooled.mean((0, 2, 3)), atol=1e-6)
