"""Architectures: the numbers that define a fractal network, and the named ones of the paper.

Nothing here needs torch: the manifest of a bundle carries an ``Architecture`` to the server.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import count
from typing import Literal

from model.path import Path, column_path

NARROW_CHANNELS = (16, 32, 64, 128, 128)  # Tables 3 and 4 of the paper
MEDIUM_CHANNELS = (32, 64, 128, 256, 256)  # between the two
WIDE_CHANNELS = (64, 128, 256, 512, 512)  # Table 1
PAPER_DROPOUT = (0.0, 0.1, 0.2, 0.3, 0.4)  # §4.1

Convolution = Literal["3x3", "mixed", "separable"]
"""What a layer convolves with: 3×3 filters, a mix of 1×1 and 3×3, or 3×3 in each channel and 1×1 across them."""


@dataclass(frozen=True, slots=True)
class Stem:
    """What stands before the first block: convolution → batch norm → ReLU, and 3×3 pooling where ``is_pooled``.

    Where ``is_whitening`` the filters whiten the patches of the training images and are not trained: there are
    two of each direction, one the other's negative, a bias takes batch norm's place, and nothing is padded.
    """

    channels: int
    kernel: int
    stride: int
    is_pooled: bool = False
    is_whitening: bool = False

    def convolved_size(self, image_size: int) -> int:
        """Return height and width of the convolution's output."""
        seen = image_size - self.kernel + self.stride if self.is_whitening else image_size
        return seen // self.stride

    def output_size(self, image_size: int) -> int:
        """Return height and width of what enters the first block."""
        return self.convolved_size(image_size) // (2 if self.is_pooled else 1)


RESNET_STEM = Stem(channels=64, kernel=7, stride=2, is_pooled=True)
PATCH_STEM = Stem(channels=48, kernel=4, stride=4)  # 4×4×3 values of a patch, embedded
WHITENING_STEM = Stem(channels=24, kernel=2, stride=1, is_whitening=True)  # 2·(2×2×3) directions


