"""Architectures: the numbers that define a fractal network, and the named ones of the paper.

Nothing here needs torch: the manifest of a bundle carries an ``Architecture`` to the server.
"""

from dataclasses import dataclass, replace

NARROW_CHANNELS = (16, 32, 64, 128, 128)  # Tables 3 and 4 of the paper
WIDE_CHANNELS = (64, 128, 256, 512, 512)  # Table 1


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

    def __post_init__(self) -> None:
        """Refuse numbers that describe no network; an empty ``dropout`` means none."""
        if not self.dropout:
            object.__setattr__(self, "dropout", (0.0,) * len(self.channels))
        if self.columns < 1:
            raise ValueError(f"columns is {self.columns}; a network has at least 1")
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
        if self.final_size < 1:
            raise ValueError(
                f"image_size is {self.image_size}; {self.blocks} blocks, each halving it, "
                f"need at least {2**self.blocks}"
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
    def final_size(self) -> int:
        """Height and width in pixels after the last block's pooling."""
        return self.image_size >> self.blocks

    @property
    def all_columns(self) -> frozenset[int]:
        """Every column, 1..C: the full network."""
        return frozenset(range(1, self.columns + 1))

    def for_data(self, *, classes: int, image_size: int) -> "Architecture":
        """Return the same network for other classes and images.

        Where the images are too small for every block's pooling, the first blocks that fit are kept.
        """
        blocks = min(self.blocks, image_size.bit_length() - 1)
        return replace(
            self,
            classes=classes,
            image_size=image_size,
            channels=self.channels[:blocks],
            dropout=self.dropout[:blocks],
        )


PRESETS = {
    preset.name: preset
    for preset in (
        Architecture("tiny", columns=3, channels=(8, 16, 16), classes=10, image_size=8),
        *(
            Architecture(
                f"narrow-c{columns}", columns=columns, channels=NARROW_CHANNELS, classes=10
            )
            for columns in range(1, 7)
        ),
        *(
            Architecture(f"wide-c{columns}", columns=columns, channels=WIDE_CHANNELS, classes=10)
            for columns in range(1, 5)
        ),
    )
}
"""The named architectures, for ten classes; ``for_data`` fits one to a data set."""
