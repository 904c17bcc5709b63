"""What a run gives to look at."""

import json
import struct
import sys
from math import inf
from pathlib import Path

import pytest
import torch

from tests.training.conftest import TrainedRun
from training import TrainingError
from training.evaluate import confusion
from training.runs.history import Followed, by_class, draw_curves, epoch_line


def test_every_epoch_is_a_line_of_the_history(trained: TrainedRun) -> None:
    lines = (trained.folder / "history.jsonl").read_text().splitlines()

    assert [json.loads(line) for line in lines] == trained.checkpoint.history


def test_an_epochs_line_says_how_long_the_others_will_take() -> None:
    record = {"epoch": 2.0, "train_loss": 1.0, "full/accuracy": 0.5, "images_per_s": 8.0}

    assert epoch_line(record, 5, took_s=1230.0) == (
        "epoch 2/5  loss 1.000  full 50.0%  (8.0 images/s, 1:01:30 left)"
    )
    assert epoch_line(record, 2, took_s=1230.0).endswith("(8.0 images/s)")


def test_curves_can_be_drawn_of_losses_that_are_not_finite(tmp_path: Path) -> None:
    record = {"epoch": 1.0, "train_loss": 1.0, "full/accuracy": 0.5, "full/loss": inf}

    draw_curves([record], tmp_path)

    assert (tmp_path / "curves.png").stat().st_size


def points(folder: Path) -> list[tuple[str, int, float]]:
    """Read what TensorBoard would: records of a length, its checksum, an event and its checksum."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for file in sorted(folder.iterdir()):
        content, at = file.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
            found += [(each.tag, event.step, each.simple_value) for each in event.summary.value]
            at += length + 16
    return found


def test_tensorboard_gets_every_figure_of_every_epoch_of_a_run_that_was_stopped(
    tmp_path: Path,
) -> None:
    pytest.importorskip("tensorboardX")
    history = [
        {"epoch": float(n), "train_loss": 1 / n, "full/accuracy": n / 4, "full/loss": inf}
        for n in (1, 2, 3)
    ]

    with Followed(tmp_path, on_board=True) as follow:
        follow(history[:1])
        follow(history[:2])
    with Followed(tmp_path, on_board=True) as follow:  # resumed
        follow(history)

    found = points(tmp_path / "tensorboard")
    assert [point for point in found if point[0] == "full/accuracy"] == [
        ("full/accuracy", n, n / 4) for n in (1, 2, 3)
    ]
    assert ("full/loss", 3, inf) in found
    assert len(found) == 9


def test_without_its_package_tensorboard_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)

    with pytest.raises(TrainingError, match=r"pip install 'anytime-inference\[tensorboard\]'"):
        Followed(tmp_path, on_board=True)
    Followed(tmp_path, on_board=False)


def test_a_run_that_is_stopped_has_its_curves_too(tmp_path: Path) -> None:
    record = {"epoch": 1.0, "train_loss": 1.0, "full/accuracy": 0.5, "full/loss": 1.0}

    def stopped() -> None:
        with Followed(tmp_path, on_board=False) as follow:
            follow([record])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()

    assert (tmp_path / "curves.png").stat().st_size


def test_a_class_is_shown_with_what_it_is_taken_for() -> None:
    labels = torch.tensor([0, 0, 0, 0, 1])
    logits = torch.eye(3)[[0, 1, 1, 2, 1]]

    table = by_class(confusion(logits, labels), ("cat", "dog", "horse"))

    assert table.splitlines() == [
        "class  images  accuracy  taken for",
        "cat         4    25.00%  dog 2, horse 1",
        "dog         1   100.00%",
        "horse       0         -",
    ]
