"""What fractals are made of: layers, the convolutions inside them, and the stem before the first block."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from model.presets import Convolution, Stem, wide_filters
from model.small_maps import SmallMapConv2d

NormMode = Literal["joint", "alone"]
"""Which batch norm a layer uses: "joint" with other columns beside it, "alone" when its column is the network."""


class LayerFactory(Protocol):
    """Builds the layers of a fractal; a ``ConvLayer`` is the paper's, any other of this shape may replace it (§3)."""

    def __call__(
        self, in_channels: int, out_channels: int, *, dropout: float, modes: Sequence[NormMode]
    ) -> nn.Module:
        """Return a module that maps (N, in_channels, H, W) and a ``NormMode`` to (N, out_channels, H, W)."""


class MixedConv(nn.Module):
    """1×1 and 3×3 filters side by side on one input (Iandola et al., 2016)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        wide = wide_filters(out_channels)
        self.narrow = filters(in_channels, out_channels - wide, 1)
        self.wide = filters(in_channels, wide, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        return torch.cat([self.narrow(x), self.wide(x)], 1)


def filters(
    in_channels: int, out_channels: int, size: int, *, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    """Return a convolution without bias, Xavier-initialised (§4.1); a stride of 1 keeps the image's size."""
    padding = 0 if size == stride else size // 2
    conv = SmallMapConv2d(
        in_channels, out_channels, size, stride, padding=padding, groups=groups, bias=False
    )
    nn.init.xavier_uniform_(conv.weight)
    return conv


def separable(in_channels: int, out_channels: int) -> nn.Module:
    """Return a 3×3 convolution in each channel and a 1×1 across them."""
    return nn.Sequential(
        filters(in_channels, in_channels, 3, groups=in_channels),
        filters(in_channels, out_channels, 1),
    )


CONVOLUTIONS: dict[Convolution, Callable[[int, int], nn.Module]] = {
    "3x3": lambda inputs, outputs: filters(inputs, outputs, 3),
    "mixed": MixedConv,
    "separable": separable,
}


class Pooled(nn.Sequential):
    """A convolution and its pooling."""


class ConvLayer(nn.Module):
    """Convolution → dropout → batch norm → ReLU, with one batch norm for each mode.

    A column alone and a column beside others see differently distributed inputs; one set of statistics for both
    spoils both, so scale, shift and statistics are kept apart. Filters are shared. Where ``is_pooled``, 2×2 pooling
    follows the convolution: batch norm then has a quarter to do, and measures what it passes on. Behind fixed statistics it
    pools last unless a scale is negative: the values are the same, and a graph of it has its batch norm merged into the convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        dropout: float,
        modes: Sequence[NormMode],
        convolution: Convolution = "3x3",
        is_pooled: bool = False,
    ) -> None:
        super().__init__()
        conv = CONVOLUTIONS[convolution](in_channels, out_channels)
        self.conv = Pooled(conv, nn.MaxPool2d(2)) if is_pooled else conv
        self.dropout = nn.Dropout(dropout)
        self.norms = nn.ModuleDict({mode: nn.BatchNorm2d(out_channels) for mode in modes})

    def forward(self, x: Tensor, mode: NormMode) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W), or half as high and wide."""
        norm = self.norms[mode]
        if isinstance(self.conv, Pooled) and may_precede_pooling(norm):
            conv, pool = self.conv
            pooled: Tensor = pool(torch.relu(norm(conv(x))))
            return pooled
        normed: Tensor = norm(self.dropout(self.conv(x)))
        return torch.relu(normed)


def may_precede_pooling(norm: nn.Module) -> bool:
    """Say whether a batch norm means the same before pooling: its statistics are fixed, and it turns no order around."""
    if not isinstance(norm, _BatchNorm) or norm.training:
        return False
    return not bool((norm.weight < 0).any())


def build_stem(stem: Stem | None, in_channels: int) -> nn.Sequential:
    """Return what stands before the first block; empty for ``None``.

    Its batch norm is one for all modes: it sees the same images whatever follows.
    """
    if stem is None:
        return nn.Sequential()
    if stem.is_whitening:
        whitening = nn.Conv2d(in_channels, stem.channels, stem.kernel, stem.stride)
        whitening.weight.requires_grad_(False)
        nn.init.zeros_(whitening.bias)  # type: ignore[arg-type]  # it has one
        return nn.Sequential(whitening, nn.ReLU())
    conv = filters(in_channels, stem.channels, stem.kernel, stride=stem.stride)
    modules: list[nn.Module] = [conv, nn.BatchNorm2d(stem.channels), nn.ReLU()]
    if stem.is_pooled:
        modules.append(nn.MaxPool2d(3, stride=2, padding=1))
    return nn.Sequential(*modules)
