"""Calibration: make a confidence mean the same whichever subnetwork answered (Guo et al., ICML 2017)."""

import math

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

BINS = 15  # of confidence, as in the source
TEMPERATURE_RANGE = (0.05, 20.0)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature that minimises the cross-entropy of logits (N, classes) divided by it."""
    result = minimize_scalar(
        lambda log_t: F.cross_entropy(logits.double() / math.exp(log_t), labels).item(),
        bounds=tuple(map(math.log, TEMPERATURE_RANGE)),
        method="bounded",
    )
    return math.exp(result.x)


def expected_calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Return the mean gap between confidence and accuracy over equal bins of confidence, weighted by their size."""
    confidence, predicted = logits.softmax(1).max(1)
    correct = (predicted == labels).float()
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    gaps = torch.zeros(BINS).index_add(0, bins, correct - confidence)
    return gaps.abs().sum().item() / len(labels)
