"""Accuracy against cost: the front, exits by confidence, and the command that draws them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model.bundle import read_bundle
from model.manifest import Precision
from training.__main__ import main
from training.studies.anytime import Measurement, budgeted_curve, exit_thresholds, front

LABELS = np.arange(200) % 2


def measurement(
    bundle_folder: Path, *, macs: int, accuracy: float, latency_ms: float = 1.0
) -> Measurement:
    """A subnetwork that is sure where it is right and unsure where it is wrong."""
    subnetwork = read_bundle(bundle_folder).manifest.subnetworks[0]
    measured = subnetwork.accuracy.validation.model_copy(update={"value": accuracy})
    right = np.arange(200) < 200 * accuracy
    confidence = np.where(right, 0.9, 0.6)
    answers = np.where(right, LABELS, 1 - LABELS)
    probabilities = np.where(
        answers[:, None] == [0, 1], confidence[:, None], 1 - confidence[:, None]
    )
    return Measurement(
        subnetwork.model_copy(
            update={
                "macs": macs,
                "accuracy": subnetwork.accuracy.model_copy(
                    update={"validation": measured, "expected": None}
                ),
            }
        ),
        latency_ms,
        probabilities,
        probabilities,
        accuracy,
    )


def test_the_front_leaves_out_what_is_dearer_and_no_better(bundle_folder: Path) -> None:
    cheap = measurement(bundle_folder, macs=1_000_000, accuracy=0.6)
    useless = measurement(bundle_folder, macs=2_000_000, accuracy=0.6, latency_ms=0.5)
    best = measurement(bundle_folder, macs=3_000_000, accuracy=0.9)

    assert front([best, useless, cheap], lambda m: m.mmacs) == [cheap, best]
    assert front([best, useless, cheap], lambda m: m.latency_ms) == [useless, best]


def test_thresholds_let_the_wanted_shares_leave() -> None:
    confidences = np.random.default_rng(0).random((3, 10_000))

    thresholds = exit_thresholds(confidences, np.array([0.5, 0.3, 0.2]))

    left_at = (confidences >= thresholds[:, None]).argmax(0)
    np.testing.assert_allclose(np.bincount(left_at) / 10_000, [0.5, 0.3, 0.2], atol=1e-3)


def test_a_larger_budget_buys_accuracy_between_that_of_the_subnetworks(
    bundle_folder: Path,
) -> None:
    stages = [
        measurement(bundle_folder, macs=1_000_000, accuracy=0.6),
        measurement(bundle_folder, macs=3_000_000, accuracy=0.9),
    ]

    curve = budgeted_curve(stages, LABELS)

    assert all(1 <= point.mmacs <= 4 for point in curve)
    assert max(point.accuracy for point in curve) == pytest.approx(0.9)
    # Whoever is sure is right, so to ask the second only about the others costs 1 + 0.4 · 3.
    assert any(point.mmacs <= 2.3 and point.accuracy >= 0.89 for point in curve)


def test_the_command_draws_a_bundle_in_both_precisions(
    bundle_in: Callable[[Precision], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["measure", "--bundle", str(bundle_in("int8")), "--out", str(tmp_path)]) == 0

    table = (tmp_path / "anytime.md").read_text()
    assert table in capsys.readouterr().out
    for subnetwork in read_bundle(bundle_in("int8")).manifest.subnetworks:
        assert subnetwork.int8
        (row,) = (line for line in table.splitlines() if line.startswith(f"| {subnetwork.name} |"))
        for measured in (subnetwork.accuracy.test, subnetwork.int8.accuracy.test):
            assert measured
            assert f"| {100 * measured.value:.2f} |" in row
    assert (tmp_path / "anytime.png").read_bytes().startswith(b"\x89PNG")


def test_a_bundle_of_other_data_is_one_line(
    bundle_folder: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["measure", "--bundle", str(bundle_folder), "--data", str(class_folders)]

    assert main([*command, "--out", str(tmp_path)]) == 1

    assert "pass that with --data" in capsys.readouterr().err


def test_a_broken_bundle_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measure", "--bundle", str(tmp_path), "--out", str(tmp_path)]) == 1

    assert capsys.readouterr().err.count("\n") == 1
