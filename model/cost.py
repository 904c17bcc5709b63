"""Parameters, multiply-adds and depth of any subnetwork, in closed form.

A subnetwork with columns A holds, in each block, |A| layers from the block's input channels and
sum over k in A of 2^(k-1) - 1 layers from its own channels: only the first layer of a column sees the input.
"""

from collections.abc import Collection

from model.presets import Architecture

KERNEL_WEIGHTS = 9  # 3×3 filters


def depth(architecture: Architecture, active: Collection[int]) -> int:
    """Return the convolutions on the longest path: B · 2^(k-1) for the deepest column k."""
    return architecture.blocks << (max(active) - 1)


def parameters(architecture: Architecture, active: Collection[int]) -> int:
    """Return the trainable parameters: filters, one scale and shift a channel, classifier with its bias."""
    layers = sum(1 << (k - 1) for k in active)
    norms = sum(2 * layers * channels for channels in architecture.channels)
    classifier = (architecture.channels[-1] + 1) * architecture.classes
    return sum(_block_weights(architecture, active)) + norms + classifier


def macs(architecture: Architecture, active: Collection[int]) -> int:
    """Return the multiply-adds of one image: every filter at every pixel, and the classifier."""
    total = architecture.channels[-1] * architecture.classes
    for block, weights in enumerate(_block_weights(architecture, active)):
        total += weights * (architecture.image_size // 2**block) ** 2
    return total


def _block_weights(architecture: Architecture, active: Collection[int]) -> list[int]:
    """Return the convolution weights of each block."""
    inner = sum((1 << (k - 1)) - 1 for k in active)
    inputs = (architecture.in_channels, *architecture.channels[:-1])
    return [
        KERNEL_WEIGHTS * (len(active) * before * after + inner * after * after)
        for before, after in zip(inputs, architecture.channels, strict=True)
    ]
