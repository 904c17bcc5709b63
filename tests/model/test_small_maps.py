"""Small maps are convolved by matrix products while training in bf16 on a CPU, and give what a convolution gives."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from model import small_maps
from model.layers import filters
from model.small_maps import SmallMapConv2d


def generated(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of the maps that were convolved as products."""
    seen: list[torch.Size] = []
    windows = small_maps._windows

    def recording(maps: Tensor) -> Tensor:
        seen.append(maps.shape)
        return windows(maps)

    monkeypatch.setattr(small_maps, "_windows", recording)
    return seen


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (4, 4), (2, 5)])
def test_small_maps_have_the_values_and_gradients_of_a_convolution(
    size: tuple[int, int], products: list[torch.Size]
) -> None:
    conv = filters(6, 8, 3)
    x = generated(5, 6, *size).requires_grad_()
    reference = conv.weight.detach().clone().requires_grad_()
    seen_from_outside = x.detach().clone().requires_grad_()
    weights_of_outputs = generated(5, 8, *size)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv(x)
    torch.autograd.backward((y * weights_of_outputs).sum())
    expected = F.conv2d(seen_from_outside, reference, padding=1)
    torch.autograd.backward((expected * weights_of_outputs).sum())

    assert products, "no product was computed"
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)
    close: dict[str, Any] = {"rtol": 0.02, "atol": 0.1}  # bf16 keeps 8 bits
    assert_close(y.float(), expected, **close)
    assert_close(x.grad, seen_from_outside.grad, **close)
    assert_close(conv.weight.grad, reference.grad, **close)


def test_images_without_a_gradient_get_none(products: list[torch.Size]) -> None:
    conv = filters(3, 4, 3)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.autograd.backward(conv(generated(2, 3, 4, 4)).sum())

    assert products == [(2, 3, 4, 4)]
    assert conv.weight.grad is not None


PLAIN: dict[str, Any] = {"kernel_size": 3, "padding": 1, "bias": False}


@pytest.mark.parametrize(
    "changed",
    [
        {"stride": 2},
        {"kernel_size": 1},
        {"groups": 4},
        {"padding": 0},
        {"padding": 2, "dilation": 2},
        {"padding_mode": "circular"},
        {"bias": True},
    ],
    ids=str,
)
def test_other_convolutions_are_left_to_the_library(
    changed: dict[str, Any], products: list[torch.Size]
) -> None:
    conv = SmallMapConv2d(4, 4, **{**PLAIN, **changed})
    plain = nn.Conv2d(4, 4, **{**PLAIN, **changed})
    plain.load_state_dict(conv.state_dict())
    x = generated(2, 4, 4, 4)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(conv(x), plain(x))

    assert products == []


@pytest.mark.parametrize("case", ["large", "evaluating", "float32"])
def test_so_are_large_maps_evaluation_and_float32(case: str, products: list[torch.Size]) -> None:
    conv = filters(4, 4, 3).train(case != "evaluating")
    x = generated(2, 4, 8, 8) if case == "large" else generated(2, 4, 4, 4)

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=case != "float32"):
        assert_close(conv(x), F.conv2d(x, conv.weight, padding=1))

    assert products == []
