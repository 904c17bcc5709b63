"""A temperature, and how far confidence is from accuracy."""

from itertools import groupby
from typing import Any

import numpy as np
import pytest

from training.graphs.scores import (
    LATENCY_ROUNDS,
    expected_calibration_error,
    fit_temperature,
    latencies_ms,
)


def test_the_temperature_undoes_a_scale() -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((5000, 4)).astype(np.float32)
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)  # drawn from their softmax

    temperature = fit_temperature(3 * logits, labels)

    # Its standard error at n = 5,000 is about 3 %.
    assert abs(temperature / 3 - 1) < 0.1
    before = expected_calibration_error(3 * logits, labels)
    after = expected_calibration_error(3 * logits / temperature, labels)
    assert after < 0.03 < before


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    logits = np.zeros((4, 2), np.float32)  # confidence 1/2; three of four right

    error = expected_calibration_error(logits, np.array([0, 0, 0, 1]))

    assert error == pytest.approx(0.25)


class Recorded:
    """Runs nothing, and writes down whose turn it was."""

    def __init__(self, name: str, turns: list[str]) -> None:
        self._name, self._turns = name, turns

    def run(self, outputs: object, inputs: object) -> list[object]:
        """Write it down."""
        self._turns.append(self._name)
        return []


def test_latencies_to_compare_are_measured_by_turns() -> None:
    turns: list[str] = []
    sessions: Any = [Recorded(name, turns) for name in ("shallow", "deep")]

    took_ms = latencies_ms(sessions, np.zeros((1, 8, 8, 3), np.uint8))

    assert len(took_ms) == 2
    assert [name for name, _ in groupby(turns)] == ["shallow", "deep"] * (1 + LATENCY_ROUNDS)
