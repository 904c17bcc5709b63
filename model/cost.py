"""Parameters, multiply-adds and depth of any subnetwork, and of any path, without building it."""

from collections.abc import Collection

from model.path import BlockPath, Path
from model.presets import Architecture, Convolution, wide_filters


def depth(architecture: Architecture, active: Collection[int]) -> int:
    """Return the convolutions on the longest path: B · 2^(k-1) for the deepest column k, the entries and the stem."""
    entries = architecture.blocks if architecture.has_entry else 0
    return (architecture.blocks << (max(active) - 1)) + entries + (architecture.stem is not None)


def parameters(architecture: Architecture, active: Collection[int]) -> int:
    """Return the parameters: filters, one scale and shift a channel, classifier with its bias."""
    blocks = range(architecture.blocks)
    path = architecture.path_of(active)
    filters = sum(_block_filters(architecture, block, path.blocks[block]) for block in blocks)
    normed = sum(architecture.widths(block)[k - 1] << (k - 1) for block in blocks for k in active)
    if architecture.has_entry:
        filters += sum(_entry_filters(architecture, block) for block in blocks)
        normed += sum(architecture.channels)
    biases = architecture.classes
    if architecture.stem:
        filters += _stem_filters(architecture)
        if architecture.stem.is_whitening:
            biases += architecture.stem.channels
        else:
            normed += architecture.stem.channels
    return filters + 2 * normed + architecture.channels[-1] * architecture.classes + biases


def macs(architecture: Architecture, active: Collection[int]) -> int:
    """Return the multiply-adds of one image through a subnetwork."""
    return path_macs(architecture, architecture.path_of(active))


def path_macs(architecture: Architecture, path: Path) -> int:
    """Return the multiply-adds of one image along a path: every filter at every pixel, and the classifier."""
    total = architecture.channels[-1] * architecture.classes
    for block, block_path in enumerate(path.blocks):
        size = architecture.first_size >> block
        if architecture.has_entry:
            total += _entry_filters(architecture, block) * size**2
            size //= 2
        total += _block_filters(architecture, block, block_path) * size**2
    if architecture.stem:
        pixels = architecture.stem.convolved_size(architecture.image_size) ** 2
        total += _stem_filters(architecture) * pixels
    return total


def _block_filters(architecture: Architecture, block: int, path: BlockPath) -> int:
    """Return the weights of the convolutions on a block's path, and of the projections that widen them before joins."""
    widths = architecture.widths(block)

    def weights_from(column: int, inputs: int, joined: int, end: int) -> int:
        """Count the fractal of a column and the deeper ones that ends at a row, as the forward pass runs it."""
        kept, width, total = path[end], widths[column - 1], 0
        if column in kept:
            total += _filters(architecture.convolution, inputs, width) + _projection(width, joined)
        if max(kept) > column:
            middle = widths[column]
            halfway = end - architecture.rows // 2**column
            total += weights_from(column + 1, inputs, middle, halfway)
            total += weights_from(column + 1, middle, joined, end)
        return total

    return weights_from(1, architecture.fractal_inputs[block], widths[0], architecture.rows)


def _entry_filters(architecture: Architecture, block: int) -> int:
    """Return the weights of the layer before a block's fractal."""
    inputs, outputs = architecture.block_inputs[block], architecture.channels[block]
    return _filters(architecture.convolution, inputs, outputs)


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
