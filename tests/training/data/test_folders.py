"""Folders of images are split where their owner did not, and refused in one line where they are wrong."""

from functools import partial
from pathlib import Path
from shutil import rmtree

import pytest
import torch
from PIL import Image

from tests.training.data.test_data_set import SEEN, images_of
from training import TrainingError
from training.data.data_set import load_data


def lose_test(root: Path) -> None:
    rmtree(root / "test")


def flatten_val(root: Path) -> None:
    rmtree(root / "test")
    (root / "val").mkdir()
    Image.new("RGB", (8, 8)).save(root / "val" / "00000001.jpg")


def lose_a_class(root: Path) -> None:
    rmtree(root / "test" / "dark")


def add_a_class(root: Path) -> None:
    (root / "test" / "grey").mkdir()


def empty_the_test(root: Path) -> None:
    for path in (root / "test").glob("*/*"):
        path.unlink()


def empty_a_class(split: str, root: Path) -> None:
    for path in (root / split / "light").glob("*"):
        path.unlink()


def corrupt_an_image(root: Path) -> None:
    (root / "train" / "dark" / "000.jpg").write_bytes(b"no image")


def truncate_an_image(root: Path) -> None:
    path = root / "train" / "dark" / "001.png"
    path.write_bytes(path.read_bytes()[:200])


def keep_one_class(root: Path) -> None:
    rmtree(root / "train" / "dark")


def keep_few_images(root: Path) -> None:
    for path in (root / "train").glob("*/0[01]*"):
        path.unlink(missing_ok=path.name != "000.jpg")
    for name in ("dark", "light"):
        Image.new("RGB", (8, 8)).save(root / "train" / name / "only.png")


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lose_test, "neither test nor val holds class folders; sort the images of one into"),
        (flatten_val, "neither test nor val holds class folders; sort the images of one into"),
        (lose_a_class, "test: its class folders differ from those of train: dark"),
        (add_a_class, "test: its class folders differ from those of train: grey"),
        (empty_the_test, "hold no images (.jfif, .jpeg, .jpg, .png, .webp): dark, light"),
        (
            partial(empty_a_class, "train"),
            "train: these class folders hold no images (.jfif, .jpeg, .jpg, .png, .webp): light",
        ),
        (
            partial(empty_a_class, "test"),
            "test: these class folders hold no images (.jfif, .jpeg, .jpg, .png, .webp): light",
        ),
        (corrupt_an_image, "000.jpg: not a readable image"),
        (truncate_an_image, "001.png: not a readable image"),
        (keep_one_class, "1 class folders in {root}/train; expected a folder of class folders, or"),
        (keep_few_images, "holds 2 training images; at least 10 are needed"),
        (
            rmtree,
            "no such data; choose digits, pairs, cifar10, cifar100, svhn, or a folder of class folders",
        ),
    ],
)
def test_wrong_data_is_one_clear_line(class_folders: Path, damage: object, fault: str) -> None:
    assert callable(damage)
    damage(class_folders)

    with pytest.raises(TrainingError) as raised:
        load_data(str(class_folders), seed=0)

    assert fault.replace("{root}", str(class_folders)) in str(raised.value)
    assert str(class_folders) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.fixture
def photos(class_folders: Path) -> Path:
    """One folder of classes, of 20 images each, as most people have them."""
    (class_folders / "train").rename(class_folders / "photos")
    return class_folders / "photos"


def test_one_folder_of_classes_is_split_by_the_seed_and_every_class_is_in_every_part(
    photos: Path,
) -> None:
    first, again, other = (load_data(str(photos), seed=n, preprocessing=SEEN) for n in (1, 1, 2))

    assert [len(split) for split in (first.train, first.validation, first.test)] == [28, 6, 6]
    for split in (first.train, first.validation, first.test):
        dark, light = split.labels.bincount().tolist()
        assert dark == light
    assert 0 < first.train.labels[:14].sum() < 14  # in no order of classes
    assert torch.equal(images_of(first.test), images_of(again.test))
    assert not torch.equal(images_of(first.test), images_of(other.test))
    assert first.sha256 == other.sha256
    assert first.is_split_by_seed
    assert first.source == str(photos)
    assert not first.notes


def test_of_one_folder_no_image_is_in_two_parts(photos: Path) -> None:
    data = load_data(str(photos), seed=0, max_tensor_bytes=0)
    parts = [split.identities() for split in (data.train, data.validation, data.test)]

    assert len(set().union(*parts)) == sum(map(len, parts)) == 40


def test_images_in_folders_of_a_class_count_and_what_macos_leaves_does_not(photos: Path) -> None:
    before = load_data(str(photos), seed=0)
    (photos / "__MACOSX" / "dark").mkdir(parents=True)
    (photos / ".thumbnails").mkdir()
    (photos / "dark" / "holiday" / ".cache").mkdir(parents=True)
    for name in ("000.jpg", "002.jpg"):
        (photos / "dark" / name).rename(photos / "dark" / "holiday" / name)
    (photos / "dark" / "holiday" / ".cache" / "003.jpg").write_bytes(b"no image")

    after = load_data(str(photos), seed=0)

    assert after.classes == before.classes
    assert sum(len(each) for each in (after.train, after.validation, after.test)) == 40


