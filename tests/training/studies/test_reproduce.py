"""A table of the paper is trained, compared and drawn by one command."""

from dataclasses import replace
from pathlib import Path

import pytest

from training.__main__ import main
from training.config import RECIPES
from training.studies import reproduce
from training.studies.reproduce import EXPERIMENTS, Experiment
from training.trainer import train


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same experiments with networks of a few channels, that digits train in seconds."""

    def shrunk(experiment: Experiment) -> Experiment:
        recipes = tuple(
            replace(
                r,
                batch_size=500,
                architecture=replace(r.architecture, channels=(4,) * len(r.architecture.channels)),
            )
            for r in experiment.recipes
        )
        return replace(experiment, recipes=recipes)

    monkeypatch.setattr(
        reproduce, "EXPERIMENTS", {name: shrunk(e) for name, e in EXPERIMENTS.items()}
    )


def test_table_4_is_written_beside_the_papers_and_says_what_holds(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["reproduce", "table4", "--data", "digits", "--epochs", "1", "--out", str(tmp_path)]

    assert main(command) == 0

    table = (tmp_path / "table4.md").read_text()
    assert table in capsys.readouterr().out
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 9
    assert "| 0.786 | 36.62 |" in rows[0]
    assert table.count("- Claim: ") == 2
    assert (
        "digits: 1294 training and 360 test images, 1 epoch, the paper's SGD, seed 0, cpu, torch"
        in table
    )
    assert (tmp_path / "table4.png").read_bytes().startswith(b"\x89PNG")


def test_table_2_is_of_ten_crops_of_imagenet_and_says_what_is_in_the_top_five(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(
        RECIPES["tiny"].at_size(28), name="paper-imagenet", fit="crop", augmentation="+"
    )
    small = replace(EXPERIMENTS["table2"], recipes=(recipe,))
    monkeypatch.setitem(EXPERIMENTS, "table2", small)
    out = tmp_path / "out"
    command = ["reproduce", "table2", "--data", str(class_folders), "--epochs", "1"]

    assert main([*command, "--out", str(out)]) == 0

    table = (out / "table2.md").read_text()
    row = next(line for line in table.splitlines() if line.startswith("| FractalNet-34"))
    assert "top-5 error" in table
    assert "The paper's figures: ImageNet, 70 epochs, ten crops." in table
    assert row.endswith("| 0.00 | 7.39 |")  # of two classes the right one is among the five


def test_a_short_reproduction_says_that_its_optimiser_is_not_the_papers(
    small: None, tmp_path: Path
) -> None:
    command = ["reproduce", "figure3", "--data", "digits", "--epochs", "1", "--short"]

    assert main([*command, "--out", str(tmp_path)]) == 0

    assert "1 epoch, Muon, one cycle, seed 0" in (tmp_path / "figure3.md").read_text()


def test_a_stopped_reproduction_goes_on_where_it_was(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [
        "reproduce",
        "drop-path",
        "--data",
        "digits",
        "--epochs",
        "1",
        "--out",
        str(tmp_path),
    ]

    def stop_at_the_second(recipe: object, *arguments: object, **options: object) -> object:
        if (tmp_path / "narrow-c4-not-augmented").exists():
            raise KeyboardInterrupt
        return train(recipe, *arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(reproduce, "train", stop_at_the_second)
        assert main(command) == 130
    capsys.readouterr()

    assert main(command) == 0

    assert capsys.readouterr().out.count("epoch 1/1") == 1


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_row_is_a_subnetwork_that_is_trained(name: str) -> None:
    experiment = EXPERIMENTS[name]
    trained = {recipe.name: recipe.architecture for recipe in experiment.recipes}

    for row in experiment.rows:
        columns = trained[row.recipe].all_columns
        assert row.subnetwork == "full" or int(row.subnetwork[-1]) in columns
