"""Photographs are decoded once: their small versions are kept beside a run, and told from those of other photographs."""

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from model.preprocessing import Preprocessing
from training.data.data_set import load_data
from training.data.decoding import read_pixels
from training.data.imagenet import Member, Stored
from training.data.small_versions import SmallVersions

SMALL = Preprocessing(size=16, shorter_side=18)
RECORD_BYTES = 16 + 4 + 16 * 16 * 3  # key, checksum, pixels


def photograph(path: Path, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((480, 360)).save(path, quality=90)
    return path


def make_unreadable(path: Path) -> None:
    """Write zeros into a file, so that only who does not read it has its pixels; it looks as it did."""
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("is_archived", [False, True])
def test_a_photograph_is_decoded_once(tmp_path: Path, *, is_archived: bool) -> None:
    file = photograph(tmp_path / "a.jpg")
    stored: Stored = file
    if is_archived:
        with tarfile.open(tmp_path / "all.tar", "w") as archive:
            archive.add(file, "a.jpg")
        with tarfile.open(tmp_path / "all.tar") as archive:
            at = archive.getmember("a.jpg")
        file = tmp_path / "all.tar"
        stored = Member(file, "class", "a.jpg", at.offset_data, at.size)
    pixels = SmallVersions(SMALL, tmp_path / "run").read(stored)
    make_unreadable(file)

    again = SmallVersions(SMALL, tmp_path / "run")

    assert_array_equal(again.read(stored), pixels)
    assert again.kept == {"cached": "1 images, 0 MB"}


def test_a_changed_photograph_is_decoded_anew(tmp_path: Path) -> None:
    file = photograph(tmp_path / "a.jpg")
    before = SmallVersions(SMALL, tmp_path / "run").read(file)
    photograph(file, seed=1)
    os.utime(file, ns=(0, 0))

    after = SmallVersions(SMALL, tmp_path / "run").read(file)

    assert not np.array_equal(before, after)
    assert_array_equal(after, read_pixels(file, SMALL))


def test_a_damaged_version_is_made_anew_in_its_place(tmp_path: Path) -> None:
    files = [photograph(tmp_path / f"{i}.jpg", seed=i) for i in range(3)]
    begun = SmallVersions(SMALL, tmp_path / "run")
    pixels = [begun.read(file) for file in files]
    del begun
    (kept,) = (tmp_path / "run").iterdir()
    content = bytearray(kept.read_bytes())
    content[RECORD_BYTES + 100] ^= 1
    kept.write_bytes(content[:-1])  # and the last was written by half

    mended = SmallVersions(SMALL, tmp_path / "run")
    assert [np.array_equal(mended.read(f), p) for f, p in zip(files, pixels, strict=True)] == [
        True
    ] * 3

    assert kept.stat().st_size == 3 * RECORD_BYTES
    for file in files:
        make_unreadable(file)
    assert_array_equal(SmallVersions(SMALL, tmp_path / "run").read(files[1]), pixels[1])
    assert_array_equal(SmallVersions(SMALL, tmp_path / "run").read(files[2]), pixels[2])


def test_an_image_whose_file_is_smaller_is_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", (32, 32), "red").save(file)

    assert_array_equal(SmallVersions(SMALL, tmp_path / "run").read(file), read_pixels(file, SMALL))

    assert not (tmp_path / "run").exists()


def test_no_more_is_kept_than_there_is_room_for(tmp_path: Path) -> None:
    files = [photograph(tmp_path / f"{i}.jpg", seed=i) for i in range(3)]
    versions = SmallVersions(SMALL, tmp_path / "run", max_bytes=2 * RECORD_BYTES)

    for file in files:
        assert_array_equal(versions.read(file), read_pixels(file, SMALL))

    (kept,) = (tmp_path / "run").iterdir()
    assert kept.stat().st_size == 2 * RECORD_BYTES


def test_one_of_two_at_a_time_writes_and_the_other_reads_all_the_same(tmp_path: Path) -> None:
    files = [photograph(tmp_path / f"{i}.jpg", seed=i) for i in range(2)]
    first, second = (SmallVersions(SMALL, tmp_path / "run") for _ in range(2))

    for versions, file in zip((first, second), files, strict=True):
        assert_array_equal(versions.read(file), read_pixels(file, SMALL))

    (kept,) = (tmp_path / "run").iterdir()
    assert kept.stat().st_size == RECORD_BYTES


def test_a_folder_that_cannot_be_written_to_keeps_nothing(tmp_path: Path) -> None:
    file = photograph(tmp_path / "a.jpg")
    (tmp_path / "run").write_text("no folder")

    assert_array_equal(SmallVersions(SMALL, tmp_path / "run").read(file), read_pixels(file, SMALL))


@pytest.mark.parametrize("max_tensor_bytes", [0, 1 << 20])  # on disk, in memory
def test_a_data_set_reads_what_was_kept_of_it(tmp_path: Path, max_tensor_bytes: int) -> None:
    for name in ("dark", "light"):
        for i in range(8):
            (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
            photograph(tmp_path / "photos" / name / f"{i}.jpg", seed=i)

    def training_images(cache: Path | None) -> np.ndarray:
        data = load_data(
            str(tmp_path / "photos"),
            seed=0,
            preprocessing=SMALL,
            views=Preprocessing(size=32, shorter_side=32),
            max_tensor_bytes=max_tensor_bytes,
            cache=cache,
        )
        ((images, _),) = data.views.batches([data.views.labels.new_tensor(range(len(data.train)))])
        return images.numpy()

    decoded = training_images(None)
    assert_array_equal(training_images(tmp_path / "cache"), decoded)
    assert (tmp_path / "cache" / "32-32-bilinear.pixels").stat().st_size > 0
    assert_array_equal(training_images(tmp_path / "cache"), decoded)
