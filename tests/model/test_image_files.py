import struct
import zlib
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model.image_files import MAX_STEPS, SEARCHED_BYTES, BrokenImage, UnknownImage, read_image_file
from model.images import to_pixels
from model.preprocessing import Preprocessing

PICTURE = Image.linear_gradient("L").convert("RGB")  # 256 × 256


def encode(format: str, **options: object) -> bytes:
    file = BytesIO()
    PICTURE.save(file, format, **options)
    return file.getvalue()


WHOLE = {
    "JPEG": encode("JPEG"),
    "progressive JPEG": encode("JPEG", progressive=True),
    "PNG": encode("PNG"),
    "WebP": encode("WEBP"),
    "lossless WebP": encode("WEBP", lossless=True),
    "WebP with EXIF": encode("WEBP", exif=b"Exif\0\0II*\0" + bytes(4)),
    "animated WebP": encode("WEBP", save_all=True, append_images=[Image.new("RGB", (256, 256))]),
    "animated PNG": encode("PNG", save_all=True, append_images=[Image.new("RGB", (256, 256))]),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_the_size_is_read_without_decoding(kind: str) -> None:
    file = read_image_file(WHOLE[kind])

    assert (file.width, file.height) == PICTURE.size
    assert file.format.lower() in kind.lower()


def test_the_scans_of_a_jpeg_are_counted() -> None:
    assert read_image_file(WHOLE["JPEG"]).scans == 1
    assert read_image_file(WHOLE["progressive JPEG"]).scans == 10


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_a_scan_is_found_where_one_part_of_the_search_ends(off: int) -> None:
    whole = WHOLE["progressive JPEG"]
    first_at, last_at = whole.find(b"\xff\xda"), whole.rfind(b"\xff\xda")
    filling = bytes(first_at + SEARCHED_BYTES + off - (len(whole) - 2))

    file = read_image_file(whole[:-2] + filling + whole[last_at:])

    assert file.scans == 11


def tiff(order: str, tag: int, kind: int, count: int, value: int) -> bytes:
    begin = {"<": b"II*\0", ">": b"MM\0*"}[order]
    return begin + struct.pack(order + "IHHHIHH", 8, 1, tag, kind, count, value, 0)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_read_in_either_byte_order(format: str, prefix: bytes, order: str) -> None:
    if format == "JPEG":
        prefix = b"Exif\0\0"  # there it says what the segment is

    assert (
        read_image_file(encode(format, exif=prefix + tiff(order, 0x112, 3, 1, 6))).orientation == 6
    )


@pytest.mark.parametrize(
    "exif",
    [
        bytes(64),
        b"II*\0" + b"\xff" * 8,
        b"MM\0*",
        tiff("<", 0x112, 3, 1, 0),
        tiff("<", 0x112, 3, 1, 9),
        tiff("<", 0x112, 2, 1, 6),
        tiff("<", 0x112, 3, 2, 6),
        tiff("<", 0x10F, 3, 1, 6),
        tiff("<", 0x10F, 3, 1, 6)[:-4],
        b"II*\0" + struct.pack("<IH", 8, 0xFFFF) + bytes(12) * 0xFFFF,
    ],
)
@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_bad_exif_leaves_an_image_as_it_lies(format: str, exif: bytes) -> None:
    assert read_image_file(encode(format, exif=exif)).orientation == 1


def test_a_damaged_entry_beside_the_orientation_does_no_harm() -> None:
    resolution_of_text = struct.pack("<HHII", 0x11A, 2, 9, 0xFFFFFFFF)
    exif = b"II*\0" + struct.pack("<IH", 8, 2)
    exif += struct.pack("<HHIHH", 0x112, 3, 1, 8, 0) + resolution_of_text

    assert read_image_file(encode("JPEG", exif=b"Exif\0\0" + exif)).orientation == 8


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"GIF89a", b"RIFF\0\0\0\0WAVE", b"BM" + bytes(50)]
)
def test_other_files_are_unknown(content: bytes) -> None:
    with pytest.raises(UnknownImage):
        read_image_file(content)


@pytest.mark.parametrize("frame", [0xC3, 0xC5, 0xCF])
def test_a_jpeg_of_a_kind_that_nobody_reads_is_unknown(frame: int) -> None:
    with pytest.raises(UnknownImage, match="lossless or hierarchical"):
        read_image_file(WHOLE["JPEG"].replace(b"\xff\xc0", bytes([0xFF, frame])))


def test_a_jpeg_of_12_bits_is_unknown() -> None:
    with pytest.raises(UnknownImage, match="12 bits"):
        read_image_file(WHOLE["JPEG"].replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"))


def test_a_text_mode_transfer_breaks_the_signature_of_a_png() -> None:
    with pytest.raises(BrokenImage, match="text mode"):
        read_image_file(WHOLE["PNG"].replace(b"\n", b"\r\n"))


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xe0\x00\x00",
        b"\xff\xd8\xff\x01\x00\x02",
        b"\xff\xd8" + b"\xff\xfe\x00\x02" * (MAX_STEPS + 1),
        b"\x89PNG\r\n\x1a\n" + bytes(20),
        WHOLE["PNG"][:33] + (b"\0\0\0\0abcd\0\0\0\0" * (MAX_STEPS + 1)),
        WHOLE["PNG"][:33] + b"\0\0\0\0\0\0\0\0\0\0\0\0",
        b"RIFF\0\0\0\0WEBPVP8 " + bytes(20),
        b"RIFF\0\0\0\0WEBPVP8L" + bytes(20),
    ],
)
def test_what_begins_like_an_image_and_goes_on_otherwise_is_broken(content: bytes) -> None:
    with pytest.raises(BrokenImage):
        read_image_file(content)


def test_an_image_without_pixels_is_broken() -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 0, 8, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))

    with pytest.raises(BrokenImage, match="0 × 8"):
        read_image_file(b"\x89PNG\r\n\x1a\n" + chunk)


@pytest.mark.parametrize("kind", WHOLE)
@given(data=st.data())
def test_any_change_gives_a_file_or_one_of_two_errors(kind: str, data: st.DataObject) -> None:
    content = bytearray(WHOLE[kind])
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, min(len(content), 700) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    cut = data.draw(st.integers(0, len(content)))

    try:
        file = read_image_file(bytes(content[:cut]))
    except (BrokenImage, UnknownImage):
        return
    assert file.pixels > 0
    assert 1 <= file.orientation <= 8


def test_what_pixels_do_not_need_is_left_out_of_a_png() -> None:
    chunk = b"zTXtname\0\0" + b"no deflate"
    text = struct.pack(">I", len(chunk) - 4) + chunk + b"\0\0\0\0"

    assert read_image_file(WHOLE["PNG"][:33] + text + WHOLE["PNG"][33:]).content == WHOLE["PNG"]


def test_a_second_scan_of_a_jpeg_that_is_whole_with_one_is_left_to_the_decoder() -> None:
    whole = WHOLE["JPEG"]
    scan = whole[whole.find(b"\xff\xda") : -2]
    content = whole[:-2] + 200 * scan + b"\xff\xd9"

    file = read_image_file(content)

    assert file.scans == 1
    with pytest.raises(BrokenImage, match="more than one scan"):
        to_pixels(file, Preprocessing(size=32))
