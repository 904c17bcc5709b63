"""Seeded arrival times and deadlines: Poisson, Gamma, on/off bursts, and a recorded trace at any rate."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

BURST_CV = 4.0  # coefficient of variation of the gaps between Gamma arrivals
BURST_S = 0.1  # mean length of an on/off burst; silences last three times as long
TRACE_FILE = Path(__file__).parents[1] / "data" / "azure-conv-arrivals.txt"

MIXES_S: dict[str, tuple[float, ...]] = {
    "25 ms": (0.025,),
    "5-100 ms": (0.005, 0.010, 0.025, 0.050, 0.100),
}
ARRIVALS = ("poisson", "gamma", "bursts", "trace")


def arrival_times(kind: str, *, rate: float, count: int, seed: int) -> NDArray[np.float64]:
    """Return (count,) ascending arrival times in seconds, at a mean rate per second.

    Raises:
        ValueError: no such kind of arrivals.
    """
    rng = np.random.default_rng(seed)
    if kind == "poisson":
        return np.cumsum(rng.exponential(1 / rate, count))
    if kind == "gamma":
        shape = BURST_CV**-2
        return np.cumsum(rng.gamma(shape, 1 / (rate * shape), count))
    if kind == "bursts":
        return _bursts(rng, rate, count)
    if kind == "trace":
        return _trace(rng, rate, count)
    raise ValueError(f"arrivals {kind!r}: use one of {', '.join(ARRIVALS)}")


def deadlines(mix_s: Sequence[float], *, count: int, seed: int) -> list[float]:
    """Return a deadline in seconds for each of ``count`` requests, each of the mix as likely."""
    return Random(seed).choices(mix_s, k=count)


def _bursts(rng: np.random.Generator, rate: float, count: int) -> NDArray[np.float64]:
    """Return Poisson arrivals at four times the rate, a quarter of the time."""
    busy = np.cumsum(rng.exponential(1 / (4 * rate), count))  # in the time of the bursts alone
    bursts = int(busy[-1] / BURST_S * 2) + 20
    lengths = rng.exponential(BURST_S, bursts)
    silences = rng.exponential(3 * BURST_S, bursts)
    passed = np.cumsum(lengths)
    return np.asarray(busy + np.cumsum(silences)[np.searchsorted(passed, busy)])


def _trace(rng: np.random.Generator, rate: float, count: int) -> NDArray[np.float64]:
    """Return a stretch of the recorded arrivals, from a random start, scaled in time to the rate."""
    recorded = np.loadtxt(TRACE_FILE)
    start = int(rng.integers(0, max(len(recorded) - count, 1)))
    gaps = np.resize(np.diff(recorded)[start:], count)
    return np.asarray(np.cumsum(gaps) * count / (gaps.sum() * rate))
