"""A bundle is made from nothing by one command, which goes on where it was stopped."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from model.bundle import read_bundle
from tests.training.conftest import SMALL
from training import pretrain as of_the_module
from training.__main__ import main
from training.config import RECIPES, Recipe

PLAIN = replace(SMALL, name="small-c1", columns=1, channels=(16, 32), divisors=(1,))
PRETRAIN = ["pretrain", "--data", "digits", "--out"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the command leaves, of the same parts with networks that digits train in seconds."""

    def shrunk(recipe: Recipe) -> Recipe:
        architecture = SMALL if recipe.architecture.columns > 1 else PLAIN
        return replace(recipe, architecture=architecture, epochs=2, batch_size=100)

    parts = of_the_module.PARTS
    recipes = {name: shrunk(RECIPES[name]) for part in parts for name in part.recipes}
    shorter = tuple(replace(part, epochs=min(part.epochs, 1)) for part in parts)
    out = tmp_path_factory.mktemp("made") / "digits"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(of_the_module, "RECIPES", recipes)
        patch.setattr(of_the_module, "PARTS", shorter)
        assert main([*PRETRAIN, str(out)]) == 0
        yield out


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """The same in a folder of its own."""
    return Path(shutil.copytree(made, tmp_path / "digits"))


def test_a_bundle_is_made_from_nothing_and_a_second_call_finds_it_done(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written_at = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()}

    assert main([*PRETRAIN, str(made)]) == 0

    said = capsys.readouterr().out
    bundle = read_bundle(made / "bundle")
    assert bundle.manifest.name == "digits"
    for each in bundle.manifest.subnetworks:
        assert each.name in said
        assert each.network in {part.name for part in of_the_module.PARTS}
    for path, at in written_at.items():
        assert path.stat().st_mtime_ns == at or path.name == ".lock", path


def test_what_was_stopped_goes_on_with_the_runs_that_have_ended(copied: Path) -> None:
    before = read_bundle(copied / "wide" / "bundle").manifest
    for written in (copied / "bundle", copied / "wide" / "bundle"):
        shutil.rmtree(written)

    assert main([*PRETRAIN, str(copied)]) == 0

    after = read_bundle(copied / "wide" / "bundle").manifest
    assert [each.graph for each in after.subnetworks] == [each.graph for each in before.subnetworks]
    columns = read_bundle(copied / "narrow-specialised" / "bundle")
    assert columns.trained[1].taught_by.startswith("wide ")


def test_a_folder_of_other_data_or_another_seed_is_one_clear_line(
    copied: Path, class_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", "--data", str(class_folders), "--out", str(copied)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{copied}/alone/bundle: digits" in line

    assert main([*PRETRAIN, str(copied), "--seed", "1"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "was trained with seed 0, this is seed 1" in line
