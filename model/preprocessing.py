"""How an image of any size becomes the square of pixels that a network sees; part of a bundle's manifest.

``images.py`` carries it out, for training, export and server alike.
"""

from dataclasses import dataclass
from typing import Literal

Interpolation = Literal["bilinear", "bicubic"]

Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge of a part of an image, in its pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Stretched to the square or, with ``shorter_side``, scaled evenly and its middle taken.

    Attributes:
        size: height and width of the square in pixels.
        shorter_side: pixels that an image's shorter side is brought to before the middle ``size`` × ``size`` are taken;
            None where height and width are stretched to the square, each by itself.
        interpolation: between pixels; where an image is made smaller, of those of whole boxes averaged to twice the size.

    Raises:
        ValueError: the numbers describe no square within the scaled image.
    """

    size: int
    shorter_side: int | None = None
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        """Refuse what no image could be brought to."""
        if self.size < 1:
            raise ValueError(f"size is {self.size}; a square has at least 1 pixel")
        if self.shorter_side is not None and self.shorter_side < self.size:
            raise ValueError(
                f"shorter_side is {self.shorter_side}; at least {self.size}, the size, must be left of it"
            )

    @property
    def scaled_side(self) -> int:
        """What an image's shorter side is scaled to at least."""
        return self.shorter_side or self.size

    @property
    def description(self) -> str:
        """A few words for people."""
        square = f"{self.size}×{self.size}"
        if self.shorter_side is None:
            return f"stretched to {square}"
        return f"shorter side to {self.shorter_side}, the middle {square}"

    def seen(self, width: int, height: int) -> Box:
        """Return the part of an image that becomes the square."""
        if self.shorter_side is None:
            return (0.0, 0.0, float(width), float(height))
        side = min(width, height) * self.size / self.shorter_side
        left, top = (width - side) / 2, (height - side) / 2
        right, bottom = (width + side) / 2, (height + side) / 2
        return (max(0.0, left), max(0.0, top), min(right, width), min(bottom, height))
