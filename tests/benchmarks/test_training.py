"""That training is measured at all; how fast it is, is for the command itself."""

from benchmarks.training import described, measure_training
from training.config import RECIPES


def test_the_trainer_is_measured_beside_a_bare_loop_and_the_floor() -> None:
    found = measure_training(RECIPES["tiny"], steps=2, rounds=3)

    assert {"trainer", "bare loop"} <= set(found["rates"])
    assert {len(rates) for rates in found["rates"].values()} == {3}
    assert min(found["floor"], *found["rates"]["trainer"], *found["rates"]["bare loop"]) > 0
    assert "of the bare loop" in described(found)
