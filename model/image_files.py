"""What an image file says of itself before a pixel is decoded: format, size, scans, orientation.

Only the chain of segments or chunks is followed, in a bounded number of steps, and the scans of a JPEG are found at some
billions of bytes a second; nothing is unpacked. So it may be asked anywhere, of any bytes. What pixels do not need is left
out of what goes to the decoder: of a PNG its profiles and texts.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

Format = Literal["JPEG", "PNG", "WEBP"]
FORMATS: tuple[Format, ...] = ("JPEG", "PNG", "WEBP")

MAX_STEPS = 4096  # segments, chunks or EXIF entries; 10 MiB of PNG in chunks of 8 KiB, the usual size, are 1,280
MAX_SCANS = 100  # of a JPEG; encoders write up to about 15, and each is a pass over the whole image

START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
SEARCHED_BYTES = 1 << 17  # at a time: what is compared stays in the cache
SEQUENTIAL, PROGRESSIVE = {0xC0, 0xC1, 0xC9}, {0xC2, 0xCA}  # frames, of Huffman or arithmetic codes
OTHER_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF}  # lossless and hierarchical
FRAMES = SEQUENTIAL | PROGRESSIVE
SEGMENTS = {*range(0xC0, 0xFF)} - {*range(0xD0, 0xDA)}  # markers that a length follows
JPEG_FRAME = struct.Struct(">BHHB")  # bits a sample, height, width, components
MAX_IN_SCAN = 4  # components
COEFFICIENTS = 64  # of a component

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}  # all that a decoder needs

ORIENTATION = 0x0112  # EXIF's tag
SHORT = 3  # its type


class UnknownImage(Exception):
    """The bytes are of no format that can be read; the message says what they are, as in "are no JPEG"."""


class BrokenImage(Exception):
    """The bytes are of a format that can be read, but damaged or cut off."""


class ImageFile(NamedTuple):
    """An image that may be decoded.

    Attributes:
        content: what the decoder needs of the file.
        width: as stored, before it is turned upright.
        height: likewise.
        scans: passes over the image that decoding it takes.
        orientation: EXIF's, 1 (upright) to 8.
        components: of a JPEG.
    """

    format: Format
    content: bytes
    width: int
    height: int
    scans: int = 1
    orientation: int = 1
    components: int = 3

    @property
    def pixels(self) -> int:
        """Return how many pixels it has."""
        return self.width * self.height


def read_image_file(content: bytes) -> ImageFile:
    """Return what an image file says of itself.

    Raises:
        UnknownImage: it is none, or of a kind that cannot be read.
        BrokenImage: it is damaged where it describes itself.
    """
    try:
        if content.startswith(b"\xff\xd8"):
            file = _read_jpeg(content)
        elif content.startswith(PNG_SIGNATURE[:4]):
            file = _read_png(content)
        elif content.startswith(b"RIFF") and content[8:12] == b"WEBP":
            file = _read_webp(content)
        elif content.startswith(b"\x1f\x8b"):
            raise UnknownImage("are packed with gzip; send the image as it is")
        else:
            raise UnknownImage(f"are no {', '.join(FORMATS)} image")
    except (IndexError, struct.error) as error:
        raise BrokenImage("the file ends before its pixels") from error
    if not file.pixels:
        raise BrokenImage(f"the file says that it is {file.width} × {file.height} pixels")
    return file


def _read_jpeg(content: bytes) -> ImageFile:
    orientation, kind, frame, at = 1, 0, b"", 2
    for _ in range(MAX_STEPS):
        if content[at] != 0xFF:
            raise BrokenImage(f"byte {at} should begin a segment")
        marker = content[at + 1]
        if marker == 0xFF:  # a filling byte
            at += 1
            continue
        if marker == START_OF_SCAN[1]:
            break
        length = content[at + 2] << 8 | content[at + 3]
        end = at + 2 + length
        if length < 2 or end > len(content) or marker not in SEGMENTS:
            raise BrokenImage(f"the segment at byte {at} is damaged or cut off")
        if marker == 0xE1 and content.startswith(b"Exif\0\0", at + 4, end) and orientation == 1:
            orientation = _orientation(content[at + 4 : end])
        elif marker in FRAMES:
            kind, frame = marker, content[at + 4 : end]
        elif marker in OTHER_FRAMES:
            raise UnknownImage("are a lossless or hierarchical JPEG, which is not read")
        at = end
    else:
        raise BrokenImage(f"the file has more than {MAX_STEPS} segments before its pixels")
    precision, height, width, components = JPEG_FRAME.unpack_from(frame)
    if precision != 8:
        raise UnknownImage(f"are a JPEG of {precision} bits a sample; 8 can be read")
    # Neither marker can be among coded pixels. A preview that follows the image counts as scans, too: few. What is in one
    # scan is not searched for others: its decoder refuses them.
    is_one_scan = kind in SEQUENTIAL and content[at + 4] == components
    scans_at = [at] if is_one_scan else _find(START_OF_SCAN, content, at, MAX_SCANS + 1)
    if len(scans_at) > MAX_SCANS:
        raise BrokenImage(f"the file has more scans than any encoder writes ({MAX_SCANS})")
    if not content.endswith(END_OF_IMAGE) and not _find(END_OF_IMAGE, content, at, 1):
        if kind in PROGRESSIVE and not _is_complete(content, scans_at, components):
            raise BrokenImage("the file ends before its last scan")
        content += END_OF_IMAGE  # if pixels are missing too, the decoder finds out
    return ImageFile("JPEG", content, width, height, len(scans_at), orientation, components)


def _find(marker: bytes, content: bytes, at: int, most: int) -> list[int]:
    """Return the first places of a marker, from a place on.

    ``bytes.find`` takes up to ten times as long where half of the marker is everywhere.
    """
    first, second = marker
    values, places = np.frombuffer(content, np.uint8), list[int]()
    for begin in range(at, len(content), SEARCHED_BYTES):
        part = values[begin : begin + SEARCHED_BYTES + 1]
        found = np.flatnonzero((part[:-1] == first) & (part[1:] == second))
        places += (found[: most - len(places)] + begin).tolist()
        if len(places) == most:
            break
    return places


def _is_complete(content: bytes, scans_at: Sequence[int], components: int) -> bool:
    """Return whether the scans of a progressive JPEG hold every coefficient to its last bit."""
    bits_left: dict[tuple[int, int], int] = {}
    for at in scans_at:
        in_scan = content[at + 4]
        first, last, approximation = struct.unpack_from("BBB", content, at + 5 + 2 * in_scan)
        if in_scan > MAX_IN_SCAN or last >= COEFFICIENTS:
            return False
        for component in content[at + 5 : at + 5 + 2 * in_scan : 2]:
            for coefficient in range(first, last + 1):
                bits_left[component, coefficient] = approximation & 15
    return len(bits_left) == components * COEFFICIENTS and not any(bits_left.values())


def _read_png(content: bytes) -> ImageFile:
    if not content.startswith(PNG_SIGNATURE):
        raise BrokenImage("the signature is damaged, as by a transfer in text mode")
    width, height = struct.unpack_from(">II", content, 16)
    if content[12:16] != b"IHDR":
        raise BrokenImage("the first chunk is not IHDR")
    orientation, view, pieces = 1, memoryview(content), [memoryview(PNG_SIGNATURE)]
    for kind, start, end in _png_chunks(content):
        if kind in PNG_PIXELS:
            pieces.append(view[start:end])
        elif kind == b"eXIf":
            orientation = _orientation(content[start + 8 : end - 4])
    is_bare = sum(map(len, pieces)) == len(content)
    kept = content if is_bare else b"".join(pieces)
    return ImageFile("PNG", kept, width, height, orientation=orientation)


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Give the kind of each chunk, and where it begins and ends."""
    at = len(PNG_SIGNATURE)
    for _ in range(MAX_STEPS):
        if at >= len(content):
            return  # without IEND: if pixels are missing too, the decoder finds out
        length, kind = struct.unpack_from(">I4s", content, at)
        if not kind.isalpha():
            raise BrokenImage(f"the chunk at byte {at} is damaged")
        yield kind, at, at + 12 + length
        if kind == b"IEND":
            return
        at += 12 + length
    raise BrokenImage(f"the file has more than {MAX_STEPS} chunks")


