"""A folder of images is looked at before anything is trained on it."""

import shutil
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from training.__main__ import main


def test_a_check_tells_all_that_is_wrong_with_a_folder_at_once(
    class_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = class_folders / "train", class_folders / "test"
    for name in ("x.jpg", "y.png"):
        (train / "dark" / name).write_bytes(b"no image")
    (train / "light" / "z.gif").write_bytes(b"GIF89a")
    for part in (train, test):
        (part / "later").mkdir()
    shutil.copy(train / "dark" / "000.jpg", test / "dark" / "seen.jpg")
    shutil.copy(train / "dark" / "002.jpg", train / "light" / "dark.jpg")
    shutil.copy(train / "dark" / "004.jpg", train / "dark" / "copy.jpg")

    assert main(["data", "check", str(class_folders)]) == 0

    report = capsys.readouterr().out
    assert f"{class_folders}: 53 images in 3 classes" in report
    rows = [line.split() for line in report.splitlines()]
    assert ["class", "train", "test"] in rows
    assert ["dark", "23", "5"] in rows
    assert "sizes: smallest 30×20, " in report
    assert "cannot be read: 2: train/dark/x.jpg (" in report
    assert (
        "to train and to score with, which flatters: 1: train/dark/000.jpg = test/dark/seen"
        in report
    )
    assert "as several classes: 1: train/dark/002.jpg = train/light/dark.jpg" in report
    assert "several times: 1: train/dark/004.jpg = train/dark/copy.jpg" in report
    assert "1 .gif" in report
    for part in (train, test):
        assert f"{part}: these class folders hold no images (" in report
    assert "hardly enough: later (0)" in report


def test_images_that_were_scaled_recompressed_or_relit_are_told_of(
    class_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    china, flower = (Image.fromarray(pixels) for pixels in load_sample_images().images)
    train, test = class_folders / "train", class_folders / "test"
    china.save(train / "dark" / "china.png")
    china.resize((320, 213)).save(test / "dark" / "small.jpg", quality=40)
    china.point(lambda level: level * 4 // 5).save(train / "dark" / "dim.webp")
    flower.save(train / "light" / "flower.jpg")
    flower.convert("L").save(train / "dark" / "grey.png")

    assert main(["data", "check", str(class_folders)]) == 0

    repeated = [line for line in capsys.readouterr().out.splitlines() if "≈" in line]
    assert repeated == [
        "nearly the same image as several classes: 1: train/dark/grey.png ≈ train/light/flower.jpg",
        "nearly the same image to train and to score with, which flatters: 1: "
        "train/dark/china.png ≈ train/dark/dim.webp ≈ test/dark/small.jpg",
    ]


def test_a_check_says_which_classes_have_few_images(
    class_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", str(class_folders / "test")]) == 0

    assert "hardly enough: dark (4), light (4)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "reason"), [("none", "none: is no folder; expected"), ("empty", "0 class folders")]
)
def test_what_is_no_folder_of_classes_is_one_line(
    name: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()

    assert main(["data", "check", str(tmp_path / name)]) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line
