"""From an image file to what the networks take: the same pixels in training and behind the server.

Images of any mode: transparent ones lie on white, 16 bits are scaled to 8, of an animation the first frame counts. They
are brought to the square that the network sees, as ``Preprocessing`` says, and turned upright by their EXIF orientation.
"""

from collections.abc import Callable
from io import BytesIO
from math import ceil
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from model.image_files import BrokenImage, Format, ImageFile
from model.preprocessing import Interpolation, Preprocessing

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

RESAMPLING: dict[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
# Pixels of the output around the part that is seen, which interpolation at its edges reaches.
REACH: dict[Interpolation, float] = {"bilinear": 0.5, "bicubic": 1.5}

PREMULTIPLIED = {"LA": "La", "RGBA": "RGBa"}
BAND_PIXELS = 1 << 18  # converted within a millisecond

Pixels = NDArray[np.uint8]


def to_pixels(file: ImageFile, preprocessing: Preprocessing) -> Pixels:
    """Decode, lay on white, resize, turn upright.

    Args:
        file: as it was read.
        preprocessing: what it is brought to.

    Returns:
        (size, size, 3).

    Raises:
        BrokenImage: the file is damaged, as far as that can be told.
    """
    try:
        if _is_ready(file, preprocessing):
            try:
                pixels: Pixels = simplejpeg.decode_jpeg(file.content, "RGB")
                return pixels
            except ValueError:  # told below
                pass
        if file.format == "JPEG":
            image = _decode_jpeg(file, preprocessing.scaled_side)
        else:
            image = _decode(file)
        size = preprocessing.size
        if image.size == (size, size) and preprocessing.scaled_side == size:
            image = _to_continuous(image, file)
        else:
            image = _resize(image, file, preprocessing)
    except MemoryError:
        raise
    except Exception as error:  # the decoders raise nearly anything
        raise BrokenImage(str(error)) from error
    # What is slow at full size comes last.
    if file.orientation in UPRIGHT:
        image = image.transpose(UPRIGHT[file.orientation])
    return np.asarray(_to_rgb(image))


def _is_ready(file: ImageFile, preprocessing: Preprocessing) -> bool:
    """Say whether a file's own pixels are what the network sees: then the decoder's array is not copied any more."""
    is_plain = file.format == "JPEG" and file.components != 4 and file.orientation not in UPRIGHT
    size = preprocessing.size
    return (
        is_plain and (file.width, file.height) == (size, size) == (preprocessing.scaled_side,) * 2
    )


def _decode_jpeg(file: ImageFile, scaled_side: int) -> Image.Image:
    """Return a JPEG, at 1/2, 1/4 or 1/8 where that leaves twice the target, which keeps the resize smooth.

    libjpeg only warns of most damage, and goes on with other pixels. ``simplejpeg`` makes errors of its warnings.
    """
    factor = 1
    while factor < 8 and min(file.width, file.height) >= 2 * factor * 2 * scaled_side:
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


def _resize(image: Image.Image, file: ImageFile, preprocessing: Preprocessing) -> Image.Image:
    """Return the part of the image that is seen at size × size, as ``Image.resize(box=…, reducing_gap=2)`` would make it.

    That is: averaged over whole boxes of pixels down to twice the size, then interpolated. Here the first step goes band
    by band, so that another mode of a large image is never held whole, nor converted in one go, which Pillow does with
    Python's lock held.
    """
    size = preprocessing.size
    left, top, right, bottom = preprocessing.seen(*image.size)
    x_scale, y_scale = (right - left) / size, (bottom - top) / size
    across, down = max(1, int(x_scale / 2)), max(1, int(y_scale / 2))
    reach = REACH[preprocessing.interpolation]
    first_x, first_y = max(0, int(left - reach * x_scale)), max(0, int(top - reach * y_scale))
    last_x = min(image.width, ceil(right + reach * x_scale))
    last_y = min(image.height, ceil(bottom + reach * y_scale))
    rows = down * max(1, BAND_PIXELS // ((last_x - first_x) * down))
    bands = []
    for y in range(first_y, last_y, rows):
        band = _to_continuous(image.crop((first_x, y, last_x, min(y + rows, last_y))), file)
        if band.mode in PREMULTIPLIED:  # what is transparent has no colour to blend
            band = band.convert(PREMULTIPLIED[band.mode])
        bands.append(((y - first_y) // down, band.reduce((across, down))))
    mode, width = bands[0][1].mode, bands[0][1].width
    small = Image.new(mode, (width, -(-(last_y - first_y) // down)))
    for y, band in bands:
        small.paste(band, (0, y))
    box = (
        (left - first_x) / across,
        (top - first_y) / down,
        (right - first_x) / across,
        (bottom - first_y) / down,
    )
    resized = small.resize((size, size), RESAMPLING[preprocessing.interpolation], box=box)
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
