import asyncio
import struct
import time
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from service.images import ImageDecoder, image_content
from service.problems import (
    DamagedImage,
    Expired,
    InvalidUpload,
    NotAnImage,
    Overloaded,
    Problem,
    TooManyPixels,
)

pytestmark = pytest.mark.anyio

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)


def decoder_with(max_waiting: int) -> ImageDecoder:
    return ImageDecoder(
        size=32,
        max_pixels=4_000_000,
        max_waiting=max_waiting,
        clock=time.monotonic,
        on_wake=lambda now: None,
    )


@pytest.fixture(scope="module")
def decoder() -> ImageDecoder:
    return decoder_with(max_waiting=4)


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and ends where its pixels should begin."""
    fields = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", fields), (b"IDAT", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
async def test_lossless_formats_keep_every_pixel(
    decoder: ImageDecoder, picture: Image.Image, format: str, options: dict[str, object]
) -> None:
    pixels = await decoder.decode(encode(picture, format, **options))

    assert_array_equal(pixels, np.asarray(picture))


async def test_jpeg_comes_close(decoder: ImageDecoder, picture: Image.Image, jpeg: bytes) -> None:
    pixels = await decoder.decode(jpeg)

    assert_allclose(pixels.astype(float), np.asarray(picture), atol=16)  # quality 95; 9 seen


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("L", (32, 32), 128), (128, 128, 128)),
        (Image.new("1", (32, 32), 1), WHITE),
        (Image.new("P", (32, 32), 0), (0, 0, 0)),
        (Image.new("RGBA", (32, 32), (*RED, 255)), RED),
        (Image.new("RGBA", (32, 32), (*RED, 0)), WHITE),
        (Image.new("RGBA", (32, 32), (0, 0, 0, 51)), (204, 204, 204)),
        (Image.new("LA", (32, 32), (0, 0)), WHITE),
        (Image.new("I;16", (32, 32), 0x80FF), (128, 128, 128)),
    ],
    ids=["grey", "bits", "palette", "opaque", "clear", "mostly clear", "grey and clear", "16 bits"],
)
@pytest.mark.parametrize("size", [(32, 32), (500, 400)])
async def test_every_mode_becomes_rgb_on_white(
    decoder: ImageDecoder,
    image: Image.Image,
    colour: tuple[int, int, int],
    size: tuple[int, int],
) -> None:
    pixels = await decoder.decode(encode(image.resize(size), "PNG"))

    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == colour).all()


async def test_a_transparent_palette_entry_shows_white(decoder: ImageDecoder) -> None:
    image = Image.new("P", (32, 32), 1)
    image.putpalette([*RED, *GREEN])

    pixels = await decoder.decode(encode(image, "PNG", transparency=1))

    assert (pixels == WHITE).all()


async def test_cmyk_jpeg_keeps_its_colour(decoder: ImageDecoder) -> None:
    pixels = await decoder.decode(encode(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG"))

    assert_allclose(pixels[16, 16].astype(int), RED, atol=8)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
async def test_exif_orientation_turns_the_image_upright(decoder: ImageDecoder, format: str) -> None:
    lying = Image.new("RGB", (64, 64), RED)
    lying.paste(BLUE, (0, 0, 32, 64))  # blue on the left; a quarter turn clockwise puts it on top
    exif = Image.Exif()
    exif[0x0112] = 6

    pixels = await decoder.decode(encode(lying, format, exif=exif))

    assert_allclose(pixels[4, 16].astype(int), BLUE, atol=40)
    assert_allclose(pixels[28, 16].astype(int), RED, atol=40)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
async def test_the_first_frame_of_an_animation_counts(decoder: ImageDecoder, format: str) -> None:
    first, second = Image.new("RGB", (32, 32), RED), Image.new("RGB", (32, 32), BLUE)

    pixels = await decoder.decode(
        encode(first, format, save_all=True, append_images=[second], lossless=True)
    )

    assert_allclose(pixels[16, 16].astype(int), RED, atol=2)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(1, 1), (31, 500), (1600, 1200)])
async def test_any_size_is_stretched_to_the_networks(
    decoder: ImageDecoder, format: str, size: tuple[int, int]
) -> None:
    image = Image.linear_gradient("L").resize(size).convert("RGB")

    pixels = await decoder.decode(encode(image, format))

    expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)).astype(float)
    assert_allclose(pixels, expected, atol=12)  # a gradient; decoding at 1/8 size costs up to 7


async def test_a_bomb_is_refused_by_its_header(decoder: ImageDecoder) -> None:
    with pytest.raises(TooManyPixels) as caught:
        await decoder.decode(png_header(60_000, 60_000))

    assert "60000 × 60000 = 3600000000 pixels" in caught.value.detail
    assert caught.value.members["limit"] == 4_000_000


@pytest.mark.parametrize(
    "content", [b"no image", bytes(100), b"GIF89a" + bytes(100)], ids=["text", "zeros", "gif"]
)
async def test_other_bytes_are_no_image(decoder: ImageDecoder, content: bytes) -> None:
    with pytest.raises(NotAnImage):
        await decoder.decode(content)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
async def test_a_truncated_image_is_a_problem(
    decoder: ImageDecoder, picture: Image.Image, format: str
) -> None:
    whole = encode(picture, format)

    for length in range(1, len(whole) - 20, 7):
        with pytest.raises((DamagedImage, NotAnImage)):
            await decoder.decode(whole[:length])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=5))
def test_damaged_bytes_are_a_problem_or_an_image(
    decoder: ImageDecoder, picture: Image.Image, format: str, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(encode(picture, format))
    for place, value in changes:
        content[place % len(content)] = value

    try:
        pixels = asyncio.run(decoder.decode(bytes(content)))
    except Problem:
        return
    assert pixels.shape == (32, 32, 3)


async def test_large_images_past_the_limit_are_refused(picture: Image.Image) -> None:
    decoder = decoder_with(max_waiting=0)

    with pytest.raises(Overloaded):
        await decoder.decode(encode(picture.resize((500, 500)), "PNG"))


async def test_a_large_image_that_nobody_wants_any_more_is_not_decoded(
    picture: Image.Image,
) -> None:
    content = encode(picture.resize((500, 500)), "PNG")

    with pytest.raises(Expired):
        await decoder_with(max_waiting=1).decode(content, give_up_at=time.monotonic())


def form(*files: bytes) -> bytes:
    parts = [
        b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n' + file
        for file in files
    ]
    return b"\r\n".join([*parts, b"--edge--\r\n"])


FORM = b"multipart/form-data; boundary=edge"


def test_the_file_of_a_form_is_the_image() -> None:
    content = b"\xff\xd8 any bytes \r\n--edg \x00" * 1000

    assert image_content(form(content), FORM) == content


@pytest.mark.parametrize("content_type", [b"", b"image/jpeg", b"application/x-www-form-urlencoded"])
def test_any_other_body_is_the_image(content_type: bytes) -> None:
    assert image_content(b"bytes", content_type) == b"bytes"


@pytest.mark.parametrize(
    ("content_type", "body", "detail"),
    [
        (FORM, form(), "holds 0 files"),
        (FORM, form(b"one", b"two"), "holds 2 files"),
        (FORM, b"no form at all", "cannot be read"),
        (FORM, form(b"one")[:-20], "holds 0 files"),
        (b"multipart/form-data", form(b"one"), "boundary"),
    ],
)
def test_a_form_holds_exactly_one_file(content_type: bytes, body: bytes, detail: str) -> None:
    with pytest.raises(InvalidUpload, match=detail):
        image_content(body, content_type)


async def test_a_png_may_hold_a_long_text_beside_its_pixels(decoder: ImageDecoder) -> None:
    text, file = PngInfo(), BytesIO()
    text.add_text("workflow", "x" * 1_200_000, zip=True)
    Image.new("RGB", (8, 8), "red").save(file, "PNG", pnginfo=text)

    assert (await decoder.decode(file.getvalue()))[0, 0].tolist() == [255, 0, 0]
