"""Convolution of small maps in bf16 on a CPU: one matrix product each forward, for the input and for the filters."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PIXELS = 4 * 4  # of the largest map whose windows, nine times its size, cost less than they save


class SmallMapConv2d(nn.Conv2d):
    """A convolution that trains small maps on a CPU faster; its values and its exported form are ``Conv2d``'s.

    oneDNN's kernel for the gradient of the filters has little to go over where a map is 4×4 or 2×2, and with many
    channels is several times slower there than one product over the whole mini-batch.
    """

    @property
    def _keeps_size(self) -> bool:
        """Whether this is a plain 3×3 convolution that keeps height and width: what the products compute."""
        numbers = (self.kernel_size, self.stride, self.padding, self.dilation, self.groups)
        is_plain = self.padding_mode == "zeros" and self.bias is None
        return is_plain and numbers == ((3, 3), (1, 1), (1, 1), (1, 1), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H', W')."""
        if (
            self.training
            and x.device.type == "cpu"
            and torch.is_autocast_enabled("cpu")
            and x.shape[-2] * x.shape[-1] <= PIXELS
            and self._keeps_size
        ):
            dtype = torch.get_autocast_dtype("cpu")
            maps: Tensor = _SmallMaps.apply(x.to(dtype), self.weight.to(dtype))  # type: ignore[no-untyped-call]
            return maps
        return super().forward(x)


class _SmallMaps(torch.autograd.Function):
    """3×3 filters over zero-padded maps, all in channels-last memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        seen = _windows(x)
        ctx.save_for_backward(seen, weight)
        return _maps(seen @ _taps_first(weight), x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor]:
        (grad,) = grads
        seen, weight = ctx.saved_tensors
        out_channels, in_channels, *size = weight.shape
        by_filter = grad.transpose(0, 1).flatten(1)  # (out_channels, N·H·W)
        for_weight = (by_filter @ seen).view(out_channels, *size, in_channels).permute(0, 3, 1, 2)
        if not ctx.needs_input_grad[0]:
            return None, for_weight
        mirrored = weight.flip(2, 3).transpose(0, 1)
        return _maps(_windows(grad) @ _taps_first(mirrored), grad.shape), for_weight


def _windows(maps: Tensor) -> Tensor:
    """Return what each pixel's filter sees, (N·H·W, 9·C): its nine pixels row by row, the channels of each together."""
    height, width = maps.shape[2:]
    padded = F.pad(maps.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    shifted = [
        padded[:, top : top + height, left : left + width] for top in range(3) for left in range(3)
    ]
    return torch.cat(shifted, -1).flatten(0, 2)


def _taps_first(weight: Tensor) -> Tensor:
    """Return filters (out, in, 3, 3) as (9·in, out), in the windows' order."""
    return weight.permute(2, 3, 1, 0).flatten(0, 2)


def _maps(rows: Tensor, shape: torch.Size) -> Tensor:
    """Return (N·H·W, C) as (N, C, H, W) of a shape with any channels, in channels-last memory."""
    n, _, height, width = shape
    return rows.view(n, height, width, -1).permute(0, 3, 1, 2)
