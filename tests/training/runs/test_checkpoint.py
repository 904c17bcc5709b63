"""A checkpoint is written whole or not at all, and read without running what it holds."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.conftest import TrainedRun
from training import TrainingError
from training.data.data_set import DataSet, load_data
from training.runs.checkpoint import load_checkpoint, restore_network, save_checkpoint


def test_a_checkpoint_is_read_as_it_was_saved(trained: TrainedRun) -> None:
    loaded = load_checkpoint(trained.folder)

    assert loaded.recipe == trained.checkpoint.recipe
    assert loaded.history == trained.checkpoint.history
    assert loaded.model.keys() == trained.checkpoint.model.keys()
    assert all(torch.equal(loaded.model[k], v) for k, v in trained.checkpoint.model.items())


def test_a_checkpoint_from_before_newer_recipe_fields_is_still_read(
    trained: TrainedRun, tmp_path: Path
) -> None:
    fields = torch.load(trained.folder / "checkpoint.pt", weights_only=True)
    for name in ("distillation", "averaging"):
        del fields["recipe"][name]
    for name in ("divisors", "convolution", "stem", "is_plain"):
        del fields["recipe"]["architecture"][name]
    del fields["averaged"]
    torch.save(fields, tmp_path / "checkpoint.pt")

    assert load_checkpoint(tmp_path).recipe == trained.checkpoint.recipe


def test_a_full_disk_is_one_clear_line_and_leaves_the_checkpoint_before(
    trained: TrainedRun, tmp_path: Path
) -> None:
    save_checkpoint(trained.checkpoint, tmp_path)
    (tmp_path / ".checkpoint.pt.new").symlink_to("/dev/full")  # where the new one is written first

    with pytest.raises(TrainingError, match=r"cannot be written .*No space left") as raised:
        save_checkpoint(replace(trained.checkpoint, epoch=99), tmp_path)

    assert "\n" not in str(raised.value)
    assert load_checkpoint(tmp_path).epoch == trained.checkpoint.epoch
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_what_a_killed_process_left_half_written_is_overwritten(
    trained: TrainedRun, tmp_path: Path
) -> None:
    (tmp_path / ".checkpoint.pt.new").write_bytes(b"half")

    save_checkpoint(trained.checkpoint, tmp_path)

    assert load_checkpoint(tmp_path).epoch == trained.checkpoint.epoch
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_no_checkpoint_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"checkpoint\.pt: no such checkpoint; train first"):
        load_checkpoint(tmp_path)


class Malicious:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (self.command,))


def test_a_malicious_checkpoint_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    torch.save({"recipe": Malicious(f"touch {trace}")}, tmp_path / "checkpoint.pt")

    with pytest.raises(TrainingError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path)

    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_a_damaged_checkpoint_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(content)

    with pytest.raises(TrainingError, match=r"checkpoint\.pt: not a readable checkpoint") as raised:
        load_checkpoint(tmp_path)

    assert "\n" not in str(raised.value)


def test_a_checkpoint_with_one_wrong_byte_is_refused(tmp_path: Path, trained: TrainedRun) -> None:
    content = bytearray((trained.folder / "checkpoint.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "checkpoint.pt").write_bytes(content)

    with pytest.raises(TrainingError, match="not a readable checkpoint: damaged"):
        load_checkpoint(tmp_path)


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"of another user")

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("training.runs.checkpoint.ZipFile", refuse)

    with pytest.raises(PermissionError):
        load_checkpoint(tmp_path)


def test_weights_of_other_code_are_one_clear_line(trained: TrainedRun) -> None:
    weights = {k: v for k, v in trained.checkpoint.model.items() if "classifier" not in k}

    with pytest.raises(
        TrainingError, match=r"do not fit small .*classifier\.bias is missing, not \(10,\)"
    ) as raised:
        restore_network(replace(trained.checkpoint, model=weights), trained.data)

    assert "\n" not in str(raised.value)


def test_data_that_the_network_was_not_trained_on_is_refused(
    trained: TrainedRun, class_folders: Path
) -> None:
    other: DataSet = load_data(str(class_folders), seed=0)

    with pytest.raises(TrainingError, match=r"the network was trained on .* pass that with --data"):
        restore_network(trained.checkpoint, other)
