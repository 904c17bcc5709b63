"""Ways to train are compared at equal cost by one command."""

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from model.presets import PRESETS
from training.__main__ import main
from training.config import Recipe
from training.studies import compare


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same ways with a network of a few channels, that digits train in seconds."""
    presets = {
        name: replace(preset, channels=(4, 4, 4, 4, 4)) if name == "narrow-c3" else preset
        for name, preset in PRESETS.items()
    }
    few = ("mixed", "local", "global", "tied, distilled")
    ways = {label: replace(compare.WAYS[label], batch_size=500) for label in few}
    monkeypatch.setattr(compare, "PRESETS", presets)
    monkeypatch.setattr(compare, "WAYS", ways)


def test_every_way_gets_the_epochs_that_cost_the_same(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", "--columns", "3", "--data", "digits", "--epochs", "3"]

    assert main([*command, "--out", str(tmp_path)]) == 0

    table = (tmp_path / "compare.md").read_text()
    assert table in capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    epochs = {row[0]: int(row[1]) for row in rows[2:]}
    assert epochs["mixed"] == 3
    assert epochs["tied, distilled"] < epochs["local"] < epochs["mixed"] < epochs["global"]
    assert rows[0][3:] == ["column-1", "column-2", "column-3", "full"]
    assert all(0 <= float(error) <= 100 for row in rows[2:] for error in row[3:])

    assert main([*command, "--out", str(tmp_path)]) == 0  # goes on, with nothing left to train

    assert not re.search(r"^epoch ", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("label", compare.WAYS)
def test_each_way_changes_one_thing_more(label: str) -> None:
    base, way = compare.WAYS["mixed"], compare.WAYS[label]

    changed = {
        field.name
        for field in fields(Recipe)
        if field.name != "name" and getattr(base, field.name) != getattr(way, field.name)
    }

    assert len(changed) <= (2 if label.endswith(", distilled") else 1)
