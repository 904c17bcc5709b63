"""From what callers have for an image to the bytes that are sent: a file goes as it is, pixels as PNG.

PNG without compression: it takes a tenth of the time, which counts against the deadline, and on the way to a server near by
little more.
"""

import struct
import zlib
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, TypeAlias


class ReadableFile(Protocol):
    """A file that was opened in binary mode."""

    def read(self) -> bytes:
        """Return what is in it."""
        ...


ImageLike: TypeAlias = bytes | bytearray | str | PathLike[str] | ReadableFile | Any
"""The bytes of a JPEG, PNG or WebP file, its path, the file itself, a Pillow image, or an array: uint8 (H, W), (H, W, 1),
(H, W, 3) or (H, W, 4), RGB."""

PNG_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # by channels: grey, grey and alpha, RGB, RGBA
PLAIN_MODES = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}  # of Pillow, with their channels
WRITABLE_MODES = ("1", "P", "I", "I;16", *PLAIN_MODES)  # by Pillow, as PNG


def to_bytes(image: ImageLike) -> bytes:
    """Return what is sent for an image.

    Raises:
        OSError: the file cannot be read.
        TypeError: this is no image.
        ValueError: the array has another shape than an image.
    """
    if isinstance(image, bytes | bytearray):
        return bytes(image)
    if isinstance(image, str | PathLike):
        return Path(image).read_bytes()
    if hasattr(image, "getexif"):  # Pillow's, which need not be imported to be known
        return _save(image)
    if hasattr(image, "read"):
        content = image.read()
        if not isinstance(content, bytes):
            raise TypeError("the file is opened as text; open it with mode 'rb'")
        return content
    try:
        pixels = memoryview(image)  # type: ignore[arg-type]  # of what is none, this says so
    except TypeError:
        raise TypeError(
            f"{type(image).__name__} is no image: bytes, path, file, Pillow image or NumPy array"
        ) from None
    return _encode(pixels)


def _save(image: Any) -> bytes:
    """Return a Pillow image as PNG, with its orientation."""
    exif: bytes = image.getexif().tobytes() if image.getexif() else b""
    if image.mode in PLAIN_MODES and "transparency" not in image.info:
        width, height = image.size
        return _png(image.tobytes(), width, height, PLAIN_MODES[image.mode], exif)
    buffer = BytesIO()
    writable = image if image.mode in WRITABLE_MODES else image.convert("RGB")
    writable.save(buffer, "PNG", exif=exif)  # takes longer
    return buffer.getvalue()


def _encode(pixels: memoryview) -> bytes:
    """Return an array as PNG."""
    shape = pixels.shape or ()
    shape += (1,) * (len(shape) == 2)
    if pixels.format != "B":
        raise TypeError(f"the array's items are {pixels.format!r}; pixels are uint8, from 0 to 255")
    if len(shape) != 3 or 0 in shape or shape[2] not in PNG_COLOURS:
        raise ValueError(
            f"the array is {pixels.shape}; an image is (height, width) or (height, width, 1 to 4)"
        )
    height, width, channels = shape
    return _png(pixels.tobytes(), width, height, channels)


def _png(content: bytes, width: int, height: int, channels: int, exif: bytes = b"") -> bytes:
    """Return pixels, row after row, as a PNG file."""
    stride = width * channels
    starts = range(0, len(content), stride)
    rows = b"".join(b"\0" + content[at : at + stride] for at in starts)  # \0: it is not filtered
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, PNG_COLOURS[channels], 0, 0, 0),
        b"eXIf": exif.removeprefix(b"Exif\0\0"),
        b"IDAT": zlib.compress(rows, 0),
    }
    written = (_chunk(kind, content) for kind, content in chunks.items() if content)
    return b"\x89PNG\r\n\x1a\n" + b"".join(written) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
