"""Data sets are split by a seed, and read whatever their form."""

import os
import time
from functools import partial
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model.preprocessing import Preprocessing
from service.front.images.decoder import ImageDecoder
from training import TrainingError
from training.data.data_set import DataSet, load_data
from training.data.decoding import read_pixels
from training.data.splits import FileSplit, Split, TensorSplit

SEEN = Preprocessing(size=16)
EXIF = Image.Exif()


EXIF[0x0112] = 6  # lies on its side


def images_of(split: Split) -> torch.Tensor:
    (batch,) = split.batches([torch.arange(len(split))])
    return batch[0]


def labelled(split: Split) -> list[tuple[np.ndarray[Any, Any], int]]:
    return list(zip(images_of(split).numpy(), split.labels.tolist(), strict=True))


def test_digits_need_no_download(digits: DataSet) -> None:
    assert digits.classes == tuple("0123456789")
    assert digits.image_size == 8
    assert images_of(digits.train).dtype == torch.uint8
    assert len(digits.train) + len(digits.validation) + len(digits.test) == 1797


def test_of_a_pair_of_digits_the_larger_is_the_class(digits: DataSet) -> None:
    pairs, again = load_data("pairs", seed=0), load_data("pairs", seed=0)

    assert pairs.classes == digits.classes
    assert images_of(pairs.train).shape == (3600, 16, 16, 3)
    assert (len(pairs.validation), len(pairs.test)) == (400, 1000)
    assert torch.equal(images_of(pairs.test), images_of(again.test))
    known = {image.tobytes(): label for image, label in labelled(digits.test)}
    for image, label in labelled(pairs.test):
        seen = [image[top : top + 8, left : left + 8] for left in (0, 8) for top in range(9)]
        assert label == max(known.get(part.tobytes(), 0) for part in seen)


@pytest.mark.parametrize("seed", [1, 2])
def test_train_and_validation_are_a_partition_by_the_seed(seed: int) -> None:
    first, again = load_data("digits", seed=seed), load_data("digits", seed=seed)

    assert len(first.validation) == (len(first.train) + len(first.validation)) // 10
    assert torch.equal(images_of(first.validation), images_of(again.validation))
    pixels = torch.cat([images_of(first.train), images_of(first.validation)]).double().sum()
    everything = load_data("digits", seed=0)
    assert pixels == sum(
        images_of(s).double().sum() for s in (everything.train, everything.validation)
    )


def test_another_seed_validates_on_other_images_of_the_same_data() -> None:
    first, second = load_data("digits", seed=1), load_data("digits", seed=2)

    assert not torch.equal(images_of(first.validation), images_of(second.validation))
    assert torch.equal(images_of(first.test), images_of(second.test))
    assert first.sha256 == second.sha256


def test_class_folders_are_read_whatever_size_and_format(class_folders: Path) -> None:
    data = load_data(str(class_folders), seed=0, preprocessing=SEEN)

    assert data.classes == ("dark", "light")
    assert isinstance(data.train, TensorSplit)
    assert images_of(data.train).shape == (36, 16, 16, 3)
    brightness = images_of(data.test).float().mean((1, 2, 3))
    assert torch.equal(brightness > 120, data.test.labels == 1)


def test_the_test_images_may_be_in_val(class_folders: Path) -> None:
    data = load_data(str(class_folders), seed=0, preprocessing=SEEN)
    (class_folders / "test").rename(class_folders / "val")

    assert load_data(str(class_folders), seed=0, preprocessing=SEEN).sha256 == data.sha256


