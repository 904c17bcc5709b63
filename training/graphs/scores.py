"""What a graph is worth, through ONNX Runtime: its logits, how often it is right, and how well its confidence says so.

Nothing here needs torch.
"""

import math
import time
from collections.abc import Iterable, Sequence
from statistics import median

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model.manifest import Calibration, Measured

WARM_UP_RUNS = 8  # the first runs allocate
LATENCY_ROUNDS, RUNS_A_ROUND = 10, 10  # a round has every network once, however busy the machine is
LATENCY_RUNS = LATENCY_ROUNDS * RUNS_A_ROUND
CALIBRATION_BINS = 15  # of confidence, as in the source
TEMPERATURE_RANGE = (0.05, 20.0)

Logits = NDArray[np.float32]  # (N, classes)
Labels = NDArray[np.int64]  # (N,)


def logits_of(
    session: onnxruntime.InferenceSession, batches: Iterable[NDArray[np.uint8]]
) -> Logits:
    """Return the logits of batches of images, each uint8 (n, H, W, 3)."""
    return np.concatenate([session.run(["logits"], {"images": images})[0] for images in batches])


def latencies_ms(
    sessions: Sequence[onnxruntime.InferenceSession], image: NDArray[np.uint8]
) -> list[float]:
    """Return the median latency of a run with one image (1, H, W, 3) for each session, measured by turns.

    What else the machine does for some seconds then slows all of them, and leaves their order as it is.
    """
    took_s: list[list[float]] = [[] for _ in sessions]
    for session in sessions:
        for _ in range(WARM_UP_RUNS):
            session.run(["probabilities"], {"images": image})
    for _ in range(LATENCY_ROUNDS):
        for session, own_s in zip(sessions, took_s, strict=True):
            for _ in range(RUNS_A_ROUND):
                started_at = time.perf_counter()
                session.run(["probabilities"], {"images": image})
                own_s.append(time.perf_counter() - started_at)
    return [1000 * median(own_s) for own_s in took_s]


def share(logits: Logits, classes: Labels) -> Measured:
    """Return how many of the logits are largest at the given class."""
    return Measured(value=int((logits.argmax(1) == classes).sum()) / len(classes), n=len(classes))


def calibration(logits: Logits, labels: Labels, temperature: float) -> Calibration:
    """Return how far confidence is from accuracy without and with a temperature, on images it was not fitted to."""
    return Calibration(
        temperature=temperature,
        ece_before=expected_calibration_error(logits, labels),
        ece_after=expected_calibration_error(logits / temperature, labels),
        n=len(labels),
    )


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """Return the temperature that minimises the cross-entropy of logits divided by it.

    With it, a confidence means the same whichever subnetwork answered (Guo et al., ICML 2017).
    """
    from scipy.optimize import minimize_scalar  # takes half a second to load
    from scipy.special import logsumexp

    wide = logits.astype(np.float64)
    at_labels = wide[np.arange(len(labels)), labels]

    def cross_entropy(log_t: float) -> float:
        temperature = math.exp(log_t)
        losses = logsumexp(wide / temperature, axis=1) - at_labels / temperature
        return float(losses.mean())

    bounds = tuple(map(math.log, TEMPERATURE_RANGE))
    return math.exp(minimize_scalar(cross_entropy, bounds=bounds, method="bounded").x)


def expected_calibration_error(logits: Logits, labels: Labels) -> float:
    """Return the mean gap between confidence and accuracy over equal bins of confidence, weighted by their size."""
    from scipy.special import softmax

    confidence = softmax(logits.astype(np.float64), axis=1).max(1)
    is_correct = logits.argmax(1) == labels
    bins = (confidence * CALIBRATION_BINS).astype(np.int64).clip(max=CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, is_correct - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(labels))
