"""Parameters, multiply-adds and depth of any subnetwork, in closed form.

In a block, the first of column k's 2^(k-1) layers sees the block's input. Each other layer sees the join before it,
which is as wide as the shallowest column that ends there: column j for 2^(j-2) of the layers, j = 2..k.
"""

from collections.abc import Collection

from model.presets import Architecture, Convolution, wide_filters


def depth(architecture: Architecture, active: Collection[int]) -> int:
    """Return the convolutions on the longest path: B · 2^(k-1) for the deepest column k, and the stem."""
    return (architecture.blocks << (max(active) - 1)) + (architecture.stem is not None)


def parameters(architecture: Architecture, active: Collection[int]) -> int:
    """Return the trainable parameters: filters, one scale and shift a channel, classifier with its bias."""
    blocks = range(architecture.blocks)
    filters = sum(_block_filters(architecture, block, active) for block in blocks)
    normed = sum(architecture.widths(block)[k - 1] << (k - 1) for block in blocks for k in active)
    if architecture.stem:
        filters += _stem_filters(architecture)
        normed += architecture.stem.channels
    return filters + 2 * normed + (architecture.channels[-1] + 1) * architecture.classes


def macs(architecture: Architecture, active: Collection[int]) -> int:
    """Return the multiply-adds of one image: every filter at every pixel, and the classifier."""
    total = architecture.channels[-1] * architecture.classes
    for block in range(architecture.blocks):
        pixels = (architecture.first_size >> block) ** 2
        total += _block_filters(architecture, block, active) * pixels
    if architecture.stem:
        pixels = (architecture.image_size // architecture.stem.stride) ** 2
        total += _stem_filters(architecture) * pixels
    return total


def _block_filters(architecture: Architecture, block: int, active: Collection[int]) -> int:
    """Return the weights of a block's convolutions and of the projections that widen them before joins."""
    widths = architecture.widths(block)
    total = 0
    for k in active:
        width = widths[k - 1]
        total += _filters(architecture.convolution, architecture.block_inputs[block], width)
        total += _projection(width, widths[0])
        for j in range(2, k + 1):
            joined = widths[j - 1]
            inner = _filters(architecture.convolution, joined, width) + _projection(width, joined)
            total += inner << (j - 2)
    return total


def _filters(convolution: Convolution, inputs: int, outputs: int) -> int:
    """Return the weights of one layer's convolution."""
    match convolution:
        case "3x3":
            return 9 * inputs * outputs
        case "mixed":
            return inputs * (outputs + 8 * wide_filters(outputs))
        case "separable":
            return 9 * inputs + inputs * outputs


def _projection(width: int, joined: int) -> int:
    """Return the weights that widen a column to its join; none where it is as wide."""
    return width * joined if width != joined else 0


def _stem_filters(architecture: Architecture) -> int:
    """Return the weights of the stem's convolution."""
    stem = architecture.stem
    return stem.kernel**2 * architecture.in_channels * stem.channels if stem else 0
