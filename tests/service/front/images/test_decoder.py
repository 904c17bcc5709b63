import asyncio
import gzip
import struct
import time
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from model.image_files import read_image_file
from model.images import to_pixels
from model.preprocessing import Preprocessing
from service.front.images.decoder import ImageDecoder
from service.problems import (
    DamagedImage,
    Expired,
    NotAnImage,
    Overloaded,
    Problem,
    TooManyPixels,
)

pytestmark = pytest.mark.anyio

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)


def decoder_with(max_waiting: int = 4, max_pixels: int = 4_000_000) -> ImageDecoder:
    return ImageDecoder(
        preprocessing=Preprocessing(size=32),
        max_pixels=max_pixels,
        max_waiting=max_waiting,
        decode_s=60,
        decode_memory_bytes=2**30,
        clock=time.monotonic,
        on_wake=lambda now: None,
    )


@pytest.fixture(scope="module")
def decoder() -> ImageDecoder:
    return decoder_with(max_waiting=4)


def children() -> set[str]:
    return {
        pid
        for each in Path("/proc/self/task").glob("*/children")
        for pid in each.read_text().split()
    }


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


async def test_a_gzip_body_is_called_one(decoder: ImageDecoder, jpeg: bytes) -> None:
    with pytest.raises(NotAnImage, match="packed with gzip"):
        await decoder.decode(gzip.compress(jpeg))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
async def test_an_image_is_damaged_wherever_it_is_cut_off(
    decoder: ImageDecoder, picture: Image.Image, format: str
) -> None:
    whole = encode(picture, format)

    for length in range(12, len(whole) - 20, 7):
        with pytest.raises(DamagedImage):
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
        await decoder_with(max_waiting=1).decode(content, of_use_by=time.monotonic())


async def test_a_png_may_hold_a_long_text_beside_its_pixels(decoder: ImageDecoder) -> None:
    text, file = PngInfo(), BytesIO()
    text.add_text("workflow", "x" * 1_200_000, zip=True)
    Image.new("RGB", (8, 8), "red").save(file, "PNG", pnginfo=text)

    assert (await decoder.decode(file.getvalue()))[0, 0].tolist() == [255, 0, 0]


def with_chunk(png: bytes, kind: bytes, body: bytes) -> bytes:
    """Put a chunk behind the header of a PNG."""
    chunk = kind + body
    packed = struct.pack(">I", len(body)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png[:33] + packed + png[33:]


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt"])
async def test_what_is_packed_beside_the_pixels_is_never_unpacked(
    decoder: ImageDecoder, picture: Image.Image, kind: bytes
) -> None:
    content = with_chunk(encode(picture, "PNG"), kind, b"name\0\0" + b"not packed at all")

    assert_array_equal(await decoder.decode(content), np.asarray(picture))


async def test_scans_without_end_are_refused_by_the_structure(
    decoder: ImageDecoder, picture: Image.Image
) -> None:
    progressive = encode(picture.resize((1000, 1000)), "JPEG", progressive=True)
    scan = progressive[progressive.rfind(b"\xff\xda") : -2]

    with pytest.raises(DamagedImage, match="more scans than any encoder writes"):
        await decoder.decode(progressive[:-2] + 1000 * scan + b"\xff\xd9")
    with pytest.raises(
        TooManyPixels, match="in 90 scans, 90000000 to decode, the limit is 64000000"
    ):
        await decoder.decode(progressive[:-2] + 80 * scan + b"\xff\xd9")


async def test_a_neighbours_deadline_holds_while_large_images_are_decoded(
    picture: Image.Image,
) -> None:
    decoder = decoder_with(max_waiting=100)
    large = encode(picture.resize((1990, 1990)), "JPEG", progressive=True)

    neighbours = [asyncio.ensure_future(decoder.decode(large)) for _ in range(3)]
    await decoder.decode(encode(picture.resize((300, 300)), "PNG"))
    with pytest.raises(Expired):
        await decoder.decode(large, of_use_by=time.monotonic() + 0.001)

    assert not any(neighbour.done() for neighbour in neighbours[1:])
    await asyncio.gather(*neighbours)


async def test_closing_waits_for_no_image_that_was_not_begun(picture: Image.Image) -> None:
    decoder = decoder_with(max_waiting=100)
    large = encode(picture.resize((1990, 1990)), "JPEG", progressive=True)
    waiting = [asyncio.ensure_future(decoder.decode(large)) for _ in range(10)]
    await asyncio.sleep(0)

    decoder.close()

    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert sum(isinstance(each, asyncio.CancelledError) for each in ended) >= 8


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
async def test_a_large_image_has_the_same_pixels_from_its_process(
    picture: Image.Image, image_format: str
) -> None:
    decoder = decoder_with(max_pixels=5_000_000)
    content = encode(picture.resize((2100, 2000)), image_format)

    pixels = await decoder.decode(content)

    assert_array_equal(pixels, to_pixels(read_image_file(content), Preprocessing(size=len(pixels))))


async def test_a_large_image_that_is_damaged_is_told_from_its_process(
    picture: Image.Image,
) -> None:
    decoder = decoder_with(max_pixels=5_000_000)
    content = encode(picture.resize((2100, 2000)), "PNG")

    with pytest.raises(DamagedImage, match="truncated"):
        await decoder.decode(content[: len(content) // 2])


async def test_the_process_of_a_large_image_ends_with_its_deadline(picture: Image.Image) -> None:
    decoder = decoder_with(max_pixels=5_000_000)
    content = encode(picture.resize((2100, 2000)), "WEBP")
    before = children()

    with pytest.raises(Expired):
        await decoder.decode(content, of_use_by=time.monotonic() + 0.02)

    assert children() == before


async def test_of_a_flood_of_images_those_are_refused_that_could_not_be_decoded_in_time(
    picture: Image.Image,
) -> None:
    decoder = decoder_with(max_waiting=1000, max_pixels=9_000_000)
    content = encode(picture.resize((3000, 3000)), "JPEG")
    due_at = time.monotonic() + 0.4  # of two seconds of work; a stall takes some of it

    outcomes = await asyncio.gather(
        *(decoder.decode(content, in_time_by=due_at, of_use_by=due_at) for _ in range(100)),
        decoder.decode(content),  # which has time
        return_exceptions=True,
    )

    assert isinstance(outcomes[99], Overloaded)
    assert "could not be decoded in time" in outcomes[99].detail
    assert isinstance(outcomes[100], np.ndarray)
    assert {type(each) for each in outcomes} <= {Overloaded, Expired, np.ndarray}


async def test_those_whose_callers_left_are_not_decoded_and_all_others_are(
    picture: Image.Image,
) -> None:
    decoder = decoder_with(max_waiting=1000)
    content = encode(picture.resize((700, 700)), "PNG")
    callers = [asyncio.ensure_future(decoder.decode(content)) for _ in range(40)]
    await asyncio.sleep(0)

    for caller in callers[::2]:
        caller.cancel()
    ended = await asyncio.gather(*callers, return_exceptions=True)

    assert all(isinstance(each, asyncio.CancelledError) for each in ended[::2])
    assert all(isinstance(each, np.ndarray) for each in ended[1::2])
    assert isinstance(await decoder.decode(content), np.ndarray)
