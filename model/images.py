"""From an opened image to what the networks take: the same pixels in training and behind the server.

Images of any mode: transparent ones lie on white, 16 bits are scaled to 8, of an animation the first frame counts. They
are turned upright by their EXIF orientation and stretched to the square that the network sees.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

# Named here, they are loaded at start-up; Pillow would load all its formats for the first image.
FORMATS = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        WebPImagePlugin.WebPImageFile,
    )
)

Pixels = NDArray[np.uint8]


def to_pixels(image: Image.Image, size: int) -> Pixels:
    """Decode, turn upright, lay on white, resize.

    Args:
        image: opened, and not loaded yet.
        size: height and width of the output.

    Returns:
        (size, size, 3).

    Raises:
        Exception: the image is damaged; Pillow's readers raise nearly anything.
    """
    square = (size, size)
    if image.size != square:
        # JPEG decodes straight to 1/2, 1/4 or 1/8: twice the target keeps the resize smooth.
        image.draft(None, (2 * size, 2 * size))
    image.load()
    if "exif" in image.info:
        image = ImageOps.exif_transpose(image)
    image = _to_continuous(image)
    if image.size != square:
        image = image.resize(square, Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(_to_rgb(image))  # after the resize: it is slow at full size


def _to_continuous(image: Image.Image) -> Image.Image:
    """Return the image with 8 bits a channel that can be averaged: no palette, no single transparent colour."""
    if image.mode.startswith("I"):  # Pillow would clip 16 bits at 255 rather than scale them
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if "transparency" in image.info or image.mode == "PA":
        return image.convert("RGBA")
    if image.mode in ("P", "1"):
        return image.convert("RGB")
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return the image in mode RGB, laid on white where it is transparent."""
    if image.mode in ("RGBA", "LA"):
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
