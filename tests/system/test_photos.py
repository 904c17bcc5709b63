"""Someone with a folder of photographs: looked at, trained on, scored, exported, served, asked."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from typer.testing import CliRunner

from model.bundle import REPORT_FILE, read_bundle
from service.cli.app import app
from tests.server import ServerProcess
from training.__main__ import main

A_CLASS = 16  # photographs
ON_ITS_SIDE = 6  # as EXIF says of a telephone held upright


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Views of the two photographs that scikit-learn ships, as different as someone's own; one class in folders by year."""
    rng = Random(0)
    exif = Image.Exif()
    exif[0x0112] = ON_ITS_SIDE
    pictures = dict(zip(("palace", "flower"), load_sample_images().images, strict=True))
    for name, pixels in pictures.items():
        picture = Image.fromarray(pixels)
        for i in range(A_CLASS):
            width, height = rng.randrange(250, 450), rng.randrange(220, 400)
            left, top = rng.randrange(640 - width), rng.randrange(427 - height)
            view = picture.crop((left, top, left + width, top + height))
            file = tmp_path / "photos" / name / ("2024" if i % 2 else "") / f"{i}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            if i % 4:
                view.save(file, quality=rng.randrange(60, 95))
            else:
                view.transpose(Image.Transpose.ROTATE_90).save(file, exif=exif)
    return tmp_path / "photos"


@pytest.mark.timeout(300)
def test_a_folder_of_photographs_becomes_a_served_model(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    start_server: Callable[..., ServerProcess],
) -> None:
    torch.set_num_threads(1)
    run, bundle = tmp_path / "run", tmp_path / "bundle"

    def said(*words: object) -> str:
        assert main([*map(str, words)]) == 0
        return capsys.readouterr().out

    looked = said("data", "check", photos)
    assert "32 images in 2 classes" in looked
    assert "cannot be read" not in looked
    assert "large enough for --image-size" in looked

    trained = said("train", "--data", photos, "--out", run, "--epochs", 3)
    assert "evenly scaled and cropped: the shorter side of the middle image has" in trained
    assert "will take about" in trained
    assert "epoch 3/3" in trained
    assert (run / "curves.png").stat().st_size > 0

    scored = said("evaluate", "--run", run, "--split", "test")
    assert "4 test images of photos" in scored
    assert "palace" in scored

    exported = said("export", "--run", run, "--out", bundle)
    assert "every file checked" in exported
    report = (bundle / REPORT_FILE).read_text()
    assert "palace" in report
    assert "flower" in report

    server = start_server(bundle_dir=bundle)
    server.wait_for("ready")
    for name, pixels in zip(("palace", "flower"), load_sample_images().images, strict=True):
        photo = tmp_path / f"{name}.jpg"
        Image.fromarray(pixels).resize((1600, 1068)).save(photo)  # larger than any of training
        answer = server.classify(photo.read_bytes(), deadline_ms=5000).json()
        assert answer["in_time"]
        assert answer["label"] in ("palace", "flower")  # a few steps teach little
        assert answer["bundle"]["digest"] == read_bundle(bundle).digest

    low, high = server.client.get("/subnetworks").json()["subnetworks"][-1][
        "expected_accuracy_interval"
    ]
    assert high - low > 0.2  # four images tell little, and it says so
    asked = CliRunner().invoke(
        app, ["classify", str(photo), "--url", str(server.client.base_url), "--deadline-ms", "5000"]
    )
    assert asked.exit_code == 0
    assert answer["label"] in asked.output