def test_nothing_of_a_folder_is_left_out_without_a_word(photos: Path) -> None:
    for name in ("a.gif", "b.gif", "c.BMP", "d.tiff"):
        Image.new("P", (8, 8)).save(photos / "light" / name)
    for name in ("film.mp4", "README"):
        (photos / "light" / name).touch()
    (photos / "light" / "again").symlink_to(photos / "light")  # a circle
    Image.new("RGB", (8, 8)).save(photos / "unsorted.jpg")

    foreign, others, links, strays = load_data(str(photos), seed=0).notes

    assert "left out, of formats that are not read: 1 .bmp, 2 .gif, 1 .tiff; convert" in foreign
    assert others == "left out, no images by their names: 1 .mp4, 1 without a suffix"
    assert links.startswith(f"left out, links to folders: {photos}/light/again; ")
    assert strays == "left out, images in no class folder: 1"


def test_of_few_images_some_of_every_class_validate(class_folders: Path) -> None:
    for k in range(8):
        for part in ("train", "test"):
            (class_folders / part / f"rare-{k}").mkdir()
            for i in range(2):
                Image.new("RGB", (8, 8), (k, i, 0)).save(class_folders / part / f"rare-{k}/{i}.png")

    data = load_data(str(class_folders), seed=0)

    assert data.validation.labels.bincount().tolist() == [2, 2] + [1] * 8
    assert not set(data.validation.identities()) & set(data.train.identities())
    assert len(data.validation) + len(data.train) == 56


@pytest.mark.parametrize("max_tensor_bytes", [1000, 1 << 20])
def test_all_images_that_cannot_be_read_are_named_at_once_or_left_out(
    photos: Path, max_tensor_bytes: int
) -> None:
    load = partial(load_data, str(photos), seed=0, max_tensor_bytes=max_tensor_bytes)
    for name in ("dark", "light"):
        (photos / name / "000.jpg").write_bytes(b"no image")

    with pytest.raises(TrainingError) as raised:
        load()
    for word in ("2 images cannot be read", "dark/000.jpg", "light/000.jpg", "--skip-unreadable"):
        assert word in str(raised.value)

    data = load(skip_unreadable=True)
    assert sum(len(each) for each in (data.train, data.validation, data.test)) == 38
    assert data.skips_unreadable
    assert data.notes[0].startswith("2 images cannot be read, left out: ")


@pytest.mark.parametrize("max_tensor_bytes", [1000, 1 << 20])
def test_images_that_are_tested_with_and_trained_on_are_told_of(
    photos: Path, max_tensor_bytes: int
) -> None:
    root = photos.parent
    rmtree(root / "test")
    photos.rename(root / "train")
    (root / "test").symlink_to("train")

    notes = load_data(str(root), seed=0, max_tensor_bytes=max_tensor_bytes).notes

    assert "36 of the 40 images that test are trained on too: accuracy will flatter" in notes


def test_a_class_with_too_few_images_to_hold_some_out_is_told_of(photos: Path) -> None:
    (photos / "lonely").mkdir()
    Image.new("RGB", (8, 8)).save(photos / "lonely" / "only.png")

    data = load_data(str(photos), seed=0)

    assert data.notes == tuple(
        f"no image {does} these classes: lonely; give each at least three"
        for does in ("validates", "tests")
    )
    assert (data.train.labels == data.classes.index("lonely")).sum() == 1


def test_class_folders_without_images_are_named_at_once(photos: Path) -> None:
    for name in ("empty", "later"):
        (photos / name).mkdir()

    (photos / "later" / "1.gif").touch()
    broken = next(photos.glob("*/*.jpg"))
    broken.write_text("no image")

    with pytest.raises(TrainingError) as refusal:
        load_data(str(photos), seed=0)

    assert "hold no images (.jfif, .jpeg, .jpg, .png, .webp): empty, later; but" in str(
        refusal.value
    )
    assert "an image cannot be read; mend the data" in str(refusal.value)  # told with it
    assert str(broken) in str(refusal.value)


def test_a_class_of_which_no_image_can_be_read_is_not_gone_without(photos: Path) -> None:
    (photos / "broken").mkdir()
    for i in range(2):
        (photos / "broken" / f"{i}.jpg").write_text("no image")

    with pytest.raises(
        TrainingError, match=r"no image of these classes can be read: broken: .*0.jpg"
    ):
        load_data(str(photos), seed=0, skip_unreadable=True)


def test_a_class_folder_with_images_of_other_formats_alone_is_told_of_them(photos: Path) -> None:
    (photos / "phone").mkdir()
    for name in ("1.HEIC", "2.heic", "3.avif"):
        (photos / "phone" / name).touch()
    next((photos / "phone").parent.glob("[!p]*/*")).with_suffix(".gif").touch()  # not why

    with pytest.raises(TrainingError) as refusal:
        load_data(str(photos), seed=0)

    assert str(refusal.value).endswith(
        "phone; but files of formats that are not read (1 .avif, 2 .heic); convert those, fill or remove them"
    )


def test_classes_of_which_no_image_can_be_held_out_are_refused(photos: Path) -> None:
    for path in [*photos.glob("*/*[02-9].*"), *photos.glob("*/01*")]:
        path.unlink(missing_ok=True)
    for k in range(5):
        (photos / f"class-{k}").mkdir()
        for i in range(2):
            Image.new("RGB", (8, 8)).save(photos / f"class-{k}" / f"{i}.png")

    with pytest.raises(TrainingError, match="no class has three images or more"):
        load_data(str(photos), seed=0)
