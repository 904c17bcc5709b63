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
NAMES = {part.name for part in of_the_module.PARTS}


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
        patch.setattr(of_the_module, "LEAST_IMAGES", 1000)
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
        assert each.network in NAMES
    for path, at in written_at.items():
        assert path.stat().st_mtime_ns == at or path.name == ".lock", path


def test_what_was_stopped_goes_on_with_the_runs_that_have_ended(copied: Path) -> None:
    for gone in ("bundle", "wide/bundle", "narrow-specialised/bundle"):
        shutil.rmtree(copied / gone)
    (copied / "narrow-specialised" / "column-2" / "checkpoint.pt").unlink()
    ended_at = {path: path.stat().st_mtime_ns for path in copied.rglob("checkpoint.pt")}

    assert main([*PRETRAIN, str(copied)]) == 0

    assert len(ended_at) == 6
    for path, at in ended_at.items():
        assert path.stat().st_mtime_ns == at, path
    assert {each.name for each in read_bundle(copied / "bundle").manifest.networks} <= NAMES


def test_a_part_that_was_made_anew_comes_into_the_bundle(copied: Path) -> None:
    before = read_bundle(copied / "bundle").manifest
    part = before.networks[0].name
    for path in copied.glob(f"{part}*/bundle"):
        shutil.rmtree(path)

    assert main([*PRETRAIN, str(copied)]) == 0

    after = read_bundle(copied / "bundle").manifest
    for network in after.networks:
        (*_, own) = sorted(copied.glob(f"{network.name}*/bundle"))
        assert network.provenance == read_bundle(own).trained[1]


def test_columns_are_taught_by_the_best_of_the_parts_before(made: Path) -> None:
    before = [read_bundle(made / name / "bundle") for name in ("alone", "wide")]
    best = max(before, key=lambda each: each.best.accuracy.estimate.value)

    _, origin = read_bundle(made / "narrow-specialised" / "bundle").trained

    assert origin.taught_by == f"{best.manifest.name} {best.digest[:12]}"


def test_a_folder_of_other_data_another_seed_or_name_is_one_clear_line(
    copied: Path, class_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = [*PRETRAIN, str(copied)]
    for command, told in (
        (["pretrain", "--data", str(class_folders), "--out", str(copied)], "too few to begin with"),
        ([*digits, "--seed", "1"], "was trained with seed 0, this is seed 1"),
        ([*digits, "--name", "other"], "another bundle is there, called digits"),
    ):
        assert main(command) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert told in line


def test_a_bundle_that_is_not_its_own_is_left_alone(
    bundle_folder: Path, tmp_path: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(bundle_folder, tmp_path / "bundle")

    assert main([*PRETRAIN, str(tmp_path)]) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}/bundle: another bundle is there" in line
    assert read_bundle(tmp_path / "bundle").digest == read_bundle(bundle_folder).digest
