"""What a run gives to look at."""

import json
from math import inf
from pathlib import Path

import torch

from tests.training.conftest import TrainedRun
from training.evaluate import confusion
from training.runs.history import by_class, draw_curves, epoch_line


def test_every_epoch_is_a_line_of_the_history(trained: TrainedRun) -> None:
    lines = (trained.folder / "history.jsonl").read_text().splitlines()

    assert [json.loads(line) for line in lines] == trained.checkpoint.history


def test_an_epochs_line_says_how_long_the_others_will_take() -> None:
    record = {"epoch": 2.0, "train_loss": 1.0, "full/accuracy": 0.5, "images_per_s": 8.0}

    assert epoch_line(record, 5, took_s=1230.0) == (
        "epoch 2/5  loss 1.000  full 50.0%  (8 images/s, 1:01:30 left)"
    )
    assert epoch_line(record, 2, took_s=1230.0).endswith("(8 images/s)")


def test_curves_can_be_drawn_of_losses_that_are_not_finite(tmp_path: Path) -> None:
    record = {"epoch": 1.0, "train_loss": 1.0, "full/accuracy": 0.5, "full/loss": inf}

    draw_curves([record], tmp_path)

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