@dataclass(frozen=True, slots=True)
class Architecture:
    """A FractalNet of B = ``len(channels)`` blocks and C = ``columns`` columns.

    Attributes:
        name: the preset's name; goes into the manifest.
        columns: C; column k (1 is the shallowest) has 2^(k-1) layers in each block.
        channels: output channels of each block.
        classes: number of classes K.
        image_size: height and width of the (square) input in pixels.
        in_channels: channels of the input image.
        dropout: element-wise dropout probability of each block's layers (§4.1).
        divisors: column k has ``channels[b] / divisors[k - 1]`` channels in block b; all 1 if empty.
        convolution: what the layers convolve with.
        stem: what stands before the first block; nothing by default.
        has_entry: a layer that all columns share stands before each block's fractal; it widens and pools, so that no
            column does. The classifier then sees the largest value of each channel, not the mean.
        is_plain: only the deepest column is built: a plain network of that depth (Table 4).

    Raises:
        ValueError: a number is out of range; the message names it.
    """

    name: str
    columns: int
    channels: tuple[int, ...]
    classes: int
    image_size: int = 32
    in_channels: int = 3
    dropout: tuple[float, ...] = ()
    divisors: tuple[int, ...] = ()
    convolution: Convolution = "3x3"
    stem: Stem | None = None
    has_entry: bool = False
    is_plain: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that describe no network."""
        if not self.dropout:
            object.__setattr__(self, "dropout", (0.0,) * len(self.channels))
        if self.columns < 1:
            raise ValueError(f"columns is {self.columns}; a network has at least 1")
        if not self.divisors:
            object.__setattr__(self, "divisors", (1,) * self.columns)
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"channels is {self.channels}; each block needs at least 1")
        if self.classes < 2:
            raise ValueError(f"classes is {self.classes}; a classifier needs at least 2")
        if len(self.dropout) != len(self.channels):
            raise ValueError(
                f"dropout names {len(self.dropout)} blocks, channels names {len(self.channels)}"
            )
        if not all(0.0 <= p < 1.0 for p in self.dropout):
            raise ValueError(f"dropout is {self.dropout}; each must be in [0, 1)")
        if list(self.divisors) != sorted(self.divisors) or len(self.divisors) != self.columns:
            raise ValueError(
                f"divisors is {self.divisors}; it names one for each of {self.columns} columns, "
                "and no column is wider than a shallower one"
            )
        if any(channels % self.divisors[-1] for channels in self.channels):
            raise ValueError(f"channels is {self.channels}; each must divide by {self.divisors}")
        if self.final_size < 1:
            smallest = next(s for s in count(1) if self._size_behind_stem(s) >> self.blocks)
            raise ValueError(
                f"image_size is {self.image_size}; {self.blocks} blocks, each halving it, need at least {smallest}"
            )

    @property
    def blocks(self) -> int:
        """B, the number of blocks."""
        return len(self.channels)

    @property
    def rows(self) -> int:
        """Layers of the deepest column in one block, 2^(C-1)."""
        return 1 << (self.columns - 1)

    @property
    def block_inputs(self) -> tuple[int, ...]:
        """Channels that enter each block."""
        first = self.stem.channels if self.stem else self.in_channels
        return (first, *self.channels[:-1])

    @property
    def fractal_inputs(self) -> tuple[int, ...]:
        """Channels that enter each block's fractal: the block's, or what its entry makes of them."""
        return self.channels if self.has_entry else self.block_inputs

    @property
    def first_size(self) -> int:
        """Height and width in pixels of the first block's input."""
        return self._size_behind_stem(self.image_size)

    @property
    def final_size(self) -> int:
        """Height and width in pixels after the last block's pooling."""
        return self.first_size >> self.blocks

    @property
    def all_columns(self) -> frozenset[int]:
        """Every column that is built: 1..C, the full network, or C alone where it is plain."""
        return frozenset(range(self.columns if self.is_plain else 1, self.columns + 1))

    def widths(self, block: int) -> tuple[int, ...]:
        """Return the channels of each column's layers in a block (0 is the first)."""
        return tuple(self.channels[block] // divisor for divisor in self.divisors)

    def path_of(self, active: Collection[int]) -> Path:
        """Return the path of the subnetwork with these columns."""
        return column_path(active, blocks=self.blocks, columns=self.columns)

    def for_data(self, *, classes: int, image_size: int) -> "Architecture":
        """Return the same network for other classes and images.

        Where the images are too small for every block's pooling, the first blocks that fit are kept.
        """
        blocks = min(self.blocks, self._size_behind_stem(image_size).bit_length() - 1)
        return replace(
            self,
            classes=classes,
            image_size=image_size,
            channels=self.channels[:blocks],
            dropout=self.dropout[:blocks],
        )

    def _size_behind_stem(self, image_size: int) -> int:
        """Return height and width of the first block's input for images of this size."""
        return self.stem.output_size(image_size) if self.stem else image_size


def wide_filters(channels: int) -> int:
    """Return how many of a "mixed" layer's filters are 3×3: the share that gives Table 1's 40-layer network."""
    return round(0.38 * channels)


_NARROW = {
    columns: Architecture(
        f"narrow-c{columns}", columns=columns, channels=NARROW_CHANNELS, classes=10
    )
    for columns in range(1, 7)
}

PRESETS = {
    preset.name: preset
    for preset in (
        Architecture("tiny", columns=3, channels=(8, 16, 16), classes=10),
        *_NARROW.values(),
        *(
            replace(_NARROW[columns], name=f"plain-{depth}", is_plain=True)
            for columns, depth in enumerate((5, 10, 20, 40), start=1)
        ),
        *(
            Architecture(f"wide-c{columns}", columns=columns, channels=WIDE_CHANNELS, classes=10)
            for columns in range(1, 5)
        ),
        Architecture("medium-c3", columns=3, channels=MEDIUM_CHANNELS, classes=10),
        Architecture(
            "thinning-c4",  # the 40 layers of Table 1, and its 22.9M parameters within 1 %
            columns=4,
            channels=(128, 256, 512, 1024, 1024),
            classes=10,
            divisors=(1, 2, 4, 8),
            convolution="mixed",
        ),
        Architecture(
            "fractalnet-34",  # ImageNet, Table 2
            columns=4,
            channels=(128, 256, 512, 1024),
            classes=1000,
            image_size=224,
            stem=RESNET_STEM,
        ),
        Architecture(
            "patches-c4",
            columns=4,
            channels=(96, 192, 192),
            classes=10,
            convolution="separable",
            stem=PATCH_STEM,
        ),
        *(
            Architecture(
                f"wide-entry-c{columns}",
                columns=columns,
                channels=(64, 128, 256),
                classes=10,
                stem=WHITENING_STEM,
                has_entry=True,
            )
            for columns in (1, 2)
        ),
        Architecture(
            "broad-entry-c1",
            columns=1,
            channels=(64, 256, 256),
            classes=10,
            stem=WHITENING_STEM,
            has_entry=True,
        ),
    )
}
"""The named architectures; ``for_data`` fits one to a data set."""