def test_large_sets_stay_on_disk_and_give_the_same_batches(class_folders: Path) -> None:
    small = load_data(str(class_folders), seed=3, preprocessing=SEEN)
    large = load_data(str(class_folders), seed=3, preprocessing=SEEN, max_tensor_bytes=1000)

    assert isinstance(large.train, FileSplit)
    chunks = torch.split(torch.randperm(36), 5)
    for ours, theirs in zip(large.train.batches(chunks), small.train.batches(chunks), strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


def test_a_turned_photo_is_upright(class_folders: Path) -> None:
    half_white = np.zeros((16, 16, 3), np.uint8)
    half_white[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180°
    for path in (class_folders / "test" / "dark").iterdir():
        path.unlink()
    Image.fromarray(half_white).save(class_folders / "test" / "dark" / "turned.png", exif=exif)

    data = load_data(str(class_folders), seed=0, preprocessing=SEEN)

    assert images_of(data.test)[0, :8].max() == 0


def image_decoder(preprocessing: Preprocessing) -> ImageDecoder:
    """Return what a server decodes with."""
    return ImageDecoder(
        decode_s=60,
        decode_memory_bytes=2**30,
        preprocessing=preprocessing,
        max_pixels=12_000_000,
        max_waiting=1,
        clock=time.monotonic,
        on_wake=lambda now: None,
    )


@pytest.mark.parametrize("preprocessing", [SEEN, Preprocessing(size=16, shorter_side=18)])
@pytest.mark.parametrize(
    "image",
    [
        Image.new("I;16", (20, 20), 0x8000),
        Image.new("RGBA", (20, 20), (0, 0, 0, 64)),
        Image.linear_gradient("L").rotate(30),
        Image.merge("RGB", [Image.linear_gradient("L").rotate(20 * k) for k in range(3)]).resize(
            (640, 400)
        ),
    ],
    ids=["16 bits", "transparent", "large", "photograph on its side"],
)
@pytest.mark.anyio
async def test_training_sees_the_pixels_that_the_server_sees(
    class_folders: Path, image: Image.Image, preprocessing: Preprocessing
) -> None:
    for path in (class_folders / "test" / "dark").iterdir():
        path.unlink()
    file = class_folders / "test" / "dark" / f"image.{'jpg' if image.mode == 'RGB' else 'png'}"
    image.save(file, exif=EXIF)

    data = load_data(str(class_folders), seed=0, preprocessing=preprocessing)

    served = image_decoder(data.preprocessing)
    assert np.array_equal(images_of(data.test)[0], await served.decode(file.read_bytes()))


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    """Of 12 megapixels, as telephones take them; drawn."""
    shapes = np.random.default_rng(0).integers(0, 256, (15, 20, 3), np.uint8)
    return Image.fromarray(shapes).resize((4000, 3000))


@pytest.mark.parametrize(
    ("image_format", "mode", "options"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("PNG", "RGB", {"compress_level": 1}),
        ("WEBP", "RGB", {"method": 0}),
    ],
)
@pytest.mark.anyio
async def test_a_photograph_of_12_megapixels_is_the_same_pixels_to_both(
    photograph: Image.Image,
    tmp_path: Path,
    image_format: str,
    mode: str,
    options: dict[str, Any],
) -> None:
    file = tmp_path / "photograph"
    photograph.convert(mode).save(file, image_format, exif=EXIF, **options)
    served = image_decoder(Preprocessing(size=64, shorter_side=73))

    trained_on = read_pixels(file, Preprocessing(size=64, shorter_side=73))

    assert np.array_equal(trained_on, await served.decode(file.read_bytes()))
    small = photograph.resize((64, 64), box=(685, 185, 3315, 2815)).rotate(270)  # upright
    grey = mode == "L"
    expected = np.asarray(small.convert("L").convert("RGB") if grey else small, np.float64)
    assert np.abs(trained_on - expected).mean() < 3  # of 255: another way to scale, lossy files


@pytest.mark.parametrize("max_tensor_bytes", [0, 1 << 20])
def test_images_to_crop_are_kept_larger_than_they_are_seen(
    class_folders: Path, max_tensor_bytes: int
) -> None:
    (class_folders / "train" / "dark" / "damaged.jpg").write_bytes(b"no image")

    data = load_data(
        str(class_folders),
        seed=0,
        preprocessing=SEEN,
        views=Preprocessing(size=32, shorter_side=32),
        skip_unreadable=True,
        max_tensor_bytes=max_tensor_bytes,
    )

    seen, views = images_of(data.train), images_of(data.views)
    assert seen.shape == (36, 16, 16, 3)
    assert views.shape == (36, 32, 32, 3)
    assert torch.equal(data.views.labels, data.train.labels)
    assert images_of(data.validation).shape[1:] == (16, 16, 3)
    # The same images in the same order: their noise of ±20 averages to less than 2 levels on 400 pixels or more.
    difference = seen.double().mean((1, 2, 3)) - views.double().mean((1, 2, 3))
    assert difference.abs().max() < 2


def test_images_kept_larger_are_the_same_data_though_only_they_stay_on_disk(
    class_folders: Path,
) -> None:
    n_bytes = 40 * SEEN.size**2 * 3  # the images fit as they are seen, and not at twice the side
    load = partial(
        load_data, str(class_folders), seed=0, preprocessing=SEEN, max_tensor_bytes=n_bytes
    )

    trained_on = load(views=Preprocessing(size=32))

    assert isinstance(trained_on.larger, FileSplit)
    assert trained_on.sha256 == load().sha256  # as evaluate and export load them


def test_hidden_files_are_no_images(class_folders: Path) -> None:
    before = load_data(str(class_folders), seed=0, preprocessing=SEEN)
    (class_folders / "train" / "dark" / "._000.jpg").write_bytes(b"what macOS leaves")

    assert load_data(str(class_folders), seed=0, preprocessing=SEEN).sha256 == before.sha256


def test_test_images_without_classes_leave_val_to_be_scored(class_folders: Path) -> None:
    (class_folders / "test").rename(class_folders / "val")
    (class_folders / "test").mkdir()
    (class_folders / "test" / "0001.jpg").write_bytes(b"of a class that nobody tells")

    assert len(load_data(str(class_folders), seed=0, preprocessing=SEEN).test) == 8


@pytest.mark.parametrize("max_tensor_bytes", [1000, 1 << 20])
def test_images_in_val_validate_where_others_test(
    class_folders: Path, max_tensor_bytes: int
) -> None:
    before = load_data(str(class_folders), seed=0, preprocessing=SEEN)
    copytree(class_folders / "test", class_folders / "val")
    (class_folders / "val" / "dark" / "000.jpg").unlink()

    data, other = (
        load_data(str(class_folders), seed=n, preprocessing=SEEN, max_tensor_bytes=max_tensor_bytes)
        for n in (0, 1)
    )

    assert [len(split) for split in (data.train, data.validation, data.test)] == [40, 7, 8]
    assert torch.equal(images_of(data.test), images_of(before.test))
    assert torch.equal(images_of(data.validation), images_of(other.validation))
    assert before.is_split_by_seed
    assert not data.is_split_by_seed
    assert data.sha256 == other.sha256 != before.sha256
    assert 0 < data.train.labels[:20].sum() < 20  # in no order of classes


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_every_image_of_a_large_set_is_looked_at_before_training(
    class_folders: Path, part: str
) -> None:
    copytree(class_folders / "test", class_folders / "val")
    (class_folders / part / "dark" / "000.jpg").write_bytes(b"no image")

    with pytest.raises(TrainingError, match=r"000\.jpg: not a readable image"):
        load_data(str(class_folders), seed=0, preprocessing=SEEN, max_tensor_bytes=1000)


def test_names_of_any_bytes_are_files_but_no_classes(class_folders: Path) -> None:
    light = class_folders / "train" / "light"
    (light / "001.png").rename(light / os.fsdecode(b"\xff.png"))
    load_data(str(class_folders), seed=0, preprocessing=SEEN, max_tensor_bytes=1000)
    for part in ("train", "test"):
        (class_folders / part / "light").rename(class_folders / part / os.fsdecode(b"l\xff"))

    with pytest.raises(TrainingError, match=r"the class name 'l\\udcff' is not UTF-8"):
        load_data(str(class_folders), seed=0, preprocessing=SEEN)
