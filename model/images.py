"""From an image file to what the networks take: the same pixels in training and behind the server.

Images of any mode: transparent ones lie on white, 16 bits are scaled to 8, of an animation the first frame counts. They
are stretched to the square that the network sees and turned upright by their EXIF orientation.
"""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from model.image_files import BrokenImage, Format, ImageFile

# Named here, they are loaded at start-up; Pillow would load all its formats for the first image.
READERS: dict[Format, Callable[[BytesIO], Image.Image]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # what undoes each EXIF orientation

PREMULTIPLIED = {"LA": "La", "RGBA": "RGBa"}
BAND_PIXELS = 1 << 18  # converted within a millisecond

Pixels = NDArray[np.uint8]


def to_pixels(file: ImageFile, size: int) -> Pixels:
    """Decode, lay on white, resize, turn upright.

    Args:
        file: as it was read.
        size: height and width of the output.

    Returns:
        (size, size, 3).

    Raises:
        BrokenImage: the file is damaged, as far as that can be told.
    """
    try:
        image = _decode_jpeg(file, size) if file.format == "JPEG" else _decode(file)
        if image.size == (size, size):
            image = _to_continuous(image, file)
        else:
            image = _resize(image, file, size)
    except MemoryError:
        raise
    except Exception as error:  # the decoders raise nearly anything
        raise BrokenImage(str(error)) from error
    # What is slow at full size comes last.
    if file.orientation in UPRIGHT:
        image = image.transpose(UPRIGHT[file.orientation])
    return np.asarray(_to_rgb(image))


def _decode_jpeg(file: ImageFile, size: int) -> Image.Image:
    """Return a JPEG, at 1/2, 1/4 or 1/8 where that leaves twice the target, which keeps the resize smooth.

    libjpeg only warns of most damage, and goes on with other pixels. ``simplejpeg`` makes errors of its warnings.
    """
    factor = 1
    while factor < 8 and min(file.width, file.height) >= 2 * factor * 2 * size:
        factor *= 2
    try:
        pixels = simplejpeg.decode_jpeg(
            file.content,
            "CMYK" if file.components == 4 else "RGB",
            min_height=-(-file.height // factor),
            min_width=-(-file.width // factor),
            min_factor=factor,
        )
    except ValueError as error:
        if "subsampling" not in str(error):
            raise
        # Colours at a resolution that TurboJPEG has no name for, such as 2/3: Pillow takes them, and hides warnings.
        image = READERS["JPEG"](BytesIO(file.content))
        image.draft(None, (file.width // factor, file.height // factor))
        image.load()
        return image
    if file.components == 4:  # inverted, as Adobe writes them
        return Image.fromarray(255 - pixels, "CMYK")
    return Image.fromarray(pixels)


def _decode(file: ImageFile) -> Image.Image:
    """Return the first frame of a PNG or WebP image."""
    image = READERS[file.format](BytesIO(file.content))
    image.load()
    return image


def _resize(image: Image.Image, file: ImageFile, size: int) -> Image.Image:
    """Return the image at size × size, as ``Image.resize(reducing_gap=2)`` would make it.

    That is: averaged over whole boxes of pixels down to twice the size, then interpolated. Here the first step goes band
    by band, so that another mode of a large image is never held whole, nor converted in one go, which Pillow does with
    Python's lock held.
    """
    across, down = (max(1, side // size // 2) for side in image.size)
    rows = down * max(1, BAND_PIXELS // (image.width * down))
    bands = []
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        band = _to_continuous(image.crop((0, top, image.width, bottom)), file)
        if band.mode in PREMULTIPLIED:  # what is transparent has no colour to blend
            band = band.convert(PREMULTIPLIED[band.mode])
        bands.append((top // down, band.reduce((across, down))))
    mode, width = bands[0][1].mode, bands[0][1].width
    small = Image.new(mode, (width, -(-image.height // down)))
    for top, band in bands:
        small.paste(band, (0, top))
    box = (0, 0, image.width / across, image.height / down)
    resized = small.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return resized.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, mode))


def _to_continuous(image: Image.Image, file: ImageFile) -> Image.Image:
    """Return the image with 8 bits a channel that can be averaged: no palette, no single transparent colour."""
    transparent: Any = image.info.get("transparency")
    if image.mode.startswith("I"):  # Pillow would clip 16 bits at 255 rather than scale them
        levels = np.asarray(image)
        grey = Image.fromarray((levels >> 8).astype(np.uint8))
        if transparent is None:
            return grey
        opaque = Image.fromarray(np.where(levels == transparent, 0, 255).astype(np.uint8))
        return Image.merge("LA", (grey, opaque))
    if transparent is not None or image.mode == "PA":
        if file.format == "PNG" and image.mode in ("L", "RGB"):
            image.info["transparency"] = _in_8_bits(transparent, depth=file.content[24])
        return image.convert("RGBA")
    if image.mode in ("P", "1"):
        return image.convert("RGB")
    return image


def _in_8_bits(transparent: int | tuple[int, ...], depth: int) -> int | tuple[int, ...]:
    """Return the transparent colour of a PNG as Pillow scales its pixels; of the file it takes it as it is."""
    if isinstance(transparent, tuple):
        return tuple(value >> 8 for value in transparent) if depth == 16 else transparent
    return transparent * 255 // ((1 << depth) - 1)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return the image in mode RGB, laid on white where it is transparent."""
    if image.mode in ("RGBA", "LA"):
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