def _read_webp(content: bytes) -> ImageFile:
    kind, first = content[12:16], content[20:30]
    orientation = 1
    if kind == b"VP8X":
        width = 1 + int.from_bytes(first[4:7], "little")
        height = 1 + int.from_bytes(first[7:10], "little")
        at = 12
        for _ in range(MAX_STEPS):
            if at + 8 > len(content):
                break
            name, length = struct.unpack_from("<4sI", content, at)
            if name == b"EXIF":
                orientation = _orientation(content[at + 8 : at + 8 + length])
                break
            at += 8 + length + length % 2
    elif kind == b"VP8 " and first[3:6] == b"\x9d\x01\x2a":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", first, 6))
    elif kind == b"VP8L" and first[:1] == b"\x2f":
        (bits,) = struct.unpack_from("<I", first, 1)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        raise BrokenImage("the header is damaged")
    return ImageFile("WEBP", content, width, height, orientation=orientation)


def _orientation(exif: bytes) -> int:
    """Return how an image lies; upright, where its EXIF does not say so in order: it is about good pixels."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, at)
        for entry in range(min(entries, MAX_STEPS)):
            fields = struct.unpack_from(order + "HHIH", tiff, at + 2 + 12 * entry)
            tag, kind, count, value = fields
            if tag == ORIENTATION:
                return value if (kind, count) == (SHORT, 1) and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
