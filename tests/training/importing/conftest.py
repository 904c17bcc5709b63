"""Images to import with, and the import itself."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from tests.networks import MEAN, STD, write_images
from training.importing.command import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "photos")


@pytest.fixture
def run(tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Import files into ``bundle``; return the exit code, and what was said to whom."""

    def run(*words: object, images: Path = photos) -> tuple[int, str, str]:
        given = ["--images", images, "--out", tmp_path / "bundle", "--mean", MEAN, "--std", STD]
        code = main(["import", *map(str, (*words, *given))])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def saved(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path
