import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from model.image_files import BrokenImage, read_image_file
from model.images import RESAMPLING, Pixels, to_pixels
from model.preprocessing import Preprocessing

STRETCHED = Preprocessing(size=32)
WHITE = (255, 255, 255)
NOISE = np.random.default_rng(0).integers(0, 256, (96, 80, 4), np.uint8)


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def decode(content: bytes, preprocessing: Preprocessing = STRETCHED) -> Pixels:
    return to_pixels(read_image_file(content), preprocessing)


def png(bits: int, colour: int, rows: list[bytes], *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG 32 pixels wide; Pillow does not write all that there are."""
    header = struct.pack(">IIBBBBB", 32, len(rows), bits, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in ((b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b""))
    )


@pytest.mark.parametrize(
    ("bits", "colour", "clear", "opaque", "grey"),
    [
        (1, 0, [0], [1], 255),
        (2, 0, [1], [2], 170),
        (4, 0, [3], [8], 136),
        (8, 0, [77], [78], 78),
        (16, 0, [0x1234], [0x1235], 0x12),
        (8, 2, [1, 2, 3], [1, 1, 1], 1),
        (16, 2, [0x1234, 0x5678, 0x9ABC], [0x4000, 0x4000, 0x4000], 0x40),
    ],
)
def test_the_transparent_colour_of_a_png_lies_on_white(
    bits: int, colour: int, clear: list[int], opaque: list[int], grey: int
) -> None:
    def row(values: list[int]) -> bytes:
        text = "".join(f"{value:0{bits}b}" for value in values) * 32
        return int(text, 2).to_bytes(len(text) // 8, "big")

    marked = (b"tRNS", struct.pack(f">{len(clear)}H", *clear))

    pixels = decode(png(bits, colour, [row(clear)] * 16 + [row(opaque)] * 16, marked))

    assert (pixels[:16] == WHITE).all()
    assert (pixels[16:] == grey).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("size", [(80, 96), (640, 40), (1201, 803)])
def test_a_large_image_is_averaged_as_pillow_does_it_in_one_go(
    mode: str, size: tuple[int, int]
) -> None:
    rgba = Image.fromarray(NOISE).resize(size)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(rgba.convert("L")).astype(np.uint16) * 257)
        whole = rgba.convert("L")
    else:
        image = rgba.convert("RGB").convert(mode) if mode in ("1", "P") else rgba.convert(mode)
        whole = image.convert("RGB") if mode in ("1", "P") else image
    whole = whole.resize((32, 32), Image.Resampling.BILINEAR, reducing_gap=2.0).convert("RGBA")
    white = Image.new("RGBA", (32, 32), "white")

    expected = np.asarray(Image.alpha_composite(white, whole).convert("RGB"))

    assert_array_equal(decode(encode(image, "PNG", compress_level=0)), expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"subsampling": "4:4:4"},
        {"subsampling": "4:2:2"},
        {"optimize": True, "restart_marker_blocks": 3},
    ],
)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("size", [(32, 32), (80, 96), (1000, 700)])
def test_a_jpeg_has_the_pixels_that_pillow_gives(
    mode: str, options: dict[str, object], size: tuple[int, int]
) -> None:
    content = encode(
        Image.fromarray(NOISE).convert("RGB").resize(size).convert(mode), "JPEG", **options
    )
    image = Image.open(BytesIO(content))
    image.draft(None, (64, 64))
    if image.size != (32, 32):
        image = image.resize((32, 32), Image.Resampling.BILINEAR, reducing_gap=2.0)  # type: ignore[assignment]

    assert_array_equal(decode(content), np.asarray(image.convert("RGB")))


CROPPED = [
    Preprocessing(size=32, shorter_side=32),
    Preprocessing(size=32, shorter_side=37),
    Preprocessing(size=32, shorter_side=36, interpolation="bicubic"),
]


@pytest.mark.parametrize("preprocessing", CROPPED)
@pytest.mark.parametrize("size", [(32, 32), (20, 30), (36, 41), (640, 40), (803, 1201)])
def test_a_cropped_image_is_the_middle_of_the_scaled_one(
    preprocessing: Preprocessing, size: tuple[int, int]
) -> None:
    image = Image.fromarray(NOISE[..., :3]).resize(size, Image.Resampling.BICUBIC)
    resample = RESAMPLING[preprocessing.interpolation]
    whole = image.resize((32, 32), resample, box=preprocessing.seen(*size), reducing_gap=2.0)

    pixels = decode(encode(image, "PNG"), preprocessing)

    # Pillow keeps the edges of a box in single precision.
    assert_allclose(pixels.astype(int), np.asarray(whole).astype(int), atol=1)


def test_a_cropped_image_keeps_its_shape() -> None:
    """Of an image twice as wide as high, the quarters at its sides are not seen, of a stretched one they are."""
    image = Image.new("RGB", (400, 200), "red")
    image.paste("blue", (110, 10, 290, 190))
    cropped = Preprocessing(size=32, shorter_side=36)

    assert (decode(encode(image, "PNG"), cropped)[2:-2, 2:-2] == (0, 0, 255)).all()
    assert (decode(encode(image, "PNG"))[:, :6] == (255, 0, 0)).all()


@pytest.mark.parametrize("preprocessing", [STRETCHED, *CROPPED])
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2), (37, 36), (8000, 9)])
def test_an_image_of_any_shape_becomes_the_square(
    preprocessing: Preprocessing, size: tuple[int, int]
) -> None:
    for image_format in ("PNG", "JPEG"):
        pixels = decode(encode(Image.new("RGB", size, "white"), image_format), preprocessing)

        assert pixels.shape == (32, 32, 3)
        assert (pixels == WHITE).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(32, 32), (500, 300)])
def test_every_orientation_is_turned_upright(orientation: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    corners = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 0, 0]]], np.uint8)
    undone = {
        1: corners,
        2: corners[:, ::-1],
        3: corners[::-1, ::-1],
        4: corners[::-1],
        5: corners.transpose(1, 0, 2),
        6: np.rot90(corners, 1),
        7: corners[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(corners, -1),
    }
    stored = Image.fromarray(undone[orientation]).resize(size, Image.Resampling.NEAREST)

    pixels = decode(encode(stored, "PNG", exif=exif))

    for y, x in ((4, 4), (4, 27), (27, 4), (27, 27)):
        assert_allclose(pixels[y, x].astype(int), corners[y // 16, x // 16], atol=2)


def test_a_cmyk_jpeg_that_turbojpeg_has_no_name_for_is_read() -> None:
    image = Image.new("CMYK", (500, 300), (0, 255, 255, 0))

    pixels = decode(encode(image, "JPEG", subsampling="4:2:2"))

    assert_allclose(pixels[16, 16].astype(int), (255, 0, 0), atol=8)


JPEGS = {
    "baseline": encode(Image.fromarray(NOISE[:32, :32]).convert("RGB"), "JPEG"),
    "progressive": encode(
        Image.fromarray(NOISE[:32, :32]).convert("RGB"), "JPEG", progressive=True
    ),
    "restarts": encode(
        Image.fromarray(NOISE[:32, :32]).convert("RGB"), "JPEG", restart_marker_blocks=1
    ),
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("cut", [1, 2])
def test_a_jpeg_without_its_end_marker_is_whole(kind: str, cut: int) -> None:
    assert_array_equal(decode(JPEGS[kind][:-cut]), decode(JPEGS[kind]))


@pytest.mark.parametrize("kind", JPEGS)
def test_what_follows_a_jpeg_does_not_count(kind: str) -> None:
    assert_array_equal(decode(JPEGS[kind] + b"\xff\xd8\xff\xda more"), decode(JPEGS[kind]))


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
def test_a_jpeg_that_lacks_pixels_is_broken(kind: str, end: bytes) -> None:
    content = JPEGS[kind]
    last_scan = content.rfind(b"\xff\xda") + 20

    for length in range(last_scan, len(content) - 4, 5):
        with pytest.raises(BrokenImage):
            decode(content[:length] + end)


def test_a_progressive_jpeg_that_ends_between_scans_is_broken() -> None:
    content = JPEGS["progressive"]
    at = content.find(b"\xff\xda")

    while (at := content.find(b"\xff\xda", at + 2)) > 0:
        with pytest.raises(BrokenImage):
            decode(content[:at])


@pytest.mark.parametrize("kind", JPEGS)
def test_a_marker_or_bytes_too_many_within_a_scan_are_told(kind: str) -> None:
    content = JPEGS[kind]
    at = len(content) - 20

    with pytest.raises(BrokenImage):
        decode(content[:at] + b"\xff\x01" + content[at:])
    with pytest.raises(BrokenImage):
        decode(content[:-2] + 30 * b"\x12\x34" + content[-2:])
